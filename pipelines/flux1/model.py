"""FLUX.1 as the denoiser stage sees it: the packed transformer with its scheduler's settings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import torch

from pipelines import sampling as steps
from pipelines.begin import NO_PICTURES, ActiveControl, Begin
from pipelines.contracts import Conditioning, EncodedPicture, SamplingParams
from pipelines.cuts import Cut
from pipelines.errors import CheckpointError, DegenerateImage, InvalidRequest, UnsupportedFeature
from pipelines.families import EmbeddedText, Family
from pipelines.flux1 import memory, schedule
from pipelines.flux1.controlnets import FluxControlNets
from pipelines.flux1.family import FAMILY
from pipelines.flux1.latents import draw_noise, position_ids, unpack
from pipelines.flux1.picture_inputs import (
    MASK_CHANNELS,
    draw,
    random_pictures,
    uses_of,
    with_picture_tokens,
)
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.flux1.transformer import PackedFlux
from pipelines.packing.layout import Layout, PackedBatch, RotaryTable, SegmentShape
from pipelines.sampling import Schedule
from pipelines.task_rules import RULES
from pipelines.tasks import PictureRole, Task


class FluxModel:
    """A `pipelines.families.FlowModel`. For one thread, and nobody writes into what it gives."""

    def __init__(
        self,
        flux: PackedFlux,
        scheduler_config: dict[str, Any],
        controlnets: FluxControlNets | None = None,
    ) -> None:
        self.flux = flux
        self.controlnets = controlnets or FluxControlNets(flux, ())
        self.scheduler_config = scheduler_config
        self.family: Family = FAMILY
        self.device = flux.device
        self.dtype = flux.dtype
        self.latent_width: int = flux.config.out_channels or flux.config.in_channels
        self._own_task = _own_task(flux.config.in_channels, self.latent_width)
        self._modulations: WeakValueDictionary[Hashable, torch.Tensor] = WeakValueDictionary()

    def check_conditionings(self, conditionings: Sequence[Conditioning]) -> None:
        """Raises InvalidRequest for the text encoder of another model, or for a negative prompt of
        another padded length than the prompt's; DegenerateImage for values that are not finite."""
        config, length = self.flux.config, conditionings[0].sequence_length
        expected = (config.joint_attention_dim, config.pooled_projection_dim)
        for conditioning in conditionings:
            tensors = PromptTensors.of(conditioning)
            widths = tuple(tensor.shape[-1] for tensor in tensors)
            if widths != expected:
                raise InvalidRequest(
                    f"conditioning is {widths[0]} and {widths[1]} wide, but the denoiser takes"
                    f" {expected[0]} and {expected[1]}: both stages must load the same model"
                )
            if conditioning.sequence_length != length:
                raise InvalidRequest(
                    f"the negative prompt has {conditioning.sequence_length} tokens, the prompt"
                    f" {length}: encode both with one max_sequence_length"
                )
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                raise DegenerateImage("the text encoder's values are not finite")

    def random_conditioning(self, text_tokens: int) -> Conditioning:
        config = self.flux.config
        tensors = PromptTensors(
            prompt_embeds=torch.randn(text_tokens, config.joint_attention_dim),
            pooled_prompt_embeds=torch.randn(config.pooled_projection_dim),
        )
        return tensors.conditioning(num_tokens=text_tokens)

    def check_can_cut(self, param: str) -> None:
        schedule.check_can_cut(self.scheduler_config, param)

    def check_task(self, sampling: SamplingParams) -> None:
        task, own = sampling.task, self._own_task
        if own is not None and task is not own:
            raise UnsupportedFeature(
                f"task: these weights do {own} alone, and not {task}", param="task"
            )
        if own is None and task in (Task.FILL, Task.CONTROL):
            raise UnsupportedFeature(
                f"task: {task} needs weights of its own, such as FLUX.1"
                f" {'Fill' if task is Task.FILL else 'Depth or Canny'}",
                param="task",
            )
        if own is None:
            self.controlnets.check(sampling)

    def schedule(self, num_steps: int, image_tokens: int, skips_steps: bool) -> Schedule:
        return schedule.make_schedule(
            self.scheduler_config,
            num_steps=num_steps,
            image_tokens=image_tokens,
            device=self.device,
            skips_steps=skips_steps,
        )

    def cut_schedule(self, before: Schedule, cut: Cut, image_tokens: int) -> Schedule:
        return schedule.cut_schedule(before, cut, self.scheduler_config, image_tokens=image_tokens)

    def noise(self, seed: int, height: int, width: int) -> torch.Tensor:
        return draw_noise(
            seed,
            height=height,
            width=width,
            latent_channels=self.latent_width // 4,
            device=self.device,
            dtype=self.dtype,
        )

    def begin(
        self,
        sampling: SamplingParams,
        schedule: Schedule,
        positive: Conditioning,
        pictures: Sequence[EncodedPicture],
    ) -> Begin:
        if sampling.task is Task.VARIATION:
            (picture,) = pictures
            more = self.family.variation_tokens
            positive = with_picture_tokens(positive, picture.values, more)
            noise = self.noise(sampling.seed, sampling.height, sampling.width)
            return Begin(noise, positive)
        drawn = draw(
            sampling,
            schedule,
            pictures,
            latent_channels=self.latent_width // 4,
            device=self.device,
            dtype=self.dtype,
        )
        inputs = drawn.inputs
        if drawn.maps:
            controls = self.controlnets.controls(sampling, schedule, positive, drawn.maps)
            inputs = inputs._replace(controls=controls)
        is_plain = all(each is None for each in inputs[:3]) and not inputs.controls
        return Begin(drawn.latents, positive, NO_PICTURES if is_plain else inputs)

    def needed(self, sampling: SamplingParams) -> tuple[SamplingParams, list[EncodedPicture]]:
        if self._own_task is None:
            return sampling, []
        roles = [role for role in PictureRole if RULES[self._own_task].count(role).least]
        pictures = random_pictures(sampling, roles, self.latent_width // 4)
        return replace(sampling, task=self._own_task, pictures=uses_of(pictures)), pictures

    def unpacked(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return unpack(latents[None], height=height, width=width)[0]

    def rotary(
        self,
        text_tokens: int,
        height: int,
        width: int,
        references: tuple[tuple[int, int], ...] = (),
    ) -> RotaryTable:
        ids = position_ids(
            text_tokens,
            height=height,
            width=width,
            references=references,
            device=self.device,
            dtype=self.dtype,
        )
        return self.flux.rotary(ids)

    def embed(self, conditioning: Conditioning) -> EmbeddedText:
        embeds, pooled = PromptTensors.of(conditioning)
        pooled = pooled.to(self.device, self.dtype)
        return EmbeddedText(self.flux.embed_text(embeds.to(self.device, self.dtype)), pooled)

    def modulation(
        self, schedule: Schedule, first: int, guidance_scale: float, pooled: torch.Tensor | None
    ) -> torch.Tensor:
        """`PackedFlux.modulation`, the same tensor as long as anybody has it.

        The images of a request differ in noise only, and modulation is large: 59 MB for 28 steps of
        FLUX.1.
        """
        assert pooled is not None  # as `embed` gives it
        timesteps = schedule.timesteps[first:]
        bits = pooled.view(torch.uint8).cpu().numpy().tobytes()
        key = (tuple(timesteps.tolist()), guidance_scale, bits)
        vec = self._modulations.get(key)
        if vec is None:
            vec = self.flux.modulation(timesteps, guidance_scale, pooled)
            self._modulations[key] = vec
        return vec

    def layout(self, shapes: Sequence[SegmentShape]) -> Layout:
        return self.flux.layout(shapes)

    def velocity(self, batch: PackedBatch, controls: Sequence[ActiveControl] = ()) -> torch.Tensor:
        if not controls:
            return self.flux.velocity(batch)
        return self.flux.velocity(batch, self.controlnets.residuals(controls))

    def guide(self, positive: torch.Tensor, negative: torch.Tensor, scale: float) -> torch.Tensor:
        return steps.guide(positive, negative, scale)

    def trajectory_bytes(
        self, shapes: Sequence[SegmentShape], *, num_steps: int, skips_steps: bool
    ) -> int:
        """See `pipelines.flux1.memory.trajectory_bytes`."""
        return memory.trajectory_bytes(
            self.flux.config,
            text=shapes[0].text,
            image=shapes[0].image,
            segments=len(shapes),
            num_steps=num_steps,
            itemsize=self.dtype.itemsize,
            skips_steps=skips_steps,
        )

    def control_tokens(self, sampling: SamplingParams, text_tokens: int) -> tuple[int, ...]:
        image = self.family.image_tokens(sampling.height, sampling.width)
        return self.controlnets.tokens(sampling, text_tokens + image)

    def picture_bytes(self, sampling: SamplingParams, text_tokens: int, num_steps: int) -> int:
        """Those of `pipelines.flux1.memory.blend_bytes`, and of ControlNets."""
        image = self.family.image_tokens(sampling.height, sampling.width)
        blends = memory.blend_bytes(sampling, self.latent_width, image, self.dtype.itemsize)
        return blends + self.controlnets.bytes_of(sampling, text_tokens, image, num_steps)

    def tick_bytes(self, tokens: int) -> int:
        """See `pipelines.flux1.memory.tick_bytes`."""
        return memory.tick_bytes(self.flux.config, tokens=tokens, itemsize=self.dtype.itemsize)


def _own_task(in_channels: int, latent_width: int) -> Task | None:
    """The only task of weights that take more channels than those of latents."""
    match in_channels - latent_width:
        case 0:
            return None
        case more if more == latent_width:
            return Task.CONTROL
        case more if more == latent_width + MASK_CHANNELS:
            return Task.FILL
        case more:
            raise CheckpointError(
                f"transformer: takes {more} channels beside those of latents, which is neither"
                " FLUX.1 Fill nor a control model"
            )
