"""What is said of the learning rate where a resumed training is joined to what is done."""

from pathlib import Path
from typing import Any

from cluster.resume.join_rates import rate_lines
from cluster.run_dir import RunDir
from tests.cluster.session_fakes import make_config, make_run_dir


def lines(
    path: Path, before: dict[str, Any], now: dict[str, Any], stage: str = "grpo"
) -> list[str]:
    """Lines of a resume of a run whose stage was killed after step or update 4."""
    run_dir = make_run_dir(path, make_config(**before), "base")
    run_dir.archive.mkdir()
    folder = run_dir.checkpoints(stage) / "step-000004"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    run_dir.close()
    config = make_config(**now)
    run_dir = RunDir.open(run_dir.path, config, resume=True, overwrite=False)
    said = list(rate_lines(config, run_dir))
    run_dir.close()
    return said


def grpo(steps: int, **optim: Any) -> dict[str, Any]:
    return {"grpo": {"num_steps": steps, "optim": {"warmup_steps": 0, **optim}}}


def test_a_decay_is_stretched_to_the_new_length(tmp_path: Path):
    linear = {"learning_rate": 1.0, "decay": "linear"}
    assert lines(tmp_path, grpo(5, **linear), grpo(10, **linear)) == [
        "grpo: the learning rate goes from 0.4 at step 4 to 0.6 at step 5, where the linear "
        "schedule of all 10 steps has it"
    ]


def test_a_constant_rate_is_only_spoken_of_where_it_changes(tmp_path: Path):
    assert lines(tmp_path / "a", grpo(5), grpo(10)) == []
    (line,) = lines(tmp_path / "b", grpo(5, learning_rate=1e-4), grpo(5, learning_rate=1e-5))
    assert "from 0.0001 at step 4 to 1e-05 at step 5" in line


def test_an_unfinished_cold_start_does_not_know_its_updates_yet(tmp_path: Path):
    said = lines(tmp_path, {}, {"coldstart": {"epochs": 9, "batch_size": 2}}, "coldstart")
    assert said == [
        "coldstart: after update 4 the learning rate follows the linear schedule of all 9 epochs"
    ]
