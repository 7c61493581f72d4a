"""A folder of weights is all that is read: nothing in it may lead to a hub, or to another folder.

The libraries that load such folders follow some names in their JSON: the base model of an adapter,
a package of attention kernels (which is code), a pretrained backbone. Those are refused here, and
while a folder is loaded, huggingface_hub answers as if there were no network, so that what is not
known here cannot ask either.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pipelines.errors import CheckpointError

_lock = threading.Lock()
_loading = 0
_was_offline = False


@contextmanager
def offline() -> Iterator[None]:
    """In this process, huggingface_hub sends no request; it raises OfflineModeIsEnabled instead."""
    global _loading, _was_offline
    from huggingface_hub import constants

    with _lock:
        if _loading == 0:
            _was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        _loading += 1
    try:
        yield
    finally:
        with _lock:
            _loading -= 1
            if _loading == 0:
                constants.HF_HUB_OFFLINE = _was_offline


def check_self_contained(folder: Path, *, source: object) -> None:
    """Raises CheckpointError if the JSON of `folder`, one part of a model, leads out of it."""
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{source}: has an adapter_config.json, which names another model to load; merge the"
            " adapter into its base model, and remove the file"
        )
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: config.json cannot be read: {error}") from error
    for name in _leads_out(config):
        raise CheckpointError(
            f"{source}: config.json names something to be fetched in {name}; remove it there"
        )


def _leads_out(config: object, where: str = "") -> Iterator[str]:
    """The settings, at any depth, that a library would follow to a hub."""
    if isinstance(config, list):
        for each in cast("list[object]", config):
            yield from _leads_out(each, where)
    elif isinstance(config, dict):
        for key, value in cast("dict[str, Any]", config).items():
            name = f"{where}{key}"
            # A kernel of a hub is written OWNER/REPOSITORY; the built-in ones have no slash.
            is_kernel = "_implementation" in key and "/" in json.dumps(value)
            if is_kernel or (key == "use_pretrained_backbone" and value):
                yield name
            yield from _leads_out(value, f"{name}.")
