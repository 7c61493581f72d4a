"""Fixtures of the weights' tests: a model to be fetched, and the places to fetch it from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from deployments.options.stages import WeightsOptions
from tests.deployments.weights.fake_hub import FakeHub


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.weights.download.RETRY_PAUSE_S", 0.0)


@pytest.fixture
def model(dev_like: Path, tmp_path: Path) -> Path:
    """A model of its own for each test, with files beside it that nobody needs."""
    folder = tmp_path / "model"
    shutil.copytree(dev_like, folder)
    for path in ("README.md", "vae/run.py", "vae/diffusion_pytorch_model.bin"):
        (folder / path).write_bytes(b"not needed")
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    shutil.copy(weights, folder / "vae/diffusion_pytorch_model.fp16.safetensors")
    return folder


@pytest.fixture
def options(tmp_path: Path) -> WeightsOptions:
    return WeightsOptions(cache_dir=tmp_path / "cache")


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub = FakeHub(model)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="weights")
        yield client
