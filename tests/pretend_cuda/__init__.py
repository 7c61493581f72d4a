"""A GPU that is not there: tensors that say `cuda:0` and compute on the CPU, to the same bits.

Inside `pretend_cuda()` code for a GPU runs as it is, and three kinds of mistake show:

    a CPU tensor meets one on cuda       RuntimeError, as on a GPU
    the host waits for the device        counted by kind, see `HostWaits`
    a copy is read before it has come    it reads NaN: `copy_(..., non_blocking=True)` into pinned
                                         memory arrives when its stream or event is waited for

`tensor.py` has the tensors, `runtime.py` what stands in for `torch.cuda`, `waits.py` the counts.
Speed, memory, races between streams, the kernels' own rounding and `torch.compile` are not
pretended.
"""

from tests.pretend_cuda.runtime import pretend_cuda
from tests.pretend_cuda.tensor import PretendCuda
from tests.pretend_cuda.waits import HostWaits, Wait

__all__ = ["HostWaits", "PretendCuda", "Wait", "pretend_cuda"]
