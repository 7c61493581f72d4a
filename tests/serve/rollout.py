"""The product deployed from a file, as `serve deploy` does, and clients that never stop asking."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import ray._private.worker
import ray.serve
import yaml
from PIL import Image
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ReplicaState, ServeDeploySchema

from serve.cli.configurations import read_configurations
from tests.cluster import ROOT, LocalCluster

APP = "rollout"
URL = "/v1/images/generations"
STAGES = ("text_encoder", "denoiser", "vae_decoder", "safety", "finisher")

PROMPT = "a red circle on a white background"
REQUESTS: tuple[dict[str, Any], ...] = (
    {"prompt": PROMPT, "seed": 1, "num_inference_steps": 12},
    {"prompt": PROMPT, "seed": 10, "num_inference_steps": 30, "n": 2, "deadline_ms": 120_000},
    {"prompt": "a blue star on a black background", "seed": 20, "num_inference_steps": 100},
    {"prompt": PROMPT, "seed": 30, "num_inference_steps": 40, "size": "96x64", "n": 3},
)
"""What the clients ask for, each its own request again and again."""


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


def is_running() -> bool:
    """Whether Serve is done with what was deployed."""
    application = ray.serve.status().applications.get(APP)
    return application is not None and application.status == ApplicationStatus.RUNNING


def running(deployment: str) -> int:
    """Replicas of a deployment that run."""
    found = ray.serve.status().applications[APP].deployments.get(deployment)
    return found.replica_states.get(ReplicaState.RUNNING, 0) if found else 0


def replicas(deployment: str = "") -> set[str]:
    """The names of all replicas there are, those that stop included: none is used twice."""
    actors: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    prefix = f"SERVE_REPLICA::{APP}#{deployment}"
    return {actor["name"] for actor in actors if actor["name"].startswith(prefix)}


def logs(deployment: str) -> str:
    """What all replicas of a deployment have logged in this session."""
    node = ray._private.worker._global_node
    assert node is not None
    folder = Path(node.get_session_dir_path()) / "logs" / "serve"
    return "".join(path.read_text() for path in folder.glob(f"replica_{APP}_{deployment}_*.log"))


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
    """Clients that ask all the time, each over a connection that it keeps; their answers so far.

    Leaving waits for what is under way.
    """
    answers: list[Answer] = []
    over = threading.Event()

    def ask_on(request: Mapping[str, Any]) -> None:
        with httpx.Client(base_url=url, timeout=120) as client:
            while not over.is_set():
                answers.append(ask(client, request))

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
