from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from deployments.replica_load import ReplicaLoad
from pipelines.errors import StoreUnavailable
from serve.load.load_reader import ClusterLoad, JobCounts, LoadReader, LoadSources
from serve.load.recent_requests import IngressLoad
from serve.load.server_load import DeploymentLoad
from serve.settings.settings import Tenants

GATEWAY = Tenants(header="x-tenant")


def ingress(
    outcomes: Mapping[str, int] | None = None,
    deadlines: Mapping[str, int] | None = None,
    in_flight: Mapping[str, int] | None = None,
    seconds: float = 60,
) -> IngressLoad:
    return IngressLoad(
        seconds=seconds,
        outcomes=outcomes or {},
        deadlines=deadlines or {},
        in_flight=in_flight or {},
    )


class Told:
    """What all have to tell; `asked` counts."""

    def __init__(self) -> None:
        self.ingresses: list[Any] = [ingress()]
        self.cluster = ClusterLoad()
        self.jobs: JobCounts | None = None
        self.asked = 0
        self.at = 100.0

    def reader(self, tenants: Tenants = GATEWAY) -> LoadReader:
        async def ask_all(method: str) -> list[Any]:
            assert method == "ingress_load"
            return self.ingresses

        async def cluster() -> ClusterLoad:
            self.asked += 1
            await asyncio.sleep(0)
            return self.cluster

        async def jobs() -> JobCounts | None:
            return self.jobs

        return LoadReader(
            ingress,
            LoadSources(ask_all=ask_all, cluster=cluster, jobs=jobs),
            model="m",
            tenants=tenants,
            now=lambda: self.at,
        )


@pytest.fixture
def told() -> Told:
    return Told()


async def test_replicas_are_added_up(told: Told):
    told.ingresses = [
        ingress({"ok": 60}, {"met": 4, "missed": 1}, {"anna": 2}),
        ingress({"ok": 5, "overloaded": 5}, {"met": 1}, {"anna": 1, "": 1}, seconds=10),
    ]
    load = await told.reader().read()
    assert (load.ingress_replicas, load.requests.per_s) == (2, 2.0)
    assert load.requests.outcomes == {"ok": 65, "overloaded": 5}
    assert load.requests.images_in_flight == 4
    assert (load.deadlines.met, load.deadlines.missed, load.deadlines.refused) == (5, 1, 0)
    assert [(each.tenant, each.images_in_flight) for each in load.tenants] == [
        ("anna", 3),
        ("none", 1),
    ]


async def test_the_busiest_denoiser_comes_first(told: Told):
    told.cluster = ClusterLoad(
        deployments=[DeploymentLoad(name="Denoiser", status="HEALTHY", replicas={"RUNNING": 2})],
        denoisers=[
            ReplicaLoad(replica="a", works=0, queued_s=0.0),
            ReplicaLoad(
                replica="b", works=3, queued_s=2.5, tick_tokens=80.0, tick_s=0.1, knee_tokens=100
            ),
        ],
    )
    load = await told.reader().read()
    assert load.denoisers is not None
    assert [each.replica for each in load.denoisers] == ["b", "a"]
    assert (load.denoisers[0].images, load.denoisers[0].tick_tokens) == (3, 80.0)
    assert load.deployments == tuple(told.cluster.deployments or ())


async def test_what_is_not_known_is_null(told: Told, caplog: pytest.LogCaptureFixture):
    told.ingresses = [ingress(), TimeoutError("slow")]
    load = await told.reader().read()
    assert (load.deployments, load.denoisers, load.jobs) == (None, None, None)
    assert load.ingress_replicas == 1
    assert "an ingress replica does not tell of its load: slow" in caplog.text


async def test_jobs_are_counted_by_status_and_tenant(told: Told):
    told.jobs = {
        ("anna", "queued"): 3,
        ("anna", "running"): 1,
        ("ben", "queued"): 1,
    }
    load = await told.reader().read()
    assert load.jobs == {"queued": 4, "running": 1}
    assert [(each.tenant, each.queued_jobs, each.running_jobs) for each in load.tenants] == [
        ("anna", 3, 1),
        ("ben", 1, 0),
    ]


async def test_a_store_that_is_away_hides_nothing_else(told: Told):
    told.ingresses = [ingress({"ok": 6})]
    reader = told.reader()

    async def away() -> JobCounts | None:
        raise StoreUnavailable("the store is away", retry_after_s=1.0)

    reader.sources.jobs = away
    load = await reader.read()
    assert (load.jobs, load.requests.outcomes) == (None, {"ok": 6})


async def test_the_rest_of_many_tenants_are_one(told: Told):
    told.ingresses = [ingress(in_flight={f"t{i}": 100 - i for i in range(25)})]
    tenants = (await told.reader().read()).tenants
    assert len(tenants) == 21
    assert (tenants[0].tenant, tenants[-1].tenant) == ("t0", "other")
    assert tenants[-1].images_in_flight == sum(100 - i for i in range(20, 25))


async def test_names_that_clients_chose_are_not_told(told: Told):
    """Whoever knows one has that user's jobs."""
    told.ingresses = [ingress(in_flight={"anna": 2, "ben": 1})]
    load = await told.reader(Tenants()).read()
    names = [each.tenant for each in load.tenants]
    assert len(set(names)) == 2
    assert all(name.startswith("user-") for name in names)
    assert "anna" not in load.model_dump_json()


async def test_the_cluster_is_asked_once_a_second_whoever_asks(told: Told):
    reader = told.reader()
    await asyncio.gather(*(reader.read() for _ in range(9)))
    await reader.read()
    assert told.asked == 1
    told.at += 1
    await reader.read()
    assert told.asked == 2
    told.at -= 50  # a clock that was set back
    await reader.read()
    assert told.asked == 3


async def test_alone_there_is_nobody_to_ask():
    own = ingress({"ok": 6})
    reader = LoadReader(lambda: own, LoadSources(), model="m", tenants=GATEWAY)
    load = await reader.read()
    assert (load.ingress_replicas, load.requests.per_s) == (1, 0.1)
