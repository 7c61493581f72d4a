"""An application over several nodes: what is placed where, and images that survive their nodes."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.deployments.driver import make_job
from tests.deployments.nodes_driver import STEPS
from tests.oracle import compare, oracle_batch

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]

Line = dict[str, Any]


@pytest.fixture(scope="module")
def printed(dev_like: Path) -> list[Line]:
    """What the driver prints: two lines of the placement, and then those of the losses."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.deployments.nodes_driver", str(dev_like)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def assert_exact(lines: list[Line], folder: Path) -> None:
    """For lines of jobs with as many steps."""
    params = [
        make_job(prompt=line["prompt"], seed=line["seed"], steps=line["steps_run"]).params
        for line in lines
    ]
    for line, theirs in zip(lines, oracle_batch(folder, params), strict=True):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(line["image"]))))
        assert compare(image, theirs).is_exact, line["seed"]


class TestPlacement:
    @pytest.fixture
    def lines(self, printed: list[Line]) -> list[Line]:
        return printed[:2]

    @pytest.fixture
    def seats(self, lines: list[Line]) -> dict[str, Line]:
        """By name: there is one replica of each stage, and one further rank."""
        return {seat["name"]: seat for seat in lines[0]["seats"]}

    def test_both_ranks_are_on_one_node_with_a_gpu_each(
        self, lines: list[Line], seats: dict[str, Line]
    ) -> None:
        ranks = [seats["Denoiser"], seats["RankActor"]]
        (node,) = {rank["node"] for rank in ranks}
        assert lines[0]["groups"] == [{"strategy": "STRICT_PACK", "nodes": [node, node]}]
        assert sorted(json.dumps(rank["gpus"]) for rank in ranks) == ['{"0": 1.0}', '{"1": 1.0}']

    def test_the_halves_share_a_gpu_of_another_node(self, seats: dict[str, Line]) -> None:
        encoder, decoder = seats["TextEncoder"], seats["VaeDecoder"]
        assert list(encoder["gpus"].values()) == [0.5]
        assert (encoder["node"], encoder["gpus"]) == (decoder["node"], decoder["gpus"])
        assert encoder["node"] != seats["Denoiser"]["node"]

    def test_labels_are_honoured(self, lines: list[Line], seats: dict[str, Line]) -> None:
        """There is a node with two free GPUs and another label."""
        pools = lines[0]["pools"]
        assert sorted(pools.values()) == ["gpu", "gpu", "other"]
        chosen = {name: pools.get(seat["node"]) for name, seat in seats.items()}
        assert chosen == {
            **dict.fromkeys(["TextEncoder", "Denoiser", "RankActor", "VaeDecoder"], "gpu"),
            **dict.fromkeys(["SafetyClassifier", "Finisher", "GraphDriver"]),
        }

    def test_the_image_is_the_oracles(self, lines: list[Line], dev_like: Path) -> None:
        assert_exact([lines[1]], dev_like)


class TestLosses:
    """Each node that goes has a decoder and a denoiser in the middle of jobs."""

    @pytest.fixture
    def lines(self, printed: list[Line]) -> list[Line]:
        return printed[2:]

    @pytest.mark.parametrize("why", ["noticed", "vanished"])
    def test_eight_images_are_exact(self, lines: list[Line], why: str, dev_like: Path) -> None:
        images = jobs(lines, why)
        assert [line["steps_run"] for line in images] == [STEPS] * 8
        assert_exact(images, dev_like)

    @pytest.mark.parametrize(("why", "handed_over"), [("noticed", True), ("vanished", False)])
    def test_disturbed_ones_go_on_from_where_they_were(
        self, lines: list[Line], why: str, handed_over: bool
    ) -> None:
        """After a notice from their last step, else from their last checkpoint."""
        cut_short = []
        for line in jobs(lines, why):
            *before, _ = attempts = line["attempts"]
            assert [each["start"] for each in attempts] == [
                0,
                *(each["reached"] for each in before),
            ]
            cut_short += [each for each in before if each["reached"] > each["start"]]
        assert cut_short
        # Before a node vanishes, some may have moved to the other, if that had less to do.
        lost = [each for each in cut_short if not each["was_handed_over"]]
        assert bool(lost) is not handed_over

    def test_a_node_with_a_notice_is_emptied_and_ends(self, lines: list[Line]) -> None:
        (noticed,) = [line for line in lines if line.get("node") == "noticed"]
        assert (noticed["watch"], noticed["actors"]) == (0, [])
        assert "GCP preempts this spot VM" in noticed["log"]
        assert "the Ray node has ended" in noticed["log"]

    def test_the_node_that_vanished_held_more_than_a_denoiser(self, lines: list[Line]) -> None:
        (vanished,) = [line for line in lines if line.get("node") == "vanished"]
        assert vanished["actors"] == ["Denoiser", "VaeDecoder"]


def jobs(lines: list[Line], why: str) -> list[Line]:
    return [line for line in lines if line.get("why") == why]
