"""Memory that a learner rank takes while its model is placed under ZeRO-3, as a share of the model.

    python -m tests.benchmarks.zero3_memory [--json FILE]

Real ranks (DeepSpeed, gloo) on this machine, at 1 and 2 of them, with a model of 2.5 million
parameters in float32, trained in float32 and in bfloat16. ``peak_share``: the most bytes that a
rank allocated at a time on host and device together, from the file to the placed model, over the
bytes of the whole model in the precision of training; a move to the device counts as a copy, as on
a GPU. Its least is 1 / ranks; the largest parameter, a twentieth here, comes on top in both
precisions. What is mapped from the file does not count: the kernel has it once per node. Some three
minutes on two cores.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure, report
from tests.learner.rank_actors import SGD, Ranks
from tests.tiny_models import write_tiny_model

_ROOM = 0.3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_model(Path(folder) / "model", "qwen2_5_vl", num_hidden_layers=12)
        return report(measure(model), arguments.json)


def measure(model: Path) -> Iterator[Figure]:
    """The peak at each number of ranks and each precision."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for num_ranks in (1, 2):
            ranks = Ranks(num_ranks)
            for dtype in ("float32", "bfloat16"):
                ranks.start(model, SGD, zero_stage=3, dtype=dtype)
                most = max(ranks.all("peak_of_begin", model))
                name = f"peak_share ranks={num_ranks} {dtype}"
                yield Figure(name, most, "of model", 1 / num_ranks + _ROOM, "below")
            ranks.stop()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
