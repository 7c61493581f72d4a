from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deployments.options.stages import AutoscalingOptions
from pipelines.errors import ConfigurationError
from serve.capacity.machines import read_machines
from serve.cli.configurations import read_configurations
from tests.pipelines.test_operator_yaml import BOMB

WITHOUT_WAIT = AutoscalingOptions().serve_config()
del WITHOUT_WAIT["policy"]["policy_kwargs"]["target_wait_s"]


def test_a_bare_settings_file(tmp_path: Path):
    path = tmp_path / "settings.yaml"
    path.write_text("model: flux.1-schnell\nstages.denoiser.num_gpus: 1\n")
    (found,) = read_configurations(path)
    assert found.settings.model == "flux.1-schnell"


def application(**changes: object) -> dict[str, object]:
    plain = {"name": "a", "route_prefix": "/", "import_path": "serve.app:build", "args": {}}
    return {"applications": [plain | changes]}


def test_overrides_are_reported(tmp_path: Path):
    path = tmp_path / "serve.yaml"
    content = application(deployments=[{"name": "Denoiser", "num_replicas": 2}])
    path.write_text(yaml.safe_dump(content))
    assert read_configurations(path)[0].overridden == ("Denoiser",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (["a"], "must hold settings"),
        ({"modle": "x"}, "did you mean 'model'"),
        (application(args={"limits": {"max_step": 1}}), "a: limits.max_step: unknown"),
        (application(args={"model": "nope"}), "a: model: no model is called 'nope'"),
        (application(import_path="other:build"), "import_path is 'other:build'"),
        (application(deployments=[{"name": "Denoisr"}]), "none is called 'Denoisr'"),
        (
            application(arg={}),
            "applications.arg: unknown setting; did you mean 'applications.args'",
        ),
        (application() | {"htp_options": {}}, "did you mean 'http_options'"),
        (application() | {"http_options": {"prt": 1}}, "did you mean 'http_options.port'"),
        (
            application(deployments=[{"name": "Denoiser", "num_replica": 2}]),
            "did you mean 'applications.deployments.num_replicas'",
        ),
        (
            application(deployments=[{"name": "Denoiser", "user_config": {"dtype": "float16"}}]),
            "a: deployments: Denoiser: user_config.dtype: does not change while",
        ),
        (
            application(deployments=[{"name": "Fused", "user_config": {"vae": {}}}]),
            "user_config.vae: is no stage; known: text_encoder",
        ),
        (
            application(
                deployments=[{"name": "Ingress", "user_config": {"limits": {"max_steps": 0}}}]
            ),
            "a: deployments: Ingress: user_config.limits.max_steps: Input should be greater",
        ),
        (
            application(deployments=[{"name": "Ingress", "user_config": {"limits": "none"}}]),
            "user_config.limits: is 'none'; here go options by their names",
        ),
        (
            application(
                deployments=[{"name": "Denoiser", "autoscaling_config": {"max_replicas": 9}}]
            ),
            "a: deployments: Denoiser: autoscaling_config.policy: is not the one that scales by",
        ),
        (
            application(deployments=[{"name": "Denoiser", "autoscaling_config": WITHOUT_WAIT}]),
            "autoscaling_config.policy.policy_kwargs: missing 1 required keyword-only argument:"
            " 'target_wait_s'",
        ),
    ],
)
def test_what_would_not_deploy(tmp_path: Path, content: object, said: str):
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError) as caught:
        read_configurations(path)
    assert said in caught.value.message


def test_changes_in_place_are_checked_and_may_be_right(tmp_path: Path):
    path = tmp_path / "serve.yaml"
    fused = {"denoiser": {"policy": "srpt"}, "safety": {"threshold": 0.5}}
    content = application(
        deployments=[
            {"name": "Denoiser", "user_config": {"policy": "srpt", "max_works": 16}},
            {"name": "Fused", "user_config": fused},
            {"name": "Ingress", "user_config": {"limits": {"max_steps": 30}}},
            {"name": "Finisher", "autoscaling_config": AutoscalingOptions().serve_config()},
        ]
    )
    path.write_text(yaml.safe_dump(content))
    assert read_configurations(path)[0].overridden == ("Denoiser", "Fused", "Ingress", "Finisher")


def test_a_ray_service_is_read_for_what_it_carries(tmp_path: Path):
    path = tmp_path / "service.yaml"
    inner = yaml.safe_dump(application(args={"model": "flux.1-dev"}))
    path.write_text(yaml.safe_dump({"kind": "RayService", "spec": {"serveConfigV2": inner}}))
    (found,) = read_configurations(path)
    assert (found.application, found.settings.model) == ("a", "flux.1-dev")
    path.write_text(yaml.safe_dump({"kind": "RayService", "spec": {}}))
    with pytest.raises(ConfigurationError, match=r"spec\.serveConfigV2 must hold"):
        read_configurations(path)


@pytest.mark.parametrize(
    ("content", "said"), [(BOMB, "holds more than"), ("a: " + "9" * 5000, "is a number of more")]
)
def test_a_file_that_would_grow_is_one_line(tmp_path: Path, content: str, said: str):
    path = tmp_path / "service.yaml"
    path.write_text(content)
    inside = tmp_path / "inside.yaml"
    spec = {"kind": "RayService", "spec": {"serveConfigV2": content}}
    inside.write_text(yaml.safe_dump(spec))
    for file, read in (
        (path, read_configurations),
        (inside, read_configurations),
        (path, read_machines),
    ):
        with pytest.raises(ConfigurationError) as caught:
            read(file)
        assert said in caught.value.message
        assert "\n" not in caught.value.message


def test_no_file(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_configurations(tmp_path / "none.yaml")
