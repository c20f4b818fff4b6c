"""Description and provenance of a classifier: what its directory says of itself, as strict JSON.

    classifier.json   ClassifierDescription, and the files with their sizes and hashes
    provenance.json   Provenance: where it comes from; nothing is computed from it

The first is the same to the bit for equal classifiers, whoever fitted them. Settings of video and
rollout are plain values here: their packages read them (cluster/inputs/classifier_settings.py).
"""

import hashlib
from typing import Any

from pydantic import Field, model_validator

from calibrate.calibrator import Source
from calibrate.config import HeadFeatures
from wire.config import Config
from wire.labels import Label, LabelSet

FORMAT = 1
"""Format of a classifier's directory."""


class PromptText(Config):
    """Text of a prompt that the classifier was fitted with.

    Example:
        PromptText.of("Decide which label fits the video...", version="1")
    """

    text: str
    version: str
    """As the archive records it (rollout/prompt.py); empty for the system turn."""
    sha256: str

    @classmethod
    def of(cls, text: str, version: str) -> "PromptText":
        """A text with its hash."""
        return cls(text=text, version=version, sha256=_sha256(text))

    @model_validator(mode="after")
    def _as_fitted(self) -> "PromptText":
        if _sha256(self.text) != self.sha256:
            raise ValueError(
                f"a prompt was changed: its text {self.text[:40]!r}... has the hash "
                f"{_sha256(self.text)[:12]}, expected {self.sha256[:12]}; put the text back, or "
                "fit the classifier anew with the new one"
            )
        return self


class AnswerSettings(Config):
    """How a clip is answered: one near-greedy trace, and sampled ones where there is a vote."""

    temperature: float = Field(default=0.01, gt=0)
    """Of the trace that verdict, head and the policy's own answer are read from."""
    seed: int = 0
    num_votes: int = Field(default=0, ge=0)
    """Further traces whose answers are counted; 0: no vote."""
    vote_temperature: float = Field(default=1.0, gt=0)


class ClassifierDescription(Config):
    """Description of a classifier: all that answers depend on, beside weights and calibration."""

    name: str = Field(min_length=1)
    """Of the stage or fit that made it."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """What is read of a clip; several are pooled."""
    labels: tuple[Label, ...] = Field(min_length=2)
    """What it tells apart, with definitions."""
    shown_labels: tuple[Label, ...] = ()
    """What its prompts show, where that is something else: a split head tells apart more labels
    than its prompts name, and reads the hidden states that it was fitted to."""
    head_features: HeadFeatures = "trace"
    """Hidden state that the head reads."""
    label_codes: dict[str, tuple[int, ...]]
    """Label -> tokens that the verdict writes for it; empty without a verdict."""
    prompts: dict[str, PromptText]
    """By name: system, trace, verdict, label."""
    use_side_text: bool = False
    """Whether a clip's side text is shown."""
    video: dict[str, Any]
    """Sampling and size of frames, as ``[video]`` of a recipe."""
    rollout: dict[str, Any]
    """Lengths and precision, as ``[rollout]`` of a recipe."""
    answers: AnswerSettings = AnswerSettings()
    policy_version: str
    """Version of the policy that is served, attempt.step of its run."""

    @property
    def label_set(self) -> LabelSet:
        """The labels, in the order of probabilities."""
        return LabelSet(labels=self.labels)

    @property
    def shown_label_set(self) -> LabelSet:
        """The labels that prompts show and traces answer."""
        return LabelSet(labels=self.shown_labels or self.labels)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names in the order of probabilities."""
        return self.label_set.names

    @model_validator(mode="after")
    def _codes_of_all_labels(self) -> "ClassifierDescription":
        if self.label_codes and set(self.label_codes) != set(self.label_names):
            raise ValueError(
                f"label_codes are of {sorted(self.label_codes)}, expected one for each label: "
                f"{list(self.label_names)}"
            )
        if "verdict" in self.sources and not self.label_codes:
            raise ValueError("a verdict needs label_codes; give the tokens of each label")
        return self


class SplitFacts(Config):
    """Clips of a split, and what they were for."""

    clips: int
    traces: int = 0
    use: str
    """In words: learned from, temperature and choice, conformal sets, figures."""


class CodeVersion(Config):
    """Version of the program that fitted."""

    package: str
    commit: str | None = None
    """Of its git checkout; none: installed from a package."""
    changed: bool = False
    """Whether files of the checkout differed from the commit."""


class ArchiveFacts(Config):
    """The traces that were learned from."""

    name: str
    """Of the run or archive: a folder's name, no path."""
    attempts: tuple[int, ...] = ()
    versions: dict[str, int] = Field(default_factory=dict)
    """Policy version -> groups that it wrote."""
    num_groups: int = 0
    num_traces: int = 0
    foreign: str = ""
    """Mark of traces that another policy wrote than the one served, in words; empty: its own."""


class Provenance(Config):
    """Where a classifier comes from. No path of the machine that fitted it."""

    archive: ArchiveFacts
    splits: dict[str, SplitFacts]
    seeds: dict[str, int]
    settings: dict[str, Any]
    """Settings of the recipe that mattered, by dotted name."""
    code: CodeVersion
    packages: dict[str, str]
    """Package -> version."""
    created: str
    """UTC."""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
