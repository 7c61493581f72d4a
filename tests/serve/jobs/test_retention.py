"""Jobs that are over leave by age and by bytes, their files before them."""

from __future__ import annotations

import pytest

from pipelines.errors import StageFailed
from serve.jobs.retention import Retention
from tests.serve.jobs.conftest import OWNER, Replica, ReplicaOf


async def drawn(replica: Replica, count: int) -> list[str]:
    replica.graph.allow()
    jobs = [await replica.over(await replica.submit(seed=seed)) for seed in range(count)]
    return [job.id for job in jobs]


async def kept(replica: Replica) -> list[str]:
    return [job.id for job in reversed((await replica.jobs.page(OWNER)).jobs)]


async def test_by_age(replica_of: ReplicaOf):
    replica = await replica_of()
    ids = await drawn(replica, 2)
    now = replica.services.now()
    files = replica.graph.store
    for at, left in ((now, ids), (now + 2000.0, [])):
        retention = Retention(
            replica.store.store, files, max_bytes_per_tenant=2**30, now=lambda at=at: at
        )
        await retention.sweep()
        assert await kept(replica) == left
        assert len(files.files) == len(left)


async def test_by_bytes_the_oldest_first(replica_of: ReplicaOf):
    replica = await replica_of()
    ids = await drawn(replica, 3)
    size = (await replica.jobs.get(ids[0], OWNER)).num_bytes
    files = replica.graph.store
    retention = Retention(
        replica.store.store, files, max_bytes_per_tenant=2 * size, now=replica.services.now
    )
    await retention.sweep()
    assert await kept(replica) == ids[1:]
    assert len(files.files) == 2


async def test_a_job_stays_as_long_as_its_files_do(replica_of: ReplicaOf):
    class Stuck:
        def delete(self, file_id: str) -> None:
            raise StageFailed("no bucket", stage="storage")

    replica = await replica_of()
    ids = await drawn(replica, 1)
    retention = Retention(
        replica.store.store, Stuck(), max_bytes_per_tenant=1, now=replica.services.now
    )
    with pytest.raises(StageFailed):
        await retention.sweep()
    assert await kept(replica) == ids


async def test_a_job_whose_files_stay_does_not_keep_others(replica_of: ReplicaOf):
    replica = await replica_of()
    ids = await drawn(replica, 3)
    stuck = (await replica.jobs.get(ids[0], OWNER)).outputs[0].file_id

    class OneStuck:
        def delete(self, file_id: str) -> None:
            if file_id == stuck:
                raise StageFailed("no bucket", stage="storage")

    later = replica.services.now() + 2000.0
    retention = Retention(
        replica.store.store, OneStuck(), max_bytes_per_tenant=1, now=lambda: later
    )
    with pytest.raises(StageFailed):
        await retention.sweep()
    assert await kept(replica) == ids[:1]
