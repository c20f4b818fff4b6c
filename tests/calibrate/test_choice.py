"""The choice of a classifier from label logprobs: what is read from which part."""

from dataclasses import replace

import numpy as np

from calibrate.calibrator import Source
from calibrate.choice import ScoredClips, choose, lacks
from calibrate.config import CalibrateConfig
from tests.groups import make_sample

NAMES = ("a", "b", "c")
CONFIG = CalibrateConfig(max_error=0.2, confidence=0.9)


def scored(seed: int, num: int, policy: float = 2.0, verdict: float = 1.0) -> ScoredClips:
    """Clips whose sources know the label that well."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=num)
    logprobs: dict[Source, np.ndarray] = {}
    for source, signal in (("policy", policy), ("verdict", verdict)):
        rows = rng.normal(size=(num, 3))
        rows[np.arange(num), truth] += signal
        logprobs[source] = rows * 3
    samples = [
        make_sample(NAMES[label], id=f"{seed}-{number}") for number, label in enumerate(truth)
    ]
    return ScoredClips(samples=samples, label_names=NAMES, logprobs=logprobs)


def some(clips: ScoredClips, rows: np.ndarray) -> ScoredClips:
    return replace(
        clips,
        samples=[clips.samples[row] for row in rows],
        logprobs={name: values[rows] for name, values in clips.logprobs.items()},
    )


def test_each_part_is_read_for_its_own_purpose_alone() -> None:
    parts = {"val": scored(0, 100), "held_out": scored(1, 80), "test": scored(2, 60)}
    calibration = choose(parts, CONFIG, 300)
    other = choose(parts | {"test": scored(3, 60)}, CONFIG, 300)
    assert other.figures[-1] != calibration.figures[-1]
    assert [one.group for one in calibration.automatic] == ["all"]
    assert (other.calibrator, other.sets, other.thresholds, other.selection) == (
        calibration.calibrator,
        calibration.sets,
        calibration.thresholds,
        calibration.selection,
    )
    held = choose(parts | {"held_out": scored(4, 80)}, CONFIG, 300)
    assert (held.calibrator, held.selection) == (calibration.calibrator, calibration.selection)
    assert held.sets != calibration.sets


def test_the_order_of_the_clips_changes_no_bit() -> None:
    parts = {"val": scored(0, 100), "held_out": scored(1, 80), "test": scored(2, 60)}
    order = np.random.default_rng(0).permutation
    mixed = {name: some(clips, order(len(clips))) for name, clips in parts.items()}
    one, other = choose(parts, CONFIG, 300), choose(mixed, CONFIG, 300)
    assert replace(one, figures=(), coverage=()) == replace(other, figures=(), coverage=())
    assert one.automatic


def test_clips_that_are_always_reviewed_count_against_no_threshold() -> None:
    """Unparsed clips are answered wrong, and surely: with them no threshold keeps the target."""
    parts = {"val": scored(0, 200, 5.0), "held_out": scored(1, 150, 5.0), "test": scored(2, 0)}
    spoiled = {}
    for name, clips in parts.items():
        policy = clips.logprobs["policy"].copy()
        parsed = np.arange(len(clips)) % 3 > 0
        policy[~parsed] = 0.0
        policy[~parsed, (clips.truth[~parsed] + 1) % 3] = 40.0
        spoiled[name] = replace(clips, logprobs={"policy": policy}, parsed=parsed)
    assert choose(spoiled, CONFIG, 300).thresholds[0].attainable
    blind = {name: replace(clips, parsed=None) for name, clips in spoiled.items()}
    assert not choose(blind, CONFIG, 300).thresholds[0].attainable


def test_a_part_without_clips_is_said() -> None:
    nothing = scored(5, 0)
    calibration = choose({"val": nothing, "held_out": nothing, "test": nothing}, CONFIG, 300)
    assert calibration.selection is None
    assert calibration.figures == ()
    assert "no val clips" in lacks(calibration)[0]
    assert sum("not attainable" in line for line in lacks(calibration)) == 2


def test_calibration_changes_probabilities_and_not_the_answers_it_is_measured_on() -> None:
    # a policy that is certain and often wrong beside a verdict that knows: in a pool of equal
    # weights the policy would answer, and the gain would pass for one of calibration
    def parts_of(seed: int, num: int) -> ScoredClips:
        clips = scored(seed, num, policy=0.5, verdict=3.0)
        clips.logprobs["policy"][:] *= 5
        return clips

    parts = {"val": parts_of(0, 100), "held_out": parts_of(1, 80), "test": parts_of(2, 200)}
    calibration = choose(parts, CONFIG, 300)
    assert calibration.calibrator.sources == ("policy", "verdict")
    for one in calibration.figures:
        assert one.before.accuracy == one.after.accuracy
        assert one.before.nll != one.after.nll
