"""A client that asks, and goes before it is answered."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from tests.cluster import PATIENCE_S


@contextmanager
def leaving_client(base_url: httpx.URL, path: str, body: Mapping[str, Any]) -> Iterator[None]:
    """It has asked, and waits meanwhile; at the end of the block it hangs up."""
    assert base_url.port is not None
    connection = http.client.HTTPConnection(base_url.host, base_url.port, timeout=PATIENCE_S)
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", base_url.path.rstrip("/") + path, json.dumps(body), headers)
        yield
    finally:
        connection.close()
