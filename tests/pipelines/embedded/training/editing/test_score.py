"""An edit counts if the scene after is there and the rest is as it was; a chain while it holds."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import checker
from pipelines.embedded.training.editing.score import (
    CHAIN,
    Exam,
    chain_shares,
    make_exam,
    score,
)

N = 12


@pytest.fixture(scope="module")
def exam() -> Exam:
    vae = AutoencoderKL.from_pretrained(EMBEDDED_MODEL_DIR / "vae", torch_dtype=torch.float32)
    return make_exam(vae, N)


def test_the_true_pictures_are_all_right(exam: Exam) -> None:
    scores = score(exam, exam.after)
    assert (scores.edits, scores.one, scores.two, scores.read, scores.kept) == (1, 1, 1, 1, 1)
    assert scores.untouched_error == 0
    assert set(scores.by_operation.values()) == {1}
    assert scores.n == N


def test_an_unchanged_picture_keeps_the_rest_but_is_not_right(exam: Exam) -> None:
    scores = score(exam, exam.before)
    nothing = sum(pair.before == pair.after for pair in exam.pairs) / N
    assert scores.kept == 1
    assert scores.edits == scores.read == pytest.approx(nothing, abs=1e-4)


def test_a_changed_rest_is_not_right_though_the_scene_is_there(exam: Exam) -> None:
    shifted = (exam.after - 0.08).clamp(0, 1) * 0.92
    scores = score(exam, shifted)
    assert scores.kept < 0.5
    assert scores.edits <= scores.kept
    assert scores.read > scores.edits


def test_untouched_pixels_are_those_that_agree(exam: Exam) -> None:
    untouched = exam.untouched.expand_as(exam.before)
    assert torch.equal(exam.before[untouched], exam.after[untouched])
    changed = torch.tensor([pair.before != pair.after for pair in exam.pairs])
    assert bool((exam.untouched[changed].float().mean((1, 2, 3)) < 1).all())
    assert bool((exam.allowed > 0).all())


def test_a_chain_holds_while_every_edit_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The editor leaves pictures as they are; the checker then sees none of the edits."""
    turns: list[list[str]] = []

    def leave(images: Tensor, texts: list[str], first_seed: int) -> Tensor:
        turns.append(texts)
        return images

    assert chain_shares(leave, 4) == [0.0] * CHAIN
    assert all(len(texts) == 4 and all(texts) for texts in turns)
    # With a checker that reads what was asked for but in the third turn, none is right from there.
    reads: list[int] = []

    def read(images: Tensor) -> Tensor:
        reads.append(1)
        return _Answer(len(reads) != 3)  # type: ignore[return-value]

    monkeypatch.setattr(checker, "read", read)
    assert chain_shares(leave, 4) == [1.0, 1.0, 0.0, 0.0, 0.0]


class _Answer:
    """Equal to every scene, or to none."""

    def __init__(self, same: bool) -> None:
        self._same = same

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        assert isinstance(other, Tensor)
        return torch.full(other.shape, self._same)

    __hash__ = None  # type: ignore[assignment]
