"""The base of all options.

Bounds of one field are pydantic's `ValidationError`; rules that tie fields together are a
`ConfigurationError` whose message starts with the field's full name, such as `denoiser.num_gpus`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from pipelines.errors import ConfigurationError


class Options(BaseModel):
    """Base of all options: frozen, no unknown fields, each field documented under itself."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    section: ClassVar[str] = ""
    """Where these options stand in `StagesConfig`; the prefix of field names in messages."""

    live: ClassVar[tuple[str, ...]] = ()
    """Fields that a running replica takes over; see `deployments.options.reconfigure`."""

    def _reject(self, field: str, problem: str) -> ConfigurationError:
        name = f"{self.section}.{field}" if self.section else field
        return ConfigurationError(f"{name}: {problem}")

    def _refuse_credentials(self, field: str, url: str | None) -> None:
        """Raises ConfigurationError if an S3 address has a password, which logs would show."""
        if url is not None and "@" in url:
            raise self._reject(
                field, "holds credentials; leave them to AWS_ACCESS_KEY_ID and the like"
            )
