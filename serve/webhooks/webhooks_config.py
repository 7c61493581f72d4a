"""The section of the settings about webhooks; `serve.settings` reads its values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from deployments.options.base import Options
from pipelines.errors import ConfigurationError
from serve.webhooks.target import OriginPattern


def _origin_pattern(value: str) -> str:
    OriginPattern.parse(value)
    return value


def _nothing_in_words(value: object) -> object:
    """Text, split at commas before, that says that a list is empty."""
    return () if value in ([""], ["none"]) else value


def _only_text(value: object) -> object:
    """What pydantic would refuse, it would also repeat."""
    if not (value is None or isinstance(value, str | SecretStr)):
        raise ConfigurationError("webhooks.secret: must be text")
    return value


def _only_texts(value: object) -> object:
    values = cast("dict[object, object]", value).values() if isinstance(value, dict) else (None,)
    if not all(isinstance(each, str | SecretStr) for each in values):
        raise ConfigurationError("webhooks.tenant_secrets: must be a JSON object, text by tenant")
    return cast("object", value)


_Secret = Annotated[SecretStr | None, BeforeValidator(_only_text)]
_Secrets = Annotated[dict[str, SecretStr], BeforeValidator(_only_texts)]

SECRET_FIELDS = ("secret", "tenant_secrets")


class WebhooksConfig(Options):
    """Messages to clients that a job is over (Standard Webhooks)."""

    section: ClassVar[str] = "webhooks"

    allow: Annotated[
        tuple[Annotated[str, AfterValidator(_origin_pattern)], ...],
        BeforeValidator(_nothing_in_words),
    ] = ()
    """Origins that jobs may name, such as https://hooks.example.com or https://*.example.com (any
    name below); https://* is every name. A port or http:// is allowed only where it is written.
    None: jobs with a `webhook_url` are refused."""

    secret: _Secret = Field(default=None, repr=False)
    """What messages are signed with: `whsec_` and base64, for tenants that have none of their own.
    From the variable SLUICE_WEBHOOKS__SECRET alone."""

    tenant_secrets: _Secrets = Field(default_factory=dict, repr=False)
    """The same by tenant. From the variable SLUICE_WEBHOOKS__TENANT_SECRETS alone, as JSON."""

    secrets_file: Path | None = None
    """A YAML file with `secret` and `tenant_secrets` instead, which each ingress replica reads when
    it starts."""

    allow_private: bool = False
    """Whether names may resolve to loopback and private addresses. Whoever may submit jobs can then
    have requests sent to whatever `allow` matches inside of your network."""

    timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Seconds that one attempt may take, name resolution included."""

    max_age_s: float = Field(default=86_400.0, gt=0)
    """Seconds for which a message is sent again, at growing intervals, until it is a dead letter;
    sent again by hand, it has as long once more."""

    concurrency: int = Field(default=32, ge=1)
    """Messages that an ingress replica sends at the same time. One tenant, or one target of jobs of
    no tenant, takes at most a quarter of these while it is slow."""

    poll_s: float = Field(default=1.0, gt=0)
    """Seconds between looks at the store for a message that is due."""

    @model_validator(mode="after")
    def _check_secret(self) -> Self:
        if self.allow and self.secret is None and self.secrets_file is None:
            raise self._reject(
                "allow",
                "messages need a secret to be signed with; set SLUICE_WEBHOOKS__SECRET, such as to"
                " whsec_ and the output of `openssl rand -base64 32`, or webhooks.secrets_file",
            )
        return self

    @classmethod
    def refuse_written_secrets(cls, values: Mapping[str, Any]) -> None:
        """Raises ConfigurationError if settings that others can read, a file or arguments, hold a
        secret; where to put it instead."""
        section = values.get(cls.section)
        if not isinstance(section, dict):
            return
        for name in SECRET_FIELDS:
            if name in section:
                raise ConfigurationError(
                    f"webhooks.{name}: is never read from arguments or the settings file, which"
                    f" others may see; set SLUICE_WEBHOOKS__{name.upper()}, or name a file in"
                    " webhooks.secrets_file"
                )
