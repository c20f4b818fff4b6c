"""An actor that holds two of a node's invented GPUs and has vLLM make its configuration from our
arguments, as an engine's start does. Prints it as JSON. (No test file: it needs a Ray of its own.)

    python configuring_actor.py MODEL [ours | a backend | none]
"""

import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_SEEN = "import os; open(path, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"


class Configuring:
    def make(self, model: str, backend: str) -> dict[str, Any]:
        import ray

        from rollout.config import RolloutConfig
        from rollout.engine_environment import set_engine_environment
        from rollout.vllm_calls.arguments import vllm_arguments

        config = RolloutConfig(num_gpus=2, tensor_parallel_size=2, max_prompt_length=512)
        set_engine_environment(config)
        arguments = vllm_arguments(Path(model), config, "object_store", None)
        if backend != "ours":
            arguments.distributed_executor_backend = None if backend == "none" else backend
        made = arguments.create_engine_config()

        from vllm.utils.system_utils import get_mp_context
        from vllm.v1.executor.abstract import Executor

        processes = get_mp_context()
        seen = Path(tempfile.mkdtemp()) / "seen"
        # Ray has made the driver's main module another one's, so no function of it can be a target
        worker = processes.Process(target=exec, args=(_SEEN, {"path": str(seen)}))
        worker.start()
        worker.join(120)
        return {
            "backend": made.parallel_config.distributed_executor_backend,
            "executor": Executor.get_class(made).__name__,
            "world_size": made.parallel_config.world_size,
            "start_method": processes.get_start_method(),
            "given": [str(gpu) for gpu in ray.get_gpu_ids()],
            "visible": os.environ["CUDA_VISIBLE_DEVICES"].split(","),
            "visible_to_workers": seen.read_text().split(","),
        }


async def main(model: str, backend: str) -> None:
    import ray

    from cluster.actors.placement import reserve
    from cluster.config.recipe import RunConfig

    ray.init(address="local", num_cpus=4, num_gpus=5, include_dashboard=False, log_to_driver=False)
    config = RunConfig(
        model=Path(model),
        labels=[{"name": "a"}, {"name": "b"}],
        data={"manifest": "m.jsonl"},
        rollout={"num_workers": 2, "num_gpus": 2, "tensor_parallel_size": 2},
        learner={"num_gpus": 1},
    )
    reservation = await reserve(config)
    first, second = (
        ray.remote(Configuring).options(**seat.options(0.5, 2)).remote()
        for seat in reservation.workers
    )
    ray.get(first.__ray_ready__.remote())
    values = ray.get(second.make.remote(model, backend))
    sys.stdout.write(json.dumps(values) + "\n")
    ray.shutdown()


if __name__ == "__main__":
    multiprocessing.freeze_support()
    asyncio.run(main(*sys.argv[1:]))
