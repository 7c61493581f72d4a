"""What the routes of generations begin with: whose a request is, and what it is to draw."""

from __future__ import annotations

import secrets

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from serve.api.normalise import Plan, normalise
from serve.api.schemas import ImageGenerationRequest
from serve.api.services import Services
from serve.api.terms import tenant_of

_RANDOM_SEED_BITS = 32
"""Drawn seeds stay exact in clients whose numbers are doubles."""


def tenant_in(request: Request, services: Services, fields: ImageGenerationRequest) -> str:
    """The tenant's name. Raises InvalidRequest."""
    tenants = services.settings.tenants
    sent = request.headers.getlist(tenants.header) if tenants.header is not None else []
    return tenant_of(fields, sent, tenants)


async def plan_of(services: Services, fields: ImageGenerationRequest) -> Plan:
    """What to draw. Raises InvalidRequest, ModelNotFound or ContentPolicyViolation."""
    plan = normalise(
        fields,
        spec=services.spec,
        limits=services.settings.limits,
        deadlines=services.settings.deadlines,
        served_names=services.served_names,
        random_seed=secrets.randbits(_RANDOM_SEED_BITS),
    )
    if services.rules is not None:
        # The negative prompt names what to leave out: refusing it would make images less safe.
        # In a thread: the longest prompts take a quarter of a second.
        await run_in_threadpool(services.rules.check, plan.params.prompt, param="prompt")
    return plan
