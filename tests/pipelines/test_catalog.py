"""The catalogue: every entry is usable, and names that are not in it are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.catalog import find, models
from pipelines.errors import ConfigurationError
from pipelines.families import family_of
from pipelines.tasks import Task


def test_defaults_are_on_the_grid_and_within_the_models_bounds() -> None:
    assert set(models()) == {
        "sluice-shapes",
        "flux.1-dev",
        "flux.1-schnell",
        "flux.1-kontext-dev",
        "flux.1-fill-dev",
        "flux.1-depth-dev",
        "flux.1-canny-dev",
    }
    for spec in models().values():
        for height, width in [(spec.height, spec.width), *spec.trained_sizes]:
            multiple = family_of(spec).size_multiple
            assert height % multiple == width % multiple == 0
            assert max(height, width) <= spec.max_side
        assert spec.num_inference_steps > 0
        assert spec.max_sequence_length <= 512
        assert set(spec.tasks) <= set(Task)


def test_the_carried_model_says_how_it_wants_to_be_asked() -> None:
    spec = find("sluice-shapes")
    assert (Path(spec.source) / "model_index.json").is_file()
    assert spec.guidance_embeds
    assert (spec.height, spec.width) in spec.trained_sizes
    assert (64, 96) in spec.trained_sizes, "height first"


def test_a_source_replaces_the_catalogues_and_an_unknown_name_is_refused() -> None:
    assert find("flux.1-dev", source="/models/dev").source == "/models/dev"
    with pytest.raises(ConfigurationError, match=r"'flux\.2'; known: sluice-shapes"):
        find("flux.2")
