"""The ASGI application: routes, error handlers and middleware, wired once. Knows no Ray."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from serve.api import (
    files,
    health,
    images,
    load,
    models,
    node_metrics,
    preflight,
    receipts,
    traces,
    webhooks,
)
from serve.api.body_limits import max_body_bytes
from serve.api.docs import add_docs
from serve.api.error_handlers import install_error_handlers
from serve.api.jobs import events as job_events
from serve.api.jobs import routes as job_routes
from serve.api.openapi.document import DescribedApi
from serve.api.page import add_page
from serve.api.pictures import edits
from serve.api.services import Services
from serve.api.vendors import fal, hugging_face, replicate
from serve.api.vendors.messages import message_of
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
        if services.jobs is not None:
            await services.jobs.open()
            services.jobs.start()
        public_url = services.settings.public_url
        files_s = services.settings.stages.storage.ttl_s
        services.webhooks.start(lambda job: message_of(job, public_url, files_s=files_s))
        yield
        await services.webhooks.close()
        if services.jobs is not None:
            await services.jobs.close()
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
            body_bytes=max_body_bytes,
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
    for module in (
        images,
        edits,
        preflight,
        receipts,
        job_routes,
        job_events,
        webhooks,
        hugging_face,
        fal,
        replicate,
        models,
        files,
        traces,
        health,
    ):
        app.include_router(module.router)
    if services.settings.page.enabled and services.settings.jobs.enabled:
        add_page(app)
    if services.settings.metrics.route:
        app.include_router(node_metrics.router)
    if services.settings.metrics.load:
        app.include_router(load.router)
    return app


def product_version() -> str:
    """The installed version, or "0+unknown" in a checkout that was never installed."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "0+unknown"
