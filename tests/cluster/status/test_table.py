import io
from dataclasses import replace

from rich.console import RenderableType

from cluster.driver.progress import Progress
from cluster.driver.safe_console import SafeConsole
from cluster.status.heartbeat import State
from cluster.status.run_status import (
    Checkpoint,
    Finished,
    LastValidation,
    RunStatus,
    Writer,
)
from cluster.status.table import pace_of, status_view, where

STATUS = RunStatus(
    name="demo",
    path="runs/demo",
    state=State.RUNNING,
    why="",
    resume="",
    stage="grpo",
    finished=(Finished(name="base", accuracy=0.0, seconds=1.0),),
    num_stages=1,
    progress=Progress(title="grpo", done=20, total=80, rate=0.25),
    step=20,
    step_stage="grpo",
    figures={
        "reward/mean": 1.5,
        "reward/accuracy/mean": 0.5,
        "truncated_frac": 0.125,
        "staleness/mean": 0.0,
        "parity/probe_max_logprob_diff": 3.5e-7,
    },
    validation=None,
    guards=(),
    learning=(),
    changes=(),
    started_from="",
    fault="",
    num_quarantined=2,
    checkpoint=Checkpoint(stage="grpo", tag="step-000020", age_s=5.0),
    writer=Writer(pid=7, host="node", attempt=1, since=0.0, seen_age_s=1.0, alive=True),
    age_s=1.0,
    size_gb=0.5,
    free_gb=60.0,
)


def text_of(view: RenderableType) -> str:
    console = SafeConsole(width=100, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


def test_a_running_run_shows_all_that_one_asks_of_it():
    said = text_of(status_view(STATUS))
    for words in (
        "demo  running  grpo 20/80",
        "4.0 s each",
        "4 min left",
        "base 0.000",
        "1.5 (accuracy 0.5)",
        "3.5e-07",
        "quarantined clips",
        "grpo step-000020, 5 s old",
        "process 7 on node, attempt 1: alive, last sign 1 s ago",
        "0.50 GB, 60.0 GB free",
    ):
        assert words in said, words
    assert "resume with" not in said


def test_a_warning_of_the_guards_is_shown_until_it_no_longer_stands():
    warned = replace(STATUS, guards=("grpo step 20: Length drift: [b]traces[/b] are long",))
    assert "reward hacking? grpo step 20: Length drift: [b]traces[/b]" in text_of(
        status_view(warned)
    )
    assert "reward hacking?" not in text_of(status_view(STATUS))


def test_a_run_that_stopped_says_where_and_how_to_go_on():
    stopped = replace(STATUS, state=State.STOPPED, why="it was interrupted", resume="x --resume")
    said = text_of(status_view(stopped))
    assert "stopped at grpo 20/80: it was interrupted" in said
    assert "resume with: x --resume" in said
    assert "left" not in said


def test_where_names_the_piece_only_if_it_is_not_the_stage():
    progress = Progress(title="evaluate grpo", done=3, total=9, rate=1.0)
    assert where(replace(STATUS, progress=progress)) == "grpo (evaluate grpo) 3/9"
    assert where(replace(STATUS, state=State.FINISHED)) == "grpo"


def test_a_pace_is_in_seconds_each_or_pieces_per_second():
    assert [pace_of(rate) for rate in (0.0, 0.5, 3.0)] == ["", "2.0 s each", "3.0/s"]


def test_a_validated_run_shows_the_last_figures_and_what_came_of_finished_stages():
    figures = {"val/accuracy": 0.7125, "val/reward/mean": None, "val/seconds": 3.0}
    last = LastValidation(stage="grpo", step=20, figures=figures)
    done = Finished(
        name="coldstart", accuracy=0.5, seconds=1.0, outcome="best val/nll 0.2 at step 4"
    )
    shown = text_of(status_view(replace(STATUS, validation=last, finished=(done,))))
    assert "grpo step 20: accuracy 0.7125, reward not finite" in shown
    assert "best val/nll 0.2 at step 4" in shown
    assert "last validation" not in text_of(status_view(STATUS))


def test_a_run_says_what_limits_its_step_and_who_serves():
    fleet = "3 of 4 workers serve, 1 restarting; rollout-1 is dead (engine_died), 12 s ago"
    text = text_of(status_view(replace(STATUS, limits="generation 62%, learner 30%", fleet=fleet)))
    assert "generation 62%, learner 30%" in text
    assert "3 of 4 workers serve" in text
    assert "limits the step" not in text_of(status_view(STATUS))
