from __future__ import annotations

import base64
import functools
import io
import json
from pathlib import Path

import httpx
import pytest
from PIL import Image, PngImagePlugin

from pipelines import catalog
from serve.cli import draw
from serve.cli.client import SluiceClient
from tests.cluster import free_port
from tests.serve.cli.conftest import Run

CONFIGS = Path(__file__).resolve().parents[3] / "serve" / "configs"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A server behind --url that has no jobs; the bodies of the requests it got."""
    bodies: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs":
            return httpx.Response(404, json={"error": {"message": "none", "code": "not_found"}})
        body = json.loads(request.read())
        bodies.append(body)
        if body["prompt"] == "refuse":
            error = {"message": "prompt: refused by the content policy", "code": "x"}
            return httpx.Response(400, json={"error": error})
        seeds = range(body["seed"], body["seed"] + body.get("n", 1))
        images = [{"b64_json": base64.b64encode(b"image").decode(), "seed": s} for s in seeds]
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        details = {
            "input_tokens_details": {"text_tokens": 1},
            "output_tokens_details": {"image_tokens": 1},
        }
        return httpx.Response(
            200,
            json={
                "created": 1,
                "model": "m",
                "data": images,
                "output_format": "png",
                "quality": None,
                "size": "64x64",
                "usage": usage | details,
                "warnings": ["a [warning]"],
            },
        )

    client = functools.partial(SluiceClient, transport=httpx.MockTransport(answer))
    monkeypatch.setattr(draw, "SluiceClient", client)
    return bodies


class TestGenerateOverHttp:
    def test_every_option_is_sent(self, run: Run, server: list[dict[str, object]], tmp_path: Path):
        outcome = run(
            *("generate", "a cat", "--url", "http://s", "--size", "128x64", "--steps", "5"),
            *("--guidance", "2", "--seed", "9", "-n", "2", "--negative", "dog"),
            *("--true-cfg", "3", "--format", "webp", "--model", "m", "-o", str(tmp_path)),
            *("--deadline-ms", "900", "--priority", "-2", "--min-steps", "3"),
        )
        assert outcome.code == 0
        assert server == [
            {
                "prompt": "a cat",
                "model": "m",
                "n": 2,
                "size": "128x64",
                "num_inference_steps": 5,
                "guidance_scale": 2.0,
                "seed": 9,
                "negative_prompt": "dog",
                "true_cfg_scale": 3.0,
                "output_format": "webp",
                "deadline_ms": 900,
                "priority": -2,
                "min_steps": 3,
            }
        ]
        assert (tmp_path / "a-cat-9.webp").read_bytes() == b"image"
        assert (tmp_path / "a-cat-10.webp").read_bytes() == b"image"
        assert outcome.out.splitlines() == [
            f"{tmp_path}/a-cat-9.webp  seed 9",
            f"{tmp_path}/a-cat-10.webp  seed 10",
        ]
        assert "warning: a [warning]" in outcome.err

    def test_a_recorded_request_is_sent_again(
        self, run: Run, server: list[dict[str, object]], tmp_path: Path
    ):
        cuts = {"num_inference_steps": 60, "step_cuts": [[9, 17]]}
        record = {"prompt": "a cat", "seed": 7, "output_format": "webp", **cuts}
        encoded = json.dumps(record).replace(",", "%2C").replace(":", "%3A")
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("parameters", f"a cat\nSteps: 17, Seed: 7, Sluice: {encoded}")
        Image.new("RGB", (8, 8)).save(tmp_path / "cut.png", pnginfo=chunks)
        again = ("generate", "--from", "cut.png", "--url", "http://s")
        assert run(*again).code == 0
        assert (tmp_path / "a-cat-7.webp").read_bytes() == b"image"
        assert run(*again, "--steps", "30", "--format", "png").code == 0
        uncut = {"num_inference_steps": 30, "output_format": "png"}
        assert server == [record, {"prompt": "a cat", "seed": 7, **uncut}]

    def test_a_file_that_cannot_be_drawn_again(
        self, run: Run, server: list[dict[str, object]], tmp_path: Path
    ):
        Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
        outcome = run("generate", "--from", "plain.png", "--url", "http://s")
        assert outcome.code == 1
        assert outcome.err.startswith("error: plain.png: the file has no metadata")
        assert run("generate", "--from", "missing.png").code == 1
        assert server == []

    def test_a_refusal_is_one_line(self, run: Run, server: list[dict[str, object]], tmp_path: Path):
        outcome = run("generate", "refuse", "--url", "http://s")
        assert outcome.code == 1
        assert outcome.err.strip() == "error: prompt: refused by the content policy"
        assert list(tmp_path.iterdir()) == []

    def test_device_is_the_servers(self, run: Run, server: list[dict[str, object]]):
        outcome = run("generate", "a cat", "--url", "http://s", "--device", "cpu")
        assert outcome.code == 2
        assert server == []

    def test_nothing_is_replaced_unasked(
        self, run: Run, server: list[dict[str, object]], tmp_path: Path
    ):
        (tmp_path / "cat.png").write_bytes(b"old")
        arguments = ("generate", "a cat", "--url", "http://s", "-o", "cat.png")
        outcome = run(*arguments)
        assert outcome.code == 1
        assert "--overwrite" in outcome.err
        assert server == []
        assert run(*arguments, "--overwrite").code == 0
        assert (tmp_path / "cat.png").read_bytes() == b"image"


class TestGenerateHere:
    def test_the_carried_model_draws(self, run: Run, tmp_path: Path):
        arguments = ("generate", "a red circle on a white background", "--seed", "3")
        outcome = run(*arguments, "-n", "2", "--steps", "2", "-o", "x.png")
        assert outcome.code == 0, outcome.err
        image = Image.open(io.BytesIO((tmp_path / "x-4.png").read_bytes()))
        assert image.size == (64, 64)
        assert "Seed: 4" in image.info["parameters"]
        assert (tmp_path / "x-3.png").read_bytes() != (tmp_path / "x-4.png").read_bytes()

    def test_what_the_encoders_did_not_read_is_said_here_too(self, run: Run):
        prompt = "a red circle, Frobnicated (big:1.3)"
        outcome = run("generate", prompt, "--steps", "1", "-o", "x.png")
        assert outcome.code == 0, outcome.err
        assert 'warning: prompt: weights such as "(big:1.3)"' in outcome.err
        assert 'warning: prompt: the model has no token for "Frobnicated"' in outcome.err

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
    def test_a_file_is_drawn_again(self, run: Run, tmp_path: Path, suffix: str):
        first = ("generate", "a red circle, and a blue star", "--steps", "2", "-o", f"x.{suffix}")
        assert run(*first).code == 0
        outcome = run("generate", "--from", f"x.{suffix}", "-o", f"y.{suffix}")
        assert outcome.code == 0, outcome.err
        assert "warning" not in outcome.err
        file = (tmp_path / f"x.{suffix}").read_bytes()
        assert (tmp_path / f"y.{suffix}").read_bytes() == file
        assert run("generate", "--from", f"x.{suffix}", "--seed", "4", "--format", "png").code == 0
        (other,) = tmp_path.glob("a-red-circle-and-a-blue-star-4.png")
        assert other.read_bytes() != file

    @pytest.mark.parametrize("option", ["--deadline-ms", "--priority", "--min-steps"])
    def test_who_is_alone_needs_no_order(self, run: Run, option: str):
        outcome = run("generate", "a cat", option, "3")
        assert outcome.code == 2
        assert "need" in outcome.err
        assert "--url" in outcome.err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["a cat", "-n", "0"], "n: must be 1 to 10"),
            (["a cat", "--size", "100x64"], "nearest allowed size is 96x64"),
            (["a cat", "--model", "nope"], "no model is called 'nope'"),
            ([" "], "blank"),
            (["gore, behead him"], "content policy"),
        ],
    )
    def test_what_the_server_would_refuse_is_refused(
        self, run: Run, arguments: list[str], said: str
    ):
        outcome = run("generate", *arguments)
        assert outcome.code == 1
        assert outcome.err.startswith("error: ")
        assert said in outcome.err


def test_models(run: Run):
    outcome = run("models")
    assert outcome.code == 0
    for name in ("sluice-shapes", "flux.1-dev", "flux.1-schnell", "11.9 B", "1024x1024"):
        assert name in outcome.out


def test_what_is_no_terminal_breaks_no_name(run: Run):
    out = run("models").out
    for spec in catalog.models().values():
        assert spec.source in out


def test_one_is_no_plural(run: Run, tmp_path: Path):
    one = "{model: flux.1-dev, stages.denoiser.num_gpus: 1, ingress.num_cpus: 1}"
    (tmp_path / "settings.yaml").write_text(one)
    assert ", 1 GPU. CPU, GPU and memory" in run("check", "settings.yaml").out


@pytest.mark.parametrize("name", ["embedded", "flux-dev", "flux-schnell", "kuberay"])
def test_check_prints_the_placement(run: Run, name: str):
    outcome = run("check", str(CONFIGS / f"{name}.yaml"))
    assert outcome.code == 0, outcome.err
    for deployment in (
        "Ingress",
        "TextEncoder",
        "ImageEncoder",
        "Denoiser",
        "VaeDecoder",
        "Finisher",
    ):
        assert deployment in outcome.out


def test_a_mistake_in_the_environment_is_not_blamed_on_the_file(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLUICE_LIMIT__MAX_STEPS", "50")
    outcome = run("check", str(CONFIGS / "embedded.yaml"))
    assert outcome.code == 1
    assert outcome.err == (
        "error: default: SLUICE_LIMIT__MAX_STEPS: unknown setting;"
        " did you mean 'SLUICE_LIMITS__MAX_STEPS'?\n"
    )


def test_check_sums_up(run: Run):
    outcome = run("check", str(CONFIGS / "flux-dev.yaml"))
    assert "22.2 GiB" in outcome.out
    assert "2 to 13 GPUs" in outcome.out
    assert "sluice-pool=denoise" in outcome.out
    assert "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY=1 must be set" in outcome.out
    assert "It fits" not in outcome.out, "no machines were given"


class TestCheckWithMachines:
    CLUSTER = CONFIGS.parents[1] / "cluster.yaml"

    def test_where_everything_goes(self, run: Run):
        outcome = run("check", str(CONFIGS / "flux-dev.yaml"), "--cluster", str(self.CLUSTER))
        assert outcome.code == 0, outcome.err
        lines = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
        assert "1 to 8   0 to 8    Denoiser" in lines["denoise"]
        assert lines["codec"].split("0 to 10")[1].strip() == "TextEncoder, ImageEncoder, VaeDecoder"
        assert outcome.out.endswith("It fits.\n")
        assert "PACK" not in outcome.out, "its head's command sets the variable"

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (
                "{model: flux.1-dev, stages.denoiser.num_gpus: 2}",
                "Denoiser: wants 2 GPUs on one node, and the largest node type that it may go to"
                " (denoise) has 1: use stages.denoiser.num_gpus: 1, or machines with 2",
            ),
            (
                "{model: flux.1-dev, stages.denoiser: {num_gpus: 1, parallel: {tensor: 4}}}",
                "(denoise) has 1: use stages.denoiser.parallel with tensor x ulysses of at most 1,"
                " or machines with 4",
            ),
            (
                "{stages.finisher.label_selector: {sluice-pool: cpus}}",
                "no node type has sluice-pool=cpus; there are: sluice-pool=codec, sluice-pool=cpu,",
            ),
            (
                "{model: flux.1-dev, stages.denoiser: {num_gpus: 1, label_selector: {sluice-pool:"
                " codec}}}",
                "GPU memory, and L4 has 22.0: use a larger GPU, such as A100-80G",
            ),
            ("{stages.denoiser.num_cpus: 0.5, ingress.num_replicas: 9000}", "have no place"),
        ],
    )
    def test_what_does_not_fit(self, run: Run, tmp_path: Path, settings: str, said: str):
        (tmp_path / "settings.yaml").write_text(settings)
        outcome = run("check", "settings.yaml", "--cluster", str(self.CLUSTER))
        assert outcome.code == 1
        assert said in outcome.err

    def test_a_head_that_lets_serve_spread(self, run: Run, tmp_path: Path):
        text = self.CLUSTER.read_text().replace("RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY=1", "")
        (tmp_path / "cluster.yaml").write_text(text)
        outcome = run("check", str(CONFIGS / "flux-dev.yaml"), "--cluster", "cluster.yaml")
        assert outcome.code == 0
        assert "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY=1 is not set" in outcome.out

    def test_a_gpu_that_is_named_and_too_small(self, run: Run, tmp_path: Path):
        stage = "{num_gpus: 1, dtype: bfloat16, accelerator_type: L4}"
        (tmp_path / "settings.yaml").write_text(f"{{model: flux.1-dev, stages.denoiser: {stage}}}")
        outcome = run("check", "settings.yaml")
        assert outcome.code == 1
        assert "Denoiser: needs 34.8 GiB of GPU memory, and L4 has 22.0" in outcome.err
        assert "a larger GPU, such as L40S" in outcome.err

    def test_several_applications_share_the_machines(self, run: Run, tmp_path: Path):
        one = {"route_prefix": "/", "import_path": "serve.app:build", "args": {}}
        other = {**one, "name": "b", "route_prefix": "/b"}
        content = {"applications": [{**one, "name": "a"}, other]}
        (tmp_path / "two.yaml").write_text(json.dumps(content))
        outcome = run("check", "two.yaml", "--cluster", str(self.CLUSTER))
        assert outcome.code == 0, outcome.err
        assert "a/Denoiser" in outcome.out
        assert "b/Denoiser" in outcome.out

    def test_two_clusters_are_one_too_many(self, run: Run):
        both = ("--cluster", str(self.CLUSTER), "--address", "auto")
        assert run("check", str(CONFIGS / "embedded.yaml"), *both).code == 2

    def test_a_running_cluster(self, run: Run, monkeypatch: pytest.MonkeyPatch):
        node = {"Alive": True, "NodeManagerAddress": "10.0.0.7", "Labels": {}}
        monkeypatch.setattr("ray.init", lambda **_: None)
        monkeypatch.setattr("ray.shutdown", lambda: None)
        monkeypatch.setattr("ray.nodes", lambda: [{**node, "Resources": {"CPU": 2.0}}])
        outcome = run("check", str(CONFIGS / "embedded.yaml"), "--address", "auto")
        assert outcome.code == 0, outcome.err
        assert "10.0.0.7" in outcome.out
        outcome = run("check", str(CONFIGS / "flux-dev.yaml"), "--address", "auto")
        assert "no node type has sluice-pool=cpu; there are: no labels at all" in outcome.err

    def test_no_running_cluster(self, run: Run, monkeypatch: pytest.MonkeyPatch):
        def refuse(**_: object) -> None:
            raise ConnectionError("nobody there")

        monkeypatch.setattr("ray.init", refuse)
        outcome = run("check", str(CONFIGS / "embedded.yaml"), "--address", "auto")
        assert outcome.code == 1
        assert "--address: no Ray cluster at auto: nobody there" in outcome.err

    def test_an_address_where_nobody_listens(self, run: Run, monkeypatch: pytest.MonkeyPatch):
        """Not left to Ray, which would try for minutes."""
        monkeypatch.delattr("ray.init")
        address = f"127.0.0.1:{free_port()}"
        outcome = run("check", str(CONFIGS / "embedded.yaml"), "--address", address)
        assert outcome.code == 1
        assert f"no Ray cluster at {address}: " in outcome.err
        assert "refused" in outcome.err


def test_check_says_why_not(run: Run, tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("limits: {max_step: 3}\n")
    outcome = run("check", "bad.yaml")
    assert outcome.code == 1
    assert "did you mean 'limits.max_steps'?" in outcome.err
    assert run("check", "none.yaml").code == 1


def test_manifest(run: Run, tmp_path: Path):
    assert "has no *.safetensors" in run("manifest", str(tmp_path)).err
    (tmp_path / "vae").mkdir()
    weights = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"weights")
    outcome = run("manifest", str(tmp_path))
    assert (outcome.code, outcome.out.strip()) == (0, str(tmp_path / "sluice-weights.json"))
    files = json.loads((tmp_path / "sluice-weights.json").read_text())["files"]
    assert files["vae/diffusion_pytorch_model.safetensors"]["size"] == len(b"weights")


def test_version(run: Run):
    assert "sluice 0." in run("version").out


def test_a_wrong_command(run: Run):
    assert run("nope").code == 2
    assert run("generate").code == 2


class TestDrainOnNotice:
    def test_a_machine_without_a_ray_node(self, run: Run):
        outcome = run("drain-on-notice", "--cloud", "aws", "--node-id", "none")
        assert outcome.code == 1
        assert "no such Ray node runs on this machine" in outcome.err

    def test_only_aws_recommends(self, run: Run):
        outcome = run("drain-on-notice", "--cloud", "gcp", "--rebalance")
        assert outcome.code == 2
        assert "--rebalance" in outcome.err
