"""Jobs of one dialect: a vendor's routes see no others.

The vendors' clients can name a user when they submit, among what the model takes, and not when they
ask: there the job's id, 128 random bits, is enough, unless it was submitted under a name that comes
with each request (a gateway's tenant, `x-sluice-user`).
"""

from __future__ import annotations

from starlette.requests import Request

from pipelines.errors import JobNotFound
from serve.api.jobs.owner import jobs_of, owner_in
from serve.api.services import Services
from serve.jobs.job import Job, Owner


async def job_of_dialect(
    request: Request, services: Services, dialect: str, job_id: str
) -> tuple[Job, Owner]:
    """The job, and the owner as whom it may be steered. Raises JobNotFound, also for one that came
    by another API."""
    asks = owner_in(request, services, None)
    job = await jobs_of(services).find(job_id)
    if job is not None and job.dialect == dialect:
        if job.is_seen_by(asks):
            return job, asks
        if services.settings.tenants.header is None and job.user == job.tenant:
            return job, Owner(tenant=job.tenant)
    raise JobNotFound(f"no job {job_id[:64]!r} is kept here")
