import subprocess
import sys

from cluster.driver.peak_memory import MemoryWatch, pause_after, tree_memory_gb


def test_memory_of_children_is_counted():
    program = "held = bytearray(200_000_000); print(flush=True); input()"
    alone = tree_memory_gb()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        together = tree_memory_gb()
        child.communicate(b"\n")
    assert together - alone > 0.15


def test_a_watch_shorter_than_its_first_sample_ends_at_once():
    with MemoryWatch() as memory:
        pass
    assert memory.peak_gb == 0.0


def test_looks_that_take_long_come_less_often():
    """Processes with CUDA have maps that take seconds to read, and wait meanwhile."""
    assert pause_after(0.01) == 2.0
    assert pause_after(3.0) == 150.0
