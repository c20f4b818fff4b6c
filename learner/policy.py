"""The vision-language model as the learner calls it: a batch in, logprobs of its responses out.

    TrainBatch -> hidden states -> (where a response token is predicted) logits -> logprob, entropy

The full logits of a row never exist: the head is applied to the predicting places alone, in chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learner.batch import TrainBatch
from learner.config import LoraConfig
from learner.lora import adapt
from video.families import family_of
from wire.errors import ConfigError

_HEAD_CHUNK = 4096  # places per call of the output head; bounds the logits held at once


class TokenScores(NamedTuple):
    """Per response token of a batch."""

    logp: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """What the vision tower makes of clips, for the V video tokens of a batch in their order."""

    embeds: Float[Tensor, "V H"]
    """Take the place of the video tokens' embeddings."""
    deepstack: tuple[Float[Tensor, "V H"], ...] = ()
    """Qwen3-VL: added to the hidden states after the first layers of the text model."""


class TokenHead(nn.Module):
    """Hidden states and targets -> logprobs, one chunk of logits at a time.

    The backward pass computes each chunk again, so that no logits are kept. One call of this module
    per batch, however many chunks it has: under ZeRO-3 every module call gathers its weights from
    all ranks, and ranks whose batches differ in chunks would wait for each other forever
    (learner/engine.py makes it a leaf, gathered as one).
    """

    def __init__(self, lm_head: nn.Module, chunk: int) -> None:
        super().__init__()
        self.lm_head = lm_head
        self.chunk = chunk

    def forward(self, hidden: Float[Tensor, "N H"], target: Int[Tensor, " N"]) -> TokenScores:
        """Logprob of each target, and the entropy of the distribution it was drawn from (nats)."""
        parts = [
            checkpoint(self._score, *pair, use_reentrant=False, preserve_rng_state=False)
            for pair in zip(hidden.split(self.chunk), target.split(self.chunk), strict=True)
        ]
        logp, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        return TokenScores(logp, entropy)

    def _score(
        self, hidden: Float[Tensor, "C H"], target: Int[Tensor, " C"]
    ) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        logp = self.lm_head(hidden).float().log_softmax(-1)
        with torch.no_grad():
            entropy = -(logp.exp() * logp).sum(-1)
        return logp.gather(-1, target[:, None])[:, 0], entropy


class Policy(nn.Module):
    """A Qwen-VL model (video/families.py) with a forward pass over shared-prefix rows."""

    def __init__(self, vlm: Any) -> None:
        super().__init__()
        self.vlm = vlm
        self.head = TokenHead(vlm.lm_head, _HEAD_CHUNK)

    @classmethod
    def load(
        cls,
        model_dir: Path,
        dtype: str,
        freeze_vision_tower: bool,
        lora: LoraConfig | None = None,
    ) -> "Policy":
        """From a Hugging Face directory, with a new adapter if ``lora`` is given. Raises
        ConfigError unless it is a whole model of a known family that has the adapter's targets."""
        import transformers
        from safetensors import SafetensorError

        family = family_of(model_dir)
        model_class: Any = getattr(transformers, family.model_class)
        try:
            vlm, report = model_class.from_pretrained(
                model_dir,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"cannot load a {family.model_type} model from {model_dir}: {error}; "
                "give a directory in Hugging Face format with safetensors weights"
            ) from error
        if report["missing_keys"]:
            raise ConfigError(
                f"the weights in {model_dir} lack {_few(sorted(report['missing_keys']))}; "
                "transformers would make them up: give a whole model"
            )
        if lora is not None:
            adapt(vlm, lora, with_tower=not freeze_vision_tower)
        elif freeze_vision_tower:
            vlm.model.visual.requires_grad_(False)
        return cls(vlm)

    def forward(self, batch: TrainBatch, *, features: bool = False) -> TokenScores | Tensor:
        """Scores of every response token, or ``features``: hidden states [R, H].

        Features are those at the last token of each of the R rows, which the head classifier reads;
        they need one response per row. Both go through here, because ZeRO-3 hooks this call.
        """
        hidden = self._hidden(batch)
        if not features:
            return self.head(hidden[batch.predict_at], batch.target)  # type: ignore[no-any-return]
        ends = torch.tensor(batch.lengths, device=hidden.device).cumsum(0)
        assert len(ends) == batch.input_ids.shape[0], "features needs one response per row"
        return hidden[batch.predict_at[ends - 1] + 1]

    def look(
        self, pixel_values: Float[Tensor, "P D"], grid_thw: Int[Tensor, "C 3"]
    ) -> ClipFeatures:
        """The vision tower's view of C clips, once each."""
        seen = self.vlm.model.get_video_features(
            pixel_values.to(self.vlm.dtype), grid_thw, return_dict=True
        )
        layers = getattr(seen, "deepstack_features", None) or []
        return ClipFeatures(torch.cat(seen.pooler_output), tuple(torch.cat(x) for x in layers))

    def _hidden(self, batch: TrainBatch) -> Float[Tensor, "BL H"]:
        return self.read(batch, self.look(batch.pixel_values, batch.grid_thw))

    def read(self, batch: TrainBatch, seen: ClipFeatures) -> Float[Tensor, "BL H"]:
        """Hidden states of the text model over what the tower has seen."""
        video = _Seen(pooler_output=[seen.embeds], deepstack_features=[[x] for x in seen.deepstack])
        output = self.vlm.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=batch.attention,
            mm_encoder_outputs={"video": video},
            use_cache=False,
        )
        return output.last_hidden_state.flatten(0, 1)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Seen:
    """As transformers' models take what a tower has seen."""

    pooler_output: list[Tensor]
    deepstack_features: list[list[Tensor]]


def _few(names: Sequence[str]) -> str:
    """The first three names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
