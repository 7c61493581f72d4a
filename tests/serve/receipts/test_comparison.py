"""A receipt against what runs here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployments.graph.running_stages import Running
from deployments.storage.receipt import Receipt, parse_receipt
from pipelines.provenance import Provenance, StageProvenance
from pipelines.tiling import Tiling
from serve.receipts.comparison import Difference, differences
from tests.deployments.receipts import STAGES, VERSIONS, receipt
from tests.serve.fakes import SPEC

RECEIPT = parse_receipt(receipt())
ENCODER, DENOISER, DECODER = STAGES


def found(
    running: Provenance = STAGES, file: Receipt = RECEIPT, silent: int = 0
) -> list[Difference]:
    return differences(
        file, Running(running, silent), spec=SPEC, served_names=("served", "test-model")
    )


def with_denoiser(**fields: Any) -> Provenance:
    return (ENCODER, replace(DENOISER, **fields), DECODER)


def test_the_same_in_any_order():
    assert found() == []
    assert found(STAGES[::-1]) == []


def test_what_encodes_pictures_has_no_part_in_an_image_without():
    with_pictures = (*STAGES, replace(DECODER, part="image_encoder"))
    assert found(with_pictures) == []
    drawn_from = replace(RECEIPT, stages=with_pictures)
    assert found(with_pictures, drawn_from) == []
    (missing,) = found(STAGES, drawn_from)
    assert (missing.what, missing.part, missing.here) == ("weights", "image_encoder", None)


def test_another_model():
    others = differences(RECEIPT, Running(STAGES), spec=SPEC, served_names=("served", "another"))
    assert others == [Difference("model", None, "test-model", "served")]


def test_a_model_that_takes_other_prompts():
    file = replace(RECEIPT, prompt_tokens=512)
    assert found(file=file) == [Difference("prompt tokens", None, "512", "20")]


@pytest.mark.parametrize(
    ("field", "value", "file", "here"),
    [
        ("weights", "d" * 64, "b" * 64, "d" * 64),
        ("weights", None, "b" * 64, None),
        ("dtype", "bfloat16", "float32", "bfloat16"),
        ("device", "NVIDIA H200", "cpu AVX2", "NVIDIA H200"),
        ("attention", "fa3", "sdpa", "fa3"),
        ("compile", True, "false", "true"),
        ("parallel", "1 x 2", "", "1 x 2"),
    ],
)
def test_what_may_change_bits(field: str, value: object, file: str, here: str | None):
    expected = [Difference(field, "transformer", file, here)]
    assert found(with_denoiser(**{field: value})) == expected


def test_another_version():
    versions = (*VERSIONS[:1], ("torch", "2.13.0"), ("transformers", "5.20"))
    assert found(with_denoiser(versions=versions)) == [
        Difference("version of diffusers", "transformer", "0.42.0", None),
        Difference("version of torch", "transformer", "2.12.0", "2.13.0"),
        Difference("version of transformers", "transformer", None, "5.20"),
    ]


def test_a_pool_that_an_update_mixes_draws_no_file_again_for_certain():
    mixed = (*STAGES, replace(DENOISER, weights="d" * 64))
    both = f"{'b' * 64}, {'d' * 64}"
    assert found(mixed) == [Difference("weights", "transformer", "b" * 64, both)]
    file = replace(RECEIPT, stages=mixed)
    assert found(file=file) == [Difference("weights", "transformer", both, "b" * 64)]
    assert found(mixed, file) == [Difference("weights", "transformer", both, both)]


def test_what_nobody_knows_is_not_the_same():
    unknown = with_denoiser(weights=None)
    file = replace(RECEIPT, stages=unknown)
    assert found(unknown, file) == [Difference("weights", "transformer", None, None)]
    assert found((), replace(RECEIPT, stages=())) == [Difference("weights", None, None, None)]
    assert found(silent=2) == [
        Difference("replicas", None, None, "2 of them did not say what they are")
    ]


def test_a_stage_that_sleeps():
    assert found((ENCODER, DECODER)) == [Difference("weights", "transformer", "b" * 64, None)]
    file = replace(RECEIPT, stages=(ENCODER, DECODER))
    assert found(file=file) == [Difference("weights", "transformer", None, "b" * 64)]


RULE = Tiling(size=64, from_pixels=80 * 64)
"""It covers the receipt's image, of 80x64 pixels."""


def tiled(rule: Tiling | None) -> Provenance:
    return (ENCODER, DENOISER, replace(DECODER, tiling=rule))


def in_tiles(rule: Tiling | None) -> Receipt:
    return replace(RECEIPT, stages=tiled(rule))


def test_an_image_that_would_be_tiled_here():
    expected = Difference("tiling", "vae", "none", "tiles of 64 from 5120 pixels")
    assert found(tiled(RULE)) == [expected]
    assert found(tiled(None), in_tiles(RULE)) == [
        expected._replace(file=expected.here, here="none")
    ]
    finer = replace(RULE, size=32)
    (other,) = found(tiled(finer), in_tiles(RULE))
    assert other.here == "tiles of 32 from 5120 pixels"


def test_rules_that_differ_for_other_images_only_are_no_difference():
    assert found(tiled(replace(RULE, from_pixels=5121))) == []
    assert found(tiled(replace(RULE, from_pixels=70)), in_tiles(RULE)) == []


def test_one_replica_of_several_that_tiles_is_a_difference():
    mixed = (*tiled(RULE), *tiled(replace(RULE, from_pixels=9_999)))
    (difference,) = found(mixed, in_tiles(RULE))
    assert (difference.what, difference.here) == (
        "tiling",
        "tiles of 64 from 5120 pixels, tiles of 64 from 9999 pixels",
    )


def test_each_picture_that_it_was_drawn_from_counts_by_its_own_size():
    def encoder(rule: Tiling | None) -> StageProvenance:
        return replace(DECODER, part="image_encoder", tiling=rule)

    pictures = [{"role": "image", "size": "64x64"}, {"role": "reference", "size": "100x100"}, {}]
    file = replace(
        RECEIPT,
        request={**RECEIPT.request, "pictures": pictures},
        stages=(*STAGES, encoder(None), encoder(RULE)),
    )
    assert found((*STAGES, encoder(RULE)), file) == []
    assert found((*STAGES, encoder(replace(RULE, from_pixels=10_000))), file) == []
    for other in (replace(RULE, from_pixels=10_001), None):
        (difference,) = found((*STAGES, encoder(other)), file)
        assert (difference.what, difference.part) == ("tiling", "image_encoder")
