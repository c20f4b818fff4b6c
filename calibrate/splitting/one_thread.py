"""Single-threaded torch for small networks: the same bits whatever else runs, and faster, because
layers of some hundred values are over before a second thread has started."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone, inside; the number before is put back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
