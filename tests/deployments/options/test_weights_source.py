from __future__ import annotations

from pathlib import Path

import pytest

from deployments.options.weights_source import Folder, HubRevision, S3Prefix, parse_source
from pipelines import catalog
from pipelines.errors import ConfigurationError

COMMIT = "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/weights/flux", Folder(Path("/weights/flux"))),
        ("./weights/flux", Folder(Path("weights/flux"))),
        ("~/flux", Folder(Path.home() / "flux")),
        (f"hf://some/model@{COMMIT}", HubRevision("some/model", COMMIT)),
        ("hf://some/model@refs/pr/1", HubRevision("some/model", "refs/pr/1")),
        ("s3://my-bucket", S3Prefix("my-bucket", "")),
        ("s3://my-bucket/", S3Prefix("my-bucket", "")),
        ("s3://my-bucket/models/flux/", S3Prefix("my-bucket", "models/flux/")),
        ("s3://my-bucket/models/flux", S3Prefix("my-bucket", "models/flux/")),
    ],
)
def test_what_a_source_names(source: str, expected: object) -> None:
    assert parse_source(source) == expected


def test_a_folder_that_looks_like_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="hf://some/model@COMMIT"):
        parse_source("some/model")
    (tmp_path / "some/model").mkdir(parents=True)
    assert parse_source("some/model") == Folder(Path("some/model"))


def test_only_a_commit_never_moves() -> None:
    assert HubRevision("some/model", COMMIT).is_pinned
    for revision in ("main", "v1.0", COMMIT[:12], COMMIT + "0"):
        assert not HubRevision("some/model", revision).is_pinned


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "is empty; write a folder"),
        ("gs://bucket/model", "no weights are read from gs:; write a folder, hf://OWNER"),
        ("https://example.com/model", "no weights are read from https:"),
        ("file:///weights", "no weights are read from file:"),
        ("s3:/my-bucket/model", "no weights are read from s3:; write"),
        ("hf:some/model@main", "write a folder, hf://OWNER/REPOSITORY@REVISION"),
        ("hf://some/model", "hf://some/model@COMMIT, which never changes"),
        ("hf://model@main", "has an @ before the first slash"),
        ("hf://models/some/model@main", "is not hf://OWNER/REPOSITORY@REVISION"),
        ("hf://some/model@", "is not hf://"),
        ("s3://", "is not s3://BUCKET/PREFIX"),
        ("s3://x/model", "is not s3://BUCKET/PREFIX"),
    ],
)
def test_what_is_refused_names_the_field_and_what_would_work(source: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_source(source, field="model_source")
    assert caught.value.message.startswith("model_source: ")
    assert said in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        "s3://AKIA:hunter2@my-bucket/model",
        "hf://user:hunter2@some/model@main",
        "hf://hunter2@some/model",
        "s3://my-bucket/model?X-Amz-Signature=hunter2",
        "hf://some/model@main?token=hunter2",
        "https://user:hunter2@example.com/model",
    ],
)
def test_a_secret_is_refused_and_not_repeated(source: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_source(source)
    assert "hunter2" not in caught.value.message


def test_a_source_of_the_catalogue_never_moves_unless_its_entry_says_so() -> None:
    for spec in (*catalog.models().values(), *catalog.add_ons().values()):
        source = parse_source(spec.source)
        if isinstance(source, Folder):
            assert not spec.moves
        else:
            assert isinstance(source, HubRevision)
            assert source.is_pinned != spec.moves, spec.name
    assert not catalog.find("flux.1-dev").moves
