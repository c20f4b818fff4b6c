"""Settings of the calibration stage: its traces, and the training of its classifiers."""

from typing import Literal

from pydantic import Field, field_validator

from wire.config import Config


class CalibrateConfig(Config):
    """Stage 2 (DeepIntuit): k traces per clip from the refined policy, then verdict and head."""

    methods: tuple[Literal["verdict", "head"], ...] = Field(
        default=("verdict", "head"), min_length=1
    )
    """``verdict``: the VLM fine-tuned to emit the label; ``head``: linear, over hidden states."""
    split: Literal["cal", "train"] = "cal"
    """Clips to calibrate on. The policy knows the labels of ``train``: traces there flatter it."""
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

    @field_validator("methods")
    @classmethod
    def _distinct(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(methods)) != len(methods):
            raise ValueError("names a method twice; name each once")
        return methods
