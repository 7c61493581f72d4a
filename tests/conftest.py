"""Fixtures that more than one package of tests needs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.properties import USUAL_EXAMPLES

# No time limits in either: a busy machine is no fault. `make test` has the same examples for
# everybody; `make test-long` searches with `--hypothesis-profile=random`, and what that finds
# becomes an `@example`.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "fixed", _UNTIMED, derandomize=True, database=None, max_examples=USUAL_EXAMPLES
)
# Said of both, as hypothesis has other defaults where CI is set.
settings.register_profile(
    "random", _UNTIMED, derandomize=False, print_blob=True, max_examples=10 * USUAL_EXAMPLES
)
settings.load_profile("fixed")

CLUSTER_TIMEOUT_S = 1800
"""Of one test with its fixtures, which may start all replicas on a machine that is busy too: a
bound on hanging, no promise. What is waited for has a bound of its own, `tests.cluster.PATIENCE_S`.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of clusters their time, and skip what needs a GPU where there is none.

    Those that start a cluster of their own come first: the shared one, once it is there, takes a
    share of the processor even where nobody asks it for anything.
    """
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CLUSTER_TIMEOUT_S))
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What all tests have imported, millions of objects, is garbage to nobody: to look through it
    takes half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where jobs, and the name of who is at the command line, are kept by default, for all
    processes that tests start: not in anybody's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def dev_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with guidance embedding and dynamic shifting, as FLUX.1-dev."""
    from tests.tiny_flux import make_tiny_flux

    return make_tiny_flux(tmp_path_factory.mktemp("tiny-dev"))


@pytest.fixture(scope="session")
def schnell_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without guidance embedding and with a static shift, as FLUX.1-schnell."""
    from tests.tiny_flux import make_tiny_flux

    folder = tmp_path_factory.mktemp("tiny-schnell")
    return make_tiny_flux(folder, guidance_embeds=False, dynamic_shifting=False, seed=1)
