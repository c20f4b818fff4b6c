import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model

RECIPE = """
model = "{model}"
labels = [{{name = "relapse"}}, {{name = "undo"}}, {{name = "repeat"}}, {{name = "zigzag"}},
          {{name = "varied"}}]
[data]
manifest = "{manifest}"
[rollout]
max_prompt_length = 384
max_response_length = 40
dtype = "float32"
[learner]
dtype = "float32"
"""


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model`` and a few real clips in ``data``."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo_model(folder / "model")
    make_demo_data(folder / "data", train=4, val=1, cal=5, test=2, traces=2)
    return folder


@pytest.fixture
def recipe(demo: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe over a manifest whose rows a test may change."""

    def write(change: Callable[[list[dict[str, Any]]], None] | None = None) -> Path:
        lines = (demo / "data/manifest.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        for row in rows:
            row["video"] = str(demo / "data" / row["video"])
        if change:
            change(rows)
        manifest = tmp_path / "manifest.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE.format(model=demo / "model", manifest=manifest))
        return path

    return write
