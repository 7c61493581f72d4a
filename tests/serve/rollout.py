"""The product deployed from a file, as `serve deploy` does, and clients that ask on and on."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import ray._private.worker
import ray.serve
import yaml
from PIL import Image
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from deployments.options.stages import AutoscalingOptions
from serve.cli.configurations import read_configurations
from tests.cluster import PATIENCE_S, ROOT, LocalCluster, is_whole, replica_names, wait_until

APP = "rollout"
SCALED = AutoscalingOptions(max_replicas=2)
URL = "/v1/images/generations"
STAGES = ("text_encoder", "denoiser", "vae_decoder", "safety", "finisher")

PROMPT = "a red circle on a white background"
REQUESTS: tuple[dict[str, Any], ...] = (
    {"prompt": PROMPT, "seed": 1, "num_inference_steps": 12},
    {"prompt": PROMPT, "seed": 10, "num_inference_steps": 90, "n": 2},
    {"prompt": "a blue star on a black background", "seed": 20, "num_inference_steps": 100},
    {"prompt": PROMPT, "seed": 30, "num_inference_steps": 80, "size": "96x64", "n": 3},
)
"""What the clients ask for, each its own request again and again."""

BALLAST: tuple[dict[str, Any], ...] = tuple(
    {"prompt": PROMPT, "seed": seed, "num_inference_steps": 60, "size": "256x256"}
    for seed in (40, 50, 60, 70)
)
"""Work of seconds, for what must be there when something happens."""

_LOOK_S = 0.3

AMPLE_S = 0.5
"""Work of a denoiser that is surely not done when it hears of it that it is to go, in a fraction of
a second."""


def configuration(
    folder: Path, args: Mapping[str, Any], deployments: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The shipped configuration of the carried model, with other `args` and overrides.

    It draws one image after the other: the last bits of a sum depend on the matrix that it is part
    of, and here pixels are compared.
    """
    content = yaml.safe_load((ROOT / "serve" / "configs" / "embedded.yaml").read_text())
    (application,) = content["applications"]
    shipped = application["args"]
    stages = {stage: {**shipped["stages"][stage], "health_check_period_s": 1} for stage in STAGES}
    stages["text_encoder"] |= {"max_batch_size": 1}
    stages["denoiser"] |= {"policy": "fifo", "max_works": 1, "calibration_s": 0.1}
    stages["vae_decoder"] |= {"max_batch_size": 1}
    stages["storage"] = {"kind": "local", "directory": str(folder)}
    # A replica less to start with each version: no client brings pictures.
    stages["image_encoder"] = {"enabled": False}
    application |= {
        "name": APP,
        "route_prefix": f"/{APP}",
        "args": {**shipped, "stages": stages, **args},
        "deployments": list(deployments),
    }
    return content


def deploy(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file, check it as `sluice check` does, and deploy it as `serve deploy` does.

    `serve deploy` asks the dashboard, which makes this call.
    """
    path.write_text(yaml.safe_dump(content))
    read_configurations(path)
    deploy_unchecked(path)


def deploy_unchecked(path: Path) -> None:
    """Deploy a file that `sluice check` has not seen."""
    content = yaml.safe_load(path.read_text())
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeDeploySchema.model_validate(content))


def change(
    file: Path,
    *overrides: Mapping[str, Any],
    finisher: Mapping[str, Any] | None = None,
    version: str = "first",
    **spare: Any,
) -> None:
    """Deploy with other overrides; a `version`, and `spare` places, restart all replicas."""
    args: dict[str, Any] = {
        "served_model_name": version,
        "ingress": {"num_cpus": 0.1, **spare},
        "tracing": {"file": str(traces_of(file))},
    }
    finisher = {"name": "Finisher", "autoscaling_config": SCALED.serve_config(), **(finisher or {})}
    content = configuration(file.parent, args, [finisher, *overrides])
    stages = content["applications"][0]["args"]["stages"]
    for stage in STAGES:
        stages[stage] |= spare
    stages["finisher"]["autoscaling"] = SCALED.model_dump(exclude_none=True)
    deploy(file, content)


def traces_of(file: Path) -> Path:
    """Where the application that is deployed from `file` writes its traces."""
    return file.with_name("traces.jsonl")


def is_running() -> bool:
    """Whether Serve is done with what was deployed."""
    application = ray.serve.status().applications.get(APP)
    return application is not None and application.status == ApplicationStatus.RUNNING


def replicas(deployment: str = "") -> set[str]:
    """The names of all replicas there are, those that stop included: none is used twice."""
    return replica_names(APP, deployment)


def logs(deployment: str) -> str:
    """What all replicas of a deployment have logged in this session."""
    return _logged(f"replica_{APP}_{deployment}_*.log")


def are_told_to_stop(names: Iterable[str]) -> bool:
    """Whether Serve's controller has these replicas go: its status has none of what is deleted."""
    told = _logged("controller_*.log")
    return all(f"Stopping Replica(id='{name.rpartition('#')[2]}'" in told for name in names)


def _logged(pattern: str) -> str:
    node = ray._private.worker._global_node
    assert node is not None
    folder = Path(node.get_session_dir_path()) / "logs" / "serve"
    return "".join(path.read_text() for path in folder.glob(pattern))


@pytest.fixture(scope="session")
def rollout_file(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `rollout_client` is deployed from, and `change` changes."""
    yield tmp_path_factory.mktemp("rollout") / "serve.yaml"
    if APP in ray.serve.status().applications:
        ray.serve.delete(APP)


@pytest.fixture(scope="module")
def rollout_client(cluster: LocalCluster, rollout_file: Path) -> Iterator[httpx.Client]:
    """A client of the application as it is before anything changes.

    It stays for the next file of tests, which has it changed back.
    """
    change(rollout_file)
    wait_until(lambda: is_running() and is_whole(APP))
    with httpx.Client(base_url=url_of(cluster), timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="session")
def undisturbed(cluster: LocalCluster, rollout_file: Path) -> Mapping[int, Answer]:
    """The answers to all requests while nothing changes, by seed."""
    change(rollout_file)
    wait_until(is_running)
    with httpx.Client(base_url=url_of(cluster), timeout=PATIENCE_S) as client:
        return undisturbed_answers(client, REQUESTS + BALLAST)


def undisturbed_answers(
    client: httpx.Client, requests: Sequence[Mapping[str, Any]] = REQUESTS
) -> Mapping[int, Answer]:
    """The answers to requests, one after the other, by seed; each is good."""
    answers = {request["seed"]: ask(client, request) for request in requests}
    assert not any(answer.trouble for answer in answers.values()), answers
    return answers


def assert_undisturbed(answers: Iterable[Answer], undisturbed: Mapping[int, Answer]) -> None:
    """Each is what it is while nothing changes."""
    for answer in answers:
        assert answer == undisturbed[answer.seed]


class Answer(NamedTuple):
    """What a client got for its request: a hash of each image's pixels, or why not."""

    seed: int
    images: tuple[str, ...]
    trouble: str | None


def url_of(cluster: LocalCluster) -> str:
    return f"http://127.0.0.1:{cluster.http_port}/{APP}"


def ask(client: httpx.Client, request: Mapping[str, Any]) -> Answer:
    """One request; trouble with the connection is trouble as well."""
    seed = request["seed"]
    try:
        response = client.post(URL, json=request)
    except httpx.HTTPError as error:
        return Answer(seed, (), repr(error))
    if response.status_code != 200:
        return Answer(seed, (), f"{response.status_code} {response.text}")
    return Answer(seed, tuple(map(_hash, response.json()["data"])), None)


@contextmanager
def asking(url: str) -> Iterator[list[Answer]]:
    """Clients that ask on and on, each over a connection that it keeps; their answers so far.

    They look at each answer for a moment, which leaves new replicas time to start. Leaving waits
    for what is under way.
    """
    answers: list[Answer] = []
    over = threading.Event()

    def ask_on(request: Mapping[str, Any]) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            while not over.is_set():
                answers.append(ask(client, request))
                over.wait(_LOOK_S)

    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        asked = [pool.submit(ask_on, request) for request in REQUESTS]
        try:
            yield answers
        finally:
            over.set()
    for each in asked:
        each.result()


def _hash(image: Mapping[str, Any]) -> str:
    """Of the pixels: the file also names the version that drew it."""
    with Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))) as file:
        return hashlib.sha256(file.convert("RGB").tobytes()).hexdigest()
