"""Where weights come from: a folder, a revision of a hub repository, a prefix of an S3 bucket.

Reads the name only, so that a configuration is refused before anything starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigurationError

_FORMS = "a folder, hf://OWNER/REPOSITORY@REVISION or s3://BUCKET/PREFIX"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")
_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_HUB = re.compile(rf"(?P<repository>{_REPOSITORY})(@(?P<revision>[\w./-]+))?", re.ASCII)
_S3 = re.compile(r"(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{2,62})(/(?P<prefix>[^?#]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that every node with a replica has, the carried model's among them."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubRevision:
    """A model repository of the Hugging Face hub at a commit, tag or branch."""

    repository: str
    revision: str

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which alone never moves."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.revision}"


@dataclass(frozen=True, slots=True)
class S3Prefix:
    """The objects of a bucket whose keys begin with `prefix`, which is empty or ends in a slash."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def parse_source(source: str, *, field: str = "source") -> Folder | HubRevision | S3Prefix:
    """What `source` names. Raises ConfigurationError, beginning with `field`.

    No message repeats a source that may hold a secret.
    """
    if not (scheme := _SCHEME.match(source)):
        return _folder(source, field)
    name, rest = scheme[1], source[scheme.end() :]
    if name not in ("hf", "s3") or scheme[2] is None:
        raise ConfigurationError(f"{field}: no weights are read from {name}:; write {_FORMS}")
    if "@" in rest.partition("/")[0] or "?" in rest or "#" in rest:
        raise ConfigurationError(
            f"{field}: has an @ before the first slash, or a ? or #, and credentials there would"
            " end in logs; they are taken from HF_TOKEN, or from where boto3 looks for them"
        )
    return _hub_revision(rest, field) if name == "hf" else _s3_prefix(rest, field)


def _folder(source: str, field: str) -> Folder:
    path = Path(source).expanduser()
    # What looks like a hub id is a folder only if it is there: a typing error costs no download.
    if re.fullmatch(_REPOSITORY, source, re.ASCII) and not path.is_dir():
        raise ConfigurationError(
            f"{field}: there is no folder {source}; a repository of the hub is written with its"
            f" revision, hf://{source}@COMMIT, a folder elsewhere with its whole path"
        )
    if not source:
        raise ConfigurationError(f"{field}: is empty; write {_FORMS}")
    return Folder(path)


def _hub_revision(rest: str, field: str) -> HubRevision:
    found = _HUB.fullmatch(rest)
    if found is None:
        raise ConfigurationError(f"{field}: hf://{rest} is not hf://OWNER/REPOSITORY@REVISION")
    if found["revision"] is None:
        raise ConfigurationError(
            f"{field}: hf://{rest} names no revision; write hf://{rest}@COMMIT, which never"
            " changes, or a tag or branch such as @main, which may"
        )
    return HubRevision(found["repository"], found["revision"])


def _s3_prefix(rest: str, field: str) -> S3Prefix:
    found = _S3.fullmatch(rest)
    if found is None:
        raise ConfigurationError(f"{field}: s3://{rest} is not s3://BUCKET/PREFIX")
    prefix = (found["prefix"] or "").strip("/")
    return S3Prefix(found["bucket"], f"{prefix}/" if prefix else "")
