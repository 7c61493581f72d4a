"""The ASGI application: routes, error handlers and middleware, wired once. Knows no Ray."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from serve.api import files, health, images, models, node_metrics, preflight, traces
from serve.api.docs import add_docs
from serve.api.error_handlers import install_error_handlers
from serve.api.openapi.document import DescribedApi
from serve.api.services import Services
from serve.middleware import middleware

TITLE = "Sluice"

_DESCRIPTION = (
    "Images from text. Whatever can be got can be asked for with HEAD. Bodies may come with"
    " `content-encoding: gzip` or `deflate`. Errors are"
    ' `{"error": {"message", "type", "param", "code"}}`.'
)


def create_app(services: Services, *, echo_request_id: bool = True) -> FastAPI:
    """The application over `services`; `echo_request_id` is off where the server below does it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await run_in_threadpool(services.recorder.close)

    app = DescribedApi(
        title=TITLE,
        description=_DESCRIPTION,
        version=product_version(),
        middleware=middleware(
            services.settings,
            lambda: services.settings.limits,
            services.recorder,
            echo_request_id=echo_request_id,
        ),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # FastAPI's own spans would start a trace beside the one that Serve has begun.
        telemetry={"tracing": False},
    )
    app.state.services = services
    install_error_handlers(app)
    add_docs(app)
    for module in (images, preflight, models, files, traces, health):
        app.include_router(module.router)
    if services.settings.metrics.route:
        app.include_router(node_metrics.router)
    return app


def product_version() -> str:
    """The installed version, or "0+unknown" in a checkout that was never installed."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "0+unknown"
