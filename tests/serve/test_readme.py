"""The tables of serve/README.md name everything there is."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.options.stage import Options
from deployments.options.stages import StagesConfig
from serve.api.schemas import ImageGenerationRequest
from serve.errors import ERROR_TABLE
from serve.settings.settings import Settings
from tests.deployments.timestamp_authority import needs_openssl

SERVE = Path(__file__).resolve().parents[2] / "serve"
README = (SERVE / "README.md").read_text()


def test_every_setting():
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options) and kind is not StagesConfig:
            for inner, inner_field in kind.model_fields.items():
                assert f"| `{name}.{inner}` | {shown(inner_field.default)}" in README
        else:
            assert f"| `{name}` |" in README


def shown(default: object) -> str:
    """A plain default as the table writes it; of others the text is free."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float):
        return f"{default:.10g}"
    return ""


def test_every_field_of_a_generation():
    for name in ImageGenerationRequest.model_fields:
        assert f"`{name}`" in README


def test_every_error():
    for rule in ERROR_TABLE.values():
        assert f"| {rule.status} | `{rule.code}` |" in README


@needs_openssl
def test_the_recipe_for_tls_on_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"^```\w*\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    (block,) = (each for each in blocks if "openssl req" in each)
    (tmp_path / "serve").symlink_to(SERVE)
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(["bash", "-euc", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output/tls.key").stat().st_mode & 0o077 == 0
    trusted = ssl.create_default_context(cafile="output/tls.crt").get_ca_certs()
    assert [each["subjectAltName"] for each in trusted] == [(("DNS", "localhost"),)]
    written = yaml.safe_load((tmp_path / "output/tls.yaml").read_text())
    options = ServeDeploySchema.model_validate(written).http_options
    key, certificate = (str(tmp_path / f"output/tls.{end}") for end in ("key", "crt"))
    assert (options.ssl_keyfile, options.ssl_certfile) == (key, certificate)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
