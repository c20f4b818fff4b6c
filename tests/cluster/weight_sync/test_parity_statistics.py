import math
from pathlib import Path

import numpy as np
import pytest

from cluster.weight_sync.parity_statistics import ProbeStatistics, rms
from learner.config import ParityConfig
from tests.cluster.weight_sync import bfloat16_history as history
from tests.cluster.weight_sync.bfloat16_history import Sides
from tests.tiny_models import write_tiny_model

FACTOR = ParityConfig().noise_factor
NOISE = 0.01


def statistics(noise: float = NOISE) -> ProbeStatistics:
    made = ProbeStatistics(FACTOR)
    made.measure([noise] * 4, [0.0] * 4)
    return made


class Numbers:
    """Learner and engine as numbers: a random walk of the policy, and both sides' noise."""

    def __init__(self, step: float, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.step, self.truth = step, self.random.normal(-6, 3, 128)
        self.gap = self.random.normal(0, NOISE, 128)

    def move(self) -> None:
        self.truth = self.truth + self.random.normal(0, self.step, 128)

    def learner(self) -> np.ndarray:
        return self.truth + self.random.normal(0, NOISE, 128)

    def engine(self, truth: np.ndarray | None = None) -> np.ndarray:
        truth = self.truth if truth is None else truth
        return truth + self.gap + self.random.normal(0, NOISE, 128)


def test_a_thousand_sound_updates_of_any_size_raise_no_alarm():
    for step in (1e-4, 3e-3, 1e-2, 0.1, 0.5):
        numbers, check = Numbers(step), statistics()
        for _ in range(200):
            check.learner_answers(numbers.learner())
            assert check.fault("a", numbers.engine()) is None
            numbers.move()


@pytest.mark.parametrize(("step", "lag"), [(0.1, 1), (0.05, 5), (0.01, 50)])
def test_an_engine_that_lags_is_told_by_how_much(step: float, lag: int):
    numbers, check = Numbers(step), statistics()
    truths = []
    for _ in range(60):
        truths.append(numbers.truth)
        check.learner_answers(numbers.learner())
        sound = check.fault("a", numbers.engine())
        assert sound is None
        numbers.move()
    fault = check.fault("a", numbers.engine(truths[-1 - lag]))
    assert fault is not None
    named = int(fault.split(" updates ago")[0].split()[-1])
    assert abs(named - lag) <= lag // 4


def test_an_engine_that_stands_still_is_found_once_the_change_stands_out():
    numbers, check = Numbers(0.01), statistics()
    first, caught = numbers.truth, None
    for step in range(40):
        check.learner_answers(numbers.learner())
        if check.fault("a", numbers.engine(first)):
            caught = step
            break
        numbers.move()
    assert caught is not None
    assert 5 < caught < 30


def test_what_is_not_a_number_is_a_fault():
    check = statistics()
    check.learner_answers([-1.0, -2.0])
    assert "differ by nan" in str(check.fault("a", [math.nan, -2.0]))


def test_a_small_change_tells_nothing_and_none_is_no_division():
    check = statistics()
    assert not check.tells(np.zeros(128))
    assert not check.tells(np.full(128, NOISE))
    assert check.tells(np.full(128, 4 * NOISE))
    assert not check.tells(np.full(8, 4 * NOISE)), "few tokens average little"


def test_equal_kernels_have_some_noise():
    check = ProbeStatistics(FACTOR)
    check.measure([-1.0], [-1.0])
    assert check.noise > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"num_hidden_layers": 2}
    return write_tiny_model(tmp_path_factory.mktemp("model"), "qwen2_5_vl", **small)


def measured(sides: Sides) -> ProbeStatistics:
    made = ProbeStatistics(FACTOR)
    made.measure(sides.learner(), sides.learner(sides.beside))
    made.measure(sides.engine(), sides.engine(sides.beside))
    return made


@pytest.mark.slow
def test_an_engine_of_another_mask_or_position_or_with_swapped_tensors_is_caught(folder: Path):
    sides = Sides.of(folder)
    check = measured(sides)
    check.learner_answers(sides.learner())
    assert check.fault("a", sides.engine()) is None
    up_gate = sides.swapped(1, "mlp.up_proj", "mlp.gate_proj")
    keys_values = sides.swapped(0, "self_attn.k_proj", "self_attn.v_proj")
    answers = {
        "one prompt token unseen": sides.engine(mask=history.one_prompt_token_unseen),
        "prompt unseen": sides.engine(mask=history.prompt_unseen),
        "sees the future": sides.engine(mask=history.sees_the_future),
        "sliding window": sides.engine(mask=history.sliding_window),
        "positions off by 3": sides.engine(shift=3),
        "up and gate": sides.engine(vlm=up_gate),
        "keys and values": sides.engine(vlm=keys_values),
    }
    sizes = {name: rms(a - sides.learner()) / check.noise for name, a in answers.items()}
    sound = rms(sides.engine() - sides.learner()) / check.noise
    print(f"noise {check.noise:.4f} nats, in its multiples: sound {sound:.1f}, {sizes}")  # noqa: T201
    missed = [name for name, answer in answers.items() if check.fault("a", answer) is None]
    assert not missed, sizes


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute or two on a machine of its own
@pytest.mark.parametrize("learning_rate", [1e-6, 1e-5])
def test_two_hundred_good_updates_pass_and_older_weights_do_not(folder: Path, learning_rate: float):
    """Of weights that differ in any bit, digests catch all; the probe those whose change shows."""
    sides = Sides.of(folder)
    check = measured(sides)
    made = history.train(sides, learning_rate, 200)
    probed = dict.fromkeys((1, 5, 50), 0)
    tried = dict.fromkeys(probed, 0)
    for now, answers in enumerate(zip(made.learner, made.engine, strict=True)):
        learner, engine = answers
        check.learner_answers(learner)
        assert check.fault("a", engine) is None, now
        for ago in [ago for ago in probed if ago <= now]:
            older = now - ago
            tried[ago] += 1
            assert made.digests[older] != made.digests[now], "caught by digests"
            probed[ago] += check.fault("a", made.engine[older]) is not None
    print(learning_rate, {ago: f"{probed[ago]} of {tried[ago]}" for ago in probed})  # noqa: T201
    if learning_rate == 1e-5:
        assert probed[50] > 0.9 * tried[50]
