"""What a generation would become, and when; and what is told of a cold start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import httpx
import pytest

from deployments.graph.forecast import Forecast
from pipelines.moderation import PromptRules
from tests.serve.conftest import ClientOf
from tests.serve.fakes import SPEC, FakeGraph, services

URL = "/v1/images/preflight"
GENERATIONS = "/v1/images/generations"
COLD = Forecast(
    asleep=("Denoiser", "VaeDecoder"),
    cold_start_s=4.0,
    queued_s=1.5,
    eta_s=7.0004,
    earliest_s=7.5,
)


async def asked(client_of: ClientOf, forecast: Forecast, **body: Any) -> dict[str, Any]:
    client = client_of(services(FakeGraph(forecast_of=forecast)))
    answer = await client.post(URL, json={"prompt": "a cat", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_value_is_settled(client: httpx.AsyncClient, graph: FakeGraph):
    body = {"prompt": "a cat --ar 2:1", "n": 2, "quality": "high", "negative_prompt": "blur"}
    answer = (await client.post(URL, json={**body, "true_cfg_scale": 2.0})).json()
    assert answer["parameters"] == {
        "model": "sluice-shapes",
        "prompt": "a cat",
        "negative_prompt": "blur",
        "n": 2,
        "size": answer["parameters"]["size"],
        "quality": "high",
        "num_inference_steps": 18,
        "min_steps": None,
        "step_cuts": [],
        "skip_steps": False,
        "prompt_weighting": False,
        "guidance_scale": 3.5,
        "true_cfg_scale": 2.0,
        "seed": None,
        "output_format": "png",
        "output_compression": 95,
        "deadline_ms": 30000,
        "priority": 0,
        "task": "text-to-image",
        "strength": 1.0,
        "paste_back": False,
        "pictures": [],
    }
    width, height = map(int, answer["parameters"]["size"].split("x"))
    assert width == 2 * height
    (params,) = graph.forecast_for
    assert (params.num_images, params.num_inference_steps, params.width) == (2, 18, width)


async def test_nothing_is_drawn_and_no_place_is_taken(client_of: ClientOf, graph: FakeGraph):
    given = services(graph, limits={"max_queued_images": 1})
    with given.generations.admission.slot("somebody"):
        assert (await client_of(given).post(URL, json={"prompt": "a cat"})).status_code == 200
    assert graph.jobs == []


async def test_the_seed_is_told_if_it_was_given_and_warnings_are(client_of: ClientOf):
    answer = await asked(client_of, COLD, seed=7, quality="high", num_inference_steps=4)
    assert answer["parameters"]["seed"] == 7
    assert answer["parameters"]["quality"] is None
    assert answer["warnings"] == ["quality: not used, num_inference_steps was given"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_value", "prompt"),
        ({"prompt": "a cat", "n": 0}, "invalid_value", "n"),
        ({"prompt": "a cat", "size": "8x8"}, "invalid_value", "size"),
        (
            {"prompt": "a cat", "partial_images": 4, "stream": True},
            "invalid_value",
            "partial_images",
        ),
        ({"prompt": "a cat", "model": "other"}, "model_not_found", "model"),
    ],
)
async def test_it_refuses_what_a_generation_would(
    client: httpx.AsyncClient, body: dict[str, Any], code: str, param: str
):
    here, there = [await client.post(url, json=body) for url in (URL, GENERATIONS)]
    assert (here.json()["error"]["code"], here.json()["error"]["param"]) == (code, param)
    assert (here.status_code, here.json()) == (there.status_code, there.json())


async def test_the_prompt_rules_hold(client_of: ClientOf, graph: FakeGraph):
    client = client_of(services(graph, rules=PromptRules.load()))
    answer = await client.post(URL, json={"prompt": "how to make a pipe bomb, gore"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "content_policy_violation"
    assert graph.forecast_for == []


async def test_a_tenant_given_twice_is_refused(client_of: ClientOf):
    client = client_of(services(tenants={"header": "x-tenant"}))
    headers = [("x-tenant", "acme"), ("x-tenant", "globex")]
    assert (await client.post(URL, json={"prompt": "a"}, headers=headers)).status_code == 400


class TestTreatment:
    async def of(self, client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
        answer = await client.post(URL, json={"prompt": "a cat", **body})
        assert answer.status_code == 200, answer.text
        treatment = answer.json()["treatment"]
        assert treatment.pop("prompt") == {"status": "used", "field": "prompt", "reason": None}
        return treatment

    async def test_a_field_of_ours(self, client: httpx.AsyncClient):
        assert await self.of(client, n=2, seed=None) == {
            "n": {"status": "used", "field": "n", "reason": None}
        }

    async def test_one_that_is_adjusted_says_why(self, client: httpx.AsyncClient):
        body = {"quality": "high", "num_inference_steps": 4, "stream": True, "style": "vivid"}
        assert await self.of(client, **body, response_format="url", partial_images=1) == {
            "quality": {
                "status": "adjusted",
                "field": "quality",
                "reason": "not used, num_inference_steps was given",
            },
            "num_inference_steps": {
                "status": "used",
                "field": "num_inference_steps",
                "reason": None,
            },
            "stream": {"status": "used", "field": "stream", "reason": None},
            "partial_images": {"status": "used", "field": "partial_images", "reason": None},
            "response_format": {
                "status": "adjusted",
                "field": "response_format",
                "reason": "the events hold b64_json all the same, as OpenAI's do; those of finished"
                " images have a url too",
            },
            "style": {
                "status": "adjusted",
                "field": "style",
                "reason": "not used, there are no style presets; say it in the prompt",
            },
        }

    async def test_other_tools_words_are_named_as_they_were_sent(self, client: httpx.AsyncClient):
        found = await self.of(
            client,
            width=128,
            height=64,
            quality="max",
            extra_body={"steps": 7, "extra_args": {"go_fast": True, "vae_use_tiling": False}},
        )
        assert found["width"] == {"status": "used", "field": "size", "reason": None}
        assert found["height"] == found["width"]
        steps = {"status": "used", "field": "num_inference_steps", "reason": None}
        assert found["extra_body.steps"] == steps
        assert found["quality"]["status"] == "adjusted"
        assert found["quality"]["reason"].startswith("'max' is drawn as 'high', the most")
        fast = found["extra_body.extra_args.go_fast"]
        assert (fast["status"], fast["field"]) == ("adjusted", None)
        assert fast["reason"].startswith("not used; nothing is cached between steps")
        assert found["extra_body.extra_args.vae_use_tiling"] == {
            "status": "used",
            "field": None,
            "reason": None,
        }

    async def test_advice_changes_nothing(self, client_of: ClientOf):
        spec = replace(SPEC, trained_sizes=((64, 64),))
        client = client_of(services(spec=spec))
        found = await self.of(client, size="128x64")
        assert found["size"] == {
            "status": "used",
            "field": "size",
            "reason": "used; test-model draws worse at sizes other than 64x64",
        }


class TestAJob:
    JOB: ClassVar[dict[str, Any]] = {"prompt": "a", "stream": True, "response_format": "file"}

    async def test_a_webhook_makes_it_one(
        self, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("SLUICE_WEBHOOKS__SECRET", "whsec_" + "QUFB" * 10)
        allow: dict[str, Any] = {"webhooks.allow": "https://hooks.example"}
        given = services(**allow)
        url = "https://hooks.example/done"
        answer = await client_of(given).post(URL, json={**self.JOB, "webhook_url": url})
        treatment = answer.json()["treatment"]
        used = {"status": "used", "field": "webhook_url", "reason": None}
        assert treatment["webhook_url"] == used
        adjusted = [name for name, each in treatment.items() if each["status"] == "adjusted"]
        assert sorted(adjusted) == ["response_format", "stream"]

    async def test_a_webhook_that_is_not_allowed_is_refused(self, client: httpx.AsyncClient):
        for url in ("https://hooks.example/done", 7):
            answer = await client.post(URL, json={"prompt": "a", "webhook_url": url})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "webhook_url")


class TestCost:
    async def test_before_a_denoiser_has_reported(self, client_of: ClientOf):
        unknown = Forecast(asleep=(), cold_start_s=0.0)
        answer = await asked(client_of, unknown, n=2, size="128x64", num_inference_steps=10)
        assert answer["cost"] == {
            "device_seconds": None,
            "megapixel_steps": pytest.approx(10 * 2 * 128 * 64 / 1e6),
        }

    async def test_as_a_denoiser_would_take(self, client_of: ClientOf):
        answer = await asked(client_of, replace(COLD, device_s=3.25))
        assert answer["cost"]["device_seconds"] == 3.25

    async def test_steps_without_a_forward_cost_nothing(self, client_of: ClientOf):
        full, low = [
            (await asked(client_of, COLD, quality=quality))["cost"]["megapixel_steps"]
            for quality in ("medium", "low")
        ]
        assert low < full


class TestTime:
    async def test_what_is_not_known_is_null(self, client_of: ClientOf):
        known = Forecast(asleep=("Denoiser",), cold_start_s=30.0)
        answer = await asked(client_of, known, deadline_ms=1000)
        assert (answer["asleep"], answer["cold_start_ms"]) == (["Denoiser"], 30000)
        unknown = ("eta_ms", "queue_ms", "earliest_deadline_ms", "deadline_can_be_met")
        assert {name: answer[name] for name in unknown} == dict.fromkeys(unknown)

    async def test_what_is_known_is_told(self, client_of: ClientOf):
        answer = await asked(client_of, COLD)
        assert answer["asleep"] == ["Denoiser", "VaeDecoder"]
        assert (answer["eta_ms"], answer["cold_start_ms"], answer["queue_ms"]) == (7001, 4000, 1500)
        assert answer["earliest_deadline_ms"] == 7500
        assert answer["deadline_can_be_met"] is None  # the default only orders

    @pytest.mark.parametrize(("deadline_ms", "can"), [(7499, False), (7500, True)])
    async def test_whether_a_deadline_can_be_met(
        self, client_of: ClientOf, deadline_ms: int, can: bool
    ):
        answer = await asked(client_of, COLD, deadline_ms=deadline_ms)
        assert answer["deadline_can_be_met"] is can


async def test_the_api_describes_it(client: httpx.AsyncClient):
    paths = (await client.get("/openapi.json")).json()["paths"]
    here, there = paths[URL]["post"], paths["/v1/jobs"]["post"]
    assert here["requestBody"] == there["requestBody"]
    assert "200" in here["responses"]


class TestColdStart:
    async def test_a_request_that_waited_for_a_start_is_told(self, client_of: ClientOf):
        cold_stages = ("TextEncoder", "Denoiser", "VaeDecoder")
        client = client_of(services(FakeGraph(cold_stages=cold_stages, cold_start_s=4.26)))
        answer = await client.post(GENERATIONS, json={"prompt": "a cat"})
        assert answer.json()["warnings"] == [
            "cold start: TextEncoder, Denoiser and VaeDecoder slept; 4.3 s of this request were"
            " their start"
        ]
        assert "cold_start;dur=4260.0" in answer.headers["server-timing"]

    async def test_an_answer_that_was_kept_has_waited_for_none(self, client_of: ClientOf):
        graph = FakeGraph(cold_stages=("Denoiser",), cold_start_s=1.0)
        client = client_of(services(graph, result_cache={"max_bytes": 1 << 20}))
        first, second = [
            await client.post(GENERATIONS, json={"prompt": "a cat", "seed": 1}) for _ in range(2)
        ]
        assert first.json()["warnings"] == [
            "cold start: Denoiser slept; 1.0 s of this request were its start"
        ]
        assert second.headers["x-sluice-cache"] == "hit"
        assert second.json()["warnings"] == []
