"""What the deployment of every stage does beside its work, so that a shim is the work alone.

Start, change in place, tell of readiness, health and demand, and end: once, however it came to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Generic, NamedTuple, TypeVar

from deployments.lifecycle.boundary import Boundary, KeepAlive, starting
from deployments.lifecycle.refusals_in_log import log_refusals_in_one_line
from deployments.options.autoscaling import reported_targets
from deployments.options.reconfigure import taken_over
from deployments.options.stage import StageOptions
from deployments.options.stages import BatchingStageOptions
from deployments.stages.provenance import OwnProvenance
from pipelines.batching.batcher import Batcher
from pipelines.batching.demand import Demand
from pipelines.contracts import ServiceTerms
from pipelines.provenance import Provenance
from pipelines.tracing.open_spans import waited_and_ran
from pipelines.tracing.spans import Spans, Timings

AnyOptions = TypeVar("AnyOptions", bound=StageOptions)
AnyBatchingOptions = TypeVar("AnyBatchingOptions", bound=BatchingStageOptions)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Shim(KeepAlive, ABC, Generic[AnyOptions]):
    """Base of the Serve deployments over stages.

    A subclass gives `demand`, and what else of its options changes in place; what it opens goes
    onto `_opened`, the last first to be closed.
    """

    def __init__(self, name: str, options: AnyOptions) -> None:
        log_refusals_in_one_line()
        self._name = str(name)
        self._opened = ExitStack()
        self._options = options
        self._autoscaling = options.autoscaling
        self._boundary = Boundary(self._name)
        self._own_provenance: OwnProvenance | None = None

    @property
    @abstractmethod
    def demand(self) -> Demand:
        """What the replica has to do, and has done."""

    def reconfigure(self, user_config: dict[str, Any] | None, rank: Any = None) -> None:
        """Take over what Serve's `user_config` says; see `deployments.options.reconfigure`."""
        if (options := taken_over(self._options, user_config)) is not None:
            self._autoscaling = options.autoscaling
            self._take_over(options)

    async def provenance(self) -> Provenance:
        """What this stage puts into receipts of what it makes; empty if it has no part in pixels.

        Waits, after a start, until its files have been read.
        """
        return () if self._own_provenance is None else await self._own_provenance.known()

    async def ready(self) -> bool:
        """True: the constructor returns only once everything is loaded."""
        return True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's controller is told for scaling: a `Demand`, and the target wait."""
        return {**self.demand._asdict(), **reported_targets(self._autoscaling)}

    def check_health(self) -> None:
        """Raises StageFailed when the stage no longer works."""
        self._boundary.has_to_do(self.demand)
        self._boundary.check_health()

    def close(self) -> None:
        """Let go of threads and of what else was opened; a second time does nothing."""
        self._opened.close()

    def __del__(self) -> None:
        # Serve calls it, and Python where the constructor failed.
        if hasattr(self, "_opened"):
            self.close()

    def _starting(self) -> AbstractContextManager[None]:
        """Around what loads: a failure is logged, with its cause."""
        return starting(self._name, self._options)

    def _tells_provenance(self, own: OwnProvenance) -> None:
        """From now on, as the stage has computed with its part of the model since its start."""
        self._own_provenance = own

    def _take_over(self, options: AnyOptions) -> None:
        """Go by `options` from now on, in all that the base does not know."""


class Submitted(NamedTuple, Generic[Result]):
    """A result of a batch, with its phases and spans as the item's caller met them."""

    result: Result
    timings: Timings
    spans: Spans


class BatchingShim(Shim[AnyBatchingOptions], Generic[AnyBatchingOptions, Item, Result]):
    """A `Shim` whose stage runs what waits as one batch.

    `phase` is the name of a batch's span, and of its seconds in `timings`.
    """

    def __init__(self, name: str, options: AnyBatchingOptions, *, phase: str) -> None:
        super().__init__(name, options)
        self._phase = phase

    @property
    def demand(self) -> Demand:
        return self._batcher.demand

    def _start_batching(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        key: Callable[[Item], Hashable],
    ) -> None:
        """From now on, items of one `key` may run together."""
        self._batcher: Batcher[Item, Result] = Batcher(
            run, key=key, max_batch_size=self._options.max_batch_size, name=self._name
        )
        self._opened.callback(self._batcher.close)

    async def _submit(self, item: Item, terms: ServiceTerms) -> Submitted[Result]:
        """The item's result, in the order of `terms`."""
        result, waited, ran, size = await self._batcher.submit(item, terms)
        self._boundary.took(wait=waited, run=ran)
        return Submitted(
            result,
            {f"{self._phase}_wait": waited, self._phase: ran},
            waited_and_ran(
                self._phase, waited, ran, batch_size=size, replica=self._boundary.replica
            ),
        )

    def _take_over(self, options: AnyBatchingOptions) -> None:
        self._batcher.max_batch_size = options.max_batch_size
