from __future__ import annotations

import re

import httpx
import pytest


async def test_the_icon_is_where_browsers_look(client: httpx.AsyncClient):
    icon = await client.get("/favicon.ico")
    assert icon.status_code == 200
    assert icon.headers["content-type"] == "image/svg+xml"
    assert icon.content.startswith(b"<svg")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_pages_name_nothing_but_what_is_beside_them(client: httpx.AsyncClient, path: str):
    page = await client.get(path)
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href|spec-url)=["']([^"']+)|url: '([^']+)'""", page.text)
    found = [either or other for either, other in links if not either.startswith("data:")]
    assert "openapi.json" in found
    assert len(found) >= 2
    for link in found:
        assert (await client.get(f"/{link}")).status_code == 200, link
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.headers["content-security-policy"]
