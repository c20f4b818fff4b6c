"""Faults that no signal makes: a full object store, a full disk. (No test file.)"""

import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.faults.fault import WITNESS_FILE, Fault

_BLOCK = 32 * 2**20
_WITNESS_ROOM = 2**16


def begin(fault: Fault, run_dir: Path) -> dict[str, Any]:
    """Begin the fault's act. Returns what the witness says more of it."""
    return {"fill-store": _fill_store, "full-disk": _fill_disk}[fault.act](fault, run_dir)


def _fill_store(fault: Fault, _run_dir: Path) -> dict[str, Any]:
    """More objects than the store holds, all of them in use, for some seconds: Ray has to spill."""
    import numpy as np
    import ray

    size = int(ray.cluster_resources()["object_store_memory"])
    held = [ray.put(np.zeros(_BLOCK, np.uint8)) for _ in range(size * 5 // 4 // _BLOCK)]
    threading.Timer(fault.for_s, held.clear).start()
    return {"held": len(held) * _BLOCK, "store": size, "lasts_s": fault.for_s}


def _fill_disk(_fault: Fault, run_dir: Path) -> dict[str, Any]:
    """All that is free on the run's disk is taken, by a file beside the run; but for the room that
    the witness needs."""
    (run_dir / WITNESS_FILE).touch()
    room = ["fallocate", "--keep-size", "--length", str(_WITNESS_ROOM), WITNESS_FILE]
    subprocess.run(room, cwd=run_dir, check=True)
    taken = 0
    with (run_dir.parent / "ballast").open("ab", buffering=0) as ballast:
        for block in (2**20, 4096, 1):
            try:
                while True:
                    taken += ballast.write(b"\0" * block)
            except OSError:
                continue
    return {"taken": taken}
