"""Judge of rationales: whether each is kept, or the first reason why not; and how often each reason
holds, whether it drops any or not.

    texts of one clip -> Judge -> Rationales (kept, or Dropped) and FilterCounts

Pure: knows no engine, no archive and no stage.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout.rationales.answer import Concluded, conclude
from rollout.rationales.leak import LEAK_PATTERNS, leak_in
from rollout.rationales.rationale import Dropped, Rationale
from wire.labels import LabelSet, plain
from wire.types import Sample


@dataclass(frozen=True, slots=True)
class Written:
    """A text that a model wrote about a clip.

    Example:
        Written("He slips.\\nClassification: fall", is_truncated=False)
    """

    text: str
    is_truncated: bool


@dataclass
class FilterCounts:
    """Counts of rationales by the reasons that hold for them."""

    filters: Collection[Dropped]
    """Those that drop."""
    num_written: int = 0
    num_kept: int = 0
    num_answered: int = 0
    """Those that end with a label."""
    num_right: int = 0
    """Those that end with the clip's."""
    num_other_named: int = 0
    """Those whose reasoning names other labels, and never the clip's."""
    num_words: int = 0
    kept_clips: set[str] = field(default_factory=set)
    holds: Counter[Dropped] = field(default_factory=Counter)
    """Rationales for which a reason holds, whether it drops or not."""
    dropped: Counter[Dropped] = field(default_factory=Counter)
    """Rationales by the first reason that dropped them."""

    @property
    def kept_frac(self) -> float:
        """Share of the rationales that are kept; 0 of none."""
        return self._share(self.num_kept)

    def figures(self) -> dict[str, Any]:
        """All counts and rates, for done.json."""
        return {
            "num_written": self.num_written,
            "num_kept": self.num_kept,
            "kept_frac": self.kept_frac,
            "num_clips_kept": len(self.kept_clips),
            "answered_frac": self._share(self.num_answered),
            "right_frac": self._share(self.num_right),
            "other_named_frac": self._share(self.num_other_named),
            "mean_words": self._share(self.num_words),
            "filters": {
                reason.value: {
                    "on": reason in self.filters,
                    "num": self.holds[reason],
                    "frac": self._share(self.holds[reason]),
                    "num_dropped": self.dropped[reason],
                }
                for reason in Dropped
            },
        }

    def _share(self, count: int) -> float:
        return count / self.num_written if self.num_written else 0.0


class Judge:
    """Judges rationales clip by clip, and counts."""

    def __init__(
        self,
        labels: LabelSet,
        filters: Collection[Dropped],
        *,
        asks_label: bool,
        closing: str,
        leak_patterns: Sequence[str] = LEAK_PATTERNS,
    ) -> None:
        """``filters``: the reasons that drop; ``asks_label``: whether the prompt asks to end with
        a label, on the line that ``closing`` begins, which a caption's does not."""
        self._labels, self._asks_label, self._closing = labels, asks_label, closing
        self._leak_patterns = leak_patterns
        self._names = _names_pattern(labels)
        self.counts = FilterCounts({*filters, Dropped.EMPTY})

    def judge(
        self, sample: Sample, written: Sequence[Written], group_id: str
    ) -> Iterator[Rationale]:
        """The rationales of one clip, in their order; an earlier one goes before its duplicates."""
        kept: set[str] = set()
        for index, one in enumerate(written):
            answer, reasons = self._reasons(sample, one, kept)
            reason = next((r for r in Dropped if r in reasons and r in self.counts.filters), None)
            if reason is None:
                kept.add(plain(one.text))
                self.counts.num_kept += 1
                self.counts.kept_clips.add(sample.id)
            else:
                self.counts.dropped[reason] += 1
            yield Rationale(
                id=sample.id,
                video=sample.video,
                label=sample.label,
                text=one.text,
                answer=answer,
                kept=reason is None,
                reason="" if reason is None else reason.value,
                group_id=group_id,
                index=index,
            )

    def _reasons(
        self, sample: Sample, one: Written, kept: Collection[str]
    ) -> tuple[str | None, set[Dropped]]:
        """The answer of a rationale, and all reasons that hold for it; counts them."""
        counts, label = self.counts, self._labels.find(sample.label)
        concluded = Concluded(one.text.strip(), None)
        if self._asks_label:
            concluded = conclude(one.text, self._labels, self._closing)
        reasoning, answer = concluded.reasoning, concluded.answer
        holding = {
            Dropped.EMPTY: not reasoning,
            Dropped.TRUNCATED: one.is_truncated,
            Dropped.LEAK: leak_in(one.text, self._leak_patterns) is not None,
            Dropped.PARSE: self._asks_label and answer is None,
            Dropped.CONTRADICTION: any(name != label for name in concluded.named),
            Dropped.DUPLICATE: plain(one.text) in kept,
        }
        reasons = {reason for reason, holds in holding.items() if holds}
        counts.holds.update(reasons)
        counts.num_written += 1
        counts.num_answered += answer is not None
        counts.num_right += answer is not None and answer == label
        named = {self._labels.find(name) for name in self._names.findall(plain(reasoning))}
        counts.num_other_named += bool(named) and label not in named
        counts.num_words += len(reasoning.split())
        return answer, reasons


def _names_pattern(labels: LabelSet) -> re.Pattern[str]:
    """Whole names of labels in a plain text; of names within names the longest."""
    names = sorted((plain(name) for name in labels.names), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)")
