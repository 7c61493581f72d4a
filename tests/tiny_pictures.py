"""Tiny FLUX.1 models with random weights whose tasks take pictures, and diffusers on each of them.

One double and one single block; the parts that they share with `tests.tiny_flux` are its own. The
models are kept in memory: diffusers' pipelines and our stages run over the same weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxMultiControlNetModel,
    FluxPriorReduxPipeline,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pipelines.catalog import ControlNetSource
from pipelines.contracts import (
    Conditioning,
    EncodedPicture,
    LatentJob,
    PreparedPicture,
    SamplingParams,
)
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.stages.trajectory import Trajectory
from pipelines.tasks import PictureRole, PictureUse, Task

WIDTH, POOLED = 40, 24
UNION_KINDS = {"canny": 0, "depth": 1}


def transformer(in_channels: int = 64, *, doubles: int = 1, singles: int = 1) -> Any:
    """A transformer whose text, time and guidance all matter."""
    model = FluxTransformer2DModel(**_shape(in_channels, doubles, singles), out_channels=64)
    return _stronger(model)


def controlnet(*, num_mode: int | None = None, doubles: int = 1, singles: int = 1) -> Any:
    """A ControlNet whose zero-initialised layers are not."""
    with warnings.catch_warnings():
        # diffusers' own use of its own old name.
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)
        net = FluxControlNetModel(**{**_shape(64, doubles, singles), "num_mode": num_mode})
    for name, weight in net.named_parameters():
        if "controlnet" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return _stronger(net)


def vae(*, quant_conv: bool = True) -> Any:
    """A VAE of which both halves run, with a convolution around the latents if asked for."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 16,
        "norm_num_groups": 4,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": quant_conv,
        "use_post_quant_conv": quant_conv,
    }
    vae = AutoencoderKL(**config).eval()
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(3.0)  # images of the whole range of levels
    return vae


def _shape(in_channels: int, doubles: int, singles: int) -> dict[str, Any]:
    return {
        "in_channels": in_channels,
        "num_layers": doubles,
        "num_single_layers": singles,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": POOLED,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    }


@torch.no_grad()
def _stronger(model: Any) -> Any:
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "time_text_embed" not in name:
            weight.mul_(2.0)
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request: what diffusers is called with, and what ours is. `image`, `mask` and the others
    are (height, width[, 3]) arrays; `maps` say how each control map counts. `text` stands in for
    random text."""

    task: Task
    height: int = 48
    width: int = 64
    steps: int = 3
    strength: float = 1.0
    true_cfg_scale: float = 1.0
    seed: int = 5
    text_tokens: int = 8
    references: tuple[tuple[int, int], ...] = ()
    maps: tuple[PictureUse, ...] = ()
    mask: str = "box"
    guidance: float = 3.5
    text: Conditioning | None = None

    @cached_property
    def image(self) -> np.ndarray:
        return picture(self.seed, self.height, self.width)

    @cached_property
    def region(self) -> np.ndarray:
        """Where to draw anew: a box, a box off the grid of latents, scattered pixels, or all."""
        region = np.zeros((self.height, self.width), dtype=bool)
        match self.mask:
            case "box":
                region[16:40, 8:40] = True
            case "odd":
                region[5:31, 13:50] = True
            case "scattered":
                region = np.random.default_rng(3).random(region.shape) < 0.4
            case "all":
                region[:] = True
        return region

    def reference(self, index: int) -> np.ndarray:
        return picture(self.seed + 100 + index, *self.references[index])

    def map(self, index: int) -> np.ndarray:
        return picture(self.seed + 200 + index, self.height, self.width)

    @property
    def is_guided(self) -> bool:
        return self.true_cfg_scale > 1

    @cached_property
    def positive(self) -> Conditioning:
        return self.text or conditioning(self.seed, self.text_tokens)

    @cached_property
    def negative(self) -> Conditioning | None:
        return conditioning(self.seed + 50, self.text_tokens) if self.is_guided else None

    @cached_property
    def prepared(self) -> list[PreparedPicture]:
        """The pictures in the order of the job's uses."""
        role, made = PictureRole, list[PreparedPicture]()
        if self.task in (Task.IMAGE_TO_IMAGE, Task.INPAINT, Task.EDIT_INPAINT, Task.FILL):
            made.append(PreparedPicture(role=role.IMAGE, pixels=self.image))
        if self.task in (Task.INPAINT, Task.EDIT_INPAINT, Task.FILL):
            made.append(PreparedPicture(role=role.MASK, mask=self.region))
        if self.task is Task.FILL:
            made.append(
                PreparedPicture(role=role.MASKED_IMAGE, pixels=self.image, mask=self.region)
            )
        made += [
            PreparedPicture(
                role=role.REFERENCE,
                pixels=self.reference(index),
                as_text=self.task is Task.VARIATION,
            )
            for index in range(len(self.references))
        ]
        made += [
            PreparedPicture(role=role.CONTROL, pixels=self.map(index))
            for index in range(len(self.maps))
        ]
        return made

    @cached_property
    def job(self) -> LatentJob:
        uses = [self._use(each) for each in self.prepared if each.role is not PictureRole.CONTROL]
        return LatentJob(
            work_id=f"{self.task}-{self.seed}",
            group="g",
            sampling=SamplingParams(
                height=self.height,
                width=self.width,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                true_cfg_scale=self.true_cfg_scale,
                seed=self.seed,
                task=self.task,
                strength=self.strength,
                pictures=(*uses, *self.maps),
            ),
        )

    def _use(self, prepared: PreparedPicture) -> PictureUse:
        array = prepared.mask if prepared.pixels is None else prepared.pixels
        assert array is not None
        return PictureUse(role=prepared.role, height=array.shape[0], width=array.shape[1])


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """RGB with both smooth and sharp parts."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 4, columns * 3, (rows + columns) * 2], axis=2) % 256
    noise = generator.integers(0, 120, (height, width, 3))
    return ((smooth + noise) % 256).astype(np.uint8)


def conditioning(seed: int, tokens: int) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return PromptTensors(
        prompt_embeds=torch.randn(tokens, WIDTH, generator=generator),
        pooled_prompt_embeds=torch.randn(POOLED, generator=generator),
    ).conditioning(num_tokens=tokens)


def map_use(case_size: tuple[int, int], **fields: Any) -> PictureUse:
    """A control map of this size."""
    return PictureUse(role=PictureRole.CONTROL, height=case_size[0], width=case_size[1], **fields)


class TinyModel:
    """One checkpoint: its folder, our stages over it, and diffusers' pipelines."""

    def __init__(self, folder: Path, model: Any, shared_vae: Any, nets: Sequence[Any] = ()) -> None:
        self.folder, self.transformer, self.vae, self.nets = folder, model, shared_vae, list(nets)
        self.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        model.save_pretrained(folder / "transformer")
        shared_vae.save_pretrained(folder / "vae")
        self.scheduler.save_pretrained(folder / "scheduler")
        (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
        for index, net in enumerate(self.nets):
            net.save_pretrained(folder / f"net{index}")

    @cached_property
    def denoiser(self) -> DenoiserStage:
        return self.new_denoiser()

    def new_denoiser(self) -> DenoiserStage:
        """Another replica of the same weights."""
        sources = [
            ControlNetSource(
                folder=str(self.folder / f"net{index}"),
                kinds=UNION_KINDS if net.union else {f"plain{index}": None},
            )
            for index, net in enumerate(self.nets)
        ]
        return DenoiserStage.load(str(self.folder), controlnets=sources)

    @cached_property
    def encoder(self) -> ImageEncoderStage:
        return ImageEncoderStage.load(str(self.folder))

    def pictures(self, case: Case) -> list[EncodedPicture]:
        return self.encoder.encode(case.prepared)

    def admit(
        self, case: Case, stage: DenoiserStage | None = None, start: Any = None
    ) -> Trajectory:
        stage = stage or self.denoiser
        return stage.admit(case.job, case.positive, case.negative, start, self.pictures(case))

    def drawn(self, case: Case) -> torch.Tensor:
        """The finished latents (S, D) of a request alone."""
        work = self.admit(case)
        while not work.is_done:
            self.denoiser.tick([work])
        return self.denoiser.finish(work).packed

    @torch.inference_mode()
    def oracle(self, case: Case) -> torch.Tensor:
        """The same of its diffusers pipeline."""
        import diffusers

        embeds, pooled = PromptTensors.of(case.positive)
        options: dict[str, Any] = {
            "prompt_embeds": embeds[None],
            "pooled_prompt_embeds": pooled[None],
            "height": case.height,
            "width": case.width,
            "num_inference_steps": case.steps,
            "guidance_scale": case.guidance,
            "generator": torch.Generator().manual_seed(case.seed),
            "output_type": "latent",
        }
        if case.negative is not None:
            embeds, pooled = PromptTensors.of(case.negative)
            options |= {
                "negative_prompt_embeds": embeds[None],
                "negative_pooled_prompt_embeds": pooled[None],
                "true_cfg_scale": case.true_cfg_scale,
            }
        image, mask = Image.fromarray(case.image), Image.fromarray(case.region)
        references = [Image.fromarray(case.reference(i)) for i in range(len(case.references))]
        controls = [Image.fromarray(case.map(i)) for i in range(len(case.maps))]
        kontext = {"max_area": case.height * case.width, "_auto_resize": False}
        match case.task:
            case Task.TEXT_TO_IMAGE:
                name = "FluxControlNetPipeline" if controls else "FluxPipeline"
            case Task.IMAGE_TO_IMAGE:
                name = "FluxControlNetImg2ImgPipeline" if controls else "FluxImg2ImgPipeline"
                options |= {"image": image, "strength": case.strength}
            case Task.INPAINT:
                name = "FluxControlNetInpaintPipeline" if controls else "FluxInpaintPipeline"
                options |= {"image": image, "mask_image": mask, "strength": case.strength}
            case Task.EDIT:
                name = "FluxKontextPipeline"
                options |= {"image": references[0] if references else None, **kontext}
            case Task.EDIT_INPAINT:
                name = "FluxKontextInpaintPipeline"
                options |= {"image": image, "mask_image": mask, "strength": case.strength}
                options |= {"image_reference": references[0] if references else None, **kontext}
            case Task.FILL:
                name = "FluxFillPipeline"
                options |= {"image": image, "mask_image": mask, "strength": case.strength}
            case Task.CONTROL:
                name, options = "FluxControlPipeline", {**options, "control_image": controls[0]}
                controls = []
            case Task.VARIATION:
                raise AssertionError("see TinyRedux")
        parts: dict[str, Any] = {}
        if controls:
            parts["controlnet"] = self._controlnet()
            options |= self._control_options(case, controls)
        pipeline: Any = getattr(diffusers, name)(
            scheduler=FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config),
            vae=self.vae,
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=self.transformer,
            **parts,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(**options).images[0]

    def _controlnet(self) -> Any:
        return FluxMultiControlNetModel(self.nets)

    def _control_options(self, case: Case, controls: Sequence[Any]) -> dict[str, Any]:
        """One union for all maps, or a net for each: what diffusers can do."""
        return {
            "control_image": list(controls),
            "control_mode": [UNION_KINDS.get(use.kind) for use in case.maps],
            "controlnet_conditioning_scale": [use.scale for use in case.maps],
            "control_guidance_start": [use.start for use in case.maps],
            "control_guidance_end": [use.end for use in case.maps],
        }


class TinyRedux:
    """A Redux with the real number of tokens, and diffusers' prior over the same weights."""

    def __init__(self, folder: Path) -> None:
        config = SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=384,
            patch_size=14,
        )
        vision: Any = SiglipVisionModel(config).eval()
        processor: Any = SiglipImageProcessorPil(size={"height": 384, "width": 384})
        embedder = ReduxImageEncoder(redux_dim=16, txt_in_features=WIDTH).eval()
        vision.save_pretrained(folder / "image_encoder")
        processor.save_pretrained(folder / "feature_extractor")
        embedder.save_pretrained(folder / "image_embedder")
        (folder / "model_index.json").write_text('{"_class_name": "FluxPriorReduxPipeline"}')
        self.folder = folder
        self._vision, self._processor, self._embedder = vision, processor, embedder

    @torch.inference_mode()
    def oracle(self, pixels: np.ndarray, text: Conditioning) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompt and pooled embeddings after the prior, for `text`."""
        pipeline: Any = FluxPriorReduxPipeline(
            image_encoder=self._vision,
            feature_extractor=self._processor,
            image_embedder=self._embedder,
        )
        embeds, pooled = PromptTensors.of(text)
        image = pipeline.encode_image(Image.fromarray(pixels), "cpu", 1)
        tokens = self._embedder(image).image_embeds
        return torch.cat([embeds[None], tokens], dim=1), pooled[None]
