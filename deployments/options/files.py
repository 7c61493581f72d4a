"""Where finished files are kept, and where weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from deployments.options.base import Options


class StorageOptions(Options):
    """Where finished files are kept for `GET /v1/files/{id}`."""

    section: ClassVar[str] = "storage"

    kind: Literal["local", "s3"] = "local"
    """"local": a folder that finishers and ingress share. "s3": a bucket."""
    directory: Path | None = None
    """Folder of kind "local"; left out, ~/.cache/sluice/files."""
    bucket: str | None = None
    """Bucket of kind "s3"."""
    prefix: str = "sluice/"
    """Start of every object's key in the bucket."""
    endpoint_url: str | None = None
    """An S3-compatible server other than AWS, for example "http://minio:9000"."""
    ttl_s: PositiveFloat = 86_400.0
    """Seconds after which a file is gone."""
    max_bytes: PositiveInt | None = None
    """Size of the local folder, oldest files leaving first; left out, 2 GiB."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "s3":
            if not self.bucket:
                raise self._reject("bucket", 'is needed for kind "s3", for example "my-images"')
            if self.directory is not None:
                raise self._reject("directory", 'is only for kind "local"; leave it out')
            if self.max_bytes is not None:
                raise self._reject(
                    "max_bytes", "cannot bound a bucket; leave it out, and set a lifecycle rule"
                )
            self._refuse_credentials("endpoint_url", self.endpoint_url)
        elif self.bucket is not None or self.endpoint_url is not None:
            field = "bucket" if self.bucket is not None else "endpoint_url"
            raise self._reject(field, 'is only for kind "s3"; set kind: s3, or leave it out')
        return self


class WeightsOptions(Options):
    """How weights that are not in a local folder come to a node."""

    section: ClassVar[str] = "weights"

    cache_dir: Path | None = None
    """Folder that keeps them, shared by the replicas on a node; left out, ~/.cache/sluice/weights.
    On a local disk: its locks hold for one machine."""
    endpoint_url: str | None = None
    """An S3-compatible server other than AWS, for example "http://minio:9000"; left out, that of
    AWS_ENDPOINT_URL, if it is set."""
    require_hashes: bool = True
    """Whether an S3 object is refused of which only the size is known; if not, that is enough."""

    @model_validator(mode="after")
    def _check_endpoint(self) -> Self:
        self._refuse_credentials("endpoint_url", self.endpoint_url)
        return self
