"""Catalogue entries of the tests. Imports no torch: driver processes use it."""

from __future__ import annotations

from pathlib import Path

from pipelines.catalog import ModelSpec


def tiny_spec(folder: Path | str, *, guidance_embeds: bool = True) -> ModelSpec:
    """The entry of a tiny model with random weights in `folder`."""
    return ModelSpec(
        name="tiny",
        source=str(folder),
        description="A model of the tests.",
        license="apache-2.0",
        created=0,
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=3.5,
        guidance_embeds=guidance_embeds,
        max_sequence_length=32,
        max_side=1024,
        # Without an image encoder, but where a test is about pictures.
        tasks=("text-to-image",),
        parameters=1_000_000,
    )
