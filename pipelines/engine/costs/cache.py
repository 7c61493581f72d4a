"""Measured ticks on disk, so that a restart need not measure again.

One JSON file for each combination of model, device and precision. A file that cannot be read is
measured again, one that cannot be written is only logged: neither keeps an engine from starting.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from pipelines.engine.costs.surface import Load, Observation

logger = logging.getLogger(__name__)

_VERSION = 1


class CostCache:
    """The measured ticks of one `key`, which names all that their times depend on."""

    def __init__(self, directory: Path, key: Mapping[str, str]) -> None:
        self._key = dict(key)
        text = json.dumps([_VERSION, self._key], sort_keys=True)
        self._path = directory / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"

    def load(self) -> tuple[Observation, ...]:
        """What was stored; empty if nothing (readable) was."""
        try:
            content: Any = json.loads(self._path.read_text(encoding="utf-8"))
            if content["key"] != self._key:
                return ()
            return tuple(
                Observation(Load(*(int(value) for value in load)), float(seconds))
                for load, seconds in content["ticks"]
                if float(seconds) > 0
            )
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("measured ticks in %s are unreadable: %s", self._path, error)
            return ()

    def save(self, ticks: Sequence[Observation]) -> None:
        """Store `ticks`, replacing the file at once, as replicas of one machine share it."""
        content = {"key": self._key, "ticks": [[list(load), seconds] for load, seconds in ticks]}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                json.dump(content, file)
            os.replace(file.name, self._path)
        except OSError as error:
            logger.warning("measured ticks cannot be kept in %s: %s", self._path, error)
