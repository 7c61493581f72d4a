"""The pretended GPU catches what it is there to catch: a check that it passes can fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.pretend_cuda import HostWaits, PretendCuda, Wait, pretend_cuda

CUDA = torch.device("cuda")


@pytest.fixture
def waits() -> Iterator[HostWaits]:
    with pretend_cuda() as waits:
        yield waits


@pytest.fixture
def x(waits: HostWaits) -> torch.Tensor:
    return torch.arange(6.0).reshape(2, 3).to(CUDA)


def test_there_is_no_such_device_outside() -> None:
    available = torch.cuda.is_available()
    with pretend_cuda():
        assert torch.cuda.is_available()
        tensor = torch.ones(2, device=CUDA)
    assert torch.cuda.is_available() == available
    with pytest.raises(RuntimeError, match="outside of"):
        tensor.add(1)


def test_a_tensor_says_where_it_is(x: torch.Tensor) -> None:
    assert isinstance(x, PretendCuda)
    assert (x.device, x.is_cuda, x.is_cpu) == (torch.device("cuda:0"), True, False)
    assert x.sum(dim=0).device == x.device == torch.zeros_like(x).device
    assert x.cpu().device == x.to("cpu").device == torch.zeros_like(x, device="cpu").device
    assert x.cpu().device.type == "cpu"
    assert torch.equal(x.cpu() * 2 + 1, (x * 2 + 1).cpu())


def test_views_share_memory_and_copies_do_not(x: torch.Tensor) -> None:
    x[0].add_(10)
    x[:, 1] += 100
    x[1, 2] = -1
    assert x.cpu().tolist() == [[10, 111, 12], [3, 104, -1]]
    host = x.cpu()
    host.zero_()
    assert float(x.sum()) > 0
    assert x.add_(1) is x
    assert x.float() is x
    assert x.clone() is not x
    first, second = x
    assert (first.shape, second.device) == ((3,), x.device)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(1, 3)]),
        lambda x: nn.functional.linear(x, torch.ones(2, 3)),
        lambda x: x.index_select(0, torch.tensor([1])),
        lambda x: x[torch.tensor([1])],
        lambda x: torch.arange(6.0)[x[0].long()],
        lambda x: x.add_(torch.ones(3)),
        lambda x: torch.ones(2, 3).add_(x),
        lambda x: torch.where(x > 1, x, torch.ones(3)),
        lambda x: nn.Linear(3, 2)(x),
        lambda x: x.data.__setattr__("data", torch.ones(2, 3)),
    ],
)
def test_a_tensor_on_the_cpu_does_not_meet_one_on_cuda(
    x: torch.Tensor, mistake: Callable[[torch.Tensor], Any]
) -> None:
    with pytest.raises(RuntimeError, match=r"same device.*cuda:0"):
        mistake(x)


def test_single_numbers_may_stay_on_the_cpu(x: torch.Tensor) -> None:
    assert (x * torch.tensor(2.0)).device == x.device


def test_numpy_wants_a_copy_on_the_host(x: torch.Tensor) -> None:
    import numpy as np

    with pytest.raises(TypeError, match="to numpy"):
        x.numpy()
    with pytest.raises(TypeError, match="to numpy"):
        np.asarray(x)


@pytest.mark.parametrize(
    ("waiting", "kind"),
    [
        (lambda x: x.cpu(), "download"),
        (lambda x: x.to("cpu", torch.bfloat16), "download"),
        (lambda x: torch.empty(2, 3).copy_(x), "download"),
        (lambda x: x.tolist(), "download"),
        (lambda x: x.sum().item(), "scalar"),
        (lambda x: bool((x > 0).all()), "scalar"),
        (lambda x: float(x[0, 0]), "scalar"),
        (lambda x: range(10)[x[0, 0].long()], "scalar"),
        (lambda x: x[x > 1], "scalar"),
        (lambda x: x.nonzero(), "scalar"),
        (lambda x: torch.where(x > 1), "scalar"),
        (lambda x: torch.repeat_interleave(x[0].long()), "scalar"),
        (lambda x: torch.repeat_interleave(x, torch.ones(2, device=CUDA).long(), dim=0), "scalar"),
        (lambda x: torch.equal(x, x), "scalar"),
        (lambda x: 1.0 in x, "scalar"),
        (lambda x: f"{x[0, 0]:.1f}", "scalar"),
        (lambda x: x[[0, 1]], "list index"),
        (lambda x: x[:, [0, 2]].sum(), "list index"),
        (lambda x: x.__setitem__([0], 1.0), "list index"),
        (lambda x: x.__setitem__(0, torch.ones(3)), "upload"),
        (lambda x: torch.ones(2).to(CUDA), "upload"),
        (lambda x: torch.ones(2).to(x), "upload"),
        (lambda x: torch.ones(2).cuda(), "upload"),
        (lambda x: torch.ones(2).to(CUDA, non_blocking=True), "upload"),
        (lambda x: torch.ones(2).pin_memory().to(CUDA), "upload"),
        (lambda x: torch.tensor([1, 2], device=CUDA), "upload"),
        (lambda x: x.copy_(torch.ones(2, 3)), "upload"),
        (lambda x: torch.cuda.synchronize(), "synchronize"),
        (lambda x: torch.cuda.current_stream().synchronize(), "synchronize"),
        (lambda x: torch.cuda.current_stream().record_event().synchronize(), "event"),
    ],
)
def test_waiting_of_the_host_is_counted(
    waits: HostWaits, x: torch.Tensor, waiting: Callable[[torch.Tensor], Any], kind: Wait
) -> None:
    with waits.counted() as found:
        waiting(x)
    assert found == {kind: 1}


@pytest.mark.parametrize(
    "flowing",
    [
        lambda x: nn.functional.layer_norm(x * 2 + 1, (3,)).to(torch.bfloat16).to(CUDA),
        lambda x: x[:, 0] + x[..., 1] + x[None, 1:, 2],
        lambda x: x.index_select(0, torch.arange(2, device=CUDA)),
        lambda x: x.split([1, 1]) + x.unbind(),
        lambda x: torch.randn(3, device=CUDA) + torch.full([3], 2.0, device=x.device),
        lambda x: torch.ones(2).pin_memory().to(CUDA, non_blocking=True),
        lambda x: torch.empty(2, 3, pin_memory=True).copy_(x, non_blocking=True),
        lambda x: torch.repeat_interleave(x, torch.ones(2, device=CUDA).long(), 0, output_size=2),
    ],
)
def test_what_only_queues_work_is_not(
    waits: HostWaits, x: torch.Tensor, flowing: Callable[[torch.Tensor], Any]
) -> None:
    with waits.counted() as found:
        flowing(x)
    assert found == {}


def test_a_copy_that_nobody_waited_for_has_not_come(x: torch.Tensor) -> None:
    host = torch.zeros(2, 3, pin_memory=True)
    assert host.is_pinned()
    assert host[1:].is_pinned()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        host.copy_(x, non_blocking=True)
        done = side.record_event()
    x.zero_()  # later in the device's order
    assert bool(host.isnan().all())
    torch.cuda.current_stream().synchronize()
    assert bool(host.isnan().all()), "another stream was waited for"
    assert not done.query()
    assert done.query()
    assert host.tolist() == [[0, 1, 2], [3, 4, 5]]
    again = x.to("cpu", non_blocking=True)
    assert bool(again.isnan().all())
    torch.cuda.synchronize()
    assert again.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_events_are_in_time_order(waits: HostWaits) -> None:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    end.record()
    assert begin.elapsed_time(end) > 0


def test_a_module_is_moved_in_place_with_all_its_weights(waits: HostWaits) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    plain = torch.randn(2, 3)
    expected = module(plain)
    with waits.counted() as found:
        module.to(CUDA)
    assert found == {"upload": 7}
    for tensor in (*module.parameters(), *module.buffers()):
        assert tensor.device.type == "cuda"
    assert all(isinstance(parameter, nn.Parameter) for parameter in module.parameters())
    assert torch.equal(module(plain.to(CUDA)).cpu(), expected)


def test_threads_that_start_meanwhile_are_on_it_too(waits: HostWaits, x: torch.Tensor) -> None:
    sums: list[float] = []
    thread = threading.Thread(target=lambda: sums.append(x.sum().item()))
    with waits.counted() as found:
        thread.start()
        thread.join()
    assert sums == [15.0]
    assert found == {"scalar": 1}
