"""Settings of text encoders: where the vectors of label texts come from."""

from pydantic import Field

from wire.config import Config

POLICY = "policy"
MINILM = "minilm"


class TextEncoderConfig(Config):
    """Text encoder of a split: it compares modifier phrases with each other."""

    encoder: str = Field(default=POLICY, min_length=1)
    """``policy``: the input embeddings of the classifier's own language model, nothing to install;
    ``minilm``: all-MiniLM-L6-v2 of the extra ``deepintuit[splitting]``; else a local Hugging Face
    directory: a CLIP model (the paper's is CLIP ViT-L/14), a sentence encoder, a language model."""
    batch_size: int = Field(default=64, ge=1)
    """Texts per pass of an encoder that has layers."""
