"""Files in forms."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import InvalidRequest
from serve.api.uploads import file_in_form

TYPE = "multipart/form-data; boundary=xyz"


def form(*fields: tuple[str, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    parts = [
        b"--xyz\r\n"
        + f'Content-Disposition: form-data; name="{name}"'.encode()
        + b"\r\n\r\n"
        + content
        + b"\r\n"
        for name, content in fields
    ]
    return b"".join(parts) + end


@given(st.binary(max_size=300).filter(lambda content: b"--xyz" not in content))
def test_any_content_is_read_as_it_was_sent(content: bytes):
    assert file_in_form(form(("other", b"\r\n\r\n"), ("file", content)), TYPE) == content


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\r\n--", b"\x89PNG\r\n\x1a\n\0\r\n\r\n"])
def test_as_a_client_sends_it(content: bytes):
    files = {"file": ('ünsure "name".png', content, "image/png")}
    request = httpx.Request("POST", "http://sluice.test", files=files, data={"a": "b"})
    assert file_in_form(request.read(), request.headers["content-type"]) == content


def test_text_before_the_first_boundary_and_after_the_last_is_nothing():
    body = b"to be ignored\r\n" + form(("file", b"x")) + b"epilogue"
    assert file_in_form(body, TYPE) == b"x"


@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        (b"", TYPE, "ends before its last boundary"),
        (form(("file", b"x"), end=b""), TYPE, "ends before its last boundary"),
        (form(("file", b"x"))[:20], TYPE, "no head"),
        (b"--xyz\r\n" + b"a" * 10_000, TYPE, "no head"),
        (form(*[("a", b"")] * 100), TYPE, "over 64 fields"),
        (form(("other", b"x")), TYPE, "got 0"),
        (form(("file", b"x"), ("file", b"y")), TYPE, "got 2"),
        (form(("file", b"x")), "multipart/form-data", "no sound boundary"),
        (form(("file", b"x")), f"multipart/form-data; boundary={'x' * 71}", "no sound boundary"),
        (form(("file", b"x")), 'multipart/form-data; boundary="ü"', "no sound boundary"),
    ],
)
def test_what_is_no_form_with_a_file(body: bytes, content_type: str, why: str):
    with pytest.raises(InvalidRequest, match=why):
        file_in_form(body, content_type)


@given(st.binary(max_size=200))
def test_noise_is_a_form_or_refused(noise: bytes):
    body = form(("file", b"x"))
    for changed in (noise, noise + body, body[:10] + noise + body[10:]):
        with contextlib.suppress(InvalidRequest):
            assert file_in_form(changed, TYPE) in (b"x", noise)
