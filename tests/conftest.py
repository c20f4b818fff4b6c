"""Tests marked gpu are skipped, with a reason, where torch sees no GPU. One Ray serves all."""

from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # two seconds: only a selection with such a test pays them

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and torch sees none"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray of four CPUs; its workers import our packages as the tests do."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
