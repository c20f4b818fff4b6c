import pytest

from cluster.classify.machine import Machine
from cluster.serving.machine import ServingMachine
from wire.errors import ConfigError


def test_classifiers_that_are_loaded_at_once_share_memory_and_cores() -> None:
    machine = Machine(num_gpus=1, gpu_memory=0.8, clip_gb=4.0, num_threads=16)
    each = ServingMachine(machine=machine, max_loaded=2, gpus=(3,)).of_each
    assert (each.gpu_memory, each.clip_gb, each.num_threads) == (0.4, 2.0, 8)
    cores = ServingMachine(machine=machine, max_loaded=2, cpus=(0, 1, 2, 3, 4, 5))
    assert cores.of_each.num_threads == 3


def test_gpus_of_serving_are_the_only_ones_its_processes_see() -> None:
    machine = Machine(num_gpus=2)
    chosen = ServingMachine(machine=machine, gpus=(2, 3))
    assert chosen.environment == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert ServingMachine(machine=machine).environment == {}
    with pytest.raises(ConfigError, match="1 GPUs for serving, where an engine needs 2"):
        ServingMachine(machine=machine, gpus=(2,))
