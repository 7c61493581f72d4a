"""What vendors' clients show as a job's log: its seed, and its progress as tqdm writes it."""

from __future__ import annotations

from serve.jobs.job import Job
from serve.jobs.progress import progress_of

_BLOCKS = " ▏▎▍▌▋▊▉█"
_WIDTH = 10


def job_logs(job: Job) -> list[str]:
    """Lines; the last one with a bar says how far it is, which Replicate's client reads."""
    if job.started_at is None:
        return []
    progress = progress_of(job)
    lines = [f"Using seed: {job.request['seed']}"]
    lines += [f"Warning: {warning}" for warning in job.warnings]
    lines.append(progress_line(progress["step"], progress["total"]))
    if job.error is not None:
        lines.append(f"Error: {job.error.message}")
    return lines


def progress_line(step: int, total: int) -> str:
    """Such as ` 42%|████▏     | 5/12`."""
    share = step / total if total else 0.0
    eighths = round(share * _WIDTH * 8)
    full, rest = divmod(eighths, 8)
    bar = "█" * full + (_BLOCKS[rest] if rest else "")
    return f"{share:4.0%}|{bar:<{_WIDTH}}| {step}/{total}"
