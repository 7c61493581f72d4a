"""The builder, as Serve calls it, without Ray running and without weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.build_app import build_app

from pipelines.errors import ConfigurationError
from serve.app import build, load_rules
from serve.settings.settings import PromptRulesConfig
from tests.serve.deployed import deployments, replicas, resources

STAGES = [
    "Denoiser",
    "Finisher",
    "ImageEncoder",
    "Ingress",
    "SafetyClassifier",
    "TextEncoder",
    "VaeDecoder",
]


def test_all_deployments_fit_a_machine_of_two_cores():
    found = deployments(build({}))
    assert sorted(found) == STAGES
    assert sum(resources(each)["num_cpus"] for each in found.values()) <= 1.5
    assert all(resources(each)["num_gpus"] == 0 for each in found.values())


def test_serve_run_passes_flat_text():
    application = call_user_app_builder_with_args_if_necessary(
        build, {"limits.max_queued_images": "7", "stages.denoiser.num_gpus": "1"}
    )
    found = deployments(application)
    assert resources(found["Denoiser"])["num_gpus"] == 1.0
    # Refusals must get through while all generations are under way.
    assert found["Ingress"].max_ongoing_requests > 7


def test_bad_arguments_are_refused_before_anything_starts():
    with pytest.raises(ConfigurationError, match="did you mean 'model'"):
        call_user_app_builder_with_args_if_necessary(build, {"modle": "flux.1-dev"})


def test_ingress_scaling_and_place():
    found = deployments(
        build(
            {
                "ingress": {
                    "autoscaling": {"min_replicas": 2, "max_replicas": 5},
                    "label_selector": {"sluice-pool": "cpu"},
                }
            }
        )
    )
    assert replicas(found["Ingress"]) == (2, 5)
    assert resources(found["Ingress"])["label_selector"] == {"sluice-pool": "cpu"}


def test_an_ingress_may_take_as_long_to_go_as_a_request_may_take():
    def grace_s(**ingress: float) -> float | None:
        found = deployments(build({"limits": {"request_timeout_s": 90}, "ingress": ingress}))
        return found["Ingress"]._deployment_config.graceful_shutdown_timeout_s

    assert grace_s() == 90
    assert grace_s(graceful_shutdown_timeout_s=20) == 20


def test_prompt_rules_are_read_where_the_application_is_built(tmp_path: Path):
    assert load_rules(PromptRulesConfig(enabled=False)) is None
    with pytest.raises(ConfigurationError, match=r"prompt_rules: .*nope"):
        load_rules(PromptRulesConfig(disabled_categories=("nope",)))
    with pytest.raises(ConfigurationError, match=r"prompt_rules: .*rules\.yaml"):
        load_rules(PromptRulesConfig(rules_file=tmp_path / "rules.yaml"))


def test_arguments_of_the_ingress_can_be_sent():
    (ingress,) = [
        deployment
        for deployment in build_app(build({}), name="default").deployments
        if deployment.name == "Ingress"
    ]
    settings, _, rules = cloudpickle.loads(cloudpickle.dumps(ingress.init_args[:3]))
    assert settings.model == "sluice-shapes"
    assert rules.match("a red circle") is None


def test_importing_the_http_side_imports_no_torch():
    code = (
        "import sys, serve.app, serve.ingress, serve.cli.main, serve.demo;"
        "serve.app.build({});"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_secret_of_webhooks_is_looked_at_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SLUICE_WEBHOOKS__SECRET", "whsec_c2hvcnQ=")
    with pytest.raises(ConfigurationError, match=r"webhooks: secret: must be 24 to 64 bytes"):
        build({"webhooks.allow": "https://hooks.example.com"})
    assert build({})  # nothing is sent, so nothing is signed
