"""WebhookSecrets: what messages are signed with, by tenant. Shown by nothing."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from standardwebhooks import Webhook

from pipelines import operator_yaml
from pipelines.errors import ConfigurationError
from serve.webhooks.webhooks_config import WebhooksConfig

_PREFIX = "whsec_"
_MIN_BYTES, _MAX_BYTES = 24, 64
"""Standard Webhooks' own bounds."""


class WebhookSecrets:
    """Signs messages. A secret may be several, the newest first, with blanks between them: each
    signs, so that receivers can change from one to the next."""

    def __init__(self, default: str, by_tenant: Mapping[str, str], *, where: str) -> None:
        """Raises ConfigurationError, naming where it stands, for what is no secret."""
        self._default = _signers(default, f"{where}: secret")
        self._by_tenant = {
            tenant: _signers(secret, f"{where}: tenant_secrets.{tenant[:64]}")
            for tenant, secret in by_tenant.items()
        }

    def __repr__(self) -> str:
        return f"WebhookSecrets({len(self._by_tenant)} tenants)"

    @classmethod
    def load(cls, config: WebhooksConfig) -> Self | None:
        """The secrets of the environment, and over them those of `secrets_file`; None where no
        webhooks are sent. Raises ConfigurationError."""
        if not config.allow:
            return None
        default = "" if config.secret is None else config.secret.get_secret_value()
        by_tenant = {name: each.get_secret_value() for name, each in config.tenant_secrets.items()}
        where = "webhooks"
        if config.secrets_file is not None:
            written = _read(config.secrets_file)
            default = written.secret or default
            by_tenant |= written.tenant_secrets
            where = f"webhooks.secrets_file: {config.secrets_file}"
        return cls(default, by_tenant, where=where)

    def sign(self, tenant: str, message_id: str, at: datetime, body: str) -> str:
        """The header `webhook-signature` of a message sent `at`, which is in UTC."""
        signers = self._by_tenant.get(tenant, self._default)
        return " ".join(each.sign(message_id, at, body) for each in signers)


def _signers(text: str, where: str) -> tuple[Webhook, ...]:
    """Never repeats `text`."""
    if not text.split():
        raise ConfigurationError(f"{where}: missing; write {_PREFIX} and base64 of 32 bytes")
    return tuple(Webhook(_key(secret, where)) for secret in text.split())


def _key(secret: str, where: str) -> bytes:
    encoded = secret.removeprefix(_PREFIX)
    if encoded == secret:
        raise ConfigurationError(f"{where}: must begin with {_PREFIX}")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        raise ConfigurationError(f"{where}: is not base64 after {_PREFIX}") from None
    if not _MIN_BYTES <= len(key) <= _MAX_BYTES:
        raise ConfigurationError(
            f"{where}: must be {_MIN_BYTES} to {_MAX_BYTES} bytes in base64, got {len(key)}"
        )
    return key


class _SecretsFile(BaseModel):
    """What `secrets_file` holds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    secret: str = ""
    tenant_secrets: dict[str, str] = Field(default_factory=dict[str, str])


def _read(path: Path) -> _SecretsFile:
    """Raises ConfigurationError that repeats nothing of the file."""
    where = f"webhooks.secrets_file: {path}"
    try:
        return _SecretsFile.model_validate(operator_yaml.read(path))
    except OSError as error:
        raise ConfigurationError(f"{where} cannot be read: {error.strerror}") from error
    except operator_yaml.YamlError:
        raise ConfigurationError(f"{where} is not YAML") from None
    except ValidationError:
        raise ConfigurationError(
            f"{where} must hold nothing but `secret`, a text, and `tenant_secrets`, texts by tenant"
        ) from None
