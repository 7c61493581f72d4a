"""Content credentials (C2PA): a signature over a file that says what made it.

Signed in memory, offline but for a timestamp authority, if there is one. The package c2pa-python
(the extra `c2pa`) is imported where an operator has given a certificate.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from deployments.options.c2pa import C2paOptions
from deployments.storage.encode import CONTENT_TYPES, encode_image
from pipelines.errors import StageFailed

logger = logging.getLogger("ray.serve")

RECEIPT_ASSERTION = "sluice.receipt"
"""The label of the assertion with the hash of the file's receipt."""

_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_LIBRARY_SETTINGS = {
    # It would decode each file again, to keep a small copy in it.
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}

TIMESTAMP_TIMEOUT_S = 5.0
"""That a timestamp authority may take; the library itself would wait for ever."""

_TIMESTAMP_PAUSE_S = 60.0
"""For which one that failed is not asked: files are signed without a timestamp meanwhile."""


class ContentCredentials:
    """Signs files with an operator's certificate."""

    def __init__(
        self,
        options: C2paOptions,
        *,
        version: str,
        clock: Callable[[], float] = time.monotonic,
        timestamp_timeout_s: float = TIMESTAMP_TIMEOUT_S,
    ) -> None:
        """Signs a small file, as a proof; `version` is Sluice's.

        Raises ConfigurationError, naming the field, for a package or a file that is missing, and
        for a certificate and key that cannot sign.
        """
        try:
            import c2pa
        except ImportError as error:
            raise options.reject(
                "certificate_chain",
                "needs the package c2pa-python where the finisher runs: pip install 'sluice[c2pa]'",
            ) from error
        self._c2pa: Any = c2pa
        self._options = options
        self._version = version
        self._clock = clock
        self._timestamp_timeout_s = timestamp_timeout_s
        self._asks_again_at = 0.0
        self._chain = _pem(options, "certificate_chain", "CERTIFICATE")
        self._key = _pem(options, "private_key", "PRIVATE KEY")
        self._context = c2pa.Context.from_dict(_LIBRARY_SETTINGS)
        self._prove()

    def sign(self, data: bytes, output_format: str, receipt: str = "") -> bytes:
        """The file with its credentials; `receipt` is that in it. Blocks. Raises StageFailed."""
        try:
            if self._options.timestamp_url is not None and self._clock() >= self._asks_again_at:
                try:
                    return self._with_timestamp(data, output_format, receipt)
                except (self._c2pa.C2paError, TimeoutError) as error:
                    self._pause_timestamps(error)
            return self._signed(data, output_format, receipt, timestamp_url=None)
        except self._c2pa.C2paError as error:
            raise StageFailed(f"the file could not be signed: {error}", stage="Finisher") from error

    def _with_timestamp(self, data: bytes, output_format: str, receipt: str) -> bytes:
        """In a thread of its own, which is left where the authority keeps silent."""
        future: Future[bytes] = Future()

        def run() -> None:
            try:
                url = self._options.timestamp_url
                future.set_result(self._signed(data, output_format, receipt, timestamp_url=url))
            except Exception as error:  # noqa: BLE001  at a thread's end, whoever waits must know
                future.set_exception(error)

        threading.Thread(target=run, name="c2pa-timestamp", daemon=True).start()
        signed = future.result(self._timestamp_timeout_s)
        if self._asks_again_at:
            self._asks_again_at = 0.0
            logger.info("the timestamp authority answers again")
        return signed

    def _pause_timestamps(self, error: Exception) -> None:
        if not self._asks_again_at:  # once, however long it stays away
            logger.warning(
                "the timestamp authority %s does not serve (%s): files are signed without a"
                " timestamp until it does",
                self._options.timestamp_url,
                error or "it keeps silent",
            )
        self._asks_again_at = self._clock() + _TIMESTAMP_PAUSE_S

    def _signed(
        self, data: bytes, output_format: str, receipt: str, *, timestamp_url: str | None
    ) -> bytes:
        c2pa, file = self._c2pa, io.BytesIO()
        info = c2pa.C2paSignerInfo(self._options.algorithm, self._chain, self._key, timestamp_url)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(self._manifest(receipt), context=self._context) as builder,
        ):
            builder.sign(signer, CONTENT_TYPES[output_format], io.BytesIO(data), file)
        return file.getvalue()

    def _manifest(self, receipt: str) -> str:
        agent = {"name": "Sluice", "version": self._version}
        action = {
            "action": "c2pa.created",
            "digitalSourceType": _GENERATED,
            "softwareAgent": agent,
        }
        assertions: list[dict[str, object]] = [
            {"label": "c2pa.actions.v2", "data": {"actions": [action]}}
        ]
        if receipt:
            digest = hashlib.sha256(receipt.encode()).hexdigest()
            assertions.append({"label": RECEIPT_ASSERTION, "data": {"sha256": digest}})
        return json.dumps({"claim_generator_info": [agent], "assertions": assertions})

    def _prove(self) -> None:
        """Signs and reads back: the library finds a key of another certificate, and much else."""
        blank = encode_image(
            np.zeros((16, 16, 3), np.uint8), output_format="png", output_compression=95
        )
        try:
            signed = self._signed(blank, "png", "", timestamp_url=None)
            reader = self._c2pa.Reader("image/png", io.BytesIO(signed), context=self._context)
            with reader:
                state, found = reader.get_validation_state(), reader.get_validation_results()
        except self._c2pa.C2paError as error:
            said = str(error)
            if "does not match" in said:
                raise self._options.reject(
                    "private_key", "is not the key of the first certificate in certificate_chain"
                ) from error
            if "private key" in said:
                raise self._options.reject(
                    "private_key",
                    f"is no PKCS#8 key for algorithm {self._options.algorithm}: {said}",
                ) from error
            raise self._options.reject("certificate_chain", f"cannot sign: {said}") from error
        if state not in ("Valid", "Trusted"):
            failures = found["activeManifest"]["failure"]
            said = "; ".join(each.get("explanation") or each["code"] for each in failures)
            raise self._options.reject("certificate_chain", f"cannot sign: {said}")


def _pem(options: C2paOptions, field: str, label: str) -> bytes:
    path: Path = getattr(options, field)
    try:
        content = path.expanduser().read_bytes()
    except OSError as error:
        raise options.reject(
            field, f"{path} cannot be read where the finisher runs: {error.strerror or error}"
        ) from error
    if b"-----BEGIN " not in content or f"{label}-----".encode() not in content:
        raise options.reject(field, f"{path} is no PEM file with a {label}")
    return content
