"""Jobs that draw from pictures: these are kept with the job, move with it, and go with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from pipelines.errors import StageFailed
from pipelines.tasks import Task
from serve.jobs.job import Owner
from tests.serve.api.pictures.samples import data_url, holed, picture
from tests.serve.conftest import ClientOf
from tests.serve.fakes import SPEC, FakeStore
from tests.serve.jobs.conftest import Replica, ReplicaOf

MINE = {"user": "atelier"}
FORM = {"prompt": "a dog", "user": "atelier", "seed": "7", "num_inference_steps": "4"}
PICTURE, MASK = picture(128, 64), holed()
FILES = {"image": ("a.png", PICTURE), "mask": ("m.png", MASK)}
EDITING = replace(SPEC, tasks=tuple(map(str, Task)))


@pytest.fixture
async def replica(replica_of: ReplicaOf) -> Replica:
    return await replica_of(spec=EDITING)


@pytest.fixture
def client(client_of: ClientOf, replica: Replica) -> httpx.AsyncClient:
    return client_of(replica.services)


async def over(replica: Replica, job_id: str) -> None:
    await replica.jobs.wait(job_id, Owner(tenant="atelier"), 60.0)


def files_of(replica: Replica) -> FakeStore:
    return replica.graph.store


async def test_pictures_are_kept_drawn_from_and_deleted(
    replica: Replica, client: httpx.AsyncClient
):
    submitted = await client.post("/v1/jobs", data=FORM, files=FILES)
    assert submitted.status_code == 202, submitted.text
    job = submitted.json()
    assert job["kind"] == "edit"
    kept = files_of(replica).files
    assert sorted(file.data for file in kept.values()) == sorted([PICTURE, MASK])
    assert {file.content_type for file in kept.values()} == {"image/png"}
    replica.graph.allow()
    await over(replica, job["id"])
    (drawn,) = replica.graph.jobs
    assert (drawn.params.task, drawn.finish.pastes_back) == ("fill", True)
    assert [str(use.role) for use in drawn.params.pictures] == ["image", "mask", "masked-image"]
    sources = [each.source for each in drawn.recipes]
    assert all(source is not None and source.data is None for source in sources)
    assert [kept[source.file_id].data for source in sources if source and source.file_id] == [
        PICTURE,
        MASK,
        PICTURE,
    ]
    assert {each.tenant for each in drawn.recipes} == {"atelier"}
    assert len(kept) == 3  # with what was drawn
    assert (await client.delete(f"/v1/jobs/{job['id']}", params=MINE)).status_code == 204
    assert kept == {}


async def test_a_job_shows_a_body_that_draws_the_like(replica: Replica, client: httpx.AsyncClient):
    body = {
        "prompt": "a dog",
        "image": data_url(PICTURE),
        "mask_image": data_url(picture(128, 64)),
        "outpaint": {"left": 32},
        "strength": 0.5,
        "background": "#010203",
        "paste_back": False,
        **MINE,
    }
    job = (await client.post("/v1/jobs", json=body)).json()
    shown = {name: value for name, value in job["request"].items() if value is not None}
    assert "pictures" not in shown
    assert shown["strength"] == 0.5
    assert shown["outpaint"] == {"left": 32, "top": 0, "right": 0, "bottom": 0}
    assert (shown["background"], shown["paste_back"]) == ("#010203", False)
    assert shown["image"] != shown["mask_image"]
    again = (await client.post("/v1/jobs", json={**shown, **MINE})).json()
    replica.graph.allow()
    for each in (job, again):
        await over(replica, each["id"])
    first, second = replica.graph.jobs
    assert first.params == second.params
    assert first.finish == second.finish
    digests = [
        [each.source.sha256 for each in one.recipes if each.source] for one in (first, second)
    ]
    assert digests[0] == digests[1]
    # Each has files of its own: neither is hurt when the other is deleted.
    await client.delete(f"/v1/jobs/{job['id']}", params=MINE)
    for recipe in second.recipes:
        assert recipe.source is not None
        assert recipe.source.file_id in files_of(replica).files


async def test_maps_and_references_are_stored_too(replica: Replica, client: httpx.AsyncClient):
    entry = {"image": data_url(PICTURE), "kind": "canny", "scale": 0.5, "start": 0.1, "end": 0.9}
    job = (await client.post("/v1/jobs", json={"prompt": "x", "control": [entry], **MINE})).json()
    (shown,) = job["request"]["control"]
    assert {**entry, "image": shown["image"]} == shown
    many = [data_url(PICTURE), data_url(picture(64, 64))]
    body = {"prompt": "x", "image": many, "reference_image": many[0], **MINE}
    job = (await client.post("/v1/jobs", json=body)).json()
    assert len(job["request"]["image"]) == 2
    # One file for the same bytes.
    assert job["request"]["reference_image"] == job["request"]["image"][:1]


async def test_a_job_goes_on_elsewhere_from_its_pictures(
    replica_of: ReplicaOf, client_of: ClientOf
):
    first = await replica_of(spec=EDITING)
    client = client_of(first.services)
    job = (await client.post("/v1/jobs", data=FORM, files=FILES)).json()
    first.graph.allow(2)
    async for event in first.jobs.events(job["id"], Owner(tenant="atelier")):
        if event.type == "job.progress" and event.data["progress"]["step"] == 2:
            break
    await first.jobs.close()
    second = await replica_of(spec=EDITING)
    second.graph.allow()
    await over(second, job["id"])
    (before,), (after,) = first.graph.jobs, second.graph.jobs
    assert (before.params, before.recipes) == (after.params, after.recipes)
    assert second.graph.resumes[0]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"prompt": "x"}, "generate"),
        ({"prompt": "x", "kind": "generate"}, "generate"),
        ({"prompt": "x", "image": data_url(PICTURE)}, "edit"),
        ({"prompt": "x", "image": data_url(PICTURE), "kind": "edit"}, "edit"),
        ({"image": data_url(PICTURE), "kind": "variation"}, "variation"),
    ],
    ids=str,
)
async def test_kinds(client: httpx.AsyncClient, body: dict[str, Any], kind: str):
    answer = await client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["kind"]) == (202, kind)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"kind": "vqa"}, "kind", "must be one of generate, edit, variation"),
        ({"kind": "edit"}, "image", "needed by the kind 'edit'"),
        ({"kind": "variation"}, "image", "needed by the kind 'variation'"),
        ({"kind": "generate", "image": data_url(PICTURE)}, "kind", "leave the pictures out"),
    ],
    ids=str,
)
async def test_kinds_that_do_not_fit(
    client: httpx.AsyncClient, body: dict[str, Any], param: str, said: str
):
    error = (await client.post("/v1/jobs", json={"prompt": "x", **body})).json()["error"]
    assert error["param"] == param
    assert said in error["message"]


async def test_the_webhook_is_told_of_with_the_rest(client: httpx.AsyncClient):
    body = {"prompt": "x", "webhook_url": 7, "n": "2", "kind": "no"}
    error = (await client.post("/v1/jobs", json=body)).json()["error"]
    assert error["message"].startswith("webhook_url: must be a string; kind: must be one of")
    assert "n: must be an integer" in error["message"]
    body = {"prompt": "x", "webhook_url": "http://x", "n": 200}
    error = (await client.post("/v1/jobs", json=body)).json()["error"]
    assert "n: must be 1 to 10" in error["message"]
    assert "webhook_url: this server sends no webhooks" in error["message"]


class TestNothingIsLeft:
    async def test_of_a_replay(self, replica: Replica, client: httpx.AsyncClient):
        headers = {"idempotency-key": "a-key"}
        first = await client.post("/v1/jobs", data=FORM, files=FILES, headers=headers)
        kept = dict(files_of(replica).files)
        again = await client.post("/v1/jobs", data=FORM, files=FILES, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
        body = {**FORM, "seed": 7, "num_inference_steps": 4, "image": data_url(PICTURE)}
        same = await client.post("/v1/jobs", json={**body, "mask": data_url(MASK)}, headers=headers)
        assert same.json()["id"] == first.json()["id"]
        other = {**FILES, "image": ("a.png", picture(128, 64, colour="blue"))}
        refused = await client.post("/v1/jobs", data=FORM, files=other, headers=headers)
        assert refused.status_code == 409
        assert files_of(replica).files == kept

    async def test_of_a_refusal(self, replica_of: ReplicaOf, client_of: ClientOf):
        bounds = {"jobs.max_waiting_s": 0.5, "jobs.max_waiting_s_per_tenant": 0.5}
        replica = await replica_of(runs=False, spec=EDITING, **bounds)
        client = client_of(replica.services)
        form = {**FORM, "n": "1000"}
        assert (await client.post("/v1/jobs", data=form, files=FILES)).status_code == 400
        assert files_of(replica).files == {}
        assert (await client.post("/v1/jobs", json={"prompt": "x", **MINE})).status_code == 202
        refused = await client.post("/v1/jobs", data=FORM, files=FILES)
        assert refused.status_code == 429
        assert files_of(replica).files == {}

    async def test_of_a_store_that_is_full_half_way(
        self, replica: Replica, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ):
        store = files_of(replica)
        put = store.put

        def once(data: bytes, content_type: str, owner: str = "") -> str:
            if store.files:
                raise StageFailed("a file could not be stored", stage="storage")
            return put(data, content_type, owner)

        monkeypatch.setattr(store, "put", once)
        answer = await client.post("/v1/jobs", data=FORM, files=FILES)
        assert (answer.status_code, store.files) == (500, {})

    async def test_but_of_a_job_that_may_be_stored(
        self, replica: Replica, client: httpx.AsyncClient
    ):
        replica.store.is_cut = True
        answer = await client.post("/v1/jobs", data=FORM, files=FILES)
        assert answer.json()["error"]["code"] == "store_unavailable"
        assert len(files_of(replica).files) == 2


async def test_an_edit_as_a_job(replica: Replica, client: httpx.AsyncClient):
    for path, kind in (("edits", "edit"), ("variations", "variation")):
        answer = await client.post(
            f"/v1/images/{path}",
            data=FORM,
            files={"image": FILES["image"]},
            headers={"prefer": "respond-async"},
        )
        assert answer.status_code == 202, answer.text
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.json()["kind"] == kind
    without = await client.post(
        "/v1/images/edits", json={"prompt": "x"}, headers={"prefer": "respond-async"}
    )
    assert (without.status_code, without.json()["error"]["param"]) == (400, "image")
