"""Options that a running replica takes over without a restart: Serve's `user_config`.

In a configuration file they stand beside the application's arguments,

    deployments:
      - name: Denoiser
        user_config: {policy: srpt, max_works: 16}

and `serve deploy` of a file that differs in nothing else changes them in place. What is left out is
as the replica was started with.

Each `reconfigure` takes a `rank` that it has no use for: to one that does not, Serve fails to say
that a `user_config` was taken away.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from deployments.options.base import Options
from pipelines.errors import ConfigurationError

logger = logging.getLogger("ray.serve")

AnyOptions = TypeVar("AnyOptions", bound=Options)


def changed(
    options: AnyOptions, user_config: Mapping[str, Any] | None, *, where: str = "user_config"
) -> AnyOptions:
    """`options` with the fields of `user_config`, of which each must be one of its `live` ones.

    Raises ConfigurationError naming the field in `where`, also for values that do not fit the
    others.
    """
    values = {name: getattr(options, name) for name in type(options).model_fields}
    for name, value in section(user_config, where).items():
        if name not in options.live:
            raise ConfigurationError(
                f"{where}.{name}: does not change while a replica runs; set it among the"
                f" application's args, which starts new ones. Here go {', '.join(options.live)}"
            )
        if isinstance(values[name], Options):
            value = changed(values[name], value, where=f"{where}.{name}")
        elif name == "autoscaling":
            raise ConfigurationError(f"{where}.{name}: the replicas were started with none")
        values[name] = value
    try:
        return type(options).model_validate(values)
    except ValidationError as error:
        places = [".".join(map(str, item["loc"])) for item in error.errors()]
        problems = [item["msg"] for item in error.errors()]
        lines = [f"{where}.{at}: {text}" for at, text in zip(places, problems, strict=True)]
        raise ConfigurationError("; ".join(lines)) from error


def check_sections(
    config: Options, stages: Iterable[str], user_config: Mapping[str, Any] | None
) -> None:
    """Check a `user_config` with a section for each of `stages`, which are fields of `config`.

    Raises ConfigurationError naming the field.
    """
    known = list(stages)
    for key, content in section(user_config, "user_config").items():
        if key not in known:
            raise ConfigurationError(f"user_config.{key}: is no stage; known: {', '.join(known)}")
        changed(getattr(config, key), content, where=f"user_config.{key}")


def section(content: object, where: str) -> Mapping[str, Any]:
    """What YAML has at `where`: nothing counts as empty. Raises ConfigurationError for a value."""
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{where}: is {content!r}; here go options by their names")
    return content


def taken_over(options: AnyOptions, user_config: Mapping[str, Any] | None) -> AnyOptions | None:
    """`changed`, or None where that fails, as a mistake must not take down what runs; the log has
    either."""
    try:
        found = changed(options, user_config)
    except ConfigurationError as error:
        logger.error("nothing was changed: %s", error.message)
        return None
    if user_config:
        logger.info("user_config is taken over: %s", user_config)
    return found
