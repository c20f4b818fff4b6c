from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's base model."""
    from cluster.demo.make_model import make_demo_model

    return make_demo_model(tmp_path_factory.mktemp("model"))
