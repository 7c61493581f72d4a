"""What is refused before it is queued: what can never fit, and deadlines that cannot be kept."""

from __future__ import annotations

from pipelines.contracts import LatentJob
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.work import Work
from pipelines.errors import DeadlineUnreachable, InvalidRequest, Overloaded


def refuse_what_cannot_be(scheduler: Scheduler, work: Work, job: LatentJob, *, now: float) -> None:
    """Raises InvalidRequest, or DeadlineUnreachable for a work that must not be late.

    A request's deadline is promised when the first of its images comes, for all of them, and not
    given up for a later one's.
    """
    if not scheduler.fits(work):
        sampling = job.sampling
        raise InvalidRequest(
            f"size: {sampling.width}x{sampling.height} is {work.tokens} tokens a step with its"
            f" prompts, and keeps {work.num_bytes / 2**20:.0f} MiB; the denoiser here can hold"
            f" {scheduler.capacity}. Ask for a smaller size, fewer steps or no negative prompt",
            param="size",
        )
    if not job.terms.refuses_late or work.deadline is None or scheduler.has_promised(work.group):
        return
    promise = scheduler.promise(work, now, num_images=job.num_images)
    if promise.is_kept:
        return
    budget_s = work.deadline - now
    is_possible = promise.least_s <= budget_s
    raise DeadlineUnreachable(
        f"deadline_ms: this request can be done in {promise.earliest_s:.2f} s at the earliest",
        earliest_s=promise.earliest_s,
        retry_after_s=max(0.001, promise.earliest_s - budget_s) if is_possible else None,
    )


def refuse_when_full(works: int, most: int) -> None:
    """Raises Overloaded when as many works are held as may be."""
    if works >= most:
        raise Overloaded(f"the denoiser already holds {works} images", retry_after_s=1.0)
