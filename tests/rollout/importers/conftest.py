from pathlib import Path

import pytest

from tests.rollout.importers.builders import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With 20 clips, garden_0001 to garden_0020."""
    space = Workspace(tmp_path)
    space.videos(*range(1, 21))
    return space
