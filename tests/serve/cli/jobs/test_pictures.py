"""`sluice edit --url` and `sluice generate --image --url`: jobs with pictures."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.serve.cli.jobs.conftest import Run
from tests.serve.cli.jobs.job_server import FILE, JobServer, drawn

JOB = f"job_{'0' * 31}1"
EDIT = ("edit", "in.jpg", "make it blue", "--seed", "9")


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "in.jpg")
    Image.new("L", (64, 48), "white").save(tmp_path / "white.png")
    Image.new("RGBA", (64, 48), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (64, 48), (255, 255, 255, 255)).save(tmp_path / "opaque.png")


def url_of(path: Path, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def sent(server: JobServer) -> dict[str, Any]:
    """What the first submit asked for, but for whose it is."""
    return {name: value for name, value in server.asked[0].body.items() if name != "user"}


def test_an_edit_is_a_job_with_its_picture(run: Run, server: JobServer, tmp_path: Path):
    server.script = drawn(9)
    outcome = run(*EDIT, "--steps", "5", "--model", "m")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "make-it-blue-9.png  seed 9\n"
    assert (tmp_path / "make-it-blue-9.png").read_bytes() == FILE
    assert outcome.err.splitlines()[-1] == f"{JOB}: succeeded 28/28"
    assert server.asked[0].path == "/v1/jobs"
    assert sent(server) == {
        "prompt": "[EDIT] make it blue",
        "image": [url_of(tmp_path / "in.jpg", "jpeg")],
        "model": "m",
        "size": "auto",
        "num_inference_steps": 5,
        "seed": 9,
        "output_format": "png",
    }


def test_every_option_about_pictures_is_sent(run: Run, server: JobServer, tmp_path: Path):
    server.script = drawn(9)
    options = ("--mask", "clear.png", "--outpaint", "8,0,16,0", "--strength", "0.8")
    outcome = run("generate", "a cat", "--image", "in.jpg", *options, "--no-paste-back")
    assert outcome.code == 0, outcome.err
    body = sent(server)
    assert {name: body[name] for name in body if name not in ("seed", "output_format")} == {
        "prompt": "a cat",
        "image": [url_of(tmp_path / "in.jpg", "jpeg")],
        "mask": url_of(tmp_path / "clear.png", "png"),
        "outpaint": {"left": 8, "top": 0, "right": 16, "bottom": 0},
        "strength": 0.8,
        "paste_back": False,
    }


@pytest.mark.parametrize(
    ("mask", "field"),
    [("white.png", "mask_image"), ("opaque.png", "mask_image"), ("clear.png", "mask")],
)
def test_a_mask_of_either_world(run: Run, server: JobServer, mask: str, field: str):
    server.script = drawn(9)
    assert run(*EDIT, "--mask", mask).code == 0
    body = sent(server)
    assert body.keys() & {"mask", "mask_image"} == {field}
    assert body["prompt"] == "make it blue", "any model that fills a mask may do it"


@pytest.mark.parametrize("prompt", ["[EDIT] make it blue", " [ edit ]make it blue"])
def test_who_writes_the_prefix_has_it_once(run: Run, server: JobServer, prompt: str):
    server.script = drawn(9)
    assert run("edit", "in.jpg", prompt).code == 0
    assert sent(server)["prompt"] == prompt


def test_a_server_without_jobs_edits_at_once(run: Run, server: JobServer, tmp_path: Path):
    server.has_jobs = False
    outcome = run(*EDIT)
    assert (outcome.code, outcome.err) == (0, "")
    (asked,) = [each for each in server.asked if each.path != "/v1/jobs"]
    assert asked.path == "/v1/images/edits"
    assert asked.body["image"] == [url_of(tmp_path / "in.jpg", "jpeg")]


def test_a_refusal_names_the_options(run: Run, server: JobServer, tmp_path: Path):
    server.refusal = {
        "message": "image: m does not do that: a model is needed that edits; its operator can add"
        " k; mask_image: is too much",
        "code": "unsupported_feature",
        "param": "image",
    }
    outcome = run(*EDIT)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines() == [
        "error: IMAGE: m does not do that: a model is needed that edits; its operator can add k;"
        " --mask: is too much; or add --strength 0.6, to draw from the picture what the words"
        " describe"
    ]
    outcome = run("generate", "a cat", "--image", "in.jpg")
    assert outcome.err.startswith("error: --image: m does not do that")
    assert "--strength" not in outcome.err
    assert list(tmp_path.glob("*9.png")) == []


def test_a_wrong_file_is_told_before_anybody_is_asked(run: Run, server: JobServer):
    outcome = run("edit", "none.png", "make it blue")
    assert outcome.code == 1
    assert outcome.err.startswith("error: IMAGE: none.png is not there")
    assert server.asked == []
