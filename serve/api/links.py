"""Where this server is for its clients: the start of the links in answers."""

from __future__ import annotations

from starlette.requests import Request

from serve.middleware.forwarded import PREFIX


def base_url(request: Request, public_url: str | None) -> str:
    """`public_url` if there is one, else where the request came to; without a slash at its end."""
    if public_url is not None:
        return public_url.rstrip("/")
    url = request.base_url
    prefix: str = getattr(request.state, PREFIX, "")
    return str(url.replace(path=prefix + url.path)).rstrip("/")
