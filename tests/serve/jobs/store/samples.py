"""Jobs as tests of stores submit them, and a clock that they turn."""

from __future__ import annotations

from typing import Any

from serve.jobs.job import Job, JobOutput, Owner
from serve.jobs.store.job_store import Bounds

UNBOUNDED = Bounds(waiting_s=1e9, waiting_s_per_tenant=1e9)
TTL_S = 100.0
ATELIER = Owner(tenant="atelier")
LEASE_S = 10.0


def a_job(job_id: str, **fields: Any) -> Job:
    """A job of `ATELIER`'s, unless said otherwise."""
    return Job(
        **{
            "id": job_id,
            "tenant": ATELIER.tenant,
            "model": "sluice-shapes",
            "request": {"prompt": "a red circle", "seed": 7},
            "body_sha256": "a" * 64,
            "created_at": 1.0,
            "work_s": 2.0,
            **fields,
        }
    )


def an_output(num_bytes: int, *, image: int = 0) -> JobOutput:
    return JobOutput(
        image=image,
        file_id=f"file_{image}",
        output_format="png",
        seed=7,
        width=64,
        height=64,
        sha256="b" * 64,
        num_bytes=num_bytes,
        steps=4,
    )


class Clock:
    """Seconds, which pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
