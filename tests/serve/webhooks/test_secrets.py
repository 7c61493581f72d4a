"""Secrets: read from the environment and a file, told to nobody."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest
import replicate.webhook
from standardwebhooks import Webhook

from pipelines.errors import ConfigurationError
from serve.webhooks.secrets import WebhookSecrets
from serve.webhooks.webhooks_config import WebhooksConfig


def secret_of(fill: int, size: int = 32) -> str:
    return "whsec_" + base64.b64encode(bytes([fill]) * size).decode()


ONE, TWO, THREE = (secret_of(fill) for fill in (1, 2, 3))
BODY = '{"type":"job.succeeded","timestamp":"2026-01-02T03:04:05Z","data":{"id":"job_1"}}'


def headers(secrets: WebhookSecrets, tenant: str) -> dict[str, str]:
    at = datetime.now(UTC)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": secrets.sign(tenant, "msg_1", at, BODY),
    }


def config(**fields: object) -> WebhooksConfig:
    return WebhooksConfig.model_validate({"allow": ["https://hooks.example.com"], **fields})


def test_every_verifier_takes_the_signature():
    secrets = WebhookSecrets(ONE, {"anna": TWO}, where="webhooks")
    for tenant, secret in (("anna", TWO), ("ben", ONE), ("", ONE)):
        signed = headers(secrets, tenant)
        assert Webhook(secret).verify(BODY, signed)["data"] == {"id": "job_1"}
        client = openai.OpenAI(api_key="unused", webhook_secret=secret)
        assert client.webhooks.unwrap(BODY, signed).type == "job.succeeded"
        replicate.webhook.Webhooks.validate(  # raises if it is not
            headers=signed,
            body=BODY,
            secret=replicate.webhook.WebhookSigningSecret(key=secret),
            tolerance=300,
        )
        client.close()


def test_nobody_elses_secret_verifies():
    signed = headers(WebhookSecrets(ONE, {"anna": TWO}, where="webhooks"), "anna")
    client = openai.OpenAI(api_key="unused", webhook_secret=ONE)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(BODY, signed)
    client.close()


def test_both_secrets_sign_while_one_takes_over():
    signed = headers(WebhookSecrets(f"{TWO} {ONE}", {}, where="webhooks"), "anna")
    for secret in (ONE, TWO):
        Webhook(secret).verify(BODY, signed)


def test_the_file_goes_over_the_environment(tmp_path: Path):
    path = tmp_path / "secrets.yaml"
    path.write_text(f"secret: {TWO}\ntenant_secrets: {{ben: {THREE}}}\n")
    secrets = WebhookSecrets.load(
        config(secret=ONE, tenant_secrets={"anna": ONE, "ben": ONE}, secrets_file=path)
    )
    assert secrets is not None
    for tenant, secret in (("anna", ONE), ("ben", THREE), ("carl", TWO)):
        Webhook(secret).verify(BODY, headers(secrets, tenant))


def test_none_where_nothing_is_sent():
    assert WebhookSecrets.load(WebhooksConfig()) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing"),
        (ONE.removeprefix("whsec_"), "must begin with whsec_"),
        (f"{ONE} {ONE[3:]}", "must begin with whsec_"),
        ("whsec_!!!!", "not base64"),
        (secret_of(1, 23), "must be 24 to 64 bytes in base64, got 23"),
        (secret_of(1, 65), "got 65"),
    ],
)
def test_no_secret_and_not_repeated(text: str, says: str):
    with pytest.raises(ConfigurationError) as caught:
        WebhookSecrets(ONE, {"anna": text}, where="webhooks")
    assert caught.value.message.startswith("webhooks: tenant_secrets.anna: ")
    assert says in caught.value.message
    assert not text or text not in caught.value.message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: No such file"),
        ("[", "is not YAML"),
        ("- whsec_abc", "nothing but `secret`"),
        ("secret: 5", "nothing but `secret`"),
        ("secrets: whsec_abc", "nothing but `secret`"),
        ("tenant_secrets: whsec_abc", "nothing but `secret`"),
        ("tenant_secrets: {anna: [whsec_abc]}", "nothing but `secret`"),
        ("tenant_secrets: {5: whsec_abc}", "nothing but `secret`"),
        ("secret: ''", "secret: missing"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str | None, says: str):
    path = tmp_path / "secrets.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        WebhookSecrets.load(config(secrets_file=path))
    assert str(path) in caught.value.message
    assert says in caught.value.message
    assert "whsec_abc" not in caught.value.message


def test_shown_by_nothing():
    made = WebhookSecrets(ONE, {"anna": TWO}, where="webhooks")
    assert ONE not in repr(made)
    given = config(secret=ONE, tenant_secrets={"anna": TWO})
    for text in (repr(given), str(given), given.model_dump_json(), str(given.model_dump())):
        assert "whsec_" not in text
