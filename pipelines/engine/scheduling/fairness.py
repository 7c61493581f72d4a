"""Fairness between tenants: who floods the engine stands behind those who do not.

As long as everybody waits with a few requests, deadlines alone decide. A tenant is *flooding* when
it waits with more than `FLOOD` requests and with more than an equal part of all waiting requests,
or of all waiting work; the requests of the others then go first, whatever the deadlines and the
promises. So the first request of one tenant waits for no more than the running tick (and one that
goes by age), although another may have queued five hundred.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.engine.scheduling.group import Group

FLOOD = 16
"""Requests that a tenant may wait with before it can count as flooding."""


class Tenants:
    """Who waits with how much."""

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def joined(self, group: Group) -> None:
        """A request of the group's tenant came."""
        self._waiting[group.tenant] = self._waiting.get(group.tenant, 0) + 1

    def left(self, group: Group) -> None:
        """It is done, or was cancelled."""
        count = self._waiting[group.tenant] - 1
        if count:
            self._waiting[group.tenant] = count
        else:
            del self._waiting[group.tenant]

    def divide(
        self, groups: list[Group], joining: Group | None = None
    ) -> tuple[list[Group], list[Group]]:
        """(requests that go first, those of flooding tenants), both in the order of `groups`, of
        which `joining` has not joined."""
        flooding = self.flooding(groups, joining)
        if not flooding:
            return groups, []
        front = [group for group in groups if group.tenant not in flooding]
        return front, [group for group in groups if group.tenant in flooding]

    def flooding(self, groups: Iterable[Group], joining: Group | None = None) -> frozenset[str]:
        """The tenants of `groups` that stand behind the others; never all of them.

        `joining` is the one of them that has not joined, if any.
        """
        waiting = self._waiting
        if joining is not None:
            waiting = {**waiting, joining.tenant: waiting.get(joining.tenant, 0) + 1}
        if len(waiting) < 2:
            return frozenset()
        suspects = {tenant for tenant, count in waiting.items() if count > FLOOD}
        if not suspects:
            return frozenset()
        work = _seconds(groups)
        equal_work = sum(work.values()) / len(work)
        equal_count = sum(waiting.values()) / len(waiting)
        flooding = frozenset(
            tenant
            for tenant in suspects
            if work[tenant] > equal_work or waiting[tenant] > equal_count
        )
        return flooding if len(flooding) < len(work) else frozenset()


def _seconds(groups: Iterable[Group]) -> Mapping[str, float]:
    work: dict[str, float] = {}
    for group in groups:
        work[group.tenant] = work.get(group.tenant, 0.0) + group.cost
    return work
