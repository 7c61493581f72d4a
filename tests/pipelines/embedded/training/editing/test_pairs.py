"""Pairs in shards differ by the edit that they are linked with; batches are made from them."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import world
from pipelines.embedded.training.editing import batches, pairs
from pipelines.embedded.training.editing.edits import OPERATIONS, Operation, apply
from pipelines.embedded.training.editing.pairs import Shard, Store, edit_of, plan
from pipelines.embedded.training.train_text import TextEncoders, load_encoders
from pipelines.embedded.training.world import Canvas

SQUARE, WIDE = world.CANVASES[0], Canvas(64, 96)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(EMBEDDED_MODEL_DIR / "vae", torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def encoders() -> TextEncoders:
    """The carried encoders read instructions too, if only as unknown words."""
    return load_encoders(EMBEDDED_MODEL_DIR)


@pytest.fixture(scope="module")
def store(vae: AutoencoderKL, tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "SHARD_TOKENS", 640)
        store = Store(tmp_path_factory.mktemp("pairs"), vae, device="cpu", rank=0, ranks=1)
        store.grow(SQUARE)
        return store


def test_links_lead_from_a_scene_to_the_one_that_follows() -> None:
    planned = plan(400, SQUARE, seed=3)
    assert len(planned.links) > 2 * len(planned.scenes)
    for link in planned.links:
        before, after = planned.scenes[link[0]], planned.scenes[link[1]]
        assert apply(before, edit_of(link)) == after != before
    kinds = {OPERATIONS[link[2]] for link in planned.links}
    assert kinds == set(OPERATIONS) - {Operation.NOTHING}
    assert not world.is_held_out(torch.tensor(planned.scenes)).any()


def test_objects_stay_where_they_were() -> None:
    planned = plan(300, SQUARE, seed=4)
    for before, after, operation, slot, *_ in planned.links:
        jitters = planned.jitters[before], planned.jitters[after]
        alone = operation in (OPERATIONS.index(Operation.ADD), OPERATIONS.index(Operation.REMOVE))
        expected = jitters[0].flip(0) if alone and slot == 0 else jitters[0]
        assert torch.equal(expected, jitters[1])


def test_off_the_square_nothing_is_added_or_removed() -> None:
    kinds = {OPERATIONS[link[2]] for link in plan(200, WIDE, seed=5).links}
    assert not kinds & {Operation.ADD, Operation.REMOVE}
    assert Operation.MOVE in kinds


def test_a_store_is_read_again_by_its_own_rank(vae: AutoencoderKL, tmp_path: Path) -> None:
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(pairs, "SHARD_TOKENS", 64)
        stores = [Store(tmp_path, vae, device="cpu", rank=rank, ranks=2) for rank in range(2)]
        for one in stores:
            one.grow(SQUARE)
    again = [Store(tmp_path, vae, device="cpu", rank=rank, ranks=2) for rank in range(2)]
    for before, after in zip(stores, again, strict=True):
        (kept,) = before.shards(SQUARE)
        (found,) = after.shards(SQUARE)
        assert torch.equal(kept.latents, found.latents)
        assert torch.equal(kept.links, found.links)
    assert not torch.equal(stores[0].shards(SQUARE)[0].codes, stores[1].shards(SQUARE)[0].codes)


def test_the_scarcest_size_is_the_one_furthest_from_enough(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.scarcest() == world.CANVASES[1]
    monkeypatch.setattr(pairs, "WANTED", (10_000, 0.001, 0.001, 0.001, 0.001))
    monkeypatch.setattr(store, "_share", lambda canvas: 0.5 if canvas == SQUARE else 2.0)
    assert store.scarcest() == SQUARE
    monkeypatch.setattr(store, "_share", lambda canvas: 1.0)
    assert store.scarcest() is None


def test_a_batch_of_edits_shows_linked_pictures(
    store: Store, encoders: TextEncoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "EDIT_SHARES", (1, 0, 0, 0, 0))
    drawn = batches.Batches(store, encoders, seed=1, rank=0, share=0.5).edits()
    assert drawn.reference is not None
    assert drawn.clean.shape == drawn.reference.shape == (28, 16, 64)
    assert drawn.prompts.tokens.shape[:2] == (28, 16)
    (shard,) = store.shards(SQUARE)
    for own, after in zip(drawn.jitter, drawn.clean, strict=True):
        assert torch.equal(own, shard.jitter[_index(shard, after)])
    # Only what is added has a place that neither reference nor instruction say.
    assert 0 < int(drawn.coupled.sum()) < 14
    assert not drawn.coupled.all(1).any()
    linked = {(link[0], link[1]) for link in shard.links.tolist()}
    for before, after in zip(drawn.reference, drawn.clean, strict=True):
        assert (_index(shard, before), _index(shard, after)) in linked | {
            (index, index) for index in range(len(shard.codes))
        }


def test_drawings_are_trained_late_more_often_than_steps_are_there(
    store: Store, encoders: TextEncoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "DRAWING_SHARES", (1, 0, 0, 0, 0))
    drawn = batches.Batches(store, encoders, seed=1, rank=0, share=4.0).drawings()
    assert drawn.reference is None
    assert 0.8 < drawn.coupled.float().mean() < 1
    low, high = batches.OUTLINE_TIMES
    late = ((drawn.t >= low) & (drawn.t <= high)).float().mean()
    assert 0.4 < late < 0.85


def _index(shard: Shard, latent: torch.Tensor) -> int:
    same = (shard.latents.float() == latent).flatten(1).all(1)
    return int(torch.nonzero(same)[0])
