"""JobStore: what keeps jobs must do. `sqlite` and `redis` do it, under one suite of tests.

Every call may wait for a disk or a network and runs off the event loop or asynchronously; each is
atomic: it happens whole or not at all, whoever else is at it. A job is *held* by one runner at a
time under a lease; what a runner writes about it names the lease's `token`, and is refused with
`LeaseLost` once another has taken over: so nothing is drawn twice, and no event comes twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from serve.jobs.job import Job, JobAction, JobEvent, JobStatus, Owner


class LeaseLost(Exception):
    """Another runner holds the job, or it is over: stop, and write nothing more about it."""


class QueueFull(Exception):
    """So many seconds of work wait, in all or of one tenant, that no more is taken.

    `scope` is "server" or "tenant", `waiting_s` what waits there.
    """

    def __init__(self, scope: Literal["server", "tenant"], waiting_s: float) -> None:
        super().__init__(scope, waiting_s)
        self.scope = scope
        self.waiting_s = waiting_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Seconds of work (`Job.work_s`) that may wait (be queued), in all and of one tenant."""

    waiting_s: float
    waiting_s_per_tenant: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedJob:
    """The job that stands for a submission; `is_replay` if its idempotency key had one already."""

    job: Job
    is_replay: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A runner's hold of a job, for so long as it is renewed.

    `parts` are what earlier holders have stored of it, by image: a `part` is bytes, which only the
    runner reads.
    """

    job: Job
    token: str
    parts: Mapping[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a runner says of a job that it holds, all at once.

    `changes` are fields of `Job` with their new values, without those that the store sets
    (`started_at`, `finished_at`, `expires_at`, `attempts`, `last_event`) or that never change.
    `events` are (type, data) in order; they are numbered by the store, which adds the final one
    where it is not given. `parts` replaces what is stored of these images. `id` is by which the
    store knows an update that it has had already.
    """

    at: float
    changes: Mapping[str, Any]
    events: Sequence[tuple[str, Mapping[str, Any]]] = ()
    parts: Mapping[int, bytes] | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some of an owner's jobs, the newest first; `cursor` leads to older ones, None at the end."""

    jobs: tuple[Job, ...]
    cursor: str | None


class JobStore(Protocol):
    """See the module. Every method may raise StoreUnavailable."""

    async def open(self) -> None:
        """Make ready. Raises ConfigurationError, naming the file or address, for a store that is
        damaged, locked for good, or of a newer version; nothing in it is touched then. May be
        called again after StoreUnavailable: a server that does not answer yet."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...

    async def secret(self) -> bytes:
        """32 random bytes of this store's own, the same for all who open it."""
        ...

    async def submit(self, job: Job, bounds: Bounds) -> SubmittedJob:
        """Keep `job` with its first event, `job.queued`; on disk when this returns.

        With an `idempotency_key` that the tenant has used for a job still kept, that job is the
        answer. Raises IdempotencyKeyReused if its body was another, QueueFull where it would not
        fit behind what waits.
        """
        ...

    async def get(self, job_id: str) -> Job | None:
        """The job, whoever owns it; None if there is none (any more)."""
        ...

    async def find(self, owner: Owner, idempotency_key: str) -> Job | None:
        """The owner's job that was submitted under the key."""
        ...

    async def page(
        self,
        owner: Owner,
        *,
        statuses: frozenset[JobStatus] | None = None,
        before: tuple[float, str] | None = None,
        limit: int = 20,
    ) -> tuple[Job, ...]:
        """Up to `limit` of the owner's jobs, the newest first, that come after (`created_at`, `id`)
        `before` in that order. None of a tenant that has no name."""
        ...

    async def events(self, job_id: str, *, after: int, limit: int = 500) -> tuple[JobEvent, ...]:
        """Stored events with numbers above `after`, in order."""
        ...

    async def changed(self, job_id: str, *, after: int, timeout_s: float) -> bool:
        """Wait until the job has an event above `after` (or is gone); False after the time."""
        ...

    async def ask(self, job_id: str, action: JobAction, at: float) -> Job | None:
        """Note what the owner wants; a job that is queued and to be cancelled is over at once, with
        its event. The job as it is then; None if there is none. A job that is over stays as it
        is; a cancel replaces a keep, never the other way round."""
        ...

    async def claim(self, holder: str, *, lease_s: float, at: float, free: int) -> Lease | None:
        """Hold the next job that nobody holds: queued, or running with a lease that has run out.

        The first is by priority, then fair among tenants, then by age. It becomes (or stays)
        running, `attempts` counts it, and a `job.running` event is stored. Of more than `free`
        images (`Job.num_images`) it is passed over for others, so often at most
        (`lanes.MAX_PASSED_OVER`). None if there is no such job; with 0 it only looks who holds
        what. A lease runs out when nobody has renewed it for `lease_s` seconds by the clock of
        whoever looks: clocks of two machines are never compared.
        """
        ...

    async def renew(self, job_id: str, token: str, *, lease_s: float) -> JobAction | None:
        """Keep the hold; what the owner has asked meanwhile. Raises LeaseLost."""
        ...

    async def update(self, job_id: str, token: str, update: Update) -> Job:
        """Store what happened. A final status ends the hold and forgets the parts. The job's last
        update, come again, changes nothing: whoever had no answer to it may repeat it. Raises
        LeaseLost, and ValueError for what cannot happen (`serve.jobs.transitions`)."""
        ...

    async def release(self, job_id: str, token: str) -> None:
        """Give the job back, to be claimed by anyone at once, while it stays running; nothing if
        it is not held so."""
        ...

    async def delete(self, job_id: str) -> Job | None:
        """Forget a job that is over, its events too; it is returned. Webhooks that wait stay
        (`DeliveryStore`). None if there is none. Raises ValueError for one that is not over."""
        ...

    async def expired(self, *, at: float, limit: int = 100) -> tuple[Job, ...]:
        """Jobs that are over and whose `expires_at` has passed."""
        ...

    async def over_bytes(self, max_bytes: int, *, limit: int = 100) -> tuple[Job, ...]:
        """The oldest finished jobs of each tenant whose outputs take more than `max_bytes` in all:
        as many as bring it below."""
        ...

    async def waiting(self, *, tenant: str | None = None) -> Waiting:
        """What waits; of `tenant` alone if given."""
        ...

    async def waiting_before(
        self, job_ids: Collection[str], *, tenant: str | None = None
    ) -> Mapping[str, Waiting]:
        """What waits before each job that is queued, in the order in which jobs are claimed; of
        `tenant` alone if given. One look at the store, however many they are."""
        ...

    async def active(self) -> Mapping[tuple[str, JobStatus], int]:
        """Jobs that are queued or running, by tenant and status; no entry where there is none.

        Made of sums: costs as much with many jobs as with few.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Queued jobs and their seconds of work."""

    jobs: int
    work_s: float
