"""With which certificate finished files are signed."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import model_validator

from deployments.options.base import Options
from pipelines.errors import ConfigurationError


class C2paOptions(Options):
    """Content credentials (C2PA) in every file; without a certificate there are none. The files are
    read where the finisher runs, at its start."""

    section: ClassVar[str] = "finisher.c2pa"

    certificate_chain: Path | None = None
    """A PEM file: the signing certificate first, then those that lead to its root. C2PA asks for
    its key usages: digitalSignature, and emailProtection or documentSigning."""
    private_key: Path | None = None
    """A PEM file (PKCS#8, not encrypted) with its key, which only the finisher's user should be
    able to read."""
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    """That of the key: es256 for P-256, ps256 for RSA, and so on."""
    timestamp_url: str | None = None
    """A timestamp authority (RFC 3161), so that signatures outlive the certificate. While it does
    not answer, files are signed without."""

    @property
    def is_on(self) -> bool:
        """Whether files are signed."""
        return self.certificate_chain is not None

    def reject(self, field: str, problem: str) -> ConfigurationError:
        """The error for a `field` that cannot work."""
        return self._reject(field, problem)

    @model_validator(mode="after")
    def _check_both(self) -> Self:
        for field, other in (
            ("private_key", "certificate_chain"),
            ("certificate_chain", "private_key"),
            ("certificate_chain", "timestamp_url"),
        ):
            if getattr(self, field) is None and getattr(self, other) is not None:
                raise self._reject(field, f"is needed beside {other}; name its PEM file")
        return self

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.timestamp_url is not None:
            url = urlsplit(self.timestamp_url)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise self._reject(
                    "timestamp_url", "must be an address such as http://timestamp.example.com"
                )
            if "@" in url.netloc:
                raise self._reject("timestamp_url", "holds credentials, which logs would show")
        return self
