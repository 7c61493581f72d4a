"""The context of shared calls; all else of the ingress is tested over `serve.http`."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import pytest
import ray.serve.context

from pipelines.errors import ConfigurationError, Overloaded
from serve.ingress import own_context
from serve.settings.reconfigure import live_settings
from serve.settings.settings import Settings
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services


def test_serve_cannot_find_shared_calls_by_the_request_that_made_them():
    def in_a_request() -> None:
        ray.serve.context._set_request_context(
            route="/r", request_id="asked", _internal_request_id="internal", app_name="app"
        )
        context = own_context("r-1")
        found = context.run(ray.serve.context._get_serve_request_context)
        assert (found.route, found.request_id, found.app_name) == ("/r", "r-1", "app")
        assert found._internal_request_id == ""

    copy_context().run(in_a_request)


def test_nothing_else_comes_along():
    (only,) = own_context("r-1")
    assert only is ray.serve.context._serve_request_context


async def test_limits_change_in_place(client_of: ClientOf, graph: FakeGraph):
    served = services(graph)
    client = client_of(served)
    two = {"prompt": "a red circle", "n": 2}
    assert (await client.post("/v1/images/generations", json=two)).status_code == 200
    changes = {"limits": {"max_images": 1, "max_body_bytes": 1024}, "deadlines": {"max_ms": 50_000}}
    served.take_over(live_settings(served.settings, changes))
    refused = await client.post("/v1/images/generations", json=two)
    assert refused.json()["error"]["param"] == "n"
    long = await client.post("/v1/images/generations", json={"prompt": "a" * 2000})
    assert long.status_code == 413
    late = {"prompt": "a red circle", "deadline_ms": 60_000}
    assert (await client.post("/v1/images/generations", json=late)).status_code == 400
    assert (await client.post("/v1/images/generations", json={"prompt": "a"})).status_code == 200


def test_fewer_places_hold_from_then_on(graph: FakeGraph):
    served = services(graph)
    with served.generations.admission.slot("a", 3):
        served.take_over(live_settings(served.settings, {"limits": {"max_queued_images": 3}}))
        with pytest.raises(Overloaded), served.generations.admission.slot("b"):
            pass
    with served.generations.admission.slot("b"):
        assert served.generations.admission.in_flight == 1


@pytest.mark.parametrize(
    ("user_config", "field"),
    [
        ({"model": "flux.1-dev"}, "user_config.model"),
        ({"limits": {"max_step": 3}}, "user_config.limits.max_step"),
        ({"limits": {"max_steps": 0}}, "user_config.limits.max_steps"),
        ({"limits": {"max_queued_images": 10**6}}, "user_config.limits.max_queued_images"),
        ({"deadlines": {"default_ms": 10**9}}, "deadlines.default_ms"),
    ],
)
def test_what_cannot_change_names_its_field(user_config: dict[str, Any], field: str):
    with pytest.raises(ConfigurationError) as caught:
        live_settings(Settings.load({}), user_config)
    assert caught.value.message.startswith(f"{field}: ")
