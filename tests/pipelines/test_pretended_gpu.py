"""Every stage with all its weights on a pretended GPU: the bits of the CPU, and few waits.

`WAITS` is how often the host waits for the device, and for what. Each wait finds the GPU idle, or
makes it so: a number here may go down, and one that goes up is a fault.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pipelines.catalog import ModelSpec
from pipelines.contracts import (
    Checkpoint,
    DecodedImage,
    GenerationParams,
    LatentJob,
    Latents,
    SamplingParams,
    TextPrompt,
)
from pipelines.engine.engine import Engine
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.errors import DegenerateImage, StageFailed
from pipelines.families import family_of
from pipelines.flux1 import transformer
from pipelines.flux1.checkpoint import load_denoiser_components
from pipelines.flux1.model import FluxModel
from pipelines.flux1.transformer import PackedFlux
from pipelines.local import LocalChain
from pipelines.previews.latent_rgb import fit_latent_rgb
from pipelines.previews.preview import Preview
from pipelines.previews.previewer import Predicted, Previewer
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.trajectory import Trajectory
from pipelines.stages.vae_decoder import VaeDecoderStage
from tests.jobs import with_sampling
from tests.pipelines.engine.play import SMALL_KNEE, Play, ScriptedStage, conditioning
from tests.pipelines.engine.test_engine_exactness import fixed_requests
from tests.pretend_cuda import HostWaits, PretendCuda, Wait, pretend_cuda
from tests.specs import tiny_spec

WAITS: dict[str, dict[Wait, int]] = {
    # Conditioning on the CPU, as it comes from the text encoder's process.
    "admission": {"upload": 5, "download": 2},
    "admission, size and schedule seen": {"upload": 3, "download": 2},
    "admission, prompt seen": {"upload": 3, "download": 2},
    "admission, true guidance": {"upload": 7, "download": 4},
    "admission, skipping steps": {"upload": 5, "download": 3, "list index": 2},
    "admission, from a checkpoint": {"upload": 3, "download": 2},
    "tick": {"synchronize": 1},
    "tick that predicts": {"synchronize": 1},
    "tick, layout of one shape not seen": {"synchronize": 1},
    "tick, layout of several shapes not seen": {"synchronize": 1, "upload": 6},
    "tick, layout not seen, by offsets": {"synchronize": 1, "upload": 7},
    "cut": {"upload": 1, "download": 2},
    "checkpoint": {"download": 1},
    "checkpoint with a velocity": {"download": 2},
    "result": {"download": 1},
    "texts encoded": {"upload": 2},
    "images decoded": {"upload": 1, "download": 2},
}

JOB = LatentJob(
    work_id="a",
    group="a",
    sampling=SamplingParams(height=64, width=48, num_inference_steps=7, guidance_scale=3.5, seed=3),
)
TEXT, NEGATIVE = conditioning(1, 8), conditioning(2, 8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: more threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def whole_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU as well, which some CPUs' products have other bits for: a GPU takes them whole."""
    for where in ("packing.linear.products_are_invariant", "flux1.text.linears_are_invariant"):
        monkeypatch.setattr(f"pipelines.{where}", lambda *_, **__: True)


class Pair(NamedTuple):
    """One model, here and on the pretended GPU."""

    here: DenoiserStage
    there: DenoiserStage


@pytest.fixture
def waits() -> Iterator[HostWaits]:
    with pretend_cuda() as waits:
        yield waits


@pytest.fixture(params=["float32", "bfloat16"])
def pair(dev_like: Path, waits: HostWaits, request: pytest.FixtureRequest) -> Pair:
    return Pair(
        *(
            DenoiserStage.load(str(dev_like), device=device, dtype=request.param)
            for device in ("cpu", "cuda")
        )
    )


@pytest.fixture
def stage(dev_like: Path, waits: HostWaits) -> DenoiserStage:
    return DenoiserStage.load(str(dev_like), device="cuda")


def count(waits: HostWaits, call: Callable[[], Any]) -> dict[Wait, int]:
    with waits.counted() as found:
        call()
    return dict(found)


def both(pair: Pair, walk: Callable[[DenoiserStage], list[torch.Tensor]]) -> None:
    """`walk` on each of the two gives the same bits, on the CPU."""
    here, there = walk(pair.here), walk(pair.there)
    assert here
    for expected, found in zip(here, there, strict=True):
        assert found.device.type == "cpu"
        assert expected.float().std() > 0.1
        assert torch.equal(expected, found)


def finished(stage: DenoiserStage, *works: Trajectory) -> list[torch.Tensor]:
    """Step those that are not done together, to the end of all."""
    while left := [work for work in works if not work.is_done]:
        stage.tick(left)
    return [stage.finish(work).packed for work in works]


def test_all_of_the_model_is_on_the_device(stage: DenoiserStage) -> None:
    model: Any = stage._model
    flux = model.flux
    weights = [*flux.transformer.parameters(), *flux.transformer.buffers()]
    weights += [x for part in (*flux._double, *flux._single) for x in _tensors(part)]
    assert len(weights) > 100
    assert all(isinstance(weight, PretendCuda) for weight in weights)


def _tensors(part: Any) -> Iterator[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from _tensors(each)


def test_packed_ticks_of_mixed_sizes(pair: Pair) -> None:
    def walk(stage: DenoiserStage) -> list[torch.Tensor]:
        works = [
            stage.admit(JOB, TEXT, None),
            stage.admit(
                with_sampling(JOB, width=96, num_inference_steps=4), conditioning(3, 12), None
            ),
            stage.admit(with_sampling(JOB, height=32, true_cfg_scale=2.5, seed=5), TEXT, NEGATIVE),
            stage.admit(with_sampling(JOB, num_inference_steps=12, skips_steps=True), TEXT, None),
        ]
        return finished(stage, *works)

    both(pair, walk)


def test_packed_ticks_of_one_size(pair: Pair) -> None:
    both(pair, lambda stage: finished(stage, *(stage.admit(JOB, TEXT, None) for _ in range(3))))


def test_a_schedule_that_is_cut_twice(pair: Pair) -> None:
    def walk(stage: DenoiserStage) -> list[torch.Tensor]:
        work = stage.admit(with_sampling(JOB, min_inference_steps=3), TEXT, None)
        stage.cut(work, 6)
        stage.tick([work])
        stage.tick([work])
        stage.cut(work, 4)
        return finished(stage, work)

    both(pair, walk)


@pytest.mark.parametrize("there_first", [False, True])
def test_a_checkpoint_goes_on_on_another_device(pair: Pair, there_first: bool) -> None:
    """From the CPU to the GPU, and from the GPU to the CPU: cut, guided, skipping steps."""
    jobs = [
        (with_sampling(JOB, true_cfg_scale=2.5), NEGATIVE, 5),
        (with_sampling(JOB, num_inference_steps=12, skips_steps=True), None, None),
    ]
    first, second = reversed(pair) if there_first else pair
    for job, negative, cut in jobs:

        def begin(stage: DenoiserStage) -> Trajectory:
            work = stage.admit(job, TEXT, negative)  # noqa: B023  called in this turn
            for _ in range(3):
                stage.tick([work])
            if cut:  # noqa: B023
                stage.cut(work, cut)  # noqa: B023
            return work

        start = first.checkpoint(begin(first))
        assert (start.velocity is not None) == job.sampling.skips_steps
        (expected,) = finished(pair.here, begin(pair.here))
        (found,) = finished(second, second.admit(job, TEXT, negative, start))
        assert torch.equal(expected, found)


def test_a_checkpoint_and_a_result_are_on_the_host(stage: DenoiserStage) -> None:
    work = stage.admit(with_sampling(JOB, num_inference_steps=12, skips_steps=True), TEXT, None)
    for _ in range(3):
        stage.tick([work])
    start = stage.checkpoint(work)
    assert start.velocity is not None
    assert {start.latents.device, start.velocity.device} == {torch.device("cpu")}
    with torch.inference_mode():
        work.latents.fill_(torch.inf)
    with pytest.raises(DegenerateImage):
        stage.checkpoint(work)


def test_an_index_left_on_the_cpu_is_found(
    stage: DenoiserStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards all of the above: they would pass on a device that takes anything."""
    works = [stage.admit(with_sampling(JOB, width=width), TEXT, None) for width in (48, 96)]
    make = transformer.make_places
    monkeypatch.setattr(
        transformer, "make_places", lambda shapes, _: make(shapes, torch.device("cpu"))
    )
    with pytest.raises(RuntimeError, match=r"same device.*index_select"):
        stage.tick(works)
    monkeypatch.setattr(transformer, "make_places", make)
    stage._tables.layout.cache_clear()
    stage.tick(works)
    assert [work.step for work in works] == [1, 1]


def test_what_has_no_memory_left_is_a_failure_of_its_tick(
    stage: DenoiserStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU may say so as late as where it is waited for."""
    work = stage.admit(JOB, TEXT, None)
    before = work.latents

    def full(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "synchronize", full)
        with pytest.raises(StageFailed, match="too little memory"):
            stage.tick([work])
    assert (work.latents is before, work.step) == (True, 0)
    stage.tick([work])
    assert work.step == 1


def test_texts_and_images(dev_like: Path, waits: HostWaits) -> None:
    prompts = [TextPrompt(prompt=text, max_sequence_length=16) for text in ("a cat", "the dog")]
    generator = torch.Generator().manual_seed(0)
    latents = [
        Latents(packed=torch.randn(24, 64, generator=generator), height=64, width=96, steps_run=1)
        for _ in range(2)
    ]
    for dtype in ("float32", "bfloat16"):
        encoders = [
            TextEncoderStage.load(str(dev_like), device=device, dtype=dtype)
            for device in ("cpu", "cuda")
        ]
        decoders = [
            VaeDecoderStage.load(str(dev_like), device=device, dtype=dtype)
            for device in ("cpu", "cuda")
        ]
        for expected, found in zip(*(each.encode(prompts) for each in encoders), strict=True):
            assert isinstance(found.tensors["prompt_embeds"], PretendCuda)
            for name, tensor in expected.tensors.items():
                assert torch.equal(found.tensors[name].cpu(), tensor)
            assert found.num_tokens == expected.num_tokens
        # One by one: a batch has the bits of its images on a CPU only.
        images = ([each.decode([item])[0] for item in latents] for each in decoders)
        for expected, found in zip(*images, strict=True):
            assert isinstance(expected, DecodedImage)
            assert isinstance(found, DecodedImage)
            assert expected.pixels.tobytes() == found.pixels.tobytes()
            assert expected.pixels.std() > 1
    assert count(waits, lambda: encoders[1].encode(prompts)) == WAITS["texts encoded"]
    assert count(waits, lambda: decoders[1].decode(latents)) == WAITS["images decoded"]


def test_the_chain_in_one_process(dev_like: Path, waits: HostWaits) -> None:
    """Where the conditioning stays on the device between the stages."""
    spec: ModelSpec = tiny_spec(dev_like)
    params = GenerationParams(
        prompt="a red cat",
        negative_prompt="a dog",
        true_cfg_scale=2.0,
        height=64,
        width=96,
        num_inference_steps=3,
        guidance_scale=3.5,
        max_sequence_length=16,
        num_images=2,
        seed=5,
    )
    here, there = (
        LocalChain.load(spec, device=device).generate(params) for device in ("cpu", "cuda")
    )
    assert [image.pixels.tobytes() for image in here] == [image.pixels.tobytes() for image in there]


def test_previews_are_the_same_there(dev_like: Path, waits: HostWaits) -> None:
    spec: ModelSpec = tiny_spec(dev_like)
    shown: list[list[Preview]] = []
    for device in ("cpu", "cuda"):
        stage = DenoiserStage.load(str(dev_like), device=device)
        family = family_of(spec)
        decoder = family.load_latent_decoder(str(dev_like), device=device, dtype="float32")
        fitted = fit_latent_rgb(stage, decoder, family, guidance_scale=3.5)
        assert fitted is not None
        work = stage.admit(JOB, TEXT, None)
        work.predicts = True
        stage.tick([work])
        assert work.predicted is not None
        previewer, found = Previewer(fitted, stage.unpacked, device=stage.device), list[Preview]()
        sampling = JOB.sampling
        previewer.offer(
            [
                Predicted(
                    work_id="a",
                    step=1,
                    num_steps=7,
                    latents=work.predicted,
                    height=sampling.height,
                    width=sampling.width,
                    on_preview=found.append,
                )
            ]
        )
        previewer.close()
        shown.append(found)
    here, there = shown
    assert len(here) == 1
    assert here == there


def test_the_host_waits_no_more_than_it_did(stage: DenoiserStage, waits: HostWaits) -> None:
    found: dict[str, dict[Wait, int]] = {}
    works: dict[str, Trajectory] = {}

    def admit(name: str, job: LatentJob, *texts: Any) -> Trajectory:
        with waits.counted() as counted:
            works[name] = stage.admit(job, *texts)
        found[name] = dict(counted)
        return works[name]

    def note(name: str, call: Callable[[], Any]) -> None:
        found[name] = count(waits, call)

    other = conditioning(7, 8)
    first = admit("admission", JOB, TEXT, None)
    second = admit("admission, size and schedule seen", with_sampling(JOB, seed=4), other, None)
    admit("admission, prompt seen", with_sampling(JOB, seed=5), TEXT, None)
    wide = admit(
        "admission, true guidance", with_sampling(JOB, width=96, true_cfg_scale=2.0), TEXT, NEGATIVE
    )
    skips = admit(
        "admission, skipping steps",
        with_sampling(JOB, height=96, num_inference_steps=12, skips_steps=True),
        TEXT,
        None,
    )
    note("tick, layout of one shape not seen", lambda: stage.tick([first, second]))
    note("tick, layout of several shapes not seen", lambda: stage.tick([first, wide]))
    note("tick", lambda: stage.tick([first, wide]))
    first.predicts = True
    note("tick that predicts", lambda: stage.tick([first, wide]))
    assert first.predicted is not None
    note("cut", lambda: stage.cut(first, 5))
    note("checkpoint", lambda: stage.checkpoint(first))
    start = stage.checkpoint(second)
    admit("admission, from a checkpoint", second.job, other, None, start)
    for _ in range(3):
        stage.tick([skips])
    note("checkpoint with a velocity", lambda: stage.checkpoint(skips))
    note("result", lambda: stage.finish(first))
    elsewhere = {"tick, layout not seen, by offsets", "texts encoded", "images decoded"}
    assert found == {name: waited for name, waited in WAITS.items() if name not in elsewhere}


def offsets_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_offsets: torch.Tensor,
    key_offsets: torch.Tensor,
    longest_query: int,
    longest_key: int,
    num_splits: int = 1,
) -> torch.Tensor:
    """What the kernels by offsets compute; it looks at them behind the device's back."""
    assert isinstance(query_offsets, PretendCuda)
    assert query_offsets.dtype == torch.int32
    offsets: list[int] = query_offsets.inner.tolist()
    parts = []
    for start, end in pairwise(offsets):
        q, k, v = (x[start:end].transpose(0, 1)[None] for x in (query, key, value))
        parts.append(scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("varlen", "torch.nn.attention.varlen", "varlen_attn"),
        ("fa3", "fa3_fwd_interface", "flash_attn_varlen_func"),
        ("flash", "flash_attn", "flash_attn_varlen_func"),
    ],
)
def test_attention_by_offsets(
    dev_like: Path,
    waits: HostWaits,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
    function: str,
) -> None:
    package = ModuleType(module)
    package.__dict__[function] = offsets_kernel
    monkeypatch.setitem(sys.modules, module, package)
    source, dtype = str(dev_like), "bfloat16"
    stages = [
        DenoiserStage.load(source, device="cpu", dtype=dtype),
        DenoiserStage.load(source, device="cuda", dtype=dtype, attention=name),
    ]
    results: list[list[torch.Tensor]] = []
    for stage in stages:
        works = [stage.admit(with_sampling(JOB, width=width), TEXT, None) for width in (48, 96)]
        first_tick = count(waits, lambda: stage.tick(works))  # noqa: B023  called in this turn
        results.append(finished(stage, *works))
    assert first_tick == WAITS["tick, layout not seen, by offsets"]
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected, found)


@pytest.fixture
def played(dev_like: Path, waits: HostWaits) -> dict[str, list[ScriptedStage]]:
    """Two replicas on the CPU and two on the GPU."""

    def replica(device: str) -> ScriptedStage:
        parts = load_denoiser_components(str(dev_like), device=device, dtype="float32")
        return ScriptedStage(FluxModel(PackedFlux(parts.transformer), parts.scheduler_config))

    return {device: [replica(device), replica(device)] for device in ("cpu", "cuda")}


def test_the_engine_mixes_preempts_resumes_and_moves(
    played: dict[str, list[ScriptedStage]],
) -> None:
    plays: dict[str, Play] = {}
    results: dict[str, dict[str, Latents]] = {}
    for device, stages in played.items():
        plays[device] = Play(stages, fixed_requests(), "srpt", hand_over_at=14)
        results[device] = plays[device].run()
    here, there = plays["cpu"], plays["cuda"]
    assert there.ticks == here.ticks
    assert any(len(tick) > 1 for tick in there.ticks)
    assert len(there.resumed) >= 3
    assert set(results["cuda"]) == set(results["cpu"])
    assert len(results["cuda"]) == 11
    for name, expected in results["cpu"].items():
        assert torch.equal(results["cuda"][name].packed, expected.packed), name


def test_the_engine_moves_works_between_a_cpu_and_a_gpu(
    played: dict[str, list[ScriptedStage]],
) -> None:
    here = Play(played["cpu"], fixed_requests(), "edf", hand_over_at=6)
    mixed = Play([played["cuda"][0], played["cpu"][1]], fixed_requests(), "edf", hand_over_at=6)
    expected, found = here.run(), mixed.run()
    assert mixed.ticks == here.ticks
    assert len(mixed.resumed) >= 2
    assert set(expected) == set(found)
    for name in expected:
        assert torch.equal(expected[name].packed, found[name].packed), name


def test_the_engine_waits_where_its_stage_does(stage: DenoiserStage, waits: HostWaits) -> None:
    """One work alone: admitted, stepped, two checkpoints on its way, one result."""
    checkpoints: list[Checkpoint] = []
    scheduler = Scheduler(
        cost=SMALL_KNEE, policy="edf", max_tokens=10_000, max_works=4, max_bytes=2**30
    )
    engine = Engine(stage, scheduler, checkpoint_every=3)
    engine.start()
    with waits.counted() as found:
        engine.submit(JOB, TEXT, on_checkpoint=checkpoints.append).result(60)
    engine.stop()
    assert [item.step for item in checkpoints] == [3, 6]
    expected: Counter[Wait] = Counter()
    for name, times in (("admission", 1), ("tick", 7), ("checkpoint", 2), ("result", 1)):
        for kind, number in WAITS[name].items():
            expected[kind] += times * number
    assert found == expected
