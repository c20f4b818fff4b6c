"""Paths on three nodes of which one sees none of them. Prints what is said as JSON. (No test
file.)"""

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from cluster.actors.placement import reserve
from cluster.actors.shared_paths import Look, SharedPaths, look, require_shared
from tests.cluster.config.test_node_layout import config_of
from wire.errors import PlacementError

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
BLIND = "TEST_SEES_NO_SHARED_FOLDER"


def look_here(paths: SharedPaths) -> tuple[str, list[str]]:
    """The product's look; on the blind node nothing is where the others see it."""
    if BLIND not in os.environ:
        return look(paths)

    def elsewhere(path: str) -> str:
        return f"/not-mounted{path}"

    host, faults = look(
        replace(
            paths,
            run_dir=elsewhere(paths.run_dir),
            proof=elsewhere(paths.proof),
            folders={elsewhere(folder): sizes for folder, sizes in paths.folders.items()},
            clips={elsewhere(clip): size for clip, size in paths.clips.items()},
        )
    )
    return host, [fault.replace("/not-mounted", "") for fault in faults]


def look_without_vllm(paths: SharedPaths) -> tuple[str, list[str]]:
    raise ModuleNotFoundError("No module named 'vllm'")


async def message(folder: Path, how: Look) -> str | None:
    """The error of a run whose run directory, model and clip are in a folder."""
    config = config_of(2, 1, 0, 0, num_cpus=1)
    seats = await reserve(config)
    try:
        clips = [folder / "clip.mp4"]
        await require_shared(seats, folder / "run", [folder / "model"], clips, 60, how)
    except PlacementError as error:
        return str(error)
    finally:
        seats.release()
    return None


def make(folder: Path) -> None:
    for name in ("run", "model"):
        (folder / name).mkdir()
    for name in ("model/config.json", "clip.mp4"):
        (folder / name).write_text(name)


def main() -> None:
    """All messages, as one line of JSON."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    blind = cluster.add_node(**NODE, env_vars={BLIND: "1"})
    seen: dict[str, Any] = {"blind node": blind.node_id}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        seen["all see it"] = asyncio.run(message(folder, look))
        start = time.monotonic()
        seen["one does not"] = asyncio.run(message(folder, look_here))
        seen["seconds"] = time.monotonic() - start
        seen["another environment"] = asyncio.run(message(folder, look_without_vllm))
        seen["left in the run directory"] = [file.name for file in (folder / "run").iterdir()]
        ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(f"{json.dumps(seen)}\n")
