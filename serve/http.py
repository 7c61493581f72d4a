"""The ASGI application: routes, error handlers and middleware, wired once. Knows no Ray."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from serve.api import files, health, images, models, preflight, traces
from serve.api.services import Services
from serve.errors import install_error_handlers
from serve.middleware import middleware

TITLE = "Sluice"


def create_app(services: Services, *, echo_request_id: bool = True) -> FastAPI:
    """The application over `services`; `echo_request_id` is off where the server below does it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await run_in_threadpool(services.recorder.close)

    app = FastAPI(
        title=TITLE,
        version=product_version(),
        middleware=middleware(
            lambda: services.settings.limits, services.recorder, echo_request_id=echo_request_id
        ),
        lifespan=lifespan,
        redirect_slashes=False,
        # FastAPI's own spans would start a trace beside the one that Serve has begun.
        telemetry={"tracing": False},
    )
    app.state.services = services
    install_error_handlers(app)
    for module in (images, preflight, models, files, traces, health):
        app.include_router(module.router)
    return app


def product_version() -> str:
    """The installed version, or "0+unknown" in a checkout that was never installed."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "0+unknown"
