"""Signs of reward hacking: a policy is paid for something else than right answers. Pure functions.

    TraceGroups of a step -> {"guard/...": ...};  reward/hacking_alerts.py knows the limits

A figure without data is left out, not zero: one about answers where no trace names a label, one
about the format where no reward term is ``format``. Nothing here looks at the video.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from reward.config import RewardConfig
from wire.label_words import LabelWords
from wire.labels import LabelSet, first_block, plain
from wire.types import Score, Trace, TraceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReader:
    """Reads a trace: its answer, and whether it keeps the format.

    Example:
        TraceReader.of(RewardConfig(), labels)
    """

    labels: LabelSet
    formats: tuple[str, ...]
    """Reward parts that score the format."""
    spellings: Mapping[str, str]
    """Spelling that a term ``synonyms`` accepts, in plain words -> label."""
    words: LabelWords
    """Finds the labels and the accepted spellings in a text."""

    @classmethod
    def of(cls, reward: RewardConfig, labels: LabelSet) -> "TraceReader":
        """The reader for a recipe's reward."""
        formats = [term.part for term in reward.terms if term.function == "format"]
        accepted = _accepted(reward, labels)
        spellings = {plain(name): label for label, names in accepted.items() for name in names}
        words = LabelWords(labels, accepted)
        return cls(labels=labels, formats=tuple(formats), spellings=spellings, words=words)

    def answer(self, text: str) -> str | None:
        """The label in the first answer block; None if there is none."""
        block = first_block(text, "answer")
        if block is None:
            return None
        return self.labels.find(block) or self.spellings.get(plain(block))

    def is_right(self, label: str, text: str, parts: Mapping[str, float]) -> bool:
        """Whether the answer is right: by the ``accuracy`` part, if there is one; else by the
        label."""
        return parts["accuracy"] > 0 if "accuracy" in parts else self.answer(text) == label

    def keeps_format(self, parts: Mapping[str, float]) -> bool | None:
        """Whether the trace keeps the format; None if no format term applies."""
        values = [parts[name] for name in self.formats if name in parts]
        return all(value > 0 for value in values) if values else None


def _accepted(reward: RewardConfig, labels: LabelSet) -> Mapping[str, Sequence[str]]:
    """Label -> further names that a term ``synonyms`` accepts."""
    of_label: dict[str, list[str]] = {}
    for term in reward.terms:
        if term.function == "synonyms":
            for label, accepted in term.params.get("spellings", {}).items():
                of_label.setdefault(labels.find(label) or label, []).extend(accepted)
    return of_label


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """One trace as the figures read it."""

    label: str
    answer: str | None
    right: bool
    length: int
    reward: float | None
    keeps_format: bool | None
    """None: no format term applies."""


def hacking_figures(groups: Sequence[TraceGroup], reader: TraceReader) -> dict[str, float]:
    """All figures of a step but the drift of length, which needs the first steps, and those of the
    prompts (:func:`prompt_figures`)."""
    read = [[_read(group, trace, reader) for trace in group.traces] for group in groups]
    return {
        **length_figures(read),
        **format_figures(read),
        **answer_figures(read),
        **identical_figures(groups, read),
    }


def length_figures(groups: Sequence[Sequence[_Read]]) -> dict[str, float]:
    """guard/length_reward_corr: Pearson's correlation of tokens and reward, both less their mean
    in the group, over all scored traces: what GRPO's advantages see, whatever the clips are."""
    over_lengths, over_rewards = [], []
    for group in groups:
        scored = [one for one in group if one.reward is not None]
        if len(scored) > 1:
            over_lengths += _centred([float(one.length) for one in scored])
            over_rewards += _centred([one.reward or 0.0 for one in scored])
    spread = math.sqrt(_dot(over_lengths, over_lengths) * _dot(over_rewards, over_rewards))
    if spread <= 1e-12:
        return {}
    return {"guard/length_reward_corr": _dot(over_lengths, over_rewards) / spread}


def format_figures(groups: Sequence[Sequence[_Read]]) -> dict[str, float]:
    """Figures of how much of the reward is the format's.

    guard/format_only_frac    share of scored traces that keep the format and answer wrongly
    guard/format_signal_frac  of the groups whose rewards differ, those in which all traces are
                              right or all are wrong, and the format differs
    guard/answer_kappa        agreement of the answers with the true labels, of the traces that keep
                              the format: (p_o - p_e) / (1 - p_e) (Cohen 1960); an unreadable answer
                              is a class of its own. 0: as if answers knew nothing of the clip
    guard/format_only         F (1 - guard/answer_kappa), F the share of scored traces that keep the
                              format. 1: all keep it and guess
    """
    judged = [
        [one for one in group if one.reward is not None and one.keeps_format is not None]
        for group in groups
    ]
    flat = [one for group in judged for one in group]
    if not flat:
        return {}
    kept = [one for one in flat if one.keeps_format]
    figures = {"guard/format_only_frac": sum(not one.right for one in kept) / len(flat)}
    differing = [group for group in judged if len({one.reward for one in group}) > 1]
    if differing:
        figures["guard/format_signal_frac"] = fmean(
            len({one.right for one in group}) == 1 and len({one.keeps_format for one in group}) == 2
            for group in differing
        )
    kappa = _kappa(kept)
    if kappa is not None and any(one.answer for one in kept):
        figures["guard/answer_kappa"] = kappa
        figures["guard/format_only"] = len(kept) / len(flat) * (1 - kappa)
    return figures


def answer_figures(groups: Sequence[Sequence[_Read]]) -> dict[str, float]:
    """Figures of answers that are one label for everything, over the traces whose answer is a
    label.

    guard/top_answer_frac  share of the most frequent answer
    guard/top_label_frac   share of the most frequent true label
    guard/answer_entropy   entropy of the answers over that of the true labels; 0: one answer for
                           all. Left out where the true labels of the step are all the same
    """
    read = [one for group in groups for one in group if one.answer is not None]
    if not read:
        return {}
    answers, labels = Counter(one.answer for one in read), Counter(one.label for one in read)
    figures = {
        "guard/top_answer_frac": max(answers.values()) / len(read),
        "guard/top_label_frac": max(labels.values()) / len(read),
    }
    if len(labels) > 1:
        figures["guard/answer_entropy"] = _entropy(answers) / _entropy(labels)
    return figures


def identical_figures(
    groups: Sequence[TraceGroup], read: Sequence[Sequence[_Read]]
) -> dict[str, float]:
    """Figures of groups whose traces are identical, over the groups of at least two.

    guard/distinct_frac         mean of (distinct texts - 1) / (traces - 1): 1 all differ, 0 none
    guard/identical_frac        share of groups whose traces are all the same
    guard/identical_wrong_frac  the same, of the groups with a wrong trace: where a task is solved,
                                traces may well be the same
    """
    several = [
        (len({trace.completion.text for trace in group.traces}), own)
        for group, own in zip(groups, read, strict=True)
        if len(own) > 1
    ]
    if not several:
        return {}
    figures = {
        "guard/distinct_frac": fmean((count - 1) / (len(own) - 1) for count, own in several),
        "guard/identical_frac": fmean(count == 1 for count, _ in several),
    }
    wrong = [count for count, own in several if not all(one.right for one in own)]
    if wrong:
        figures["guard/identical_wrong_frac"] = fmean(count == 1 for count in wrong)
    return figures


def prompt_figures(
    asked: Iterable[tuple[str, str]], without_sample: str, words: LabelWords, num_labels: int
) -> dict[str, float]:
    """Figure of prompts that tell the answer. ``asked``: (true label, text of the prompt) of each
    group; ``without_sample``: the prompt that knows nothing of a sample.

    guard/label_in_prompt  share of prompts that name the true label and no other, less the mean
                           share of those that name one certain other label and no more (what
                           texts that know nothing come to); in lines that ``without_sample`` has
                           not, so the list of labels does not count
    """
    known = Counter(without_sample.splitlines())
    num, score = 0, 0.0
    for label, text in asked:
        num += 1
        if text == without_sample:
            continue
        own = "\n".join((Counter(text.splitlines()) - known).elements())
        named = words.named_in(own)
        if len(named) == 1:
            score += 1.0 if label in named else -1.0 / (num_labels - 1)
    return {"guard/label_in_prompt": score / num} if num else {}


def _read(group: TraceGroup, trace: Trace, reader: TraceReader) -> _Read:
    label, outcome = group.sample.label, trace.outcome
    text = trace.completion.text
    parts = outcome.parts if isinstance(outcome, Score) else {}
    return _Read(
        label=label,
        answer=reader.answer(text),
        right=reader.is_right(label, text, parts),
        length=len(trace.completion.token_ids),
        reward=trace.reward,
        keeps_format=reader.keeps_format(parts),
    )


def _kappa(read: Sequence[_Read]) -> float | None:
    """Cohen's kappa of answers and true labels; None if the true labels do not differ."""
    labels = Counter(one.label for one in read)
    if len(labels) < 2:
        return None
    answers = Counter(one.answer for one in read)
    by_chance = sum(answers[label] * count for label, count in labels.items()) / len(read) ** 2
    agreed = sum(one.answer == one.label for one in read) / len(read)
    return (agreed - by_chance) / (1 - by_chance)


def _entropy(counts: Counter[Any]) -> float:
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def _centred(values: Sequence[float]) -> list[float]:
    mean = fmean(values)
    return [value - mean for value in values]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))
