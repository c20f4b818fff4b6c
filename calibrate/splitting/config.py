"""Settings of Category Splitting; the defaults are the paper's (arXiv 2602.16545) where it states
one, docs/splitting.md has the rest."""

from typing import Literal

from pydantic import Field

from wire.config import Config


class RetrievalConfig(Config):
    """How entries of the modifier dictionary are chosen for sub-classes."""

    alpha: float = Field(default=0.5, ge=0)
    """Weight of the similarity of modifier phrases."""
    beta: float = Field(default=0.5, ge=0)
    """Weight of the similarity of whole labels."""
    assignment: Literal["greedy", "argmax"] = "greedy"
    """``greedy``: an entry serves one sub-class of a split; ``argmax``: each takes its best."""


class AlignmentConfig(Config):
    """How the network from texts to rows of the head is trained."""

    hidden: int | None = Field(default=None, ge=1)
    """Width of its hidden layer; not set: that of the head's rows."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's own default; the paper states none."""
    batch_size: int = Field(default=10, ge=1)
    max_epochs: int = Field(default=300, ge=1)
    """Length of the cosine schedule; the paper states none."""
    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    patience: int = Field(default=5, ge=1)
    min_gain: float = Field(default=1e-3, ge=0)
    """Of the averaged training cosine, within ``patience`` epochs."""


class LowShotConfig(Config):
    """How rows of sub-classes are trained on a few clips."""

    trains: Literal["new_rows", "whole_head"] = "new_rows"
    """``whole_head``: the old rows too, which costs locality: a control, never for use."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    batch_size: int = Field(default=16, ge=1)
    max_epochs: int = Field(default=100, ge=1)
    """Length of the cosine schedule; the paper states none."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    """Of the features, before both parts of the head."""
    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    patience: int = Field(default=5, ge=1)
    min_gain: float = Field(default=1e-3, ge=0)
    """Of the averaged training loss, within ``patience`` epochs."""
