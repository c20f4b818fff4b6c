"""Findings about the model are remembered for as long as nothing that they depend on changes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.check.remembered import ModelFindings, key_of, recall, remember
from cluster.cli import main
from cluster.config.recipe import RunConfig, read_recipe
from tests.cluster.check.builders import make_sample, scans_of
from wire.finding import Area, error, ok, warning

SEEN = ModelFindings(
    findings=(ok(Area.MODEL, "it can be read"), warning(Area.PROMPTS, "long", "cut", ["a", "b"])),
    num_video_tokens=41,
)
CHECK = """
import sys
from cluster.cli import main
status = main(sys.argv[1:])
loaded = [name for name in ("transformers", "torch", "vllm") if name in sys.modules]
sys.exit(f"status {status}, loaded {loaded}" if status or loaded else 0)
"""


@pytest.fixture
def config(recipe: Callable[..., Path], tmp_path: Path) -> RunConfig:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return read_recipe(recipe(), [f"model='{folder}'"])


def test_findings_come_back_as_they_were(tmp_path: Path):
    remember(tmp_path, "k", SEEN)
    assert recall(tmp_path, "k") == SEEN
    assert recall(tmp_path, "other") is None


def test_findings_with_an_error_are_looked_at_again(tmp_path: Path):
    fault = ModelFindings(findings=(error(Area.MODEL, "it is gone"),), num_video_tokens=None)
    remember(tmp_path, "k", fault)
    assert recall(tmp_path, "k") is None


def test_the_latest_checks_are_kept(tmp_path: Path):
    for number in range(40):
        remember(tmp_path, str(number), SEEN)
    assert recall(tmp_path, "39") == SEEN
    assert recall(tmp_path, "0") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"k": {}}', '{"k": {"findings": [{}]}}'])
def test_a_damaged_file_is_written_anew(text: str, tmp_path: Path):
    (tmp_path / "checked-model.json").write_text(text)
    assert recall(tmp_path, "k") is None
    remember(tmp_path, "k", SEEN)
    assert recall(tmp_path, "k") == SEEN


def test_any_change_makes_another_key(config: RunConfig):
    samples = [make_sample("a"), make_sample("b")]
    scans = scans_of(*samples)
    key = key_of(config, ["base"], samples, scans)
    assert key == key_of(config, ["base"], samples, scans)
    longer = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"max_prompt_length": 999})}
    )
    others = [
        key_of(longer, ["base"], samples, scans),
        key_of(config, ["base", "grpo"], samples, scans),
        key_of(config, ["base"], [make_sample("a"), make_sample("b", text="said")], scans),
        key_of(config, ["base"], samples, scans_of(*samples[:1])),
    ]
    (config.model / "config.json").write_text('{"another": 1}')
    others.append(key_of(config, ["base"], samples, scans))
    (config.model / "tokenizer.json").write_text("{}")
    others.append(key_of(config, ["base"], samples, scans))
    assert len({key, *others}) == 7


def test_a_second_check_loads_no_tokenizer_and_says_the_same(
    recipe: Callable[..., Path], tmp_path: Path
):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    words = ["check", str(recipe()), "--run-dir", str(tmp_path / "run"), "--json"]
    assert main([*words, str(first)]) == 0
    subprocess.run([sys.executable, "-c", CHECK, *words, str(second)], check=True, timeout=120)
    told = [json.loads(path.read_text())["findings"] for path in (first, second)]
    disk = [[finding for finding in one if finding["area"] != "disk"] for one in told]
    assert disk[0] == disk[1]
