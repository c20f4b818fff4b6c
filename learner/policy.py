"""The vision-language model as the learner calls it: a batch in, logprobs of its response tokens out.

    TrainBatch -> hidden states -> (only where a response token is predicted) logits -> logprob, entropy

The full logits of a row never exist: the head is applied to the predicting places alone, in chunks.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learner.batch import TrainBatch
from wire.errors import ConfigError

_HEAD_CHUNK = 4096  # places per call of the output head; bounds the logits held at once


class TokenScores(NamedTuple):
    """Per response token of a batch."""

    logp: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]


class Policy(nn.Module):
    """A Qwen2.5-VL model with a forward pass over shared-prefix rows."""

    def __init__(self, vlm: Any) -> None:
        super().__init__()
        self.vlm = vlm

    @classmethod
    def load(cls, model_dir: Path, dtype: str, freeze_vision_tower: bool) -> "Policy":
        """From a Hugging Face directory (safetensors only). Raises ConfigError if it is none of ours."""
        from transformers import Qwen2_5_VLForConditionalGeneration

        try:
            vlm = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                model_dir, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
            )
        except OSError as error:
            raise ConfigError(
                f"cannot load a Qwen2.5-VL model from {model_dir}: {error}; "
                "give a directory in Hugging Face format with safetensors weights"
            ) from error
        if freeze_vision_tower:
            vlm.model.visual.requires_grad_(False)
        return cls(vlm)

    def forward(self, batch: TrainBatch) -> TokenScores:
        """Logprob of every response token, and the entropy of the distribution it was drawn from (both nats)."""
        predicting = self._hidden(batch)[batch.predict_at]
        parts = [
            self._head(hidden, target)
            for hidden, target in zip(
                predicting.split(_HEAD_CHUNK), batch.target.split(_HEAD_CHUNK), strict=True
            )
        ]
        logp, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        return TokenScores(logp, entropy)

    def features(self, batch: TrainBatch) -> Float[Tensor, "R H"]:
        """Hidden state at the last token of each row: what the head classifier reads. One response per row."""
        ends = torch.tensor(batch.lengths).cumsum(0)
        assert len(ends) == batch.input_ids.shape[0], "features needs one response per row"
        return self._hidden(batch)[batch.predict_at[ends - 1] + 1]

    def _hidden(self, batch: TrainBatch) -> Float[Tensor, "BL H"]:
        output = self.vlm.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask={"full_attention": batch.attention},
            pixel_values_videos=batch.pixel_values.to(self.vlm.dtype),
            video_grid_thw=batch.grid_thw,
            use_cache=False,
        )
        return output.last_hidden_state.flatten(0, 1)  # type: ignore[no-any-return]

    def _head(
        self, hidden: Float[Tensor, "N H"], target: Tensor
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        logp = self.vlm.lm_head(hidden).float().log_softmax(-1)
        entropy = -(logp.detach().exp() * logp.detach()).sum(-1)
        return logp.gather(-1, target[:, None])[:, 0], entropy
