"""`GET /`: the page on which people draw."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from serve.api.models import model_card
from serve.api.services import services_of
from serve.page.page import content_security_policy, page_html
from serve.page.texts import LANGUAGES, preferred_language


def add_page(app: FastAPI) -> None:
    """Give `app` its page; it is not part of the API that is described."""
    app.add_route("/", page, include_in_schema=False)


async def page(request: Request) -> Response:
    """In the language that the browser prefers, or that `?lang=` names."""
    services = services_of(request)
    asked = request.query_params.get("lang", "")
    language = (
        asked
        if asked in LANGUAGES
        else preferred_language(request.headers.get("accept-language", ""))
    )
    html = await run_in_threadpool(
        page_html,
        model_card(services).model_dump(mode="json"),
        language=language,
        lists_traces=services.settings.tracing.listed,
    )
    headers = {
        "content-security-policy": f"{content_security_policy()}; frame-ancestors 'none'",
        "cache-control": "no-store",
        "content-language": LANGUAGES[language],
        "referrer-policy": "no-referrer",
        "vary": "accept-language",
        "x-content-type-options": "nosniff",
    }
    return HTMLResponse(html, headers=headers)
