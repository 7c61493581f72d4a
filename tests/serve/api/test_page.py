"""`GET /`: the page, as the application answers it."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.http import create_app
from serve.page.page import content_security_policy
from tests.serve.fakes import services


def client(**settings: Any) -> TestClient:
    return TestClient(create_app(services(**settings)))


def test_the_page_comes_with_its_policy():
    answer = client().get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = f"{content_security_policy()}; frame-ancestors 'none'"
    assert answer.headers["content-security-policy"] == policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "test-model" in answer.text


def test_head_is_answered_as_get_without_the_body():
    got, head = client().get("/"), client().head("/")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(
    ("path", "accepts", "language"),
    [
        ("/", "en-GB", "en"),
        ("/", "zh-CN,zh;q=0.9", "zh-Hans"),
        ("/?lang=en", "zh-CN", "en"),
        ("/?lang=zh", "en", "zh-Hans"),
        ("/?lang=xx", "zh", "zh-Hans"),
    ],
)
def test_the_language(path: str, accepts: str, language: str):
    answer = client().get(path, headers={"accept-language": accepts})
    assert answer.headers["content-language"] == language
    assert answer.headers["vary"] == "accept-language"
    assert f'<html lang="{language}">' in answer.text


def test_it_names_the_list_of_traces_where_there_is_one():
    assert 'href="traces"' in client().get("/").text
    assert 'href="traces"' not in client(**{"tracing.listed": False}).get("/").text


def test_it_can_be_switched_off():
    answer = client(**{"page.enabled": False}).get("/")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_it_is_not_part_of_the_described_api():
    assert "/" not in client().get("/openapi.json").json()["paths"]
