"""Settings of the calibration stage: its traces, the training of its classifiers, and what is
promised of the one that is published."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from wire.config import Config

Method = Literal["verdict", "head"]
"""A classifier that is trained on traces."""

HeadFeatures = Literal["trace", "video"]
"""Hidden state that the head reads: after video and trace, or after the label prompt, without a
trace."""


class CalibrateConfig(Config):
    """Stage 2 (DeepIntuit): k traces per clip from the refined policy, then verdict and head; then
    the best of them and of the policy's own answer, calibrated."""

    methods: tuple[Method, ...] = Field(default=("verdict", "head"), min_length=1)
    """``verdict``: the VLM fine-tuned to emit the label; ``head``: linear, over hidden states."""
    head_features: HeadFeatures = "trace"
    """Hidden state that the head reads: ``trace``, at the last token of the trace; ``video``, at
    that of the label prompt, which holds no trace. A category can be split in a head over ``video``
    alone: a trace names the coarse label, and hides its sub-classes."""
    split: Literal["cal", "train"] = "cal"
    """Clips to calibrate on. The policy knows the labels of ``train``: traces there flatter it."""
    holdout_frac: float = Field(default=0.25, ge=0, lt=1)
    """Share of the ``cal`` clips of each label that nothing learns from: prediction sets and
    thresholds are made of them (all ``cal`` clips, if ``split`` is ``train``). 0: none, so that
    neither is attainable."""
    num_traces: int = Field(default=4, ge=1)
    """Traces per clip, kept right or wrong."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Sampling temperature of those traces."""
    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    """Peak learning rate of the verdict's fine-tuning."""
    epochs: int = Field(default=10, ge=1)
    """Passes over all traces."""
    batch_size: int = Field(default=256, ge=1)
    """Traces per optimizer step, over all ranks and accumulation steps."""
    warmup_frac: float = Field(default=0.06, ge=0, lt=1)
    """Share of the optimizer steps over which the learning rate rises from 0."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: every label weighs the same in the verdict's loss, however many traces it has
    (scikit-learn's rule)."""
    candidates: tuple[Literal["policy", "vote", "verdict", "head"], ...] = ()
    """What is compared on ``val``, each with a temperature, and in pairs: ``policy``: its own
    answer; ``vote``: the answers of ``num_traces`` further traces; ``verdict``, ``head``. The best
    is published. Not set: ``policy``, ``vote`` and the methods."""
    select_by: Literal["nll", "accuracy", "macro_f1", "brier", "ece"] = "nll"
    """The measure on ``val`` by which it is the best."""
    coverage: float = Field(default=0.9, gt=0, lt=1)
    """Share of clips whose prediction set is to have the true label."""
    sets: Literal["marginal", "class_conditional"] = "marginal"
    """Whether that share is of all clips, or of the clips of each label."""
    max_error: float = Field(default=0.05, gt=0, lt=1)
    """Error rate that automatic decisions are to keep below; all others go to review."""
    confidence: float = Field(default=0.9, gt=0, lt=1)
    """Probability with which they keep below it."""
    group_by: str = ""
    """Manifest column by whose values the coverage on test clips is told apart; empty: none."""
    label_errors: bool = True
    """Rank the clips learned from by how probably their label is wrong (label_errors.jsonl), where
    the head is among the methods and cleanlab is installed (``deepintuit[cleanlab]``)."""

    @field_validator("methods", "candidates")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("names one twice; name each once")
        return names

    @model_validator(mode="after")
    def _are_fitted(self) -> Self:
        for name in self.candidates:
            if name in ("verdict", "head") and name not in self.methods:
                raise ValueError(
                    f"candidates has {name!r}, which methods = {list(self.methods)} does not fit; "
                    "add it there, or take it out of candidates"
                )
        if self.head_features == "video" and "head" not in self.methods:
            raise ValueError(
                f"head_features = 'video' is of the head, which methods = {list(self.methods)} "
                "does not fit; add 'head' to methods, or leave head_features out"
            )
        return self

    @property
    def sources(self) -> tuple[Literal["policy", "vote", "verdict", "head"], ...]:
        """What the published classifier may read."""
        return self.candidates or ("policy", "vote", *self.methods)
