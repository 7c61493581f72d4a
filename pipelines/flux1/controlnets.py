"""The ControlNets beside one FLUX.1 transformer, and the control maps of its works.

Maps of one net that act in a tick are one packed forward of it. Several maps of a work are added
up, as diffusers' `FluxMultiControlNetModel` does; one whose scale is 0 in a step is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from pipelines.begin import ActiveControl, Control
from pipelines.contracts import Conditioning, SamplingParams
from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.flux1.controlnet import MapInputs, PackedControlNet, every
from pipelines.flux1.latents import position_ids
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.flux1.residuals import BlockResidual, BlockSamples
from pipelines.flux1.transformer import PackedFlux
from pipelines.packing.layout import SegmentShape
from pipelines.sampling import Schedule
from pipelines.tasks import PictureRole, PictureUse, Task

_FLOAT32 = 4


class LoadedNet(NamedTuple):
    """A loaded ControlNet, with the mode of each kind of map that it follows."""

    packed: PackedControlNet
    kinds: Mapping[str, int | None]


class _SampleCounts(NamedTuple):
    """How many samples a work's maps have in common: what is shared out among its blocks."""

    doubles: int
    singles: int


class FluxControlNets:
    """All ControlNets of a denoiser. For one thread."""

    def __init__(self, flux: PackedFlux, nets: Sequence[LoadedNet]) -> None:
        self._nets = tuple(nets)
        config = flux.config
        self._blocks = _SampleCounts(config.num_layers, config.num_single_layers)

    def check(self, sampling: SamplingParams) -> None:
        """Raises UnsupportedFeature where there is no ControlNet, InvalidRequest for a kind of map
        that none follows."""
        for use in _uses(sampling):
            self._find(use)

    def controls(
        self,
        sampling: SamplingParams,
        schedule: Schedule,
        positive: Conditioning,
        maps: Sequence[torch.Tensor],
    ) -> tuple[Control, ...]:
        """The control maps of a work, of whose latents (S, D) `maps` are."""
        uses = _uses(sampling)
        counts = self._common(uses)
        return tuple(
            self._control(use, latents, sampling, schedule, positive, counts)
            for use, latents in zip(uses, maps, strict=True)
        )

    def residuals(self, active: Sequence[ActiveControl]) -> list[BlockResidual]:
        """What the maps that act in a tick add to the segments of its batch."""
        found: dict[tuple[int, ...], BlockSamples] = {}
        counts: dict[tuple[int, ...], _SampleCounts] = {}
        for each, samples in zip(active, self._samples(active), strict=True):
            scaled = samples.scaled(each.control.scales[each.step])
            before, key = found.get(each.segments), each.segments
            found[key] = scaled if before is None else before.plus(scaled)
            counts[key] = each.control.inputs.counts
        return [
            BlockResidual(
                segment,
                BlockSamples(
                    samples.doubles[: counts[segments].doubles],
                    samples.singles[: counts[segments].singles],
                ),
                every(self._blocks.doubles, counts[segments].doubles),
                every(self._blocks.singles, counts[segments].singles),
            )
            for segments, samples in found.items()
            for segment in segments
        ]

    def tokens(self, sampling: SamplingParams, own: int) -> tuple[int, ...]:
        """For each map that acts, the tokens of a transformer's segment that cost as much as its
        forward over `own`: blocks of both kinds have equally many weights."""
        blocks = sum(self._blocks)
        return tuple(
            -(-own * (net.packed.runs_doubles + net.packed.runs_singles) // blocks)
            for net in (self._nets[self._find(use)] for use in _uses(sampling) if use.scale)
        )

    def bytes_of(self, sampling: SamplingParams, text: int, image: int, num_steps: int) -> int:
        """Device memory of the maps of an admitted work: embedded map and text, the modulation of
        all forwards, rotary factors."""
        total = 0
        for use in _uses(sampling):
            net, mode = self._nets[self._find(use)].packed, self._mode(use)
            tokens = text + (mode is not None)
            vectors = 12 * net.runs_doubles + 3 * net.runs_singles
            values = (image + tokens + num_steps * vectors) * net.width
            rotary = 2 * (tokens + image) * net.config.attention_head_dim
            total += values * net.dtype.itemsize + rotary * _FLOAT32
        return total

    def _control(
        self,
        use: PictureUse,
        latents: torch.Tensor,
        sampling: SamplingParams,
        schedule: Schedule,
        positive: Conditioning,
        counts: _SampleCounts,
    ) -> Control:
        where = self._find(use)
        net = self._nets[where].packed
        embeds, pooled = (each.to(net.device, net.dtype) for each in PromptTensors.of(positive))
        txt, mode = net.embed_text(embeds), net.mode_token(self._mode(use))
        if mode is not None:
            txt = torch.cat([mode, txt])
        ids = position_ids(
            len(txt),
            height=sampling.height,
            width=sampling.width,
            device=net.device,
            dtype=net.dtype,
        )
        inputs = _Inputs(
            MapInputs(
                hint=net.embed_hint(latents),
                txt=txt,
                vec=net.modulation(schedule.timesteps, sampling.guidance_scale, pooled),
                shape=SegmentShape(len(txt), len(latents)),
                rope=net.rotary(ids),
            ),
            counts,
        )
        scales = tuple(use.scale * keep for keep in _kept(use, schedule.num_steps))
        return Control(where, inputs, scales, len(ids))

    def _samples(self, active: Sequence[ActiveControl]) -> list[BlockSamples]:
        """Of each, in one forward for all of one net."""
        found: dict[int, BlockSamples] = {}
        for number, net in enumerate(self._nets):
            own = [index for index, each in enumerate(active) if each.control.net == number]
            if not own:
                continue
            samples = net.packed.samples(
                [active[index].control.inputs.map for index in own],
                [active[index].latents for index in own],
                [active[index].step for index in own],
            )
            found.update(zip(own, samples, strict=True))
        return [found[index] for index in range(len(active))]

    def _common(self, uses: Sequence[PictureUse]) -> _SampleCounts:
        """As `FluxMultiControlNetModel` adds lists up: only as far as both go, and nothing to a
        first one that has none."""
        nets = [self._nets[self._find(use)].packed for use in uses]
        doubles, singles = nets[0].num_doubles, nets[0].num_singles
        for net in nets[1:]:
            doubles = min(doubles, net.num_doubles or doubles)
            singles = min(singles, net.num_singles or singles)
        return _SampleCounts(doubles, singles)

    def _mode(self, use: PictureUse) -> int | None:
        kinds = self._nets[self._find(use)].kinds
        return kinds[use.kind or next(iter(kinds))]

    def _find(self, use: PictureUse) -> int:
        """The first ControlNet that follows maps of this kind; none needs be named where there is
        only one."""
        if not self._nets:
            raise UnsupportedFeature(
                "control: this denoiser has no ControlNet; name one in its configuration, such as"
                " flux.1-controlnet-union-pro-2.0",
                param="control",
            )
        if not use.kind and len(self._nets) == len(self._nets[0].kinds) == 1:
            return 0
        for index, net in enumerate(self._nets):
            if use.kind in net.kinds:
                return index
        known = sorted({kind for net in self._nets for kind in net.kinds})
        raise InvalidRequest(
            f"control: no map of kind {use.kind!r} is followed here; known: {', '.join(known)}",
            param="control",
        )


class _Inputs(NamedTuple):
    map: MapInputs
    counts: _SampleCounts


def _uses(sampling: SamplingParams) -> list[PictureUse]:
    """The maps that ControlNets follow; the task of that name has its own as channels."""
    if sampling.task is Task.CONTROL:
        return []
    return [use for use in sampling.pictures if use.role is PictureRole.CONTROL]


def _kept(use: PictureUse, num_steps: int) -> list[float]:
    """1 for each forward in which a map acts, else 0, as `FluxControlNetPipeline` counts."""
    return [
        1.0 - float(step / num_steps < use.start or (step + 1) / num_steps > use.end)
        for step in range(num_steps)
    ]
