"""Forms as clients write them, and files in JSON: what JSON would have."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from pipelines.errors import InvalidRequest
from serve.api.pictures.form import fields_of
from serve.api.pictures.uploads import SentBody, data_of_url, lifted, read_body


def upload(data: bytes) -> str:
    return f"upload:{hashlib.sha256(data).hexdigest()}"


def sent(request: httpx.Request) -> SentBody:
    """The body that the product makes of `request`."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.read(), "more_body": False}

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    return asyncio.run(read_body(Request({"type": "http", "headers": headers}, receive)))


def posted(**given: Any) -> SentBody:
    return sent(httpx.Request("POST", "http://sluice.test", **given))


def test_text_is_what_the_field_takes():
    fields = fields_of(
        [
            ("prompt", "7"),
            ("user", "true"),
            ("n", "2"),
            ("seed", "-1"),
            ("strength", " 0.75 "),
            ("steps", "1e1"),
            ("stream", "true"),
            ("paste_back", "false"),
            ("partial_images", ""),
            ("size", "64x64"),
            ("quality", "high"),
            ("width", "128"),
            ("num_inference_steps", "many"),
            ("response_format", "url"),
            ("outpaint", '{"left": 3}'),
            ("priority", "null"),
            ("file_id", "12"),
        ]
    )
    assert fields == {
        "prompt": "7",
        "user": "true",
        "n": 2,
        "seed": -1,
        "strength": 0.75,
        "steps": 10,
        "stream": True,
        "paste_back": False,
        "partial_images": None,
        "size": "64x64",
        "quality": "high",
        "width": 128,
        "num_inference_steps": "many",
        "response_format": "url",
        "outpaint": {"left": 3},
        "priority": None,
        "file_id": "12",
    }


@pytest.mark.parametrize(
    ("named", "fields"),
    [
        ([("image[]", "a"), ("image[]", "b")], {"image": ["a", "b"]}),
        ([("image", "a"), ("image", "b"), ("image", "c")], {"image": ["a", "b", "c"]}),
        ([("image", "a"), ("image[]", "b")], {"image": ["a", "b"]}),
        ([("seed[]", "1"), ("seed[]", "2")], {"seed": [1, 2]}),
        ([("outpaint[left]", "3"), ("outpaint[top]", "4")], {"outpaint": {"left": 3, "top": 4}}),
        ([("extra_body[a][b]", "1")], {"extra_body": {"a": {"b": 1}}}),
        (
            [
                ("control[][image]", "1"),
                ("control[][scale]", "0.5"),
                ("control[][image]", "2"),
            ],
            {"control": [{"image": "1", "scale": 0.5}, {"image": "2"}]},
        ),
        (
            [("control[0][image]", "1"), ("control[1][image]", "2"), ("control[1][kind]", "7")],
            {"control": [{"image": "1"}, {"image": "2", "kind": "7"}]},
        ),
        ([("step_cuts[]", "[3, 4]")], {"step_cuts": [[3, 4]]}),
    ],
)
def test_lists_and_objects(named: list[tuple[str, object]], fields: dict[str, Any]):
    assert fields_of(named) == fields


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ([("n", "1"), ("n", "2")], "n: given twice"),
        ([("n", "1"), ("n[a]", "2")], r"n\[a\]: contradicts n"),
        ([("n[a]", "1"), ("n[]", "2")], r"n\[\]: contradicts n"),
        ([("n[", "1")], "must be a name"),
        ([("a[b][c][d][e][f]", "1")], "must be a name"),
        ([("image[]", "1")] * 65, "over 64 items"),
        ([("control[]", "1"), ("control[0][image]", "1")], "is an object and is none"),
    ],
)
def test_what_contradicts_itself(named: list[tuple[str, object]], said: str):
    with pytest.raises(InvalidRequest, match=said):
        fields_of(named)


@given(st.lists(st.tuples(st.text("ab[]01", max_size=8), st.text(max_size=4)), max_size=5))
def test_any_names_are_read_or_refused(named: list[tuple[str, object]]):
    with contextlib.suppress(InvalidRequest):
        assert fields_of(named) is not None


def test_files_of_a_form():
    body = posted(
        files=[("image[]", ("a.png", b"1")), ("image[]", ("b.png", b"2")), ("mask", ("m", b"3"))],
        data={"prompt": "a cat", "n": "2"},
    )
    assert body.fields == {
        "prompt": "a cat",
        "n": 2,
        "image": [upload(b"1"), upload(b"2")],
        "mask": upload(b"3"),
    }
    assert body.uploads == {upload(data): data for data in (b"1", b"2", b"3")}


def test_a_data_url_in_a_form_or_in_json_is_a_file():
    url = f"data:image/png;base64,{base64.b64encode(b'picture').decode()}"
    form = posted(data={"image": url, "prompt": "a"}, files={"x": ("x", b"")})
    assert form.fields["image"] == upload(b"picture")
    body = posted(json={"images": [{"image_url": url}], "extra_body": {"mask": url}, "n": 1})
    assert body.fields == {
        "images": [{"image_url": upload(b"picture")}],
        "extra_body": {"mask": upload(b"picture")},
        "n": 1,
    }
    assert body.uploads == {upload(b"picture"): b"picture"}


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("data:image/png;base64,AAEC", b"\0\1\2"),
        ("DATA:;base64,AAE", b"\0\1"),
        ("data:image/png;charset=x;base64,AA\r\nEC", b"\0\1\2"),
        ("data:image/png;base64,", None),
        ("data:image/png;base64,A", None),
        ("data:image/png;base64,AA*C", None),
        ("data:image/png;base64,ÄÄ==", None),
        ("data:image/png,AAEC", None),
        ("AAEC", None),
    ],
)
def test_data_urls(text: str, data: bytes | None):
    assert data_of_url(text) == data


def test_what_is_nested_too_deeply_stays_as_it_is():
    value: Any = "data:;base64,AAEC"
    for _ in range(40):
        value = [value]
    assert lifted({"a": value}).uploads == {}


@pytest.mark.parametrize(
    ("content_type", "status"), [("text/plain", 415), ("", 415), ("application/xml", 415)]
)
async def test_other_types(client: httpx.AsyncClient, content_type: str, status: int):
    headers = {"content-type": content_type} if content_type else {}
    answer = await client.post("/v1/images/edits", content=b"x", headers=headers)
    assert answer.status_code == status
    assert "'application/json' or 'multipart/form-data'" in answer.json()["error"]["message"]


def test_a_text_that_is_none():
    with pytest.raises(InvalidRequest, match=r"prompt: is not UTF-8 \(byte 0\)"):
        posted(
            content=b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--x--',
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
