"""Features of clips for a split: what the head reads of them, and how they look to the policy.

    classifier + manifest -> clips (cache) -> hidden states [N, H]: what the head reads
                                           -> mean of the tower's features [N, E]: for the baseline

No engine is started and no trace written: the policy is loaded once, with plain transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibrate.classifier import Classifier
from cluster.classify.hidden_states import HiddenStates
from cluster.classify.machine import Machine
from cluster.inputs.classifier_settings import settings_of
from learner.shared_prefix.rows import Row, prompt_end_row
from rollout.manifest import read_manifest
from rollout.prompt_inputs import PromptInputs
from rollout.render import Renderer
from video.cache import ClipStore
from video.disk_cache.location import cache_folder
from video.processor import ClipProcessor, ProcessedClip
from wire.errors import ClipError, DataError
from wire.labels import Label, LabelSet
from wire.types import Failure, Sample

_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClips:
    """Clips with their labels and features, in the order of the manifest.

    Example:
        LabelledClips(labels=("left then up",), states=np.zeros((1, 128)), looks=np.zeros((1, 128)))
    """

    labels: tuple[str, ...]
    states: NDArray[np.float32]
    """[N, H] hidden states after the label prompt."""
    looks: NDArray[np.float32]
    """[N, E] mean of the vision tower's features, in the language model's input space."""

    def of(self, names: Sequence[str]) -> "LabelledClips":
        """The clips of these labels."""
        places = [place for place, label in enumerate(self.labels) if label in names]
        return LabelledClips(
            labels=tuple(self.labels[place] for place in places),
            states=self.states[places],
            looks=self.looks[places],
        )

    def __len__(self) -> int:
        return len(self.labels)


def read_samples(manifest: Path, names: Sequence[str]) -> list[Sample]:
    """Samples of a manifest with these labels. Raises DataError for a row of another, such as the
    label that is split: its clips do not say which part they are of."""
    return read_manifest(manifest, LabelSet(labels=tuple(Label(name=name) for name in names)))


class ClipReader:
    """Reads features of clips as a classifier's head sees them."""

    def __init__(self, classifier: Classifier, machine: Machine) -> None:
        """Raises DataError, ConfigError."""
        settings = settings_of(classifier.description)
        video = settings.video.model_copy(update={"cache_dir": machine.cache_dir})
        folder = classifier.policy_dir
        self._clips = ClipStore(cache_folder(video), ClipProcessor(folder), video)
        renderer = Renderer.load(folder, settings.rollout.max_prompt_length)
        self._inputs = PromptInputs(renderer, self._clips, settings.prompts)
        device = "cuda" if machine.num_gpus else "cpu"
        self._states = HiddenStates.load(folder, settings.rollout.dtype, device)

    def read(
        self, samples: Sequence[Sample], progress: Callable[[int], None] = lambda _: None
    ) -> LabelledClips:
        """Features of clips; ``progress``: is told how many are read. Raises DataError for a clip
        that cannot be read."""
        states, looks = [], []
        for start in range(0, len(samples), _AT_ONCE):
            block = samples[start : start + _AT_ONCE]
            clips = [self._clip(sample) for sample in block]
            rows = [self._row(sample, clip) for sample, clip in zip(block, clips, strict=True)]
            by_key = {clip.clip_key: clip for clip in clips}
            states.append(self._states.at_ends(rows, by_key))
            looks.append(self._states.looks(clips))
            progress(start + len(block))
        return LabelledClips(
            labels=tuple(sample.label for sample in samples),
            states=np.concatenate(states),
            looks=np.concatenate(looks),
        )

    def _clip(self, sample: Sample) -> ProcessedClip:
        try:
            return self._clips.get(sample.video)
        except ClipError as error:
            raise DataError(f"{sample.id}: {error}; mend the clip, or leave it out") from error

    def _row(self, sample: Sample, clip: ProcessedClip) -> Row:
        prompt = self._inputs.about(sample, "label", clip)
        if isinstance(prompt, Failure):
            raise DataError(f"no label can be asked for {prompt.culprit}: {prompt.reason}")
        return prompt_end_row(prompt, sample.video)
