"""`GET /docs` and `/redoc`: the API's own pages, without any other server.

Scripts and styles come from the package `fastapi_offline`, from this server's own address. Links
are relative, so that a prefix before them does not matter. Each page's policy allows no other
place: Redoc would load a logo.
"""

from __future__ import annotations

import re
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from serve import icon
from serve.csp import hash_source

_ASSETS = "/docs-assets"
_SPECIFICATION = "openapi.json"
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def add_docs(app: FastAPI) -> None:
    """Give `app`, which was made without pages of its own, these and the icon."""
    assets = StaticFiles(directory=str(files("fastapi_offline").joinpath("static")))
    swagger = _page(
        get_swagger_ui_html(
            openapi_url=_SPECIFICATION,
            title=app.title,
            swagger_js_url=f"{_ASSETS[1:]}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS[1:]}/swagger-ui.css",
            swagger_favicon_url=icon.data_url(),
            # Of other hosts than localhost it would send the specification to a validator.
            swagger_ui_parameters={"validatorUrl": None},
        )
    )
    redoc = _page(
        get_redoc_html(
            openapi_url=_SPECIFICATION,
            title=app.title,
            redoc_js_url=f"{_ASSETS[1:]}/redoc.standalone.js",
            redoc_favicon_url=icon.data_url(),
            with_google_fonts=False,
        )
    )

    async def docs(_: Request) -> Response:
        return swagger

    async def redocs(_: Request) -> Response:
        return redoc

    async def favicon(_: Request) -> Response:
        headers = {"cache-control": "public, max-age=86400"}
        return Response(icon.ICON, media_type=icon.MEDIA_TYPE, headers=headers)

    app.add_route("/docs", docs, include_in_schema=False)
    app.add_route("/redoc", redocs, include_in_schema=False)
    app.add_route("/favicon.ico", favicon, include_in_schema=False)
    app.mount(_ASSETS, assets)


def _page(made: HTMLResponse) -> Response:
    """The page, with a policy that lets it ask nobody but this server."""
    html = bytes(made.body).decode()
    scripts = " ".join(hash_source(script) for script in _INLINE.findall(html))
    policy = (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src data:; connect-src 'self'; worker-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"content-security-policy": policy})
