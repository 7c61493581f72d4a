"""What of the settings changes without a restart, as Serve's `user_config`.

`deployments.options.reconfigure` is the same for the stages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from deployments.options.autoscaling import AutoscalingOptions
from deployments.options.reconfigure import changed, check_sections
from deployments.options.stages import Options
from deployments.scaling.rule import ScalingRule
from deployments.stage_table import FUSED
from pipelines.errors import ConfigurationError
from serve.settings.settings import Settings


def live_settings(settings: Settings, user_config: Mapping[str, Any]) -> Settings:
    """`settings` with the `limits` and `deadlines` of a `user_config`.

    Raises ConfigurationError naming the field.
    """
    for name in user_config.keys() - {"limits", "deadlines"}:
        raise ConfigurationError(
            f"user_config.{name}: does not change while a replica runs; set it among the"
            " application's args, which starts new ones. Here go limits, deadlines"
        )
    limits = changed(settings.limits, user_config.get("limits"), where="user_config.limits")
    deadlines = changed(
        settings.deadlines, user_config.get("deadlines"), where="user_config.deadlines"
    )
    for name in ("max_queued_images", "max_unread_bodies"):
        wanted, most = getattr(limits, name), getattr(settings.limits, name)
        if wanted > most:
            # Serve lets in no more than that, and would refuse the rest in its own words.
            raise ConfigurationError(
                f"user_config.limits.{name}: {wanted} is above the {most} that the ingress was"
                " started with; lower it, or set it among the application's args"
            )
    return settings.model_copy(update={"limits": limits, "deadlines": deadlines})


def check_stage(settings: Settings, name: str, user_config: Mapping[str, Any]) -> None:
    """Raises ConfigurationError if the stage called `name` would not take `user_config` over."""
    keys = {row.name: row.key for row in settings.stages.table}
    if name == FUSED.name:
        check_sections(settings.stages, keys.values(), user_config)
    else:
        changed(cast("Options", getattr(settings.stages, keys[name])), user_config)


def check_autoscaling(config: Mapping[str, Any]) -> None:
    """Raises ConfigurationError if a stage would no longer scale by its work with `config`.

    It takes the place of all that the stage's `autoscaling` has made, its policy included.
    """
    whole = AutoscalingOptions().serve_config()
    policy: Mapping[str, Any] = config.get("policy") or {}
    if policy.get("policy_function") != whole["policy"]["policy_function"]:
        raise ConfigurationError(
            "autoscaling_config.policy: is not the one that scales by work; nothing of the stage's"
            f" autoscaling is kept, so write all of it, such as {json.dumps(whole)}"
        )
    try:
        ScalingRule(**policy.get("policy_kwargs", {}))
    except TypeError as error:
        problem = str(error).removeprefix("ScalingRule.__init__() ")
        raise ConfigurationError(f"autoscaling_config.policy.policy_kwargs: {problem}") from error
