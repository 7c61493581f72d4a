"""`serve run serve.app:build`: from settings to an application. Wiring only.

No `from __future__ import annotations` here: Ray Serve reads the builder's annotations.
Runs before Ray does, imports no torch and reads no weights.
"""

# pyright: reportUnknownMemberType=false
# Ray's `deployment` and `bind` are untyped.

from collections.abc import Callable, Mapping
from typing import Any, cast

import ray.serve
from ray.serve import Application, Deployment
from ray.serve.schema import LoggingConfig

from deployments.application import bind_stages
from deployments.names import INGRESS_NAME
from pipelines.errors import ConfigurationError
from pipelines.moderation import PromptRules
from serve.capacity.check_cluster import check_machines
from serve.capacity.placement import placements
from serve.ingress import Ingress
from serve.settings.settings import PromptRulesConfig, Settings
from serve.webhooks.secrets import WebhookSecrets

_HEALTH_CHECK_PERIOD_S = 2.0
"""As the stages': an ingress replica that died is replaced after that; by Serve's own, 10 s."""

_SPARE_SLOTS = 100
"""Requests an ingress replica accepts beyond its generations, and beyond those whose body is still
coming: health, files, models, and refusals. So slow clients never take these places."""


def build(args: Mapping[str, Any]) -> Application:
    """The application for `args`, which are settings, nested or as dotted keys.

    Raises ConfigurationError naming the field and a value that would work.
    """
    settings = Settings.load(args)
    spec = settings.model_spec()
    placements(settings)  # refuses what cannot be: other weights, too little memory, ranks
    check_machines(settings)
    if settings.webhooks.secrets_file is None:
        WebhookSecrets.load(settings.webhooks)  # a file may be on the ingress's machines alone
    rules = load_rules(settings.prompt_rules)
    stages = bind_stages(spec, settings.stages)
    return ingress_deployment(settings).bind(settings, spec, rules, stages)


def load_rules(config: PromptRulesConfig) -> PromptRules | None:
    """The prompt rules, read here so that no other machine needs the file; None if disabled."""
    if not config.enabled:
        return None
    try:
        return PromptRules.load(config.rules_file, disabled=config.disabled_categories)
    except ConfigurationError as error:
        raise ConfigurationError(f"prompt_rules: {error.message}") from error


def ingress_deployment(settings: Settings) -> Deployment:
    """The ingress with its scaling, its place, and how much it holds at once."""
    ingress = settings.ingress
    grace_s = ingress.graceful_shutdown_timeout_s
    scaling: dict[str, Any] = {"num_replicas": ingress.num_replicas or 1}
    if ingress.autoscaling is not None:
        scaling = {"autoscaling_config": ingress.autoscaling.serve_config()}
    actor: dict[str, Any] = {"num_cpus": ingress.num_cpus}
    if ingress.label_selector:
        actor["label_selector"] = dict(ingress.label_selector)
    deployment = cast("Callable[..., Deployment]", ray.serve.deployment)
    return deployment(
        Ingress,
        name=INGRESS_NAME,
        ray_actor_options=actor,
        # Requests over the limit must reach the ingress, or it could not refuse them.
        max_ongoing_requests=settings.limits.max_queued_images
        + settings.limits.max_unread_bodies
        + _SPARE_SLOTS,
        graceful_shutdown_timeout_s=settings.limits.request_timeout_s
        if grace_s is None
        else grace_s,
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        max_surge_percent=ingress.max_surge_percent,
        logging_config=LoggingConfig(encoding=settings.stages.log_encoding),
        **scaling,
    )
