"""A prefix of an S3 bucket, of AWS or of any S3-compatible server.

Credentials, region and, without an option, the endpoint come from boto3's usual places. Hashes come
from the manifest, if there is one; else from the object, if it was uploaded with a SHA-256 or in
one piece, whose ETag is its MD5. Others are refused unless their size is declared to be enough.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as UnconnectedError

from deployments.options.weights_source import S3Prefix
from deployments.weights.download import Interrupted, Stream
from deployments.weights.integrity import Digest, Expected
from deployments.weights.layout import MANIFEST, is_ours
from deployments.weights.manifest import Manifest
from pipelines.errors import CheckpointError

logger = logging.getLogger("ray.serve")

CHUNK_BYTES = 2**20
_MD5 = re.compile(r'"([0-9a-f]{32})"')
_TIMEOUTS = {"connect_timeout": 10, "read_timeout": 30, "retries": {"total_max_attempts": 4}}


class _Object(NamedTuple):
    size: int
    etag: str


class S3Remote:
    """`Remote` over a prefix, as it was listed first: an object that changes after that is refused.

    With `require_hashes`, so is an object of which only the size is known.
    """

    def __init__(
        self, source: S3Prefix, *, endpoint_url: str | None = None, require_hashes: bool = True
    ) -> None:
        self._source = source
        self._endpoint_url = endpoint_url
        self._require_hashes = require_hashes
        self.name = str(source)

    def key(self) -> PurePosixPath:
        """As `Remote`, by bucket and content, as sizes and ETags tell it."""
        content = [(path, *found) for path, found in self._objects.items() if is_ours(path)]
        named = repr((self._endpoint_url, self._source.prefix, sorted(content)))
        digest = hashlib.sha256(named.encode()).hexdigest()
        return PurePosixPath("s3", self._source.bucket, digest[:32])

    def paths(self) -> Sequence[str]:
        """As `Remote`."""
        return list(self._objects)

    def expect(self, path: str) -> Expected:
        """As `Remote`."""
        found = self._objects[path]
        if self._manifest is not None:
            expected = self._manifest[path]
            if expected.size != found.size:
                raise CheckpointError(
                    f"{self.name}: {path} is not what {MANIFEST} says: expected {expected.size}"
                    f" bytes, found {found.size}; upload it anew"
                )
            return expected
        digest = self._digest(path, found)
        if digest is None:
            if self._require_hashes:
                raise CheckpointError(
                    f"{self.name}: {path} has no hash to check it by; upload {MANIFEST} beside it,"
                    " which `sluice manifest FOLDER` writes, or set stages.weights.require_hashes:"
                    " false to trust its size"
                )
            logger.warning("%s: %s is checked by its size only", self.name, path)
        return Expected(found.size, digest)

    @contextmanager
    def read(self, path: str, start: int) -> Iterator[Stream]:
        """As `Remote`."""
        with self._errors(path):
            try:
                answer = self._client.get_object(
                    **self._named(path),
                    IfMatch=self._objects[path].etag,
                    Range=f"bytes={start}-",
                )
                body = answer["Body"]
                try:
                    begins = start if "ContentRange" in answer else 0
                    yield Stream(begins, body.iter_chunks(CHUNK_BYTES))
                finally:
                    body.close()
            except (UnconnectedError, HTTPClientError, IncompleteReadError) as error:
                raise Interrupted(type(error).__name__) from error

    def _digest(self, path: str, found: _Object) -> Digest | None:
        """What the object itself tells of its content.

        Of an upload in parts, whose ETag ends in their number, all hashes are of the parts'.
        """
        if "-" in found.etag:
            return None
        with self._errors(path):
            head = self._client.head_object(
                **self._named(path), IfMatch=found.etag, ChecksumMode="ENABLED"
            )
        if checksum := head.get("ChecksumSHA256"):
            return Digest("sha256", base64.b64decode(checksum).hex())
        is_plain = head.get("ServerSideEncryption") in (None, "AES256")
        if (md5 := _MD5.fullmatch(found.etag)) and is_plain and "SSECustomerAlgorithm" not in head:
            return Digest("md5", md5[1])
        return None

    @cached_property
    def _manifest(self) -> Manifest | None:
        if MANIFEST not in self._objects:
            return None
        with self._errors(MANIFEST):
            content = self._client.get_object(**self._named(MANIFEST))["Body"].read()
        return Manifest(content, source=self.name)

    @cached_property
    def _objects(self) -> dict[str, _Object]:
        """All objects below the prefix, by their path from there."""
        prefix = self._source.prefix
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._source.bucket, Prefix=prefix
        )
        with self._errors("its list of objects"):
            return {
                entry["Key"].removeprefix(prefix): _Object(entry["Size"], entry["ETag"])
                for page in pages
                for entry in page.get("Contents", ())
            }

    @cached_property
    def _client(self) -> Any:
        return boto3.client("s3", endpoint_url=self._endpoint_url, config=Config(**_TIMEOUTS))

    def _named(self, path: str) -> dict[str, str]:
        return {"Bucket": self._source.bucket, "Key": self._source.prefix + path}

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """What boto3 raises, as CheckpointError."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code in ("412", "PreconditionFailed"):
                reason = "it was replaced while it was fetched; start again"
            else:
                reason = f"S3 answered {code}; check the address and the permission to read it"
            raise CheckpointError(f"{self.name}: {path} could not be read: {reason}") from error
        except BotoCoreError as error:
            raise CheckpointError(
                f"{self.name}: {path} could not be read: {type(error).__name__}"
            ) from error
