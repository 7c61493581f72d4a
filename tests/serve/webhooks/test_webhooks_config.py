"""The section about webhooks: what it takes, and where secrets must not stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from ray import cloudpickle

from pipelines.errors import ConfigurationError
from serve.settings.settings import Settings

SECRET = "whsec_" + "QUFB" * 10
ALLOW = {"webhooks.allow": "https://hooks.example.com, https://*.example.org"}


def complaint(args: Mapping[str, object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(args)
    assert SECRET not in caught.value.message
    return caught.value.message


def test_off_by_default():
    assert Settings.load().webhooks.allow == ()
    assert Settings.load({"webhooks.allow": "none"}).webhooks.allow == ()


def test_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLUICE_WEBHOOKS__SECRET", SECRET)
    monkeypatch.setenv("SLUICE_WEBHOOKS__TENANT_SECRETS", json.dumps({"anna": SECRET}))
    settings = cloudpickle.loads(cloudpickle.dumps(Settings.load(ALLOW)))
    assert settings.webhooks.allow == ("https://hooks.example.com", "https://*.example.org")
    assert settings.webhooks.secret.get_secret_value() == SECRET
    assert settings.webhooks.tenant_secrets["anna"].get_secret_value() == SECRET
    assert SECRET not in repr(settings)


def test_targets_need_a_secret(tmp_path: Path):
    assert complaint(ALLOW).startswith("webhooks.allow: messages need a secret")
    file = tmp_path / "secrets.yaml"
    assert Settings.load({**ALLOW, "webhooks.secrets_file": str(file)}).webhooks.secrets_file


@pytest.mark.parametrize("name", ["secret", "tenant_secrets"])
def test_secrets_in_what_others_read(tmp_path: Path, name: str):
    says = f"webhooks.{name}: is never read from arguments or the settings file"
    assert complaint({f"webhooks.{name}": SECRET}).startswith(says)
    path = tmp_path / "settings.yaml"
    path.write_text(f"webhooks: {{{name}: {SECRET}}}\n")
    assert complaint({"config": str(path)}).startswith(says)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TENANT_SECRETS", SECRET),
        ("TENANT_SECRETS", json.dumps([SECRET])),
        ("TENANT_SECRETS", json.dumps({"anna": [SECRET]})),
        ("TENANT_SECRETS", json.dumps({"anna": {"secret": SECRET}})),
    ],
)
def test_a_wrong_variable_is_not_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(f"SLUICE_WEBHOOKS__{name}", value)
    assert "webhooks" in complaint({}).lower()


@pytest.mark.parametrize(
    "pattern", ["hooks.example.com", "https://hooks.example.com/path", "https://*example.com"]
)
def test_no_origins(pattern: str):
    assert complaint({"webhooks.allow": pattern}).startswith("webhooks.allow.0: ")
