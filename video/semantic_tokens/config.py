"""Settings of the semantic-token tokenizer: segments, codebook, losses, fit.

Every one of them is ours: the abstract of LVLM-VAR (arXiv 2509.05695), all that there is of it,
names none.
"""

from typing import Literal

from pydantic import Field, field_validator

from wire.config import Config


class SemanticTokensConfig(Config):
    """Tokenizer of semantic action tokens: how a clip's segments become codes, and how that is
    learnt."""

    num_codes: int = Field(default=128, ge=2, le=65_536)
    """Codes of the codebook, the vocabulary of a narrative."""
    segment_steps: int = Field(default=1, ge=1, le=64)
    """Temporal patches of one segment (Qwen: two frames each); a clip's last segment may have
    fewer."""
    spatial: int = Field(default=2, ge=1, le=16)
    """The patches of a segment are averaged into spatial x spatial places. With 1 a code cannot
    tell where something happens."""
    dim: int = Field(default=32, ge=2, le=4096)
    """Width of the space in which segments are quantised."""
    hidden: int = Field(default=256, ge=2, le=16_384)
    """Width of the encoder's inner layer, and of the decoder's."""
    context: int = Field(default=1, ge=1, le=31)
    """Neighbouring segments, itself among them, that the encoder of a segment sees; odd. With 1 a
    segment has the same code wherever it stands."""
    beta: float = Field(default=0.25, ge=0, le=10)
    """Weight of the commitment loss, which keeps segments near their codes."""
    reconstruction_weight: float = Field(default=1.0, ge=0, le=100)
    """Weight of the loss that recovers the tower's features from codes."""
    temporal_weight: float = Field(default=1.0, ge=0, le=100)
    """Weight of the loss against needless switches between neighbouring segments; 0: off."""
    semantic_weight: float = Field(default=1.0, ge=0, le=100)
    """Weight of the loss between segments and the attributes that their clip's text mentions; 0:
    off."""
    temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of the semantic loss; lower: harder."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """Share of a code's running mean that an update keeps."""
    restart_below: float = Field(default=0.1, ge=0, le=1)
    """A code used by less than this share of an equal share of the segments is restarted at a
    segment of the batch; 0: never, and the codebook may collapse."""
    quantise: bool = True
    """Whether the losses see codes. Off is an ablation: they see segments as they are, and codes
    are only read off afterwards."""
    epochs: int = Field(default=30, ge=1, le=10_000)
    """Passes over the training clips."""
    batch_size: int = Field(default=64, ge=1, le=65_536)
    """Clips per update."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak learning rate of encoder, decoder and projections; the codebook follows running
    means."""

    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights, the first codes, the order of clips and the restarts."""

    @field_validator("context")
    @classmethod
    def _odd(cls, context: int) -> int:
        if context % 2 == 0:
            raise ValueError(
                f"context={context}; expected an odd number: a segment and as many on either side"
            )
        return context


Style = Literal["names", "ids"]
"""How a narrative writes a code: by the text nearest to it, or by its number."""
