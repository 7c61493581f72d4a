from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from pipelines.errors import ConfigurationError
from serve.settings.settings import Limits, Settings
from tests.pipelines.test_operator_yaml import BOMB


def complaint(args: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(args)
    return caught.value.message


def test_defaults_serve_the_carried_model():
    settings = Settings.load()
    assert settings.model == settings.model_id == "sluice-shapes"
    assert settings.limits == Limits()
    spec = settings.model_spec()
    assert Path(spec.source, "model_index.json").is_file()


def test_dotted_keys_and_text_values():
    settings = Settings.load(
        {
            "model": "flux.1-dev",
            "limits.max_steps": "50",
            "stages.denoiser.num_gpus": "1",
            "prompt_rules.disabled_categories": "hate, self-harm",
            "prompt_rules.enabled": "false",
            "stages.safety.classifier": "huggingface",
            "stages.safety.source": "/weights",
            "stages.safety.flagged_labels": "nsfw",
        }
    )
    assert settings.model == "flux.1-dev"
    assert settings.limits.max_steps == 50
    assert settings.stages.denoiser.num_gpus == 1.0
    assert settings.prompt_rules.disabled_categories == ("hate", "self-harm")
    assert not settings.prompt_rules.enabled
    assert settings.stages.safety.flagged_labels == ("nsfw",)


def test_no_default_deadline_in_words_or_as_null(tmp_path: Path):
    assert Settings.load().deadlines.default_ms == 30_000
    assert Settings.load({"deadlines.default_ms": "none"}).deadlines.default_ms is None
    assert Settings.load({"deadlines.default_ms": "500"}).deadlines.default_ms == 500
    path = tmp_path / "settings.yaml"
    path.write_text("deadlines: {default_ms: null}\n")
    assert Settings.load({"config": str(path)}).deadlines.default_ms is None


def test_a_dotted_key_joins_a_nested_one():
    given = {"limits": {"max_steps": 30}, "limits.max_images": 2}
    settings = Settings.load(given)
    assert (settings.limits.max_steps, settings.limits.max_images) == (30, 2)
    assert given == {"limits": {"max_steps": 30}, "limits.max_images": 2}


class TestPrecedence:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(
            "served_model_name: from-file\n"
            "limits: {max_steps: 11, max_images: 1}\n"
            "stages.denoiser.num_gpus: 2\n"
        )
        return path

    def test_file_over_defaults(self, file: Path):
        settings = Settings.load({"config": str(file)})
        assert settings.model_id == "from-file"
        assert (settings.limits.max_steps, settings.limits.max_images) == (11, 1)
        assert settings.limits.max_side == Limits().max_side
        assert settings.stages.denoiser.num_gpus == 2

    def test_environment_over_file(self, file: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SLUICE_CONFIG", str(file))
        monkeypatch.setenv("SLUICE_LIMITS__MAX_STEPS", "22")
        settings = Settings.load()
        assert (settings.limits.max_steps, settings.limits.max_images) == (22, 1)

    def test_arguments_over_environment(self, file: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SLUICE_LIMITS__MAX_STEPS", "22")
        settings = Settings.load({"config": str(file), "limits.max_steps": 33})
        assert (settings.limits.max_steps, settings.limits.max_images) == (33, 1)

    def test_json_in_the_environment(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SLUICE_LIMITS", '{"max_steps": 44}')
        assert Settings.load().limits.max_steps == 44


class TestMistakes:
    def test_unknown_settings_are_named_with_the_nearest(self):
        assert complaint({"modle": "x"}) == "modle: unknown setting; did you mean 'model'?"
        assert "did you mean 'limits.max_steps'?" in complaint({"limits": {"max_step": 5}})
        assert "did you mean 'stages.denoiser.num_gpus'?" in complaint(
            {"stages.denoiser.num_gpu": 1}
        )
        assert "known: limits.max_pixels, " in complaint({"limits.qqqq": 1})

    def test_a_value_that_would_work_is_named(self):
        assert complaint({"limits.max_steps": "0"}) == (
            "limits.max_steps: should be greater than or equal to 1, got '0'; 100 would work"
        )

    def test_every_mistake_has_a_line(self):
        lines = complaint({"limits.max_steps": 0, "limits.max_images": "many"}).splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            "limits.max_steps",
            "limits.max_images",
        ]

    def test_contradictions_have_the_full_name(self):
        assert complaint({"stages.denoiser.device": "cuda"}).startswith("stages.denoiser.device: ")
        assert complaint({"stages.storage.kind": "s3"}).startswith("stages.storage.bucket: ")
        assert complaint({"stages.together": "true"}).startswith("stages.layout: ")

    def test_the_ingress_scales_in_one_way(self):
        both = {"ingress.num_replicas": 2, "ingress.autoscaling.max_replicas": 3}
        assert complaint(both).startswith("ingress.num_replicas: cannot stand beside autoscaling")

    def test_a_default_deadline_above_the_bound(self):
        said = complaint({"deadlines.max_ms": 20_000})
        assert said.startswith("deadlines.default_ms: 30000 is above max_ms; use at most 20000")

    def test_kept_answers_do_not_outlive_their_links(self):
        given = {"result_cache.ttl_s": 200, "stages.storage.ttl_s": 100}
        assert Settings.load(given).result_cache.max_bytes == 0
        said = complaint({**given, "result_cache.max_bytes": 1})
        assert said.startswith("result_cache.ttl_s: 200 is more than stages.storage.ttl_s")
        assert said.endswith("use at most 100")

    def test_a_header_that_is_none(self):
        assert "such as x-tenant-id" in complaint({"tenants.header": "x tenant"})

    def test_a_section_as_a_whole_and_in_parts(self):
        assert "choose one" in complaint({"limits": "5", "limits.max_steps": 5})

    @pytest.mark.parametrize(
        ("variable", "meant"),
        [
            ("SLUICE_LIMIT__MAX_STEPS", "SLUICE_LIMITS__MAX_STEPS"),
            ("SLUICE_STAGE__DENOISER__NUM_GPUS", "SLUICE_STAGES__DENOISER__NUM_GPUS"),
            ("SLUICE_MODLE", "SLUICE_MODEL"),
            ("SLUICE_MODLE__NAME", "SLUICE_MODEL"),
        ],
    )
    def test_unknown_variables(self, monkeypatch: pytest.MonkeyPatch, variable: str, meant: str):
        monkeypatch.setenv(variable, "5")
        assert complaint() == f"{variable}: unknown setting; did you mean {meant!r}?"

    def test_a_variable_that_is_near_nothing(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SLUICE_ZZZZZZZZZZZZZZZZZZ__QQQQQQQQQQ", "5")
        known = "known: SLUICE_CONFIG, SLUICE_MODEL, SLUICE_MODEL_SOURCE,"
        assert f": unknown setting; {known}" in complaint()

    @pytest.mark.parametrize(
        "variable",
        [
            "SLUICE_SERVICE_HOST",
            "SLUICE_SERVICE_PORT",
            "SLUICE_SERVICE_PORT_HTTP",
            "SLUICE_PORT",
            "SLUICE_PORT_8000_TCP",
            "SLUICE_PORT_8000_TCP_PROTO",
            "SLUICE_PORT_8000_TCP_PORT",
            "SLUICE_PORT_8000_TCP_ADDR",
        ],
    )
    def test_variables_of_a_kubernetes_service(
        self, monkeypatch: pytest.MonkeyPatch, variable: str
    ):
        monkeypatch.setenv(variable, "tcp://10.0.0.1:8000")
        assert Settings.load() == Settings()

    def test_who_is_at_the_command_line_is_no_setting(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SLUICE_CLI_USER", "anna")
        assert Settings.load() == Settings()

    @pytest.mark.parametrize("variable", ["SLUICE_SERVICE", "SLUICE_PORTS", "SLUICE_PORT_8000"])
    def test_variables_that_only_look_like_them(
        self, monkeypatch: pytest.MonkeyPatch, variable: str
    ):
        monkeypatch.setenv(variable, "1")
        assert complaint().startswith(f"{variable}: unknown setting")

    def test_unknown_parts_of_variables(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SLUICE_LIMITS__MAX_STEP", "5")
        assert complaint() == ("limits.max_step: unknown setting; did you mean 'limits.max_steps'?")

    def test_a_variable_that_is_not_json(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SLUICE_LIMITS", "{")
        assert '"limits"' in complaint()

    def test_weights_from_nowhere(self):
        assert complaint({"model_source": "gs://bucket/flux"}).startswith(
            "model_source: no weights are read from gs:; write a folder, hf://OWNER/REPOSITORY"
        )
        assert complaint({"model_source": "some/model"}).startswith("model_source: there is no")
        classifier = {
            "stages.safety.classifier": "huggingface",
            "stages.safety.source": "https://example.com/classifier",
            "stages.safety.flagged_labels": "nsfw",
        }
        assert complaint(classifier).startswith("stages.safety.source: no weights are read from")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("model_source", "s3://AKIA:hunter2@bucket/flux"),
            ("stages.weights.endpoint_url", "http://me:hunter2@minio:9000"),
            ("stages.storage.endpoint_url", "http://me:hunter2@minio:9000"),
            ("public_url", "https://me:hunter2@images.example.com"),
        ],
    )
    def test_a_secret_is_not_repeated(self, name: str, value: str):
        bucket = {"stages.storage.kind": "s3", "stages.storage.bucket": "images"}
        said = complaint({**(bucket if "storage" in name else {}), name: value})
        assert said.startswith(f"{name}: ")
        assert "hunter2" not in said

    def test_public_url_says_how_one_looks(self):
        assert "https://images.example.com" in complaint({"public_url": "images.example.com"})

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("- a\n", "must hold a mapping"),
            ("limits: {", "is not YAML"),
            ("config: other.yaml\n", "names another settings file"),
            ("modle: x\n", "did you mean 'model'?"),
            (BOMB, "line 6, column 5: holds more than"),
            ("limits: {max_steps: " + "9" * 5000 + "}", "is a number of more than 40 digits"),
            ("limits: {max_steps: '" + "9" * 5000 + "'}", "limits.max_steps: "),
            ("9" * 30 + ": 1", "unknown setting"),
            ("? " + "x" * 5000 + "\n: 1", "unknown setting"),
        ],
    )
    def test_a_bad_file(self, tmp_path: Path, content: str, said: str):
        path = tmp_path / "settings.yaml"
        path.write_text(content)
        line = complaint({"config": str(path)})
        assert said in line
        assert "\n" not in line
        assert len(line) < 1000

    def test_many_mistakes_are_counted(self, tmp_path: Path):
        path = tmp_path / "settings.yaml"
        path.write_text("".join(f"a{i}: 1\n" for i in range(5000)))
        lines = complaint({"config": str(path)}).splitlines()
        assert len(lines) == 21
        assert lines[-1] == "and 4980 more mistakes"

    @pytest.mark.parametrize("value", ["9" * 5000, '{"max_steps": ' + "9" * 5000 + "}"])
    def test_a_number_that_cannot_be_printed(self, monkeypatch: pytest.MonkeyPatch, value: str):
        name = "SLUICE_LIMITS" if value.startswith("{") else "SLUICE_LIMITS__MAX_STEPS"
        monkeypatch.setenv(name, value)
        line = complaint()
        assert "limits" in line
        assert "\n" not in line
        assert len(line) < 1000

    def test_no_file(self, tmp_path: Path):
        assert complaint({"config": str(tmp_path / "none.yaml")}).startswith("config: cannot read")

    def test_an_empty_file_is_no_mistake(self, tmp_path: Path):
        path = tmp_path / "settings.yaml"
        path.write_text("# nothing yet\n")
        assert Settings.load({"config": str(path)}) == Settings(config=path)


class TestModelSpec:
    def test_another_source(self):
        spec = Settings.load({"model": "flux.1-dev", "model_source": "/weights"}).model_spec()
        assert (spec.name, spec.source) == ("flux.1-dev", "/weights")

    @pytest.mark.parametrize("source", ["s3://bucket/flux", "hf://some/model@v1"])
    def test_weights_from_elsewhere(self, source: str):
        assert Settings.load({"model_source": source}).model_spec().source == source

    def test_an_unknown_model(self):
        settings = Settings.load({"model": "sd-1.5"})
        with pytest.raises(ConfigurationError, match=r"no model is called 'sd-1.5'; known: "):
            settings.model_spec()

    @pytest.mark.parametrize(
        ("name", "value", "needed"),
        [
            ("max_pixels", 512 * 512, 1024 * 1024),
            ("max_side", 512, 1024),
            ("max_steps", 27, 28),
        ],
    )
    def test_limits_below_the_models_defaults(self, name: str, value: int, needed: int):
        settings = Settings.load({"model": "flux.1-dev", f"limits.{name}": value})
        with pytest.raises(ConfigurationError, match=rf"limits\.{name}: .* use at least {needed}"):
            settings.model_spec()

    def test_a_shortest_side_above_the_default(self):
        settings = Settings.load({"model": "flux.1-dev", "limits.min_side": 1040})
        with pytest.raises(ConfigurationError, match=r"limits\.min_side: .* use at most 1024"):
            settings.model_spec()

    def test_a_step_that_does_not_hold_the_largest_image(self):
        args = {"model": "flux.1-dev", "stages.denoiser.max_tokens_per_tick": 4608}
        with pytest.raises(
            ConfigurationError, match=r"4608 cannot .* use at least 16896, or lower"
        ):
            Settings.load(args).model_spec()
        Settings.load({**args, "stages.denoiser.max_tokens_per_tick": 16_896}).model_spec()
        Settings.load({**args, "limits.max_pixels": 1024 * 1024}).model_spec()


def test_settings_travel_to_replicas_as_they_are(monkeypatch: pytest.MonkeyPatch):
    settings = Settings.load({"limits.max_steps": 30})
    packed = cloudpickle.dumps(settings)
    monkeypatch.setenv("SLUICE_LIMITS__MAX_STEPS", "99")
    assert cloudpickle.loads(packed) == settings


def test_every_setting_is_documented_under_itself():
    def undocumented(model: Any, path: str = "") -> list[str]:
        found: list[str] = []
        for name, field in model.model_fields.items():
            if not field.description:
                found.append(path + name)
            if hasattr(field.annotation, "model_fields"):
                found += undocumented(field.annotation, f"{path}{name}.")
        return found

    assert undocumented(Settings) == []


def test_jobs_are_kept_in_a_file_below_the_data_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Settings.load({}).jobs.location == "/data/sluice/jobs.sqlite3"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings.load({}).jobs.location == "/home/somebody/.local/share/sluice/jobs.sqlite3"
    assert Settings.load({"jobs.store": "jobs.db"}).jobs.location == "jobs.db"


def test_the_password_of_the_job_store_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    url = "redis://:opensesame@redis:6379/0"
    file = tmp_path / "settings.yaml"
    file.write_text(f"jobs:\n  store: {url}\n")
    for args in ({"jobs.store": url}, {"config": str(file)}):
        with pytest.raises(ConfigurationError, match="SLUICE_JOBS__STORE") as caught:
            Settings.load(args)
        assert "opensesame" not in caught.value.message
    monkeypatch.setenv("SLUICE_JOBS__STORE", url)
    settings = Settings.load({})
    assert settings.jobs.location == url
    assert "opensesame" not in repr(settings)


def test_a_password_in_the_query_is_one_too():
    with pytest.raises(ConfigurationError, match="SLUICE_JOBS__STORE") as caught:
        Settings.load({"jobs.store": "redis://redis:6379/0?password=opensesame"})
    assert "opensesame" not in caught.value.message


@pytest.mark.parametrize(
    ("jobs", "field"),
    [
        ({"store": "postgres://db"}, "jobs.store"),
        ({"max_running": 0}, "jobs.max_running"),
        ({"max_waiting_s": 10.0}, "jobs.max_waiting_s_per_tenant"),
    ],
)
def test_jobs_that_cannot_be(jobs: dict[str, object], field: str):
    with pytest.raises(ConfigurationError, match=field):
        Settings.load({"jobs": jobs})
