"""Parts of the clips in a fit: what classifiers learn from, and what nothing learns from.

    cal (or train) clips -> learned | held out      by a hash of the sample id, within each label
    val clips  -> temperature, choice, early stop
    test clips -> figures, and nothing else

All in the order of their ids, so that a fit is the same whoever lists the clips.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from calibrate.config import CalibrateConfig
from wire.types import Sample, Split, stable_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipParts:
    """Clips of a fit by their use."""

    learned: list[Sample]
    held_out: list[Sample]
    """Of prediction sets and thresholds."""
    val: list[Sample]
    test: list[Sample]

    @classmethod
    def of(
        cls, samples: Iterable[Sample], config: CalibrateConfig, test: Split = Split.TEST
    ) -> "ClipParts":
        """Parts of all clips of a manifest or archive; ``test``: the split that is measured."""
        of_split: dict[Split, list[Sample]] = {split: [] for split in Split}
        for sample in sorted(samples, key=lambda sample: sample.id):
            of_split[sample.split].append(sample)
        cal = of_split[Split.CAL]
        if config.split == "train":  # nothing learns from cal
            learned, held = of_split[Split.TRAIN], cal if config.holdout_frac else []
        else:
            kept = held_out_ids(cal, config.holdout_frac)
            learned = [sample for sample in cal if sample.id not in kept]
            held = [sample for sample in cal if sample.id in kept]
        return cls(learned=learned, held_out=held, val=of_split[Split.VAL], test=of_split[test])

    def num_groups(self, config: CalibrateConfig) -> int:
        """Prompts that the policy answers for a fit, without the test clips' own."""
        answered = len(self.held_out) + len(self.val)
        voted = answered + len(self.test) if "vote" in config.sources else 0
        return len(self.learned) + answered + voted

    def num_rollouts(self, config: CalibrateConfig) -> int:
        """Traces that it writes to them."""
        answered = len(self.held_out) + len(self.val)
        groups_of_k = self.num_groups(config) - answered
        return groups_of_k * config.num_traces + answered


def held_out_ids(samples: Sequence[Sample], share: float) -> set[str]:
    """Ids of a share of the clips of each label, rounded down, by a hash of the ids: a larger share
    holds out the same clips and more."""
    of_label: dict[str, list[str]] = {}
    for sample in samples:
        of_label.setdefault(sample.label, []).append(sample.id)
    return {
        name
        for ids in of_label.values()
        for name in sorted(ids, key=_hash)[: int(share * len(ids))]
    }


def _hash(sample_id: str) -> str:
    return stable_hash("held out", sample_id)
