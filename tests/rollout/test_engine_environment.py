import os

import pytest

from rollout.config import RolloutConfig
from rollout.engine_environment import OWNER, set_engine_environment

NAMES = (
    *(OWNER, "VLLM_NO_USAGE_STATS", "VLLM_WORKER_MULTIPROC_METHOD", "HF_HUB_OFFLINE"),
    *("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"),
    "TORCH_COMPILE_DISABLE",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of its own: what a test sets there is gone after it."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")


def test_an_engine_belongs_to_this_process_and_keeps_what_the_user_set():
    set_engine_environment(RolloutConfig())
    assert os.environ[OWNER] == str(os.getpid())
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_an_engine_on_cpus_shares_the_cores_and_stays_offline():
    set_engine_environment(RolloutConfig(num_gpus=0, num_threads=3, kv_cache_gb=0.2))
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "1"  # vLLM takes whole GB
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_an_engine_on_a_gpu_has_no_settings_of_cpus():
    set_engine_environment(RolloutConfig(num_gpus=1))
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ
    assert os.environ["HF_HUB_OFFLINE"] == "0"
