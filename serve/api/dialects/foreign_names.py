"""What clients of other image servers send, and what each name means here: data, no behaviour.

One row for a name of A1111 and Forge, ComfyUI, DALL-E, diffusers, fal, Replicate, SGLang,
TensorRT-LLM and vLLM-Omni. `translation.py` goes by these tables, the API's document lists what
they accept, and a test posts every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Sent = str | int | float | bool | list[Any] | dict[str, Any]
"""A value as JSON has it."""


class Same(NamedTuple):
    """Exactly our `field` by another name."""

    field: str


class Instead(NamedTuple):
    """Refused, as it can mean several things or has another unit: `hint` says what to write."""

    hint: str


class NotOffered(NamedTuple):
    """Refused, and `why`; but values in `unless` ask for what is done anyway."""

    why: str
    unless: tuple[Sent, ...] = ()


class NotUsed(NamedTuple):
    """Taken out with a warning that says `why`; without one where it asks for what is done anyway,
    as values in `unless` do."""

    why: str
    unless: tuple[Sent, ...] = ()


class Value(NamedTuple):
    """Our own value for one of another tool; `note` is the warning where they differ.

    None stands for a field left out.
    """

    value: str | None
    note: str | None = None


CONTAINERS: tuple[str, ...] = (
    "extra_body",
    "extra_params",
    "extra_args",
    "input",
    "parameters",
    "diffusers_kwargs",
)
"""Objects whose entries count as fields of the request itself."""

_NO_REPAIRS = "draw from the result again, with `image`; leave it out"
_NO_ADAPTERS = "adapters (LoRA) are not served yet; leave it out"
_NO_ADAPTER_AT_ALL: tuple[Sent, ...] = ([], {}, "", "[]", "{}")
_NO_ADAPTED_IMAGES = "this server has no image adapters; leave it out"
_CONTROL = "write `control`, a list of objects with image, kind, scale, start and end"
_STILL = "this server draws still images; leave it out"
_STEPS = "the noise schedule is the model's own; set `num_inference_steps` alone"
_NO_PLANNING = "this server has no planning model that would rewrite prompts; leave it out"
_SAFETY = "the operator sets how strict this server is; leave it out"
_NO_WEBHOOKS = "only jobs call back: POST /v1/jobs takes `webhook_url`; leave it out"
_GUIDANCE = (
    "its meaning differs between tools; write `guidance_scale` for the guidance that the model has"
    " learnt, or `true_cfg_scale` with `negative_prompt` for classifier-free guidance"
)
_SAMPLER = "this server draws with Euler's method; leave it out"
_SCHEDULE = "the noise schedule is the model's own"
_PERFORMANCE = "how images are computed is the operator's choice"
_CACHING = "nothing is cached between steps; `quality: low` takes some of them without a forward"

FOREIGN_FIELDS: Mapping[str, Same | Instead | NotOffered | NotUsed] = {
    # Steps
    "steps": Same("num_inference_steps"),
    "num_steps": Same("num_inference_steps"),
    "sampling_steps": Same("num_inference_steps"),
    "inference_steps": Same("num_inference_steps"),
    "sigmas": NotOffered(_STEPS),
    "timesteps": NotOffered(_STEPS),
    "flow_shift": NotOffered(_STEPS),
    "mu": NotOffered(_STEPS),
    # How many
    "num_images": Same("n"),
    "num_images_per_prompt": Same("n"),
    "num_outputs": Same("n"),
    "num_outputs_per_prompt": Same("n"),
    "batch_size": Same("n"),
    "samples": Same("n"),
    "n_iter": Instead("write `n`, the number of images in all"),
    "batch_count": Instead("write `n`, the number of images in all"),
    # Size; `width`, `height` and `image_size` are read by `translation.py`
    "resolution": Same("size"),
    "ar": Same("aspect_ratio"),
    "ratio": Same("aspect_ratio"),
    "megapixels": Instead("write `size` as 'WIDTHxHEIGHT'"),
    # Text
    "inputs": Same("prompt"),
    "prompt_2": Instead("both text encoders read `prompt`"),
    "prompt_3": Instead("both text encoders read `prompt`"),
    "negative_prompt_2": Instead("both text encoders read `negative_prompt`"),
    "text": Instead("write `prompt`"),
    "system_prompt": NotOffered(_NO_PLANNING),
    "use_system_prompt": NotOffered(_NO_PLANNING),
    "bot_task": NotOffered(_NO_PLANNING),
    "complexity": NotOffered(_NO_PLANNING),
    "enhance_prompt": NotOffered(_NO_PLANNING, unless=(False,)),
    "prompt_upsampling": NotOffered(_NO_PLANNING, unless=(False,)),
    "expand_prompt": NotOffered(_NO_PLANNING, unless=(False,)),
    "max_sequence_length": NotUsed("prompts are padded to the model's own length"),
    "clip_skip": NotOffered("the text encoders are read as the model was trained; leave it out"),
    # Guidance
    "guidance": Same("guidance_scale"),
    "distilled_cfg_scale": Same("guidance_scale"),
    "embedded_guidance_scale": Same("guidance_scale"),
    "embedded_cfg_scale": Same("guidance_scale"),
    "true_cfg": Same("true_cfg_scale"),
    "true_gs": Same("true_cfg_scale"),
    "cfg": Instead(_GUIDANCE),
    "cfg_scale": Instead(_GUIDANCE),
    # Noise
    "noise_seed": Same("seed"),
    "seeds": Same("seed"),
    "subseed": NotOffered("noise comes from `seed` alone; leave it out", unless=(-1,)),
    "subseed_strength": NotOffered("noise comes from `seed` alone; leave it out", unless=(0,)),
    "eta": NotOffered("no noise is added between steps; leave it out", unless=(0,)),
    "generator_device": NotUsed("noise is always drawn on the CPU", unless=("cpu",)),
    "latents": NotOffered("noise comes from `seed` alone; leave it out"),
    "sampler": NotOffered(_SAMPLER, unless=("euler", "k_euler", "Euler")),
    "sampler_name": NotOffered(_SAMPLER, unless=("euler", "k_euler", "Euler")),
    "sampler_index": NotOffered(_SAMPLER, unless=("euler", "k_euler", "Euler")),
    "scheduler": NotUsed(_SCHEDULE, unless=("FlowMatchEulerDiscreteScheduler",)),
    "scheduler_type": NotUsed(_SCHEDULE, unless=("FlowMatchEulerDiscreteScheduler",)),
    # The file and the answer
    "output_quality": Same("output_compression"),
    "format": Same("output_format"),
    "output_type": Instead("write `output_format` or `response_format`"),
    "sync_mode": NotUsed("see `response_format`", unless=(True, False)),
    "image_format": Same("output_format"),
    "webhook": NotOffered(_NO_WEBHOOKS),
    "webhook_url": NotOffered(_NO_WEBHOOKS),
    "webhook_events_filter": NotOffered(_NO_WEBHOOKS),
    "svg": NotOffered("this server draws pixels; leave it out"),
    "layers": NotOffered("this model draws one opaque layer; leave it out", unless=(1,)),
    # Safety
    "enable_safety_checker": NotOffered(_SAFETY, unless=(True,)),
    "disable_safety_checker": NotOffered(_SAFETY, unless=(False,)),
    "safety_tolerance": NotUsed("the operator sets how strict this server is"),
    # When
    "timeout": Instead("write `deadline_ms`, in milliseconds"),
    "deadline": Instead("write `deadline_ms`, in milliseconds"),
    "request_id": Instead("send the header `x-request-id`"),
    # How it is computed
    "enable_teacache": NotUsed(_CACHING, unless=(False,)),
    "go_fast": NotUsed(_CACHING, unless=(False,)),
    "acceleration": NotUsed(_CACHING, unless=("none",)),
    "vae_use_slicing": NotUsed(_PERFORMANCE, unless=(False,)),
    "vae_use_tiling": NotUsed(_PERFORMANCE, unless=(False,)),
    # Adapters: a path or URL in these is never opened
    **dict.fromkeys(
        (
            "lora",
            "loras",
            "lora_name",
            "lora_path",
            "lora_url",
            "lora_scale",
            "lora_scales",
            "lora_weights",
            "hf_lora",
            "extra_lora",
            "extra_lora_scale",
            "adapter",
            "adapters",
            "cross_attention_kwargs",
            "joint_attention_kwargs",
        ),
        NotOffered(_NO_ADAPTERS, unless=_NO_ADAPTER_AT_ALL),
    ),
    # Images that go in; of a control map, see `CONTROL_WORDS`
    **dict.fromkeys(
        (
            "images",
            "image[]",
            "image_url",
            "image_urls",
            "input_image",
            "init_image",
            "init_images",
            "url",
            "url[]",
        ),
        Same("image"),
    ),
    "mask_url": Same("mask_image"),
    "mask_image_url": Same("mask_image"),
    "reference_images": Same("reference_image"),
    "reference_image_url": Same("reference_image"),
    "prompt_strength": Same("strength"),
    "denoising_strength": Same("strength"),
    "denoise": Same("strength"),
    "image_prompt": Instead("write `reference_image` for a picture to look at"),
    "image_prompt_strength": NotOffered("a picture that is looked at has no strength here"),
    "markup": NotOffered("marks on a picture are not read; say in `prompt` what to change"),
    "enable_hr": NotOffered(_NO_REPAIRS, unless=(False,)),
    "restore_faces": NotOffered(_NO_REPAIRS, unless=(False,)),
    "tiling": NotOffered("this server draws no tiles; leave it out", unless=(False,)),
    **dict.fromkeys(
        ("controlnet", "controlnets", "controlnet_units", "easycontrols", "control_images"),
        Instead(_CONTROL),
    ),
    **dict.fromkeys(
        ("ip_adapter", "ip_adapters", "ip_adapter_image"), NotOffered(_NO_ADAPTED_IMAGES)
    ),
    # Films
    "frame_count": NotOffered(_STILL, unless=(1,)),
    "frame_duration_ms": NotOffered(_STILL),
    "num_frames": NotOffered(_STILL, unless=(1,)),
    "fps": NotOffered(_STILL),
    "seconds": NotOffered(_STILL),
}
"""Names that are not ours."""

CONTROL_WORDS: Mapping[str, str] = {
    "control_image": "image",
    "control_image_url": "image",
    "control_kind": "kind",
    "control_type": "kind",
    "control_mode": "kind",
    "control_scale": "scale",
    "control_strength": "scale",
    "controlnet_conditioning_scale": "scale",
    "control_start": "start",
    "control_guidance_start": "start",
    "control_end": "end",
    "control_guidance_end": "end",
}
"""What others say of their one control map, and what that is in an entry of `control`."""

FOREIGN_VALUES: Mapping[str, Mapping[str, Value]] = {
    "quality": {
        # DALL-E 3
        "standard": Value("medium"),
        "hd": Value("high"),
        # GPT Image
        "xhigh": Value("high", "'xhigh' is drawn as 'high', the most that is offered"),
        "max": Value("high", "'max' is drawn as 'high', the most that is offered"),
        # SGLang: how exact kernels are, not how many steps are taken
        "exact": Value("medium"),
        "lossless": Value("medium"),
        "extra-high": Value("medium", "'extra-high' is drawn as 'medium', which is exact"),
    },
    "output_format": {"jpg": Value("jpeg")},
    "response_format": {"base64": Value("b64_json")},
    "output_compression": {"default": Value(None)},
    "aspect_ratio": {"auto": Value(None)},
}
"""Values of our own fields that are not ours; any spelling with capitals is the same."""

IMAGE_SIZES: Mapping[str, str] = {
    "square_hd": "1024x1024",
    "square": "512x512",
    "portrait_4_3": "768x1024",
    "portrait_16_9": "576x1024",
    "landscape_4_3": "1024x768",
    "landscape_16_9": "1024x576",
}
"""The names that fal's `image_size` has for sizes."""
