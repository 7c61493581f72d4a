"""Pictures on their way through the graph: by reference, once, classified, pasted back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

import deployments.graph.attempts
from deployments.graph.graph import Graph
from deployments.names import StageName
from pipelines.contracts import GenerationJob, GenerationResult, LatentJob, TextPrompt
from pipelines.errors import ContentPolicyViolation, InvalidRequest, UnsupportedFeature
from pipelines.pictures.recipe import PictureRecipe, PictureSource
from pipelines.tasks import PictureRole, Task
from pipelines.tracing.open_spans import OpenSpan
from tests.deployments.driver import make_job
from tests.deployments.fakes import FakeStages, GoesAway
from tests.deployments.pictures import painted_job, recipe, with_pictures


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.graph.attempts, "RETRY_PAUSE_S", 0.0)


async def _generate(stages: FakeStages, job: GenerationJob, **options: Any) -> GenerationResult:
    return await Graph(stages.handles(), **options).generate(job)


def _asked(stages: FakeStages, method: str) -> list[str]:
    return [role for name, role, _ in stages.pictures if name == method]


async def test_they_are_encoded_once_for_all_images_and_given_to_each_in_order() -> None:
    stages = FakeStages()
    result = await _generate(stages, painted_job(num_images=3))
    assert _asked(stages, "encode_image") == ["image", "mask"]
    assert stages.given == [("image encoded", "mask encoded")] * 3
    assert len(result.images) == 3


async def test_they_stand_behind_a_negative_prompt_or_its_empty_place() -> None:
    stages = FakeStages()
    job = painted_job()
    await _generate(stages, job)
    guided = replace(job.params, negative_prompt="blur", true_cfg_scale=2.0)
    await _generate(stages, replace(job, params=guided))
    assert stages.given == [("image encoded", "mask encoded")] * 2
    assert sorted(stages.encoded) == ["a red circle", "a red circle", "blur"]


async def test_a_request_without_any_gives_none_and_asks_for_none() -> None:
    stages = FakeStages()
    result = await _generate(stages, make_job())
    assert (stages.pictures, stages.given, stages.pasted) == ([], [()], [()])
    assert result.usage.input_image_tokens == 0


async def test_encoding_starts_beside_that_of_the_prompt() -> None:
    prompt_runs, picture_runs = asyncio.Event(), asyncio.Event()

    async def on_prompt(_: object) -> None:
        prompt_runs.set()
        await picture_runs.wait()

    async def on_picture(method: str, _: PictureRecipe) -> None:
        if method == "encode_image":
            picture_runs.set()
            await prompt_runs.wait()

    stages = FakeStages(on_encode=on_prompt, on_picture=on_picture)
    async with asyncio.timeout(5):
        await _generate(stages, painted_job(paste_back=False))


async def test_a_file_is_shared_once_whoever_uses_it() -> None:
    shared: list[bytes] = []

    def shares(data: bytes) -> bytes:
        shared.append(data)
        return data

    stages = FakeStages()
    job = painted_job()
    image, mask = job.recipes
    assert image.source is not None
    use = replace(image.use, role=PictureRole.MASKED_IMAGE)
    masked = replace(image, use=use, mask=mask.source)
    job = with_pictures(job, (image, mask, masked), task=Task.FILL)
    await _generate(stages, job, shares=shares)
    assert sorted(shared) == [b"image", b"mask"]
    assert {data for _, role, data in stages.pictures if role != "mask"} == {b"image"}


async def test_a_stored_file_is_left_to_the_stage() -> None:
    job = painted_job()
    image, mask = job.recipes
    source = PictureSource(sha256="0" * 64, name="image", file_id="f" * 32)
    stages = FakeStages()
    await _generate(stages, with_pictures(job, (replace(image, source=source), mask)))
    assert ("encode_image", "image", None) in stages.pictures


async def test_without_an_image_encoder_it_is_refused_before_anything_is_asked() -> None:
    stages = FakeStages()
    handles = {key: each for key, each in stages.handles().items() if key != "image_encoder"}
    with pytest.raises(UnsupportedFeature, match=r"^image: this server takes no pictures"):
        await Graph(handles).generate(painted_job())
    assert (stages.encoded, stages.started) == ([], [])
    await Graph(handles).generate(make_job())


class TestLost:
    async def test_an_image_encoder_that_dies_is_asked_again(self) -> None:
        deaths = 0

        async def die_once(method: str, recipe: PictureRecipe) -> None:
            nonlocal deaths
            if method == "encode_image" and recipe.use.role is PictureRole.MASK and not deaths:
                deaths += 1
                raise ActorDiedError()

        stages = FakeStages(on_picture=die_once)
        result = await _generate(stages, painted_job())
        assert len(result.images) == 1
        assert _asked(stages, "encode_image") == ["image", "mask"] * 2

    @pytest.mark.parametrize("method", ["picture_pixels", "mask_pixels", "is_mask_empty"])
    async def test_and_so_it_is_for_pixels(self, method: str) -> None:
        deaths: list[str] = []

        async def die_once(asked: str, _: PictureRecipe) -> None:
            if asked == method and not deaths:
                deaths.append(asked)
                raise ActorDiedError()

        stages = FakeStages(on_picture=die_once)
        await _generate(stages, painted_job())
        assert deaths == [method]
        assert len(stages.started) == 1  # nothing was denoised again

    async def test_a_denoiser_that_dies_has_them_asked_for_again(self) -> None:
        async def die_once(_: LatentJob, step: int) -> None:
            if step == 3 and len(stages.started) == 1:
                raise ActorDiedError()

        stages = FakeStages(on_step=die_once)
        result = await _generate(stages, painted_job(steps=5))
        assert result.resumed_at == (2,)
        assert _asked(stages, "encode_image") == ["image", "mask"] * 2

    async def test_one_that_hands_over_has_not_lost_them(self) -> None:
        async def go_away(_: LatentJob, step: int) -> None:
            if step == 3 and len(stages.started) == 1:
                raise GoesAway

        stages = FakeStages(on_step=go_away)
        await _generate(stages, painted_job(steps=5))
        assert len(stages.started) == 2
        assert _asked(stages, "encode_image") == ["image", "mask"]
        assert stages.given == [("image encoded", "mask encoded")] * 2


class TestChecked:
    async def test_each_picture_is_classified_once_and_masks_are_not(self) -> None:
        stages = FakeStages()
        await _generate(stages, painted_job(num_images=2))
        assert stages.classified == ["image"]

    async def test_a_refusal_says_which_and_stops_the_drawing(self) -> None:
        async def forever(_: LatentJob) -> None:
            await asyncio.sleep(3600)

        stages = FakeStages(on_denoise=forever, flagged_pictures=("image",))
        async with asyncio.timeout(5):
            with pytest.raises(ContentPolicyViolation) as caught:
                await _generate(stages, painted_job())
        violation = caught.value
        told = (violation.stage, violation.picture, violation.param)
        assert told == ("picture", "image", "image")
        assert (violation.image_index, violation.category) == (None, "sexual")
        assert (violation.score, violation.threshold) == (0.9, 0.8)
        await asyncio.sleep(0)
        assert len(stages.cancelled) == len(stages.started)
        assert stages.finished == []

    async def test_an_image_that_was_drawn_is_told_apart(self) -> None:
        stages = FakeStages(flagged_seeds=(0,))
        with pytest.raises(ContentPolicyViolation) as caught:
            await _generate(stages, painted_job())
        assert (caught.value.stage, caught.value.picture) == ("image", None)
        assert caught.value.image_index == 0

    async def test_no_image_is_finished_before_the_picture_has_passed(self) -> None:
        release = asyncio.Event()

        async def wait(method: str, _: PictureRecipe) -> None:
            if method == "picture_pixels" and not release.is_set():
                await release.wait()

        stages = FakeStages(on_picture=wait)
        task = asyncio.create_task(_generate(stages, painted_job()))
        await asyncio.sleep(0.05)
        assert len(stages.denoised) == 1
        assert (stages.decoded, stages.finished) == (0, [])
        release.set()
        await task

    async def test_a_classifier_that_is_off_is_not_asked(self) -> None:
        stages = FakeStages(flagged_pictures=("image",))
        await _generate(stages, painted_job(), classifies=False)
        assert stages.classified == []


class TestPastedBack:
    async def test_the_finisher_gets_image_and_mask(self) -> None:
        stages = FakeStages()
        await _generate(stages, painted_job())
        ((image, mask),) = stages.pasted
        assert (getattr(image, "name", None), mask) == ("image", "mask")
        (spec,) = stages.finished
        assert spec.pastes_back

    async def test_or_nothing_where_the_pipelines_own_picture_is_wanted(self) -> None:
        stages = FakeStages()
        await _generate(stages, painted_job(paste_back=False))
        assert stages.pasted == [()]
        assert _asked(stages, "is_mask_empty") == []

    async def test_a_mask_that_covers_nothing_returns_the_input_and_says_so(self) -> None:
        stages, log = FakeStages(is_empty=True), OpenSpan("request")
        job = painted_job(num_images=2)
        result = await Graph(stages.handles()).generate(job, log)
        assert (stages.started, stages.decoded) == ([], 0)
        assert [image.steps_run for image in result.images] == [0, 0]
        assert [(image.width, image.height) for image in result.images] == [(64, 64)] * 2
        assert result.warnings[0].startswith("mask: covers nothing")
        assert stages.classified == ["image"]
        assert stages.pasted == [(), ()]
        usage = result.usage
        assert (usage.input_tokens, usage.output_tokens, usage.device_seconds) == (0, 0, 0)

    async def test_but_not_where_the_classifier_refuses_it(self) -> None:
        stages = FakeStages(is_empty=True, flagged_pictures=("image",))
        with pytest.raises(ContentPolicyViolation):
            await _generate(stages, painted_job())
        assert stages.finished == []


async def test_a_flawed_picture_is_the_requests_fault() -> None:
    async def refuse(method: str, _: PictureRecipe) -> None:
        raise InvalidRequest("image: is no image", param="image")

    stages = FakeStages(on_picture=refuse)
    with pytest.raises(InvalidRequest, match="image: is no image"):
        await _generate(stages, painted_job())
    assert stages.started == []


async def test_what_a_variation_looks_at_becomes_text_and_no_prompt_is_none() -> None:
    each = recipe(PictureRole.REFERENCE, b"other", name="image")
    stages, prompts = FakeStages(), list[TextPrompt]()

    async def on_prompt(prompt: TextPrompt) -> None:
        prompts.append(prompt)

    stages.on_encode = on_prompt
    for prompt in ("", "in oil"):
        job = with_pictures(make_job(prompt=prompt), (each,), task=Task.VARIATION)
        await _generate(stages, job)
    assert stages.given == [("reference read",)] * 2
    assert [prompt.is_blank for prompt in prompts] == [True, False]
    assert not any(prompt.is_weighted for prompt in prompts)
    await _generate(stages, make_job(prompt=""))
    assert not prompts[-1].is_blank


async def test_both_prompts_are_encoded_with_weights_where_the_job_says_so() -> None:
    stages, prompts = FakeStages(), list[TextPrompt]()

    async def on_prompt(prompt: TextPrompt) -> None:
        prompts.append(prompt)

    stages.on_encode = on_prompt
    job = make_job(prompt="a (cat)")
    guided = replace(job.params, negative_prompt="(dog)", true_cfg_scale=2.0)
    for is_weighted in (True, False):
        params = replace(guided, prompt_weighting=is_weighted)
        await _generate(stages, replace(job, params=params))
        assert [prompt.prompt for prompt in prompts] == ["a (cat)", "(dog)"]
        assert [prompt.is_weighted for prompt in prompts] == [is_weighted] * 2
        prompts.clear()


async def test_usage_counts_what_was_looked_at() -> None:
    """One token per 16 x 16 pixels of what is not a mask, beside those of the prompt."""
    result = await _generate(FakeStages(), painted_job())
    assert result.usage.input_image_tokens == 16
    assert result.usage.input_tokens == len("a red circle") + 16
    reference = recipe(PictureRole.REFERENCE, b"other", name="reference", height=32, width=64)
    edit = with_pictures(make_job(), (reference,), task=Task.EDIT)
    assert (await _generate(FakeStages(), edit)).usage.input_image_tokens == 8


async def test_only_requests_with_pictures_are_said_to_need_the_image_encoder() -> None:
    graph = Graph(FakeStages().handles())
    without, needed = graph._needed(make_job().params), graph._needed(painted_job().params)
    assert StageName.IMAGE_ENCODER not in without.all
    assert StageName.IMAGE_ENCODER in needed.before_latents
    assert needed.after_latents == without.after_latents
