from pathlib import Path
from typing import Any

import pytest

from cluster.study.claims import CLAIM_KEYS, Bound, Claim, Outcome, read_notes
from cluster.study.results import StudyResults
from tests.cluster.study.study_runs import make_run, results_of, write_arm
from wire.errors import ConfigError

Arms = dict[str, dict[str, Any]]
SURE = {"with_probabilities": True, "confidence": 0.95}
VIDEO = ("video_only_1x", "video_only_3x", "video_only_10x")


def right(*wrong: int, **more: Any) -> dict[str, Any]:
    return {"wrong": wrong, **more}


def val(*wrong: int) -> dict[str, Any]:
    return right(*wrong, split="val")


def video(*wrong_of_each: tuple[int, ...]) -> Arms:
    return {name: right(*wrong) for name, wrong in zip(VIDEO, wrong_of_each, strict=True)}


def measure(tmp_path: Path, *seeds: Arms, notes: dict[str, str] | None = None) -> StudyResults:
    runs = []
    for seed, arms in enumerate(seeds, start=1):
        run = make_run(tmp_path / f"seed-{seed}", seed)
        for arm, how in arms.items():
            write_arm(run, arm, **how)
        runs.append(run)
    return results_of(*runs, notes=notes)


def claim(results: StudyResults, key: str) -> Claim:
    return next(claim for claim in results.claims if claim.key == key)


@pytest.mark.parametrize(
    ("key", "held", "points", "not_held"),
    [
        ("a", {"coldstart_val": val(1), "coldstart_2x": val(2)}, 0,
         {"coldstart_val": val(1), "coldstart_2x": val()}),
        ("b", {"coldstart": right(1), "grpo": right()}, 10,
         {"coldstart": right(1), "grpo": right(2)}),
        ("c", {"rejection": right(1), "grpo": right()}, 10,
         {"rejection": right(1), "grpo": right(5)}),
        ("d", {"grpo": right(1), "calibrated": right()}, 10,
         {"grpo": right(1), "calibrated": right(1, 2)}),
        ("e", {"video_only_1x": right(1, 2), "calibrated": right(1)}, 10,
         {"video_only_1x": right(1), "calibrated": right(1)}),
        ("f", {"verdict_teacher": right(1, 2, 3), "calibrated": right(1)}, 20,
         {"verdict_teacher": right(), "calibrated": right(1)}),
        ("g", {"vote": right(1), "calibrated": right()}, 10,
         {"vote": right(1), "calibrated": right(2)}),
        ("h1", {"video_only_1x": right(0), "grpo": right(4, 5, 6)}, 25,
         {"video_only_1x": right(4, 5, 6), "grpo": right()}),
        ("h2", {**video((0, 1, 2), (0, 1), (0, 1, 2)), "grpo": right()}, 50,
         {**video((0, 1, 2), (), (0, 1, 2)), "grpo": right()}),
        ("i", {"grpo": right(0), "calibrated": right(1, 4, 5)}, 0,
         {"grpo": right(4, 5), "calibrated": right(1)}),
        ("j1", {"policy_probability": right(confidence=0.8), "calibrated": right(**SURE)}, 15,
         {"policy_probability": right(confidence=1.0), "calibrated": right(**SURE)}),
        ("j2", {"policy_probability": right(0, **SURE), "calibrated": right(**SURE)}, 18,
         {"policy_probability": right(**SURE), "calibrated": right(0, **SURE)}),
        ("j3", {"policy_probability": right(0), "calibrated": right(0, unsure=(0,))}, 10,
         {"policy_probability": right(0, unsure=(0,)), "calibrated": right(0)}),
        ("j4", {"vote": right(0, 1), "calibrated": right(0)}, 10,
         {"vote": right(0), "calibrated": right(0)}),
        ("j5", {"vote": right(0, **SURE), "calibrated": right(**SURE)}, 18,
         {"vote": right(**SURE), "calibrated": right(**SURE)}),
        ("j6", {"vote": right(0, 1), "calibrated": right(0)}, 10,
         {"vote": right(), "calibrated": right(0)}),
        ("k1", {"blank": right(0, 1, 2)}, 70, {"blank": right(0, 1)}),
        ("k2", {"verdict_blank": right(0, 1, 2, 3, 4, 5)}, 40, {"verdict_blank": right()}),
        ("k3", {"grpo": right(), "shuffled": right(0, 1)}, 20,
         {"grpo": right(), "shuffled": right(0)}),
        ("k4", {"calibrated": right(5), "verdict_shuffled": right(1, 2, 3, 4)}, 30,
         {"calibrated": right(5), "verdict_shuffled": right()}),
    ],
)  # fmt: skip
def test_a_promise_holds_or_not_by_its_numbers(
    tmp_path: Path, key: str, held: Arms, points: float, not_held: Arms
):
    found = claim(measure(tmp_path / "held", held), key)
    assert (found.outcome, found.mean) == (Outcome.HELD, pytest.approx(points))
    assert claim(measure(tmp_path / "not", not_held), key).outcome is Outcome.DID_NOT_HOLD


def test_the_table_above_has_every_claim_with_a_threshold():
    marks = test_a_promise_holds_or_not_by_its_numbers.pytestmark
    assert [case[0] for case in marks[0].args[1]] == [key for key in CLAIM_KEYS if key != "l"]


def test_more_grpo_is_shown_without_a_threshold(tmp_path: Path):
    cost = {"num_rollouts": 60, "num_updates": 10, "num_generated_tokens": 0}
    arms = {"calibrated": right(1), "grpo_more": right(cost=cost)}
    found = claim(measure(tmp_path, arms), "l")
    assert (found.outcome, found.threshold) == (Outcome.SHOWN, "")
    assert found.mean == pytest.approx(-10)
    assert "grpo_more: 60 rollouts, 10 updates" in found.remark


def test_the_mean_over_seeds_decides(tmp_path: Path):
    worse = {"coldstart": right(), "grpo": right(1)}
    better = {"coldstart": right(1, 2, 3), "grpo": right()}
    found = claim(measure(tmp_path, worse, better), "b")
    assert found.values == pytest.approx((-10, 30))
    assert (found.mean, found.outcome) == (pytest.approx(10), Outcome.HELD)


def test_a_seed_without_the_arm_leaves_the_promise_unjudged(tmp_path: Path):
    results = measure(tmp_path, {"coldstart": right(1), "grpo": right()}, {"coldstart": right(1)})
    found = claim(results, "b")
    assert (found.outcome, found.values) == (Outcome.NOT_MEASURED, (pytest.approx(10), None))


def test_nothing_measured_holds_nothing(tmp_path: Path):
    outcomes = {found.outcome for found in measure(tmp_path, {}).claims}
    assert outcomes == {Outcome.NOT_MEASURED}


def test_the_best_video_only_is_unknown_while_one_is_missing(tmp_path: Path):
    arms = {"grpo": right(), "video_only_1x": right(0, 1, 2), "video_only_3x": right(0, 1, 2)}
    results = measure(tmp_path, arms)
    assert claim(results, "h1").outcome is Outcome.HELD
    assert claim(results, "h2").outcome is Outcome.NOT_MEASURED


def test_the_votes_cost_stands_beside_it(tmp_path: Path):
    cost = {"num_rollouts": 80, "num_updates": 0, "num_generated_tokens": 1600}
    arms = {"vote": right(0, cost=cost), "calibrated": right(), "grpo": right()}
    remark = claim(measure(tmp_path, arms), "g").remark
    assert remark == "calibrated 100.0, vote 90.0; vote: 80 rollouts, 1,600 generated tokens"


@pytest.mark.parametrize(
    ("sign", "points", "holds"),
    [(">=", 100 * (0.58 - 0.5), True), (">=", 7.9, False), ("<", 1.0, False), (">", 0.0, False)],
)
def test_a_bound_is_exact_at_its_edge(sign: str, points: float, holds: bool):
    bound = {">=": 8.0, "<": 1.0, ">": 0.0}[sign]
    assert Bound(sign=sign, points=bound).holds(points) is holds


def test_a_reason_is_given_where_a_promise_did_not_hold_and_nowhere_else(tmp_path: Path):
    arms = {
        "grpo": right(),
        "calibrated": right(1),
        "coldstart": right(1, 2),
        **video((), (0,), ()),
    }
    notes = {"d": "GRPO is at its ceiling", "b": "held all the same", "h": "all", "h2": "own"}
    results = measure(tmp_path, arms, notes=notes)
    assert claim(results, "d").reason == "GRPO is at its ceiling"
    assert claim(results, "b").reason == ""
    assert [claim(results, key).reason for key in ("h1", "h2")] == ["all", "own"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[notes]\nz = 'x'", "z = 'x', expected text for one of a, b"),
        ("[notes]\nd = 3", "d = 3, expected text"),
        ("d = 'x'", r"expected one section \[notes\]"),
        ("[notes", "is not valid TOML"),
    ],
)
def test_bad_notes_are_refused_by_name(tmp_path: Path, text: str, message: str):
    (tmp_path / "notes.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_notes(tmp_path / "notes.toml")


def test_notes_are_read_where_there_are_some(tmp_path: Path):
    assert read_notes(tmp_path / "notes.toml") == {}
    (tmp_path / "notes.toml").write_text("[notes]\nh2 = 'why'\nd = 'because'")
    assert read_notes(tmp_path / "notes.toml") == {"h2": "why", "d": "because"}


def test_levels_are_over_the_seeds_that_have_both(tmp_path: Path):
    first = {"grpo": right(0), "calibrated": right()}
    found = claim(measure(tmp_path, first, {"grpo": right(0, 1, 2)}), "d")
    assert found.remark == "calibrated 100.0, grpo 90.0"


def test_a_brier_score_says_how_many_clips_it_is_over(tmp_path: Path):
    arms = {"policy_probability": right(**SURE), "calibrated": right(**SURE)}
    remark = claim(measure(tmp_path, arms), "j2").remark
    assert remark.endswith("clips with a score: calibrated 100.0, policy_probability 100.0")
