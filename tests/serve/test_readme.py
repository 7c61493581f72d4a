"""The tables of serve/README.md name everything there is."""

from __future__ import annotations

from pathlib import Path

from deployments.options.stage import Options
from deployments.options.stages import StagesConfig
from serve.api.schemas import ImageGenerationRequest
from serve.errors import ERROR_TABLE
from serve.settings.settings import Settings

SERVE = Path(__file__).resolve().parents[2] / "serve"
README = (SERVE / "README.md").read_text()


def test_every_setting():
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options) and kind is not StagesConfig:
            for inner, inner_field in kind.model_fields.items():
                assert f"| `{name}.{inner}` | {shown(inner_field.default)}" in README
        else:
            assert f"| `{name}` |" in README


def shown(default: object) -> str:
    """A plain default as the table writes it; of others the text is free."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float):
        return f"{default:.10g}"
    return ""


def test_every_field_of_a_generation():
    for name in ImageGenerationRequest.model_fields:
        assert f"`{name}`" in README


def test_every_error():
    for rule in ERROR_TABLE.values():
        assert f"| {rule.status} | `{rule.code}` |" in README
