"""The sections of the settings that are the HTTP side's own; `settings.py` reads their values."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from deployments.options.stages import Options
from pipelines.catalog import DEFAULT_FAMILY, ModelSpec
from pipelines.families import family_named, family_of

MIN_PRIORITY, MAX_PRIORITY = -10, 10
"""Bounds of a request's `priority`."""


def _none_in_words(value: object) -> object:
    """Arguments and variables are text, which has no other way to say None."""
    return None if isinstance(value, str) and value.lower() == "none" else value


def _header_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise ValueError("must be the name of a header, such as x-tenant-id")
    return value


def _origin(value: str) -> str:
    if value != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#,]+", value):
        raise ValueError("must be an origin such as https://app.example.com, or *")
    return value


def _network(value: str) -> str:
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise ValueError("must be an address or a network, such as 10.0.0.0/8") from None
    return value


def _nothing_in_words(value: object) -> object:
    """Text, split at commas before, that says that a list is empty."""
    return () if value in ([""], ["none"]) else value


_AS_LIST = BeforeValidator(_nothing_in_words)

Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], _AS_LIST]
"""Addresses and networks; from text, separated by commas, or `none`."""

_MULTIPLE = family_named(DEFAULT_FAMILY).size_multiple
"""Of the sides of images, in pixels; a model of another family may ask for more."""


class Limits(Options):
    """What one request, and all of them together, may ask for."""

    section: ClassVar[str] = "limits"
    live: ClassVar[tuple[str, ...]] = (
        "max_pixels",
        "min_side",
        "max_side",
        "max_steps",
        "max_images",
        "max_prompt_chars",
        "max_body_bytes",
        "max_picture_body_bytes",
        "max_file_bytes",
        "max_file_reads",
        "max_header_bytes",
        "body_timeout_s",
        "max_unread_bodies",
        "request_timeout_s",
        "max_queued_images",
        "max_queued_images_per_tenant",
    )

    max_pixels: int = Field(default=2048 * 2048, ge=_MULTIPLE**2)
    """Width times height of one image."""

    min_side: int = Field(default=64, ge=_MULTIPLE, multiple_of=_MULTIPLE)
    """Shortest side of an image, pixels; a multiple of 16."""

    max_side: int = Field(default=2048, ge=_MULTIPLE, multiple_of=_MULTIPLE)
    """Longest side of an image, pixels; a multiple of 16. The model's own bound applies as well."""

    max_steps: int = Field(default=100, ge=1)
    """Denoising steps of one image."""

    max_images: int = Field(default=10, ge=1)
    """Images of one request (`n`)."""

    max_prompt_chars: int | None = Field(default=None, ge=1)
    """Characters of `prompt`, and of `negative_prompt`; left out, the model's own bound."""

    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    """Bytes of a request's body, also of one that comes compressed, unpacked."""

    max_picture_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """The same of a request to a route that takes pictures."""

    max_file_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Bytes of a file that comes to be read, as to `/v1/receipts/read`, with the form around it."""

    max_file_reads: int = Field(default=4, ge=1)
    """Files that an ingress replica reads at once; more are answered 429."""

    max_header_bytes: int = Field(default=32 * 1024, ge=1024)
    """Bytes of a request's headers, 32 counted for each beside its own; more are answered 431. Its
    path and query may have as many; more are answered 414."""

    body_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds in which a request's body must come; else it is answered 408."""

    max_unread_bodies: int = Field(default=1024, ge=1)
    """Requests whose body is still coming, per ingress replica. One more ends the oldest of them
    with 408 if that has taken a second, and is answered 429 if not."""

    request_timeout_s: float = Field(default=600.0, gt=0)
    """Seconds after which a request is cancelled and answered 504."""

    max_queued_images: int = Field(default=1024, ge=1)
    """Images in flight, waiting or running, per ingress replica; more are answered 429."""

    max_queued_images_per_tenant: int = Field(default=512, ge=1)
    """The same for each tenant, so that no one's flood takes the places of all others."""

    def prompt_chars(self, spec: ModelSpec) -> int:
        """Characters that a prompt for `spec` may have."""
        return self.max_prompt_chars or spec.max_prompt_chars

    def largest_pixels(self, spec: ModelSpec) -> int:
        """Pixels of the largest image of `spec` that may be asked for."""
        return min(self.max_pixels, min(self.max_side, spec.max_side) ** 2)

    def largest_tokens(self, spec: ModelSpec) -> int:
        """Tokens of one step of that image, with its prompt."""
        family = family_of(spec)
        return self.largest_pixels(spec) // family.size_multiple**2 + family.text_tokens(spec)


class Deadlines(Options):
    """When requests are wanted, and in which order."""

    section: ClassVar[str] = "deadlines"
    live: ClassVar[tuple[str, ...]] = ("default_ms", "max_ms", "unreachable", "default_priority")

    default_ms: Annotated[int | None, Field(ge=1), BeforeValidator(_none_in_words)] = 30_000
    """Milliseconds in which a request that names no `deadline_ms` should be answered; it orders
    the work and refuses nothing. None (from text: `none`): such requests have no deadline."""

    max_ms: int = Field(default=600_000, ge=1)
    """The largest `deadline_ms`. One beyond `limits.request_timeout_s` is never reached."""

    unreachable: Literal["refuse", "best_effort"] = "refuse"
    """What becomes of a request whose own `deadline_ms` cannot be met: it is answered 429 at once,
    or served all the same."""

    default_priority: int = Field(default=0, ge=MIN_PRIORITY, le=MAX_PRIORITY)
    """The `priority` of requests that name none, -10 to 10; larger goes first."""

    @model_validator(mode="after")
    def _check_default(self) -> Self:
        if self.default_ms is not None and self.default_ms > self.max_ms:
            raise self._reject(
                "default_ms", f"{self.default_ms} is above max_ms; use at most {self.max_ms}"
            )
        return self


class Tenants(Options):
    """Whose a request is. Places, order of work and kept answers are shared out by tenant."""

    header: Annotated[str, AfterValidator(_header_name)] | None = None
    """The header in which a trusted gateway names the tenant, which it must take from what clients
    send. Left out, a tenant is what a client says: its `safety_identifier` or `user`."""


class CorsConfig(Options):
    """Which pages of other origins may use this server from a browser, file links included."""

    allow_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], _AS_LIST] = ()
    """Such as https://app.example.com, or * for all; none: off. No cookies are allowed for, and a
    page cannot keep a key secret: put a gateway that knows users before a server for the world."""

    max_age_s: int = Field(default=600, ge=0)
    """Seconds for which a browser need not ask again."""


class MetricsConfig(Options):
    """Metrics over HTTP. Each node exports them at a port of Ray's in any case."""

    route: bool = False
    """Whether `GET /metrics` answers those of the node that an ingress replica runs on. Its labels
    name tenants only with `tenants.header`."""

    load: bool = True
    """Whether `GET /load` answers what the application has to do, as `sluice top` shows it: its
    replicas, their queues, and how many requests there are, by tenant. Tenants are named only with
    `tenants.header`. Switch it off where those who reach this server are not to see how busy it
    is."""


class ResultCacheConfig(Options):
    """Answers kept in an ingress replica for requests that are repeated exactly, by one tenant."""

    max_bytes: int = Field(default=0, ge=0)
    """Memory for the answers of all tenants, the least recently used leaving first; 0: off."""

    ttl_s: float = Field(default=3600.0, gt=0)
    """Seconds that an answer is kept; at most `stages.storage.ttl_s`, for the sake of its links."""


class TracingConfig(Options):
    """Which requests leave a trace, and where it is kept.

    A collector is named by OpenTelemetry's own variable, OTEL_EXPORTER_OTLP_ENDPOINT.
    """

    section: ClassVar[str] = "tracing"

    enabled: bool = True
    """Whether anything is recorded. Trace ids are passed on and logged all the same."""

    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of the requests without a `traceparent` that are recorded; others are as it says."""

    max_spans: int = Field(default=100_000, ge=1)
    """Spans of the latest traces that an ingress replica keeps to show, about 1 kB each."""

    max_bytes: int = Field(default=128 * 2**20, ge=1024)
    """Memory, about, that these may take."""

    file: Path | None = None
    """A file to which each trace is appended as a line of OTLP JSON."""

    listed: bool = True
    """Whether `GET /traces` lists the latest, of all tenants, which are named only with
    `tenants.header`. Switch it off where those who reach
    this server are not to see what others do; a trace whose id one knows is shown all the same."""

    record_prompts: bool = False
    """Whether prompts are part of traces. Who may see these then reads what users write."""


class PromptRulesConfig(Options):
    """Which prompts are refused before anything is drawn."""

    enabled: bool = True
    """Whether prompts are checked at all."""

    rules_file: Path | None = None
    """A rules file instead of the built-in one; read once, where the application is built."""

    disabled_categories: tuple[str, ...] = ()
    """Categories of the rules that are not applied."""
