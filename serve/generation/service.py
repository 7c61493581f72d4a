"""GenerationService: from a plan to its images, whoever asks: a route, a runner of jobs, a test.

A place for each image, the check of the prompt, equal requests drawn once, the line in the log, the
metrics and what the trace says. Knows no HTTP: whether the client is still there is the caller's to
watch, who cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from deployments.graph.forecast import Forecast
from deployments.graph.image_graph import ImageGraph
from deployments.graph.listening.listener import Listener, unheard
from deployments.graph.steering.steering import Steering
from deployments.wire.parts import NOTHING_DONE, Part
from pipelines.contracts import GenerationJob, ServiceTerms
from pipelines.errors import ContentPolicyViolation, DeadlineUnreachable
from serve.errors import in_milliseconds
from serve.generation.admission import Admission
from serve.generation.log import LogEntry, generation_log
from serve.generation.plan import Plan, RequestedTerms
from serve.generation.prompt_check import PromptCheck
from serve.generation.sharing import Answer, Sharing
from serve.generation.storage_health import StorageHealth
from serve.load.recent_requests import IngressLoad, RecentRequests


@dataclass(slots=True, kw_only=True)
class GenerationService:
    """One ingress replica's generations.

    `model` is the name that traces give them; prompts are in traces with `records_prompts` only.
    `now` is Unix time in seconds: deadlines are compared with clocks of other machines.
    """

    graph: ImageGraph
    prompts: PromptCheck
    admission: Admission
    sharing: Sharing
    model: str
    records_prompts: bool
    now: Callable[[], float]
    storage: StorageHealth = field(default_factory=StorageHealth)
    recent: RecentRequests = field(default_factory=RecentRequests)

    @contextmanager
    def logged(self, entry: LogEntry) -> Generator[LogEntry]:
        """Around one generation, from the making of its plan on: when the body ends, log, count and
        trace what became of it. It is being admitted until `generate` has a place for it."""
        log = generation_log(
            entry,
            model=self.model,
            with_prompts=self.records_prompts,
            on_end=self.recent.count,
        )
        with log, entry.admitting:
            entry.admitting.enter_context(entry.trace.root.part("admit"))
            yield entry

    async def generate(
        self,
        plan: Plan,
        terms: ServiceTerms,
        entry: LogEntry,
        listener: Listener = unheard,
        *,
        resume: Mapping[int, Part] = NOTHING_DONE,
        steering: Steering | None = None,
    ) -> Answer:
        """The images of `plan`, inside of `logged`; `listener` is told how far they are.

        They go on from `resume`, and are steered on the way, as `ImageGraph.generate` says. Of an
        answer that was kept nothing is told. Raises ContentPolicyViolation,
        DeadlineUnreachable in the client's terms, Overloaded, and whatever the graph raises.
        """
        entry.plan, entry.terms = plan, terms
        # First a place, then the work: a refusal costs next to nothing, and waits for nobody.
        with self.admission.slot(terms.tenant, plan.params.num_images, self.forecast(plan)):
            try:
                await self.check_prompt(plan)
            except ContentPolicyViolation:
                entry.plan = entry.terms = None  # nothing was to be drawn by any deadline
                raise
            entry.admitting.close()
            try:
                answer = await self.sharing.answer(
                    _job(plan, terms, entry),
                    entry.trace.root,
                    listener,
                    resume=resume,
                    steering=steering,
                )
            except DeadlineUnreachable as error:
                elapsed_s = self.now() - entry.arrived
                raise _in_milliseconds(error, plan.requested, elapsed_s) from error
        entry.answer = answer
        entry.punctuality = plan.requested.punctuality(self.now() - entry.arrived)
        if answer.source != "hit":
            self.storage.observe(answer.result.images, self.now())
        return answer

    def load(self) -> IngressLoad:
        """What this replica has to do, and has done lately."""
        return self.recent.load(self.admission.by_tenant)

    async def check_prompt(self, plan: Plan) -> None:
        """Raises ContentPolicyViolation for a prompt that is not to be drawn.

        The negative prompt names what to leave out: refusing it would make images less safe.
        """
        await self.prompts.check(plan.params.plain_prompt, param="prompt")

    def forecast(self, plan: Plan) -> Forecast:
        """When it would be answered. Nothing is run, and no place taken."""
        return self.graph.forecast(plan.params)


def _job(plan: Plan, terms: ServiceTerms, entry: LogEntry) -> GenerationJob:
    return GenerationJob(
        request_id=entry.request_id,
        params=plan.params,
        finish=replace(plan.finish, owner=terms.tenant),
        recipes=tuple(replace(recipe, tenant=terms.tenant) for recipe in plan.recipes),
        terms=terms,
        trace=entry.trace.job_trace,
        trace_id=entry.trace.trace_id,
    )


def _in_milliseconds(
    error: DeadlineUnreachable, requested: RequestedTerms, elapsed_s: float
) -> DeadlineUnreachable:
    """The error in the client's terms: from the arrival of the request, as `deadline_ms` is."""
    earliest_s = error.earliest_s + max(0.0, elapsed_s)
    return DeadlineUnreachable(
        f"deadline_ms: {requested.deadline_ms} cannot be met;"
        f" the shortest that could be promised now is {in_milliseconds(earliest_s)}",
        earliest_s=earliest_s,
        retry_after_s=error.retry_after_s,
    )
