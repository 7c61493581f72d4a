"""`sluice-weights.json`: size and SHA-256 of a model's files, written where they are known good.

It travels with them to a bucket or a shared folder, whose own checks may be none.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from deployments.weights.integrity import Digest, Expected, digest_of
from deployments.weights.layout import MANIFEST, is_ours, listing
from pipelines.errors import CheckpointError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def write_manifest(folder: Path) -> Path:
    """Write the manifest of the model in `folder`, and return its path.

    Raises CheckpointError where there is nothing to write of.
    """
    files = {
        path: {
            "size": (folder / path).stat().st_size,
            "sha256": digest_of(folder / path, "sha256")[1],
        }
        for path in sorted(listing(folder))
        if is_ours(path)
    }
    if not any(path.endswith(".safetensors") for path in files):
        raise CheckpointError(f"{folder}: has no *.safetensors to write a {MANIFEST} of")
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    return folder / MANIFEST


class Manifest:
    """What a manifest says of each file; every file of the source that is used must be in it."""

    def __init__(self, content: bytes, *, source: object) -> None:
        """Raises CheckpointError for content that is no manifest."""
        self._source = source
        try:
            files: dict[str, Any] = json.loads(content)["files"]
            self._files = {name: _expected(entry) for name, entry in files.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{source}: {MANIFEST} is damaged; write it anew with `sluice manifest FOLDER`"
            ) from error

    def __getitem__(self, path: str) -> Expected:
        """What is expected of the file at `path`. Raises CheckpointError."""
        if path not in self._files:
            raise CheckpointError(
                f"{self._source}: {path} is not in {MANIFEST}; write it anew with"
                " `sluice manifest FOLDER`"
            )
        return self._files[path]


def _expected(entry: dict[str, Any]) -> Expected:
    if not _SHA256.fullmatch(entry["sha256"]):
        raise ValueError
    return Expected(int(entry["size"]), Digest("sha256", entry["sha256"]))
