"""A tensor that two processes share: what `transfer.kind = "ipc"` rests on.

The handle is torch's own (``reduce_tensor``), as vLLM's IPC backend sends it. The other process
reads the values, writes its answer in place, and this one reads that: nothing was copied.
"""

import io
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

import torch

from tests.benchmarks.figures import Figure
from tests.gpu.setting import Setting

_TIMEOUT_S = 45.0
_MARKED = 7


def figures(setting: Setting) -> Iterator[Figure]:
    """A tensor of 256 MiB (CPU: 1 MiB), and one that lies inside it, as in a packed bucket."""
    numbers = 2**18 if setting.small else 2**26
    whole = torch.arange(numbers, dtype=torch.float32, device=setting.device)
    tensors = {"bucket": whole, "view_of_a_bucket": whole[1000:2000].view(10, 100)}
    with OtherProcess() as other:
        for name, tensor in tensors.items():
            expected = float(tensor.double().sum())
            setting.wait()
            away = abs(other.sum_and_mark(tensor) - expected) / expected
            setting.wait()
            yield Figure(f"ipc/{name}/sum_off", away, "gap", 1e-9, "below")
            marked = bool((tensor.flatten()[-_MARKED:] == -1).all())
            yield Figure(f"ipc/{name}/written_in_place", float(marked), "", 1.0, "above")


class OtherProcess:
    """Adds up tensors that it gets the handles of, and marks their ends with -1."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_other_process, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "OtherProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def sum_and_mark(self, tensor: torch.Tensor) -> float:
        """The sum that it sees, before it marks."""
        self._connection.send_bytes(_with_handles(tensor))
        if not self._connection.poll(_TIMEOUT_S):
            raise TimeoutError(f"the other process gave no answer within {_TIMEOUT_S:.0f} s")
        return float(self._connection.recv())


def _with_handles(tensor: torch.Tensor) -> bytes:
    """The tensor as torch hands it to another process: where it lies, not what it holds."""
    import torch.multiprocessing

    torch.multiprocessing.set_sharing_strategy("file_system")
    stream = io.BytesIO()
    ForkingPickler(stream).dump(tensor)
    return stream.getvalue()


def _other_process(connection: Connection) -> None:
    import torch.multiprocessing

    held = []  # a handle is good as long as its process lives
    while True:
        tensor = ForkingPickler.loads(connection.recv_bytes())
        held.append(tensor)
        total = float(tensor.double().sum())
        tensor.view(-1)[-_MARKED:] = -1
        if tensor.is_cuda:
            torch.cuda.synchronize()
        connection.send(total)
