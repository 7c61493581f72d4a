"""A revision of a model repository on the Hugging Face hub.

Endpoint and token are huggingface_hub's own: HF_ENDPOINT, HF_TOKEN or what `hf auth login` left.
Files are read from byte ranges, because the library's own download begins a file anew after a
process has ended. Size and hash come from the hub's metadata: SHA-256 of large files, git's blob
hash of small ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from pathlib import PurePosixPath

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from deployments.options.weights_source import HubRevision
from deployments.weights.download import Interrupted, Stream
from deployments.weights.integrity import GIT_BLOB, Digest, Expected
from pipelines.errors import CheckpointError

logger = logging.getLogger("ray.serve")

_TIMEOUT_S = 30.0
_PASSING = (408, 429, 500, 502, 503, 504)


class HubRemote:
    """`Remote` over a hub revision. Nothing is asked of the hub until it must be."""

    def __init__(self, source: HubRevision) -> None:
        self._source = source
        self.name = str(source)

    def key(self) -> PurePosixPath:
        """As `Remote`, by repository and commit: one that is here and pinned needs no hub."""
        commit = self._source.revision
        if not self._source.is_pinned:
            commit = self._commit
            logger.warning(
                "%s may move: it is commit %s now; to serve the same weights always, write"
                " hf://%s@%s",
                self.name,
                commit,
                self._source.repository,
                commit,
            )
        return PurePosixPath("hub", self._source.repository.replace("/", "--"), commit)

    def paths(self) -> Sequence[str]:
        """As `Remote`."""
        return list(self._files)

    def expect(self, path: str) -> Expected:
        """As `Remote`."""
        file = self._files[path]
        if file.lfs is not None:
            return Expected(file.lfs.size, Digest("sha256", file.lfs.sha256))
        if file.size is None or file.blob_id is None:
            raise CheckpointError(f"{self.name}: the hub tells neither size nor hash of {path}")
        return Expected(file.size, Digest(GIT_BLOB, file.blob_id))

    @contextmanager
    def read(self, path: str, start: int) -> Iterator[Stream]:
        """As `Remote`."""
        url = hf_hub_url(self._source.repository, path, revision=self._commit)
        headers = {
            **build_hf_headers(),
            "range": f"bytes={start}-",
            "accept-encoding": "identity",
        }
        try:
            with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as response:
                hf_raise_for_status(response)
                begins = start if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
                yield Stream(begins, response.iter_bytes())
        except HfHubHTTPError as error:
            if error.response.status_code in _PASSING:
                raise Interrupted(f"status {error.response.status_code}") from error
            raise self._failure(error) from error
        except httpx2.HTTPError as error:
            raise Interrupted(type(error).__name__) from error

    @cached_property
    def _info(self) -> ModelInfo:
        try:
            return HfApi().model_info(
                self._source.repository,
                revision=self._source.revision,
                files_metadata=True,
                timeout=_TIMEOUT_S,
            )
        except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled) as error:
            raise self._failure(error) from error

    @cached_property
    def _files(self) -> dict[str, RepoSibling]:
        return {file.rfilename: file for file in self._info.siblings or ()}

    @property
    def _commit(self) -> str:
        if self._source.is_pinned:
            return self._source.revision
        assert self._info.sha is not None  # the hub answers for a revision with its commit
        return self._info.sha

    def _failure(self, error: Exception) -> CheckpointError:
        repository = self._source.repository
        if isinstance(error, GatedRepoError):
            reason = f"accept the licence of {repository} on the hub, and set HF_TOKEN"
        elif isinstance(error, RepositoryNotFoundError):
            reason = f"the hub has no {repository}, or HF_TOKEN may not see it"
        elif isinstance(error, RevisionNotFoundError):
            reason = f"{repository} has no revision {self._source.revision}"
        elif isinstance(error, HfHubHTTPError):
            reason = f"the hub answered {error.response.status_code}"
        else:
            reason = f"the hub cannot be reached ({type(error).__name__})"
        return CheckpointError(f"{self.name}: {reason}")
