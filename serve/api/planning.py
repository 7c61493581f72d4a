"""What the routes of generations begin with: whose a request is, and what it is to draw."""

from __future__ import annotations

import secrets

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


def plan_of(services: Services, fields: ImageGenerationRequest) -> Plan:
    """What to draw. Raises InvalidRequest or ModelNotFound."""
    return normalise(
        fields,
        spec=services.spec,
        limits=services.settings.limits,
        deadlines=services.settings.deadlines,
        served_names=services.served_names,
        random_seed=secrets.randbits(_RANDOM_SEED_BITS),
    )


async def check_prompt(services: Services, plan: Plan) -> None:
    """Raises ContentPolicyViolation for a prompt that is not to be drawn.

    The negative prompt names what to leave out: refusing it would make images less safe.
    """
    await services.prompts.check(plan.params.prompt, param="prompt")
