"""Finished files in an S3 bucket. Calls block; boto3 is imported when the first is made."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from deployments.storage.store import StoredFile, check_id, new_file_id, not_stored, suffix_of
from pipelines.errors import FileNotStored, StageFailed

logger = logging.getLogger(__name__)

_S3_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 3}}


class S3Store:
    """Objects `prefix` + id in a bucket, of AWS or of any S3-compatible server.

    Credentials come from boto3's usual places. `get` refuses what is older than `ttl_s` seconds;
    it is a lifecycle rule of the bucket that frees the space.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        ttl_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._endpoint_url = endpoint_url
        self._ttl_s = ttl_s
        self._clock = clock
        self._connected: Any = None

    def put(self, data: bytes, content_type: str, owner: str = "") -> str:
        """Keep `data`; see `FileStore.put`."""
        suffix_of(content_type)
        file_id = new_file_id(owner)
        with _s3_errors():
            self._client().put_object(
                Bucket=self._bucket, Key=self._key(file_id), Body=data, ContentType=content_type
            )
        return file_id

    def get(self, file_id: str) -> StoredFile:
        """The file; see `FileStore.get`."""
        check_id(file_id)
        client = self._client()
        with _s3_errors():
            try:
                found = client.get_object(Bucket=self._bucket, Key=self._key(file_id))
            except client.exceptions.NoSuchKey:
                raise not_stored(file_id) from None
            if self._clock() - found["LastModified"].timestamp() > self._ttl_s:
                raise not_stored(file_id)
            return StoredFile(data=found["Body"].read(), content_type=found["ContentType"])

    def delete(self, file_id: str) -> None:
        """Remove the file; see `FileStore.delete`."""
        with contextlib.suppress(FileNotStored):
            check_id(file_id)
            with _s3_errors():
                self._client().delete_object(Bucket=self._bucket, Key=self._key(file_id))

    def _client(self) -> Any:
        """Made at first use, so that building an application needs neither boto3 nor a network."""
        if self._connected is None:
            import boto3
            from botocore.config import Config

            self._connected = boto3.client(
                "s3", endpoint_url=self._endpoint_url, config=Config(**_S3_TIMEOUTS)
            )
        return self._connected

    def _key(self, file_id: str) -> str:
        return self._prefix + file_id


@contextlib.contextmanager
def _s3_errors() -> Iterator[None]:
    """Turn what boto3 raises into StageFailed; names of buckets and hosts stay in the log."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        logger.error("the bucket of storage.bucket cannot be used: %s", error)
        raise StageFailed("the file store cannot be used", stage="storage") from error
