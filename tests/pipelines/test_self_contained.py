"""Whatever the JSON of a local folder says, no hub is asked."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, close_session, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from pipelines.errors import CheckpointError
from pipelines.flux1 import checkpoint
from pipelines.self_contained import offline
from pipelines.stages.safety.safety import HuggingFaceClassifier
from tests.pipelines.stages.safety.test_safety import save_vit

LOADERS: dict[str, Callable[..., object]] = {
    "text": checkpoint.load_text_components,
    "denoiser": checkpoint.load_denoiser_components,
    "vae": checkpoint.load_vae,
}
ELSEWHERE = {
    "_name_or_path": "tests/tiny",
    "name_or_path": "tests/tiny",
    "auto_map": {"AutoModel": "tests/tiny--m.X", "AutoTokenizer": ["tests/tiny--m.X", None]},
    "base_model_name_or_path": "tests/tiny",
    "backbone": "tests/tiny",
    "custom_pipeline": "tests/tiny",
}
KERNEL = {"_attn_implementation": "tests/kernels"}
NESTED = {"text_config": {"attn_implementation": {"": "tests/kernels@v1:attention"}}}
BACKBONE = {"backbone": "tests/tiny", "use_pretrained_backbone": True}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a hub was asked for: every request of any kind."""
    requests: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.command} {self.path}")
            self.send_error(404)

        do_HEAD = do_POST = do_GET  # noqa: N815  the names are of the base class

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    close_session()
    yield requests
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(dev_like: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dev_like, tmp_path / "model"))


def add(folder: Path, content: dict[str, Any]) -> None:
    """Write `content` into every configuration of the folder."""
    names = ("config.json", "tokenizer_config.json", "scheduler_config.json", "model_index.json")
    for path in (each for name in names for each in folder.rglob(name)):
        path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def load(folder: Path, stage: str) -> object:
    return LOADERS[stage](str(folder), device="cpu", dtype="float32")


def test_the_hub_of_these_tests_hears_what_is_asked(asked: list[str]) -> None:
    with pytest.raises(HfHubHTTPError):
        HfApi().model_info("tests/tiny")
    heard = len(asked)  # the library may ask for more than it is asked
    assert "GET /api/models/tests/tiny" in asked
    with offline(), offline(), pytest.raises(OfflineModeIsEnabled):
        HfApi().model_info("tests/tiny")
    assert len(asked) == heard
    with pytest.raises(HfHubHTTPError):
        HfApi().model_info("tests/tiny")
    assert len(asked) > heard


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", LOADERS)
def test_names_of_elsewhere_are_not_followed(folder: Path, asked: list[str], stage: str) -> None:
    add(folder, ELSEWHERE)
    load(folder, stage)
    assert asked == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content", [KERNEL, NESTED, BACKBONE])
@pytest.mark.parametrize("stage", LOADERS)
def test_what_would_be_fetched_is_refused(
    folder: Path, asked: list[str], stage: str, content: dict[str, Any]
) -> None:
    add(folder, content)
    with pytest.raises(CheckpointError, match=r"config\.json names something to be fetched in "):
        load(folder, stage)
    assert asked == []


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer_2", "transformer", "vae"])
def test_an_adapter_is_refused(folder: Path, asked: list[str], part: str) -> None:
    """With peft installed, transformers would load the base model that it names."""
    adapter = {"base_model_name_or_path": "tests/tiny", "peft_type": "LORA"}
    (folder / part / "adapter_config.json").write_text(json.dumps(adapter))
    stage = {"transformer": "denoiser", "vae": "vae"}.get(part, "text")
    with pytest.raises(CheckpointError, match=f"{part}: has an adapter_config"):
        load(folder, stage)
    assert asked == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["config.json", "*.safetensors", "scheduler_config.json"])
@pytest.mark.parametrize("stage", LOADERS)
def test_what_is_missing_is_looked_for_nowhere_else(
    folder: Path, asked: list[str], name: str, stage: str
) -> None:
    for path in folder.rglob(name):
        path.unlink()
    if name == "scheduler_config.json" and stage != "denoiser":
        load(folder, stage)
    else:
        with pytest.raises(CheckpointError):
            load(folder, stage)
    assert asked == []


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_tokenizer_without_vocabulary_is_none(folder: Path, asked: list[str], part: str) -> None:
    for path in (folder / part).iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    with pytest.raises(CheckpointError, match=f"{part}: has no vocabulary"):
        load(folder, "text")
    assert asked == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content", [ELSEWHERE, KERNEL, BACKBONE])
def test_a_classifier_asks_no_hub(
    tmp_path: Path, asked: list[str], content: dict[str, Any]
) -> None:
    folder = Path(save_vit(tmp_path / "classifier"))
    add(folder, content)
    preprocessor = folder / "preprocessor_config.json"
    preprocessor.write_text(json.dumps({**json.loads(preprocessor.read_text()), **content}))

    def make() -> HuggingFaceClassifier:
        return HuggingFaceClassifier(str(folder), "cpu", "float32", ["porn"], 0.5)

    if content is ELSEWHERE:
        make()
    else:
        with pytest.raises(CheckpointError, match="names something to be fetched"):
            make()
    assert asked == []
