"""Which URLs jobs may name, and what they are told of the others."""

from __future__ import annotations

import pytest

from pipelines.errors import InvalidRequest, UnsupportedFeature
from serve.webhooks.targets import WebhookTargets
from serve.webhooks.webhooks_config import WebhooksConfig


def targets(*allow: str, allow_private: bool = False) -> WebhookTargets:
    return WebhookTargets(
        WebhooksConfig.model_validate(
            {"allow": allow, "secret": "whsec_", "allow_private": allow_private}
        )
    )


def complaint(checked: WebhookTargets, url: str, **param: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        checked.check(url, **param)
    return caught.value


def test_none_is_allowed():
    error = complaint(targets(), "https://hooks.example.com/")
    assert isinstance(error, UnsupportedFeature)
    assert error.param == "webhook_url"
    assert "sends no webhooks" in error.message


def test_what_is_allowed():
    targets("https://hooks.example.com").check("https://hooks.example.com/a?b")
    targets("https://*.example.com").check("https://HOOKS.example.com/")


def test_the_complaint_names_the_field_and_what_would_do():
    checked = targets("https://hooks.example.com", "https://*.example.org")
    error = complaint(checked, "https://evil.example/x?token=secret", param="webhook")
    assert error.param == "webhook"
    assert error.message == (
        "webhook: https://evil.example is not allowed here; allowed: https://hooks.example.com,"
        " https://*.example.org"
    )
    assert complaint(checked, "nonsense").message.startswith("webhook_url: must be a URL")


def test_an_address_that_is_listed_must_still_be_reachable():
    assert "loopback" in complaint(targets("https://127.0.0.1"), "https://127.0.0.1/").message
    targets("https://127.0.0.1", allow_private=True).check("https://127.0.0.1/")
    metadata = targets("http://169.254.169.254", allow_private=True)
    assert "link-local" in complaint(metadata, "http://169.254.169.254/latest/").message
