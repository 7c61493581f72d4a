"""The context of shared calls; all else of the ingress is tested over `serve.http`."""

from __future__ import annotations

from contextvars import copy_context

import ray.serve.context

from serve.ingress import own_context


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
