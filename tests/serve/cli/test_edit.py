"""`sluice edit` and `sluice generate --image` in this process, on the carried model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.contracts import SafetyVerdict
from tests.serve.cli.conftest import Run

CIRCLE = ("generate", "a red circle on a white background", "--seed", "3", "--steps", "4")
NEW = ("a blue square on a white background", "--seed", "5", "--steps", "4")


@pytest.fixture
def picture(tmp_path: Path) -> np.ndarray:
    """Noise in `in.png`, so that no pixel of it is drawn by chance; and a mask of its right half,
    white in `mask.png`, transparent in `hole.png`."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((32, 0, 63, 63), fill=255)
    mask.save(tmp_path / "mask.png")
    hole = Image.new("RGBA", (64, 64), "white")
    hole.putalpha(mask.point(lambda value: 255 - value))
    hole.save(tmp_path / "hole.png")
    return pixels


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


class TestHere:
    def test_what_a_mask_does_not_cover_stays(self, run: Run, tmp_path: Path, picture: np.ndarray):
        outcome = run("edit", "in.png", *NEW, "--mask", "mask.png", "-o", "out.png")
        assert outcome.code == 0, outcome.err
        assert outcome.out == "out.png  seed 5\n"
        drawn = pixels_of(tmp_path / "out.png")
        assert (drawn[:, :32] == picture[:, :32]).all()
        assert (drawn[:, 40:] != picture[:, 40:]).any(axis=-1).mean() > 0.9
        # Masks of both worlds, and both commands, say the same.
        again = run("generate", *NEW, "--image", "in.png", "--mask", "hole.png", "-o", "same.png")
        assert again.code == 0, again.err
        assert (pixels_of(tmp_path / "same.png") == drawn).all()

    def test_unless_that_is_not_wanted(self, run: Run, tmp_path: Path, picture: np.ndarray):
        arguments = ("edit", "in.png", *NEW, "--mask", "mask.png", "--no-paste-back")
        assert run(*arguments, "--out", "out.png").code == 0
        left = pixels_of(tmp_path / "out.png")[:, :32]
        assert (left != picture[:, :32]).any(), "it went through the VAE"

    def test_a_picture_is_continued(self, run: Run, tmp_path: Path, picture: np.ndarray):
        outcome = run("edit", "in.png", *NEW, "--outpaint", "0, 0,32,0", "-o", "out.png")
        assert outcome.code == 0, outcome.err
        drawn = pixels_of(tmp_path / "out.png")
        assert drawn.shape == (64, 96, 3)
        assert (drawn[:, :64] == picture).all()

    def test_how_far_it_goes_is_the_strength(self, run: Run, tmp_path: Path):
        assert run(*CIRCLE, "-o", "in.png").code == 0
        off = {}
        for strength in ("0.25", "1"):
            name = f"{strength}.png"
            outcome = run("edit", "in.png", *NEW, "--strength", strength, "-o", name)
            assert outcome.code == 0, outcome.err
            apart = pixels_of(tmp_path / name).astype(int) - pixels_of(tmp_path / "in.png")
            off[strength] = np.abs(apart).mean()
        assert off["0.25"] < off["1"] / 2

    def test_it_is_drawn_again_with_its_picture(
        self, run: Run, tmp_path: Path, picture: np.ndarray
    ):
        pasted = ("--mask", "hole.png", "--outpaint", "0,0,16,0")
        assert run("edit", "in.png", *NEW, *pasted, "-o", "out.png").code == 0
        outcome = run("generate", "--from", "out.png", "-o", "again.png")
        assert outcome.code == 1
        assert outcome.err.startswith("error: --from: out.png was drawn from pictures that are not")
        assert "--image and --mask" in outcome.err
        again = ("generate", "--from", "out.png", "--image", "in.png", "--mask")
        assert run(*again, "mask.png", "-o", "again.png").code == 1, "it is another file"
        outcome = run(*again, "hole.png", "-o", "again.png")
        assert outcome.code == 0, outcome.err
        assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out.png").read_bytes()

    def test_a_mask_that_covers_nothing_gives_the_input(
        self, run: Run, tmp_path: Path, picture: np.ndarray
    ):
        Image.new("L", (64, 64)).save(tmp_path / "mask.png")
        outcome = run("edit", "in.png", *NEW, "--mask", "mask.png", "-o", "out.png")
        assert outcome.code == 0, outcome.err
        assert "warning: --mask: covers nothing to draw anew" in outcome.err
        assert (pixels_of(tmp_path / "out.png") == picture).all()

    def test_the_classifier_sees_what_is_edited(
        self, run: Run, tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ):
        class Refuses:
            def classify(self, images: list[np.ndarray]) -> list[SafetyVerdict]:
                assert [(image == picture).all() for image in images] == [True]
                refused = SafetyVerdict(
                    flagged=True, category="nsfw", score=0.9, threshold=0.5, classifier="x"
                )
                return [refused]

        monkeypatch.setattr(
            "pipelines.stages.safety.safety.load_image_classifier", lambda *_, **__: Refuses()
        )
        outcome = run("edit", "in.png", *NEW, "--strength", "0.5", "-o", "out.png")
        assert outcome.code == 1
        said = "error: IMAGE: the picture was refused by the image classifier: nsfw"
        assert outcome.err.strip() == said
        assert not (tmp_path / "out.png").exists()


class TestRefused:
    """In one line that names the option and the way out, before a model is loaded."""

    @pytest.fixture(autouse=True)
    def nothing_is_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("serve.cli.drawing.LocalDrawing._load")

    def test_what_the_carried_model_cannot_do(self, run: Run, picture: np.ndarray):
        outcome = run("edit", "in.png", "make it blue")
        assert outcome.code == 1
        (line,) = outcome.err.splitlines()
        assert line.startswith("error: IMAGE: sluice-shapes does not do that: a model is needed")
        assert "edits a picture by instruction; choose one with --model: flux.1-kontext-dev" in line
        assert line.endswith(
            "or add --strength 0.6, to draw from the picture what the words describe"
        )

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["none.png"], "IMAGE: none.png is not there; name a PNG, JPEG or WebP file"),
            (["folder"], "IMAGE: folder is a folder; name a PNG, JPEG or WebP file"),
            (["text.png"], "IMAGE: text.png is no picture; send PNG, JPEG or WebP"),
            (["cut.png"], "IMAGE: cut.png is a PNG that ends too early; send all of it"),
            (["damaged.png", "--strength", "0.5"], "IMAGE: cannot be read"),
            (["in.png", "--mask", "none.png"], "--mask: none.png is not there"),
            (
                ["in.png", "--mask", "small.png"],
                "--mask: small.png is 32x32 pixels, and in.png 64x64; give a mask as large as",
            ),
            (["in.png", "--strength", "2"], "--strength: must be"),
            (
                ["in.png", "--strength", "0.01"],
                "--strength: 0.01 of 10 steps leaves none; write more, such as 0.1",
            ),
            (
                ["in.png", "--outpaint", "0,0,4000,0"],
                "--outpaint: ",
            ),
        ],
    )
    def test_a_wrong_file_or_number(
        self, run: Run, tmp_path: Path, picture: np.ndarray, arguments: list[str], said: str
    ):
        (tmp_path / "folder").mkdir()
        (tmp_path / "text.png").write_text("a red circle")
        whole = (tmp_path / "in.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[:-40])
        at = whole.index(b"IDAT") + 40
        (tmp_path / "damaged.png").write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
        Image.new("L", (32, 32)).save(tmp_path / "small.png")
        outcome = run("edit", *arguments[:1], "a blue square", *arguments[1:], "-o", "out.png")
        assert outcome.code == 1
        (line,) = outcome.err.splitlines()
        assert line.startswith(f"error: {said}")
        assert not (tmp_path / "out.png").exists()

    @pytest.mark.parametrize("wrong", ["1,2,3", "a,b,c,d", "0,0,0,0", "1,2,3,-4"])
    def test_sides_that_are_none(self, run: Run, picture: np.ndarray, wrong: str):
        outcome = run("edit", "in.png", "more", "--outpaint", wrong)
        assert outcome.code == 2
        assert "LEFT,TOP,RIGHT,BOTTOM, such as 0,0,64,0" in " ".join(
            outcome.err.replace("│", "").split()
        )

    @pytest.mark.parametrize(
        "option",
        [
            ("--mask", "mask.png"),
            ("--strength", "0.5"),
            ("--outpaint", "0,0,8,0"),
            ("--paste-back",),
        ],
    )
    def test_options_without_their_picture(
        self, run: Run, picture: np.ndarray, option: tuple[str, ...]
    ):
        outcome = run("generate", "a cat", *option)
        assert outcome.code == 2
        assert "add --image" in " ".join(outcome.err.replace("│", "").split())

    def test_the_input_is_not_replaced_unasked(self, run: Run, picture: np.ndarray):
        outcome = run("edit", "in.png", *NEW, "--strength", "0.5", "-o", "in.png")
        assert outcome.code == 1
        assert "in.png exists" in outcome.err
