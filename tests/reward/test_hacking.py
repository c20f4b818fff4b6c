import math
import random
import time
from collections.abc import Sequence
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.config import RewardConfig, RewardTerm
from reward.hacking import TraceReader, hacking_figures, prompt_figures
from tests.groups import make_completion, make_sample
from tests.groups import make_group as group_of
from wire.label_words import LabelWords
from wire.labels import Label, LabelSet
from wire.types import Failure, FailureKind, Score, Trace, TraceGroup

LABELS = LabelSet(labels=tuple(Label(name=name) for name in ("fall", "jump", "walk")))
READER = TraceReader.of(RewardConfig(), LABELS)
BROKEN = Failure(kind=FailureKind.REWARD, culprit="judge", reason="KeyError('rubric')")


def make_trace(
    label: str,
    answer: str,
    *,
    kept: bool = True,
    length: int = 3,
    think: str = "",
    failed: bool = False,
) -> Trace:
    """A trace on a clip of ``label``, scored by DeepIntuit's two rewards."""
    right = float(answer == label)
    parts = {"accuracy": right, "format": float(kept)}
    return Trace(
        completion=make_completion(
            f"<think>{think}</think><answer>{answer}</answer>", num_tokens=length
        ),
        outcome=BROKEN if failed else Score(total=right + kept, parts=parts),
    )


def make_group(label: str, traces: Sequence[Trace]) -> TraceGroup:
    return group_of(*traces, sample=make_sample(label))


def figures_of(*groups: tuple[str, list[Trace]], reader: TraceReader = READER) -> dict[str, float]:
    return hacking_figures([make_group(label, traces) for label, traces in groups], reader)


def test_a_step_worked_by_hand() -> None:
    found = figures_of(
        ("fall", [make_trace("fall", "fall", length=2), make_trace("fall", "jump", length=4)]),
        ("jump", [make_trace("jump", "jump"), make_trace("jump", "jump")]),
        ("jump", [make_trace("jump", "fall"), make_trace("jump", "fall", kept=False)]),
        ("walk", []),
    )
    # of five traces that keep the format three are right; by chance 2/5 * 2/5 + 3/5 * 3/5
    kappa = (3 / 5 - 13 / 25) / (1 - 13 / 25)
    # lengths differ in the first group alone, where the longer earns one less
    deviations = math.sqrt((1 + 1) * (0.25 + 0.25 + 0.25 + 0.25))
    assert found == pytest.approx(
        {
            "guard/length_reward_corr": -1.0 / deviations,
            "guard/format_only_frac": 2 / 6,
            "guard/format_signal_frac": 1 / 2,
            "guard/answer_kappa": kappa,
            "guard/format_only": 5 / 6 * (1 - kappa),
            "guard/top_answer_frac": 3 / 6,
            "guard/top_label_frac": 4 / 6,
            "guard/answer_entropy": math.log(2)
            / -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3)),
            "guard/distinct_frac": 1 / 3,
            "guard/identical_frac": 2 / 3,
            "guard/identical_wrong_frac": 1 / 2,
        }
    )


def test_a_step_without_traces_has_no_figure() -> None:
    assert figures_of(("walk", [])) == {}
    assert figures_of() == {}


def test_without_a_format_term_nothing_is_said_of_the_format() -> None:
    reader = TraceReader.of(RewardConfig(terms=(RewardTerm(function="accuracy"),)), LABELS)
    groups = [("fall", [make_trace("fall", "fall")]), ("jump", [make_trace("jump", "fall")])]
    found = figures_of(*groups, reader=reader)
    assert not [name for name in found if "format" in name]
    assert "guard/answer_entropy" in found
    renamed = RewardConfig(terms=(RewardTerm(function="format", name="shape"),))
    assert TraceReader.of(renamed, LABELS).formats == ("shape",)


def test_answers_that_are_no_label_say_nothing_of_labels() -> None:
    found = figures_of(
        ("fall", [make_trace("fall", "7"), make_trace("fall", "8")]),
        ("jump", [make_trace("jump", "7"), make_trace("jump", "8")]),
    )
    assert "guard/answer_entropy" not in found
    assert "guard/format_only" not in found, "a plugin may know what 7 means"
    assert found["guard/format_only_frac"] == 1.0


def test_accepted_spellings_are_answers_of_their_label() -> None:
    term = RewardTerm(function="synonyms", params={"spellings": {"Fall": ["Tumble  down"]}})
    reader = TraceReader.of(RewardConfig(terms=(term,)), LABELS)
    assert reader.answer("<answer> tumble\n down </answer>") == "fall"
    assert reader.words.named_in("they tumble down") == {"fall"}


def test_a_trace_that_was_not_scored_counts_as_text_and_not_as_reward() -> None:
    found = figures_of(
        ("fall", [make_trace("fall", "fall", failed=True), make_trace("fall", "jump", failed=True)])
    )
    assert set(found) == {
        "guard/top_answer_frac",
        "guard/top_label_frac",
        "guard/distinct_frac",
        "guard/identical_frac",
        "guard/identical_wrong_frac",
    }


def test_a_solved_task_may_write_the_same_trace_twice() -> None:
    found = figures_of(("fall", [make_trace("fall", "fall")] * 4))
    assert found["guard/identical_frac"] == 1.0
    assert "guard/identical_wrong_frac" not in found


TRACES = st.builds(
    lambda answer, kept, length, think: (answer, kept, length, think),
    st.sampled_from([*LABELS.names, "none"]),
    st.booleans(),
    st.integers(1, 9),
    st.sampled_from("abc"),
)
STEPS = st.lists(st.tuples(st.sampled_from(LABELS.names), st.lists(TRACES, max_size=5)), max_size=8)


def built(step: list) -> list[TraceGroup]:
    return [
        make_group(
            label,
            [make_trace(label, a, kept=k, length=n, think=t) for a, k, n, t in traces],
        )
        for label, traces in step
    ]


@given(STEPS)
def test_every_figure_is_finite_and_in_its_range(step: list) -> None:
    found = hacking_figures(built(step), READER)
    for name, value in found.items():
        low = -1.0 if name.endswith(("corr", "kappa")) else 0.0
        high = {"guard/format_only": 2.0, "guard/answer_entropy": math.inf}.get(name, 1.0)
        assert low - 1e-9 <= value <= high + 1e-9, name


@given(STEPS, st.randoms(use_true_random=False))
def test_the_order_of_groups_and_of_traces_does_not_matter(
    step: list, order: random.Random
) -> None:
    mixed = [(label, order.sample(traces, len(traces))) for label, traces in step]
    order.shuffle(mixed)
    found = hacking_figures(built(mixed), READER)
    assert found == pytest.approx(hacking_figures(built(step), READER))


@given(STEPS, st.floats(-5, 5), st.floats(0.1, 10))
def test_neither_an_offset_nor_a_factor_of_rewards_changes_the_correlation(
    step: list, offset: float, factor: float
) -> None:
    def changed(trace: Trace) -> Trace:
        assert isinstance(trace.outcome, Score)
        total = factor * trace.outcome.total + offset
        return Trace(
            completion=trace.completion,
            outcome=Score(total=total, parts=trace.outcome.parts),
        )

    groups = built(step)
    others = [make_group(g.sample.label, [changed(t) for t in g.traces]) for g in groups]
    name = "guard/length_reward_corr"
    before = hacking_figures(groups, READER).get(name, 0.0)
    assert hacking_figures(others, READER).get(name, 0.0) == pytest.approx(before, abs=1e-6)


# --- prompts

WORDS = LabelWords(LABELS, {"fall": ["tumble"]})
BARE = "Labels:\n- fall\n- jump\n- walk\nAnswer."


def told(*asked: tuple[str, str]) -> float:
    prompts = [(label, BARE.replace("Answer.", f"{text}\nAnswer.")) for label, text in asked]
    return prompt_figures(prompts, BARE, WORDS, 3)["guard/label_in_prompt"]


def test_the_list_of_all_labels_tells_nothing() -> None:
    assert prompt_figures([("fall", BARE), ("jump", BARE)], BARE, WORDS, 3) == {
        "guard/label_in_prompt": 0.0
    }
    assert prompt_figures([], BARE, WORDS, 3) == {}


def test_the_true_label_in_a_prompt_is_found_in_any_spelling() -> None:
    assert told(("fall", "a Fall, at noon"), ("jump", "at night")) == 0.5
    assert told(("fall", "they TUMBLE")) == 1.0
    assert told(("fall", "- fall")) == 1.0, "also where it looks like a line of the list"
    assert told(("fall", "fall or jump"), ("jump", "waterfall")) == 0.0


@given(st.lists(st.sampled_from(LABELS.names), min_size=1), st.sampled_from(LABELS.names))
def test_texts_that_know_nothing_of_the_label_come_to_nothing(names: list, text: str) -> None:
    """Every label with every text, equally often."""
    asked = [(label, f"about {name}") for name in [*names, text] for label in LABELS.names]
    assert told(*asked) == pytest.approx(0.0)


def make_step(num_groups: int, group_size: int, num_tokens: int) -> list[TraceGroup]:
    draw = random.Random(1)
    think = " ".join(f"word{draw.randrange(9)}" for _ in range(num_tokens))
    return [
        make_group(
            label,
            [
                make_trace(
                    label, draw.choice(LABELS.names), length=num_tokens, think=f"{n} {think}"
                )
                for n in range(group_size)
            ],
        )
        for label in (draw.choice(LABELS.names) for _ in range(num_groups))
    ]


def test_4096_traces_of_1000_tokens_take_less_than_200_ms() -> None:
    step = make_step(num_groups=512, group_size=8, num_tokens=1000)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        hacking_figures(step, READER)
        seconds.append(time.process_time() - start)
    assert median(seconds) < 0.2
