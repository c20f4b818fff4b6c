"""The reward under test of `lint` and `bench`: a function or a recipe, as terms that can be scored.

"file.py:f" | package.module:f | built-in | entry point -> one term, made-up samples
recipe.toml                                             -> its terms, samples of its manifest
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.judge_frames import read_frames
from reward.config import RewardConfig, RewardTerm
from reward.scorer import Scorer
from reward.signature import Signature
from wire.config import apply_override, validate
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

_MADE_UP = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardUnderTest:
    """Reward terms, and the labels, samples and prompts to try them on.

    Example:
        read_subject("rewards/brevity.py:compute_score", ["params.limit=40"])
    """

    reward: RewardConfig
    labels: LabelSet
    samples: tuple[Sample, ...]
    """The first of each label, in the order of the manifest."""
    prompts: tuple[str, ...]
    """Text of the prompt of each of ``samples``, without the video."""
    num_with: Mapping[str, int] | None
    """Further column of the manifest -> samples that have it; None: there is no manifest."""
    num_samples: int
    """Samples of the whole manifest."""
    max_response_length: int | None

    def scorer(self, term: RewardTerm) -> Scorer:
        """A scorer of this term alone. Raises UserError as Scorer does."""
        return Scorer(
            self.reward.only(term),
            self.labels,
            columns=None if self.num_with is None else self.num_with.keys(),
            max_response_length=self.max_response_length,
            read_frames=read_frames,
        )

    def why_not_tried(self, term: RewardTerm, signature: Signature | None) -> str | None:
        """Why a term cannot be tried without a manifest, and what to do; None if it can."""
        if signature is None or self.num_with is not None:
            return None
        lacking = signature.missing(term.params)
        if not lacking:
            return None
        return (
            f"takes {', '.join(lacking)} from the manifest, so it was not tried; give a recipe "
            f"that has one, or --set params.{lacking[0]}=VALUE"
        )


def read_subject(name: str, settings: Sequence[str]) -> RewardUnderTest:
    """The reward that a name stands for. ``settings``: overrides of the recipe, or of the term
    (``params.limit=40``). Raises UserError for a recipe, manifest or term that cannot be used."""
    if name.endswith(".toml"):
        return _of_recipe(Path(name), settings)
    values: dict[str, Any] = {"function": name}
    for setting in settings:
        apply_override(values, setting)
    term = validate(RewardTerm, values, f"reward {name!r}")
    made_up = tuple(
        Sample(id=f"made-up-{k}", video="", label=label, split=Split.TRAIN)
        for k, label in enumerate(_MADE_UP.names)
    )
    return RewardUnderTest(
        reward=RewardConfig(terms=(term,)),
        labels=_MADE_UP,
        samples=made_up,
        prompts=("Decide which label fits the video.",) * len(made_up),
        num_with=None,
        num_samples=0,
        max_response_length=None,
    )


def _of_recipe(path: Path, settings: Sequence[str]) -> RewardUnderTest:
    from cluster.config import read_recipe
    from cluster.scoring import prompt_text
    from rollout.manifest import read_manifest

    config = read_recipe(path, list(settings))
    samples = read_manifest(config.data.manifest, config.label_set, config.data.media_root)
    first = {sample.label: sample for sample in reversed(samples)}
    tried = tuple(sample for sample in samples if first[sample.label] is sample)
    return RewardUnderTest(
        reward=config.reward,
        labels=config.label_set,
        samples=tried,
        prompts=tuple(prompt_text(config, sample) for sample in tried),
        num_with=Counter(column for sample in samples for column in sample.extra),
        num_samples=len(samples),
        max_response_length=config.rollout.max_response_length,
    )
