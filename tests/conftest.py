"""Tests marked gpu are skipped, with a reason, where torch sees no GPU. One Ray serves all."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

_CPUS = 4


def hear_signals() -> None:
    """Undo what the starter of the tests left to them: an ignored or blocked signal (nohup, a
    background job, CI) is inherited by every process that a test starts, so no interrupt could be
    tested. Under nohup the tests themselves go on when the terminal closes: their own handler
    ignores it, and a handler, unlike "ignore", is not inherited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


hear_signals()

# How long an example takes says how busy the machine is; hanging ends at pytest's own timeout.
settings.register_profile("deepintuit", deadline=None)
settings.load_profile("deepintuit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # two seconds: only a selection with such a test pays them

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and torch sees none"))


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches of this session, also for the processes that it starts, instead of the machine's."""
    os.environ["DEEPINTUIT_CACHE_DIR"] = str(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """A local Ray of four CPUs; its workers import our packages as the tests do."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # as a run has it: Ray lets others go first
    ray.init(address="local", num_cpus=_CPUS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def ray_session(one_ray: None) -> Iterator[None]:
    """That Ray, which every file has to itself: a file that keeps an actor, or ends this Ray, fails
    here and not the next file, which would wait for a CPU."""
    yield
    import ray
    from ray._private.state import actors

    deadline = time.monotonic() + 30
    while (free := ray.available_resources().get("CPU", 0)) < _CPUS:
        kept = [actor["ActorClassName"] for actor in actors().values() if actor["State"] == "ALIVE"]
        assert time.monotonic() < deadline, f"{free:g} of {_CPUS} CPUs are free; held by {kept}"
        time.sleep(0.1)
