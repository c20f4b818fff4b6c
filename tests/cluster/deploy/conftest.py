from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """
model = "/shared/models/Qwen2.5-VL-7B-Instruct"
[[labels]]
name = "a"
definition = "an a"
[[labels]]
name = "b"
definition = "a b"
[data]
manifest = "/shared/data/manifest.jsonl"
"""


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """``write_recipe("[rollout]\\n...")``: a recipe whose paths are on a shared volume."""

    def write(sections: str = "", head: str = RECIPE) -> Path:
        path = tmp_path / "My_Run.toml"
        path.write_text(head + sections)
        return path

    return write
