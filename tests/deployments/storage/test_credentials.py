"""Content credentials, read back by C2PA's own reader."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from PIL import Image

from deployments.options.c2pa import C2paOptions
from deployments.storage.credentials import RECEIPT_ASSERTION, ContentCredentials
from deployments.storage.encode import read_parameters
from deployments.storage.receipt import parse_receipt
from deployments.storage.receipt_reading import read_receipt
from pipelines.errors import ConfigurationError, StageFailed
from tests.deployments.certificates import CertificateFiles, write_certificate
from tests.deployments.receipts import file_with, receipt
from tests.deployments.timestamp_authority import needs_openssl, timestamping

NOBODY = "http://127.0.0.1:9/"


@pytest.fixture
def certificate(tmp_path: Path) -> CertificateFiles:
    return write_certificate(tmp_path)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def options_of(files: CertificateFiles, **fields: Any) -> C2paOptions:
    return C2paOptions(**{"certificate_chain": files.chain, "private_key": files.key, **fields})


def credentials_of(files: CertificateFiles, **fields: Any) -> ContentCredentials:
    return ContentCredentials(options_of(files, **fields), version="1.2.3")


def read_back(file: bytes, output_format: str) -> tuple[str | None, dict[str, Any]]:
    """How C2PA finds the file, and its manifest; the root is trusted by nobody."""
    with c2pa.Reader(f"image/{output_format}", io.BytesIO(file)) as reader:
        told = json.loads(reader.json())
        return reader.get_validation_state(), told["manifests"][told["active_manifest"]]


def validated(file: bytes, output_format: str) -> dict[str, str]:
    """What C2PA finds to be right in the file, by its code."""
    with c2pa.Reader(f"image/{output_format}", io.BytesIO(file)) as reader:
        results = reader.get_validation_results() or {}
    return {each["code"]: each["explanation"] for each in results["activeManifest"]["success"]}


def pixels_of(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image)


def refusal(files: CertificateFiles, **fields: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        credentials_of(files, **fields)
    assert "PRIVATE" not in refused.value.message.replace("PRIVATE KEY", "")
    return refused.value.message


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_signed_file(certificate: CertificateFiles, output_format: str):
    plain = file_with(receipt(), output_format, "a cat\nSteps: 1, Seed: 2")
    signed = credentials_of(certificate).sign(plain, output_format, receipt())
    state, manifest = read_back(signed, output_format)
    assert state == "Valid"
    assert manifest["claim_generator_info"][0]["name"] == "Sluice"
    assertions = {each["label"]: each["data"] for each in manifest["assertions"]}
    (action,) = assertions["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert action["softwareAgent"] == {"name": "Sluice", "version": "1.2.3"}
    digest = hashlib.sha256(receipt().encode()).hexdigest()
    assert assertions[RECEIPT_ASSERTION] == {"sha256": digest}
    assert read_receipt(signed) == parse_receipt(receipt())
    assert read_parameters(signed) == read_parameters(plain)
    assert np.array_equal(pixels_of(signed), pixels_of(plain))


def test_a_file_that_was_changed_afterwards(certificate: CertificateFiles):
    signed = credentials_of(certificate).sign(file_with(receipt()), "png", receipt())
    changed = signed.replace(b"a cat", b"a dog", 1)
    assert read_back(changed, "png")[0] == "Invalid"


def test_without_a_receipt(certificate: CertificateFiles):
    _, manifest = read_back(credentials_of(certificate).sign(file_with(""), "png"), "png")
    assert [each["label"] for each in manifest["assertions"]] == ["c2pa.actions.v2"]


def test_an_rsa_key(tmp_path: Path):
    files = write_certificate(tmp_path, is_rsa=True)
    signed = credentials_of(files, algorithm="ps256").sign(file_with(""), "png")
    assert read_back(signed, "png")[0] == "Valid"


def test_files_that_cannot_sign(certificate: CertificateFiles, tmp_path: Path):
    text = tmp_path / "text"
    text.write_text("no PEM")
    message = refusal(certificate, private_key=tmp_path / "none.pem")
    assert message.startswith(f"finisher.c2pa.private_key: {tmp_path}/none.pem cannot be read")
    assert refusal(certificate, certificate_chain=tmp_path).startswith(
        "finisher.c2pa.certificate_chain: "
    )
    for field in ("certificate_chain", "private_key"):
        message = refusal(certificate, **{field: text})
        assert message.startswith(f"finisher.c2pa.{field}: {text} is no PEM file")
    message = refusal(certificate, private_key=certificate.other_key)
    assert message.startswith("finisher.c2pa.private_key: is not the key of the first certificate")
    message = refusal(certificate, algorithm="ps256")
    assert message.startswith("finisher.c2pa.private_key: is no PKCS#8 key for algorithm ps256")
    text.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    message = refusal(certificate, certificate_chain=text)
    assert message.startswith("finisher.c2pa.certificate_chain: cannot sign: ")


def test_a_certificate_that_has_expired(tmp_path: Path):
    message = refusal(write_certificate(tmp_path, days=-1))
    assert message.startswith("finisher.c2pa.certificate_chain: cannot sign: ")


def test_a_package_that_is_missing(certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    assert "needs the package c2pa-python" in refusal(certificate)


def test_the_key_is_in_no_text(certificate: CertificateFiles):
    credentials = credentials_of(certificate)
    secret = certificate.key.read_text().splitlines()[1]
    assert secret not in repr(credentials) + repr(options_of(certificate))


@needs_openssl
@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_timestamp(
    certificate: CertificateFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    output_format: str,
):
    (tmp_path / "authority").mkdir()
    before = datetime.now(UTC).replace(microsecond=0)
    with timestamping(tmp_path / "authority") as authority:
        credentials = credentials_of(certificate, timestamp_url=authority.url)
        assert authority.content_types == [], "the proof at the start needs none"
        signed = credentials.sign(file_with("", output_format), output_format)
    state, manifest = read_back(signed, output_format)
    assert state == "Valid"
    assert authority.content_types == ["application/timestamp-query"]
    at = datetime.fromisoformat(manifest["signature_info"]["time"])
    assert before <= at <= datetime.now(UTC)
    assert authority.name in validated(signed, output_format)["timeStamp.validated"]
    assert not [each for each in caplog.records if "timestamp" in each.message]


def test_no_timestamp_costs_no_file(
    certificate: CertificateFiles, caplog: pytest.LogCaptureFixture
):
    now = [0.0]
    credentials = ContentCredentials(
        options_of(certificate, timestamp_url=NOBODY), version="1", clock=lambda: now[0]
    )
    with caplog.at_level(logging.WARNING, "ray.serve"):
        for later in (1.0, 2.0, 1000.0):
            now[0] = later
            signed = credentials.sign(file_with(""), "png")
            assert read_back(signed, "png")[0] == "Valid"
    (record,) = [each for each in caplog.records if "timestamp" in each.message]
    assert NOBODY in record.message


def test_a_silent_authority_is_not_waited_for(certificate: CertificateFiles, silent: str):
    credentials = ContentCredentials(
        options_of(certificate, timestamp_url=silent), version="1", timestamp_timeout_s=0.05
    )
    assert read_back(credentials.sign(file_with(""), "png"), "png")[0] == "Valid"


def test_a_file_that_cannot_be_signed(certificate: CertificateFiles):
    with pytest.raises(StageFailed, match="could not be signed"):
        credentials_of(certificate).sign(b"no image", "png")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"certificate_chain": "a"}, "finisher.c2pa.private_key: is needed beside"),
        ({"private_key": "a"}, "finisher.c2pa.certificate_chain: is needed beside"),
        ({"timestamp_url": NOBODY}, "finisher.c2pa.certificate_chain: is needed beside"),
        (
            {"certificate_chain": "a", "private_key": "b", "timestamp_url": "file:///x"},
            "finisher.c2pa.timestamp_url: must be an address",
        ),
        (
            {"certificate_chain": "a", "private_key": "b", "timestamp_url": "http://u:p@h/"},
            "finisher.c2pa.timestamp_url: holds credentials",
        ),
    ],
)
def test_settings_that_cannot_work(fields: dict[str, str], message: str):
    with pytest.raises(ConfigurationError) as refused:
        C2paOptions.model_validate(fields)
    assert refused.value.message.startswith(message)
