"""Weights in a bucket: fetched through moto, whose answers are cut and watched on their way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError

from deployments.options.stages import WeightsOptions
from deployments.weights import s3
from deployments.weights.fetch import fetch
from deployments.weights.layout import MANIFEST
from deployments.weights.manifest import write_manifest
from pipelines.errors import CheckpointError
from pipelines.flux1.family import TEXT_PARTS, VAE_PARTS

SOURCE = "s3://weights/models/tiny/"
PREFIX = "models/tiny/"
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
VAE_FILES = ["model_index.json", "vae/config.json", WEIGHTS]


class WatchedS3:
    """A client that notes what is read, and breaks off where `cuts` says."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, str | None]] = []
        self.cuts: list[int] = []
        self.before_read: Any = None
        self._make = boto3.client

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._client = self._make(*arguments, **options)
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_object(self, **named: Any) -> dict[str, Any]:
        path = named["Key"].removeprefix(PREFIX)
        self.reads.append((path, named.get("Range")))
        if self.before_read is not None:
            self.before_read(path)
        answer = self._client.get_object(**named)
        if path == WEIGHTS and self.cuts:
            answer["Body"] = _Cut(answer["Body"], self.cuts.pop(0))
        return answer

    def ranges(self, path: str) -> list[str | None]:
        return [wanted for read, wanted in self.reads if read == path]


class _Cut:
    def __init__(self, body: Any, num_bytes: int) -> None:
        self._body, self._num_bytes = body, num_bytes

    def iter_chunks(self, _: int) -> Iterator[bytes]:
        yield self._body.read(self._num_bytes)
        raise ReadTimeoutError(endpoint_url="https://s3")

    def close(self) -> None:
        self._body.close()


@pytest.fixture
def client(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> WatchedS3:
    watched = WatchedS3()
    monkeypatch.setattr(s3.boto3, "client", watched)
    return watched


def upload(bucket: Any, model: Path, **options: Any) -> None:
    for path in model.rglob("*"):
        if path.is_file():
            key = PREFIX + path.relative_to(model).as_posix()
            bucket.put_object(Bucket="weights", Key=key, Body=path.read_bytes(), **options)


def upload_in_parts(bucket: Any, path: Path, key: str, **options: Any) -> None:
    """As large files are, so that the ETag is no hash of the content."""
    upload = bucket.create_multipart_upload(Bucket="weights", Key=key, **options)
    named = {"Bucket": "weights", "Key": key, "UploadId": upload["UploadId"]}
    part = bucket.upload_part(**named, PartNumber=1, Body=path.read_bytes(), **options)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    bucket.complete_multipart_upload(**named, MultipartUpload=parts)


def complaint(options: WeightsOptions, source: str = SOURCE) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch(source, VAE_PARTS, options)
    assert caught.value.message.startswith(f"{source}: ")
    return caught.value.message


def test_only_what_a_stage_needs_is_fetched(
    bucket: Any, client: WatchedS3, model: Path, options: WeightsOptions
) -> None:
    upload(bucket, model)
    folder = fetch("s3://weights/models/tiny", VAE_PARTS, options)
    assert sorted(path for path, _ in client.reads) == VAE_FILES
    for path in VAE_FILES:
        assert (folder / path).read_bytes() == (model / path).read_bytes()
    assert fetch(SOURCE, VAE_PARTS, options) == fetch(SOURCE, TEXT_PARTS, options) == folder
    assert client.ranges(WEIGHTS) == ["bytes=0-"]
    assert client.ranges("tokenizer/tokenizer.json") == ["bytes=0-"]


def test_the_root_of_a_bucket(bucket: Any, model: Path, options: WeightsOptions) -> None:
    for path in VAE_FILES:
        bucket.put_object(Bucket="weights", Key=path, Body=(model / path).read_bytes())
    assert (fetch("s3://weights", VAE_PARTS, options) / WEIGHTS).is_file()


def test_a_connection_that_breaks_is_resumed(
    bucket: Any, client: WatchedS3, model: Path, options: WeightsOptions
) -> None:
    upload(bucket, model)
    client.cuts = [1000, 0, 500]
    folder = fetch(SOURCE, VAE_PARTS, options)
    wanted = ["bytes=0-", "bytes=1000-", "bytes=1000-", "bytes=1500-"]
    assert client.ranges(WEIGHTS) == wanted
    assert (folder / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


def test_the_next_start_goes_on(
    bucket: Any, client: WatchedS3, model: Path, options: WeightsOptions
) -> None:
    upload(bucket, model)
    client.cuts = [1000, 0, 0, 0, 0, 0]
    assert f"{WEIGHTS} could not be fetched: ReadTimeoutError" in complaint(options)
    folder = fetch(SOURCE, VAE_PARTS, options)
    assert client.ranges(WEIGHTS)[-1] == "bytes=1000-"
    assert (folder / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


def test_an_object_that_is_replaced_meanwhile_is_not_mixed_in(
    bucket: Any, client: WatchedS3, model: Path, options: WeightsOptions
) -> None:
    upload(bucket, model)
    client.cuts = [1000]

    def replace(path: str) -> None:
        if client.ranges(WEIGHTS)[1:]:
            bucket.put_object(Bucket="weights", Key=PREFIX + WEIGHTS, Body=b"another model")

    client.before_read = replace
    assert f"{WEIGHTS} could not be read: it was replaced" in complaint(options)


def test_new_content_goes_to_a_new_folder(
    bucket: Any, model: Path, options: WeightsOptions
) -> None:
    upload(bucket, model)
    old = fetch(SOURCE, VAE_PARTS, options)
    bucket.put_object(Bucket="weights", Key=PREFIX + "README.md", Body=b"another")
    assert fetch(SOURCE, VAE_PARTS, options) == old
    bucket.put_object(Bucket="weights", Key=PREFIX + "vae/config.json", Body=b'{"a": 1}')
    new = fetch(SOURCE, VAE_PARTS, options)
    assert (new / "vae/config.json").read_bytes() == b'{"a": 1}'
    assert (old / "vae/config.json").read_bytes() == (model / "vae/config.json").read_bytes()


class TestHashes:
    def digest_of(self, options: WeightsOptions) -> Any:
        """The hash that the weights were checked by."""
        (record,) = (fetch(SOURCE, VAE_PARTS, options) / ".checked").glob("vae")
        from deployments.weights.integrity import Record

        return Record(record).expected[WEIGHTS].digest

    def test_an_object_in_one_piece_has_its_md5(
        self, bucket: Any, model: Path, options: WeightsOptions
    ) -> None:
        upload(bucket, model)
        assert self.digest_of(options).algorithm == "md5"

    def test_an_object_may_have_its_sha256(
        self, bucket: Any, model: Path, options: WeightsOptions
    ) -> None:
        upload(bucket, model, ChecksumAlgorithm="SHA256")
        assert self.digest_of(options).algorithm == "sha256"

    def test_the_manifest_comes_first(
        self, bucket: Any, model: Path, options: WeightsOptions
    ) -> None:
        write_manifest(model)
        upload(bucket, model)
        assert self.digest_of(options).algorithm == "sha256"

    @pytest.mark.parametrize("checksum", [{}, {"ChecksumAlgorithm": "SHA256"}])
    def test_an_upload_in_parts_has_none(
        self,
        bucket: Any,
        model: Path,
        options: WeightsOptions,
        checksum: dict[str, str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        upload(bucket, model)
        upload_in_parts(bucket, model / WEIGHTS, PREFIX + WEIGHTS, **checksum)
        said = complaint(options)
        assert f"{WEIGHTS} has no hash to check it by; upload {MANIFEST} beside it" in said
        assert "stages.weights.require_hashes: false" in said
        lenient = options.model_copy(update={"require_hashes": False})
        with caplog.at_level(logging.WARNING):
            folder = fetch(SOURCE, VAE_PARTS, lenient)
        assert f"{WEIGHTS} is checked by its size only" in caplog.text
        assert "no hash to check it by" in complaint(options), "what is lenient once is not always"
        (folder / WEIGHTS).touch()
        said = complaint(lenient)
        assert "is damaged: changed since it was fetched, and no hash is known" in said

    def test_a_manifest_for_an_upload_in_parts(
        self, bucket: Any, model: Path, options: WeightsOptions
    ) -> None:
        write_manifest(model)
        upload(bucket, model)
        upload_in_parts(bucket, model / WEIGHTS, PREFIX + WEIGHTS)
        assert self.digest_of(options).algorithm == "sha256"

    def test_an_encrypted_object_has_no_md5(
        self, bucket: Any, model: Path, options: WeightsOptions
    ) -> None:
        upload(bucket, model, ServerSideEncryption="aws:kms")
        assert "has no hash to check it by" in complaint(options)

    def test_what_is_not_as_the_manifest_says(
        self, bucket: Any, model: Path, options: WeightsOptions
    ) -> None:
        write_manifest(model)
        content = (model / WEIGHTS).read_bytes()
        (model / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        upload(bucket, model)
        assert f"{WEIGHTS} arrived damaged: expected sha256 " in complaint(options)
        bucket.put_object(Bucket="weights", Key=PREFIX + WEIGHTS, Body=content[:-8])
        said = complaint(options)
        assert f"{WEIGHTS} is not what {MANIFEST} says: expected {len(content)} bytes" in said


def test_pickled_weights_are_neither_fetched_nor_accepted(
    bucket: Any, client: WatchedS3, model: Path, options: WeightsOptions
) -> None:
    (model / WEIGHTS).unlink()
    upload(bucket, model)
    assert "the weights of vae are in vae/diffusion_pytorch_model.bin" in complaint(options)
    assert [path for path, _ in client.reads] == ["model_index.json"]


def test_what_is_not_there(bucket: Any, options: WeightsOptions) -> None:
    assert "model_index.json is missing" in complaint(options)
    said = complaint(options, "s3://no-such-bucket/")
    assert "S3 answered NoSuchBucket; check the address and the permission" in said


def test_an_endpoint_that_is_away(options: WeightsOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setitem(s3._TIMEOUTS, "retries", {"total_max_attempts": 1})
    away = options.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    said = complaint(away)
    assert "EndpointConnectionError" in said
    assert "hunter2" not in said


def test_no_credentials(options: WeightsOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert "NoCredentialsError" in complaint(options)
