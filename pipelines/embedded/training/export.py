"""Phase *export*: puts the trained parts together as a folder in the diffusers FLUX.1 format.

``FluxPipeline.from_pretrained(folder)`` loads it. Weights are stored as float16 and meant to be
run as float32. ``sluice.json`` beside them says how the model wants to be asked.
"""

import json
import logging
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline
from safetensors.torch import load_file

from pipelines.embedded import EMBEDDED_MODEL_NAME, EMBEDDED_MODEL_VERSION
from pipelines.embedded.training import world
from pipelines.embedded.training.flow import build_scheduler, build_transformer
from pipelines.embedded.training.loop import CHECKPOINT
from pipelines.embedded.training.tokenizers import CLIP_LENGTH, T5_LENGTH
from pipelines.embedded.training.train_text import load_encoders

logger = logging.getLogger(__name__)

STEPS = 10
GUIDANCE = 3.5
MAX_BYTES = 15_000_000


def export(run: Path, folder: Path) -> None:
    """Write ``folder`` from what the phases left in ``run``: the distilled transformer, if any.

    An evaluation and a model card in the folder are left alone.
    """
    encoders = load_encoders(run / "text")
    transformer = build_transformer()
    weights = [run / phase / CHECKPOINT for phase in ("distill", "flow")]
    transformer.load_state_dict(load_file(next(path for path in weights if path.exists())))
    pipeline = FluxPipeline(
        scheduler=build_scheduler(),
        vae=AutoencoderKL.from_pretrained(run / "vae"),
        text_encoder=encoders.clip,
        tokenizer=encoders.clip_tokenizer,
        text_encoder_2=encoders.t5,
        tokenizer_2=encoders.t5_tokenizer,
        transformer=transformer,
    )
    for name in pipeline.components:
        shutil.rmtree(folder / name, ignore_errors=True)
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder)
    forget_origin(folder)
    parameters = sum(weight.numel() for weight in transformer.parameters())
    records = {
        path.parent.name: json.loads(path.read_text()) for path in run.glob("*/training.json")
    }
    # Only encoders that learnt instructions have scores by operation.
    operations = list(records.get("text", {}).get("by_operation", {}))
    defaults = serving_defaults(parameters, operations)
    (folder / "sluice.json").write_text(json.dumps(defaults, indent=1) + "\n")
    (folder / "training.json").write_text(json.dumps(records, indent=1) + "\n")
    size = folder_bytes(folder)
    logger.info("export: %s, %.2f MB", folder, size / 1e6)
    if size >= MAX_BYTES:
        raise ValueError(f"the carried model has {size} bytes, more than {MAX_BYTES}")


def forget_origin(folder: Path) -> None:
    """Make the parts of a folder load as float32, and take out where they were loaded from."""
    for name in ("text_encoder", "text_encoder_2"):
        # Without this transformers would load float16 while diffusers loads float32.
        _edit_json(folder / name / "config.json", dtype="float32")
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        if path.exists():
            _edit_json(path, _name_or_path=None)


def serving_defaults(
    parameters: int, operations: list[str]
) -> dict[str, str | int | float | list[str]]:
    """How the model wants to be asked, for the model catalogue to read.

    ``parameters`` counts the transformer's; ``operations`` are the edits that it makes, if any.
    """
    edits: dict[str, list[str]] = {"operations": operations} if operations else {}
    return {
        "name": EMBEDDED_MODEL_NAME,
        "version": EMBEDDED_MODEL_VERSION,
        "family": "flux.1",
        "height": world.CANVASES[0].height,
        "width": world.CANVASES[0].width,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "true_cfg_scale": 1.0,
        "max_sequence_length": T5_LENGTH,
        "sizes": [str(canvas) for canvas in world.CANVASES],
        "clip_max_length": CLIP_LENGTH,
        "dtype": "float32",
        "parameters": parameters,
        "shapes": list(world.SHAPES),
        "colours": list(world.COLOUR_NAMES),
        "layouts": list(world.LAYOUT_NAMES),
        "licence": "Apache-2.0",
    } | edits


def folder_bytes(folder: Path) -> int:
    """The size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _edit_json(path: Path, **changes: str | None) -> None:
    """Set keys of a JSON file, or remove those that are None."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            content.pop(key, None)
        else:
            content[key] = value
    path.write_text(json.dumps(content, indent=2) + "\n")
