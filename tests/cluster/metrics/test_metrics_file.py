import json
from pathlib import Path

from cluster.metrics.metrics_file import figures_of, read_rows, warnings_of
from cluster.metrics.metrics_log import MetricsLog

OLD = '{"stage": "grpo", "step": 1, "attempt": 0, "time": 1.0, "grad_norm": NaN, "kl": Infinity}\n'


def test_a_figure_that_was_not_finite_is_none_in_old_and_new_files(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(OLD)
    with MetricsLog(tmp_path, 1, []) as log:
        log.write("grpo", 2, {"grad_norm": float("nan"), "kl": float("-inf"), "nll": 0.5})
    old, new = read_rows(path)
    assert figures_of(old) == {"grad_norm": None, "kl": None}
    assert figures_of(new) == {"grad_norm": None, "kl": None, "nll": 0.5}
    assert json.loads(path.read_text().splitlines()[1])["grad_norm"] is None


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(OLD.encode() + b'null\n{}\n\xff\xfe\n{"stage": "grpo", "st')
    assert [row["step"] for row in read_rows(path)] == [1]
    assert list(read_rows(tmp_path / "none.jsonl")) == []


def test_the_last_row_of_each_stage_says_what_it_did_not_learn(tmp_path: Path):
    bad = {"learning/num_updates": 8.0, "learning/skipped": 2.0, "learning/skipped_in_a_row": 1.0}
    with MetricsLog(tmp_path, 0, []) as log:
        log.write("coldstart", 1, bad | {"learning/skipped": 1.0})
        log.write("coldstart", 2, bad)
        log.write("grpo", 1, {"kl": 0.1})
    assert warnings_of(read_rows(tmp_path / "metrics.jsonl")) == {
        "coldstart": [
            "2 of 8 updates were left out, because their gradient was not finite (NaN, infinity)"
        ]
    }
