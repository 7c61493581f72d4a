"""Settings: the only reader of environment variables and YAML.

Sources, strongest first: builder arguments (`serve run serve.app:build key=value`, or `args:` of a
Serve YAML), `SLUICE_*` variables (`__` between levels), the YAML file named by `config`, defaults.
Knows what can be set, and which combinations cannot work; builds nothing.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, cast, get_origin

from pydantic import AfterValidator, BaseModel, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from deployments.options.stages import StagesConfig
from deployments.options.weights_source import parse_source
from pipelines import catalog, operator_yaml
from pipelines.catalog import ModelSpec
from pipelines.errors import ConfigurationError
from serve.settings.ingress_config import IngressConfig
from serve.settings.jobs import JobsConfig
from serve.settings.messages import model_in, readable, unknown_key
from serve.settings.page_config import PageConfig
from serve.settings.pictures import PicturesConfig
from serve.settings.sections import (
    CorsConfig,
    Deadlines,
    Limits,
    MetricsConfig,
    Networks,
    PromptRulesConfig,
    ResultCacheConfig,
    Tenants,
    TracingConfig,
)
from serve.webhooks.webhooks_config import WebhooksConfig

__all__ = [
    "CorsConfig",
    "Deadlines",
    "IngressConfig",
    "JobsConfig",
    "Limits",
    "MetricsConfig",
    "PageConfig",
    "PicturesConfig",
    "PromptRulesConfig",
    "ResultCacheConfig",
    "Settings",
    "Tenants",
    "TracingConfig",
    "WebhooksConfig",
]

ENV_PREFIX = "SLUICE_"

# The command line's own, and what Kubernetes tells every pod about a Service called `sluice`.
_NO_SETTING = re.compile(
    r"SLUICE_(CLI_USER|SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s?#]+", value):
        raise ValueError("must be an address such as https://images.example.com")
    if "@" in value:
        raise ConfigurationError(  # a ValueError's message would repeat them
            "public_url: holds credentials, and every client would see them; leave them out"
        )
    return value


def _weights_source(value: str) -> str:
    parse_source(value, field="model_source")
    return value


class Settings(BaseSettings):
    """Everything an operator can decide, validated before anything starts."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    config: Path | None = None
    """A YAML file with any of the settings below."""

    model: str = "sluice-shapes"
    """The model's name in the catalogue; `sluice models` lists them."""

    model_source: Annotated[str, AfterValidator(_weights_source)] | None = None
    """Where to read the weights from, instead of the catalogue's: a folder in the diffusers format,
    hf://OWNER/REPOSITORY@REVISION or s3://BUCKET/PREFIX."""

    served_model_name: str | None = None
    """The name under which clients see the model; its catalogue name is understood as well."""

    public_url: Annotated[str, AfterValidator(_http_url)] | None = None
    """The server's address in file links; by default the one the request came to."""

    trusted_proxies: Networks = ("127.0.0.1", "::1")
    """Addresses and networks of the proxies in front whose `Forwarded` or X-Forwarded-* headers say
    where a request came to: scheme, host and prefix of links. Others' are not used."""

    cors: CorsConfig = CorsConfig()
    """Pages of other origins."""

    limits: Limits = Limits()
    """Bounds on requests."""

    deadlines: Deadlines = Deadlines()
    """When requests are wanted, and in which order."""

    tenants: Tenants = Tenants()
    """Whose a request is."""

    result_cache: ResultCacheConfig = ResultCacheConfig()
    """Answers kept for requests that are repeated exactly."""

    jobs: JobsConfig = JobsConfig()
    """Generations that are stored."""

    pictures: PicturesConfig = PicturesConfig()
    """Pictures that come with requests."""

    prompt_rules: PromptRulesConfig = PromptRulesConfig()
    """Refusals by prompt."""

    page: PageConfig = PageConfig()
    """The page for people."""

    metrics: MetricsConfig = MetricsConfig()
    """Metrics over HTTP."""

    tracing: TracingConfig = TracingConfig()
    """Traces of requests."""

    webhooks: WebhooksConfig = WebhooksConfig()
    """Messages that a job is over."""

    ingress: IngressConfig = IngressConfig()
    """The HTTP deployment."""

    stages: StagesConfig = StagesConfig()
    """Placement, scaling and options of each stage."""

    @model_validator(mode="before")
    @classmethod
    def _read_text_as_lists(cls, values: Any) -> Any:
        return _split_commas(cls, values)

    @model_validator(mode="after")
    def _check_links_outlive_answers(self) -> Self:
        cache, files_s = self.result_cache, self.stages.storage.ttl_s
        if cache.max_bytes > 0 and cache.ttl_s > files_s:
            raise ConfigurationError(
                f"result_cache.ttl_s: {cache.ttl_s:g} is more than stages.storage.ttl_s, so kept"
                f" answers would link to files that are gone; use at most {files_s:g}"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = init_settings().get("config") or env_settings().get("config")
        from_file = InitSettingsSource(settings_cls, init_kwargs=_read_yaml(path) if path else {})
        for written in (init_settings(), from_file()):
            JobsConfig.refuse_written_password(written)
            WebhooksConfig.refuse_written_secrets(written)
        return init_settings, env_settings, from_file

    @classmethod
    def load(cls, args: Mapping[str, Any] | None = None) -> Settings:
        """Settings from `args` (dotted keys such as `limits.max_steps` allowed) and the rest.

        Raises ConfigurationError with one line per mistake, naming the field and what would work.
        """
        _refuse_unknown_variables(cls)
        try:
            return cls(**_nested(args or {}))
        except ValidationError as error:
            raise ConfigurationError(readable(cls, error)) from None
        except ConfigurationError as error:  # fields that contradict each other
            section = re.split(r"[.:]", error.message, maxsplit=1)[0]
            where = "stages." if section in StagesConfig.model_fields else ""
            raise ConfigurationError(f"{where}{error.message}") from None
        except SettingsError as error:  # a variable of a nested field that is not JSON
            raise ConfigurationError(f"{error}: {error.__cause__}; write JSON") from error

    def model_spec(self) -> ModelSpec:
        """The model to serve.

        Raises ConfigurationError for an unknown model, limits that its defaults do not fit in, or a
        step that does not hold what they allow.
        """
        spec = catalog.find(self.model, source=self.model_source)
        limits, pixels = self.limits, spec.height * spec.width
        too_small = [
            ("max_pixels", limits.max_pixels, pixels),
            ("max_side", limits.max_side, max(spec.height, spec.width)),
            ("max_steps", limits.max_steps, spec.num_inference_steps),
        ]
        for name, limit, needed in too_small:
            if limit < needed:
                raise ConfigurationError(
                    f"limits.{name}: {limit} is less than the default of {spec.name};"
                    f" use at least {needed}"
                )
        if limits.min_side > min(spec.height, spec.width):
            raise ConfigurationError(
                f"limits.min_side: {limits.min_side} is more than the default side of {spec.name};"
                f" use at most {min(spec.height, spec.width)}"
            )
        tokens, needed = self.stages.denoiser.max_tokens_per_tick, limits.largest_tokens(spec)
        if tokens is not None and tokens < needed:
            raise ConfigurationError(
                f"stages.denoiser.max_tokens_per_tick: {tokens} cannot hold the largest image that"
                f" limits allow ({limits.largest_pixels(spec)} pixels); use at least {needed}, or"
                " lower limits.max_pixels"
            )
        return spec

    @property
    def model_id(self) -> str:
        """The name under which clients see the model."""
        return self.served_model_name or self.model


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        content = operator_yaml.read(Path(path))
    except OSError as error:
        raise ConfigurationError(f"config: cannot read {path}: {error.strerror}") from error
    except operator_yaml.YamlError as error:
        raise ConfigurationError(f"config: {path} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"config: {path} must hold a mapping, such as 'model: flux.1-dev'")
    args = {str(key): value for key, value in cast("dict[object, Any]", content).items()}
    if "config" in args:
        raise ConfigurationError(f"config: {path} names another settings file; put it all in one")
    return _nested(args)


def _nested(args: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"limits.max_steps": 5}` into `{"limits": {"max_steps": 5}}`, merging what is there."""
    result: dict[str, Any] = {}
    for key in sorted(args, key=lambda key: key.count(".")):
        *parents, last = key.split(".")
        level = result
        for parent in parents:
            inner = level.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigurationError(f"{key}: {parent} is set as a whole as well; choose one")
            level = cast("dict[str, Any]", inner)
        # Copied, because a dotted key may be merged into it.
        level[last] = copy.deepcopy(args[key])
    return result


def _split_commas(model: type[BaseModel], values: Any) -> Any:
    """Let any list be written as `a,b`: key=value arguments can hold nothing but text."""
    if not isinstance(values, dict):
        return values
    result: dict[Any, Any] = {}
    for name, value in cast("dict[Any, Any]", values).items():
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        section = model_in(annotation)
        if section is not None:
            result[name] = _split_commas(section, value)
        elif get_origin(annotation) is tuple and isinstance(value, str):
            result[name] = [part.strip() for part in value.split(",")]
        else:
            result[name] = value
    return result


def _refuse_unknown_variables(settings: type[Settings]) -> None:
    """A mistyped variable would be silently ignored otherwise."""
    for variable in os.environ:
        if variable.upper().startswith(ENV_PREFIX) and not _NO_SETTING.fullmatch(variable):
            section, *inner = variable[len(ENV_PREFIX) :].lower().split("__")
            if section not in settings.model_fields:
                known = _variables_near(settings, section, inner)
                raise ConfigurationError(unknown_key(variable, known))


def _variables_near(settings: type[Settings], section: str, inner: Sequence[str]) -> list[str]:
    """What a variable of an unknown section may have been meant to be: of the section that is near,
    if one is, with the same names inside it, if it holds any."""
    fields = settings.model_fields
    names = difflib.get_close_matches(section, fields, n=1) or list(fields)
    if len(names) == 1 and model_in(fields[names[0]].annotation) is not None:
        names = ["__".join([names[0], *inner])]
    return [f"{ENV_PREFIX}{name.upper()}" for name in names]
