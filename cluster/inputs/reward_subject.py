"""Rewards under test for `reward lint` and `reward bench`, from a recipe or one function's name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward.config import RewardConfig, RewardTerm
from reward.tools.subject import RewardUnderTest
from video.jpeg_frames import read_frames
from wire.config import apply_override, validate
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

_MADE_UP = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))


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
        read_frames=read_frames,
    )


def _of_recipe(path: Path, settings: Sequence[str]) -> RewardUnderTest:
    from cluster.config.recipe import read_recipe
    from cluster.inputs.scorer import prompt_text
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
        read_frames=read_frames,
    )
