"""Attention back ends: each stays inside its segments, and one that cannot run says what to do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from deployments.options.stages import DenoiserOptions
from pipelines.errors import ConfigurationError
from pipelines.packing.attention import BACKENDS, AttentionBackend, VarlenAttention, backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTHS = [
    [7],
    [3, 3, 5, 2],
    [4, 4, 4],
    [9, 1, 1, 6],
]


def by_segment(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: Sequence[int]
) -> torch.Tensor:
    """The definition: each segment alone."""
    outputs: list[torch.Tensor] = []
    for start, end in pairwise(offsets):
        q, k, v = (x[start:end].transpose(0, 1)[None] for x in (query, key, value))
        outputs.append(scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
    return torch.cat(outputs)


def heads(lengths: Sequence[int], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(sum(lengths), 2, 16, generator=generator).to(dtype) for _ in range(3)]


def offsets_of(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[:i]) for i in range(len(lengths) + 1)]


def check(attend: AttentionBackend, lengths: Sequence[int], dtype: torch.dtype) -> None:
    query, key, value = heads(lengths, dtype)
    plan = attend.prepare(lengths, CPU)
    output = attend(query, key, value, plan)
    torch.testing.assert_close(output, by_segment(query, key, value, offsets_of(lengths)))


def varlen_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_offsets: torch.Tensor,
    key_offsets: torch.Tensor,
    longest_query: int,
    longest_key: int,
) -> torch.Tensor:
    """What torch's varlen_attn and flash-attn's flash_attn_varlen_func document, by a loop."""
    for x in (query, key, value):
        assert x.ndim == 3
        assert x.dtype in (torch.float16, torch.bfloat16)
        assert x.stride(-1) == 1
    for offsets, longest in ((query_offsets, longest_query), (key_offsets, longest_key)):
        assert offsets.dtype == torch.int32
        assert offsets.is_contiguous()
        assert longest == int(offsets.diff().max())
    return by_segment(query, key, value, query_offsets.tolist())


def fa3_kernel(*arguments: Any, num_splits: int = 0) -> torch.Tensor:
    """As fa3-fwd's: left to choose, it would split keys by what else is in the batch."""
    assert num_splits == 1
    assert arguments[0].dtype == torch.bfloat16
    return varlen_kernel(*arguments)


@dataclass(frozen=True)
class BlockDiagonalMask:
    """As xformers': made from lengths, on a device."""

    lengths: list[int]

    @classmethod
    def from_seqlens(
        cls, q_seqlen: Sequence[int], *, device: torch.device | None = None
    ) -> BlockDiagonalMask:
        assert isinstance(q_seqlen, list)
        assert device is not None
        return cls(q_seqlen)


def memory_efficient_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_bias: BlockDiagonalMask
) -> torch.Tensor:
    """As xformers': (1, T, H, E) under a mask made beforehand."""
    assert query.shape[0] == 1
    return by_segment(query[0], key[0], value[0], offsets_of(attn_bias.lengths))[None]


@pytest.fixture
def fake_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages that need a GPU, with the documented signatures; and a GPU's capability."""

    def add(name: str, **contents: object) -> None:
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    add("torch.nn.attention.varlen", varlen_attn=varlen_kernel)
    add("flash_attn", flash_attn_varlen_func=varlen_kernel)
    add("fa3_fwd_interface", flash_attn_varlen_func=fa3_kernel)
    add("xformers.ops", memory_efficient_attention=memory_efficient_attention)
    add("xformers.ops.fmha.attn_bias", BlockDiagonalMask=BlockDiagonalMask)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sdpa_attends_inside_each_segment(lengths: list[int], dtype: torch.dtype) -> None:
    check(backend("sdpa", device=CPU, dtype=dtype), lengths, dtype)


@pytest.mark.usefixtures("fake_packages")
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", ["varlen", "fa3", "flash", "xformers"])
def test_the_others_are_called_as_documented(name: str, lengths: list[int]) -> None:
    check(backend(name, device=CUDA, dtype=torch.bfloat16), lengths, torch.bfloat16)


def test_torchs_own_kernel_takes_the_arguments_that_we_give() -> None:
    """The real `varlen_attn`, on the meta device: shapes and types, no arithmetic."""
    from torch.nn.attention.varlen import varlen_attn

    kernel: Any = varlen_attn
    attend = VarlenAttention(kernel)
    plan = attend.prepare([3, 5], CPU)
    assert plan.cumulative.tolist() == [0, 3, 8]
    assert plan.longest == 5
    query, key, value = (x.to("meta") for x in heads([3, 5], torch.bfloat16))
    output = attend(query, key, value, attend.prepare([3, 5], torch.device("meta")))
    assert output.shape == query.shape
    assert output.dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [*LENGTHS, [300, 17, 300, 64]], ids=str)
@pytest.mark.parametrize("name", ["sdpa", "varlen", "fa3", "flash", "xformers"])
def test_on_a_gpu_each_agrees_with_the_definition(name: str, lengths: list[int]) -> None:
    try:
        attend = backend(name, device=CUDA, dtype=torch.bfloat16)
    except ConfigurationError as error:
        pytest.skip(error.message)
    query, key, value = (x.to(CUDA) for x in heads(lengths, torch.bfloat16))
    output = attend(query, key, value, attend.prepare(lengths, CUDA))
    expected = by_segment(query.float(), key.float(), value.float(), offsets_of(lengths))
    torch.testing.assert_close(output.float(), expected, atol=0.02, rtol=0.02)


def test_a_segment_does_not_see_another() -> None:
    attend = backend("sdpa", device=CPU, dtype=torch.float32)
    lengths = [3, 3, 5, 2]
    query, key, value = heads(lengths)
    plan = attend.prepare(lengths, CPU)
    before = attend(query, key, value, plan)
    value[6:11] += 100.0
    after = attend(query, key, value, plan)
    changed = (before - after).abs().flatten(1).amax(dim=1) > 0
    assert changed.tolist() == [False] * 6 + [True] * 5 + [False] * 2


@pytest.mark.parametrize("name", ["varlen", "fa3", "flash", "xformers"])
def test_without_a_gpu_the_error_names_the_setting(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"runs on CUDA only.*set attention: sdpa"):
        backend(name, device=CPU, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["varlen", "fa3", "flash"])
def test_float32_is_refused_by_what_cannot_do_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not float32; set dtype: bfloat16"):
        backend(name, device=CUDA, dtype=torch.float32)


@pytest.mark.parametrize("name", ["varlen", "flash"])
def test_an_old_gpu_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ConfigurationError, match=r"this one has 7\.5"):
        backend(name, device=CUDA, dtype=torch.float16)


def test_fa3_has_kernels_for_bfloat16_and_hopper_only(
    fake_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="takes bfloat16, not float16"):
        backend("fa3", device=CUDA, dtype=torch.float16)
    for capability in ((8, 9), (10, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, is_=capability: is_)
        with pytest.raises(ConfigurationError, match=rf"Hopper GPU.*has {capability[0]}\."):
            backend("fa3", device=CUDA, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("fa3", "fa3_fwd_interface", r"'sluice\[fa3\]'"),
        ("flash", "flash_attn", "flash-attn,"),
        ("xformers", "xformers.ops", r"'sluice\[gpu\]'"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=f"pip install {extra}"):
        backend(name, device=CUDA, dtype=torch.bfloat16)


def test_an_unknown_back_end_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="sdpa"):
        backend("flash9", device=CPU, dtype=torch.float32)


def test_the_configurable_back_ends_are_those_that_exist() -> None:
    assert set(get_args(DenoiserOptions.model_fields["attention"].annotation)) == set(BACKENDS)
