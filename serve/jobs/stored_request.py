"""From a plan to the request that is stored, and back: what a job draws is decided by it alone.

A stored request is a body that `POST /v1/images/generations` takes, with nothing left to choose:
limits and defaults that have changed since then change nothing about it. What it draws from is in
files of its own (`stored_pictures.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.catalog import ModelSpec
from pipelines.contracts import FinishSpec, GenerationParams
from pipelines.cuts import Cut
from serve.generation.plan import Plan, RequestedTerms
from serve.jobs.stored_pictures import read_pictures, stored_pictures
from serve.settings.sections import Deadlines

_DEFAULT_COMPRESSION = FinishSpec(seed=0).output_compression


def stored_request(plan: Plan) -> dict[str, Any]:
    """`plan` as a body in JSON, with its seed."""
    params, finish, requested = plan.params, plan.finish, plan.requested
    return {
        "model": finish.model,
        "prompt": params.prompt,
        "negative_prompt": params.negative_prompt,
        "prompt_weighting": params.prompt_weighting,
        "n": params.num_images,
        "size": f"{params.width}x{params.height}",
        "num_inference_steps": params.num_inference_steps,
        "min_steps": params.min_inference_steps,
        "step_cuts": [list(cut) for cut in params.planned_cuts],
        "skip_steps": params.skips_steps,
        "guidance_scale": params.guidance_scale,
        "true_cfg_scale": params.true_cfg_scale,
        "seed": params.seed,
        "output_format": finish.output_format,
        # It means nothing for this format, and would be warned of.
        "output_compression": None if finish.output_format == "png" else finish.output_compression,
        "deadline_ms": requested.deadline_ms if requested.is_deadline_asked else None,
        "priority": requested.priority,
        **stored_pictures(plan),
    }


def stored_plan(request: Mapping[str, Any], *, spec: ModelSpec, deadlines: Deadlines) -> Plan:
    """The plan of a stored request: its files are stored, and nothing comes inline.

    `deadlines` are what orders the work of a request that names no deadline. Its warnings are the
    job's own.
    """
    width, _, height = str(request["size"]).partition("x")
    deadline_ms, compression = request["deadline_ms"], request["output_compression"]
    pictures = read_pictures(request)
    params = GenerationParams(
        prompt=request["prompt"],
        negative_prompt=request["negative_prompt"],
        height=int(height),
        width=int(width),
        num_inference_steps=request["num_inference_steps"],
        guidance_scale=request["guidance_scale"],
        true_cfg_scale=request["true_cfg_scale"],
        seed=request["seed"],
        num_images=request["n"],
        max_sequence_length=spec.max_sequence_length,
        # Jobs of versions before have none of it.
        prompt_weighting=request.get("prompt_weighting", False),
        min_inference_steps=request["min_steps"],
        planned_cuts=tuple(Cut(*cut) for cut in request["step_cuts"]),
        skips_steps=request["skip_steps"],
        family=spec.family,
        task=pictures.task,
        strength=pictures.strength,
        pictures=pictures.uses,
    )
    return Plan(
        params=params,
        finish=FinishSpec(
            output_format=request["output_format"],
            output_compression=_DEFAULT_COMPRESSION if compression is None else compression,
            inline=False,
            store=True,
            seed=params.seed,
            model=request["model"],
            pastes_back=pictures.pastes_back,
        ),
        recipes=pictures.recipes,
        requested=RequestedTerms(
            deadline_ms=deadlines.default_ms if deadline_ms is None else deadline_ms,
            is_deadline_asked=deadline_ms is not None,
            refuses_late=deadline_ms is not None and deadlines.unreachable == "refuse",
            priority=request["priority"],
        ),
        quality=None,
        revised_prompt=None,
        warnings=(),
    )
