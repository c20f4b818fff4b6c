"""The vision-language model as the learner calls it: a batch in, logprobs of its responses out.

    TrainBatch -> hidden states -> (where a response token is predicted) logits -> logprob, entropy

The head is applied to the predicting places alone, and full logits never exist.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from learner.model.token_head import TokenHead, TokenScores
from learner.shared_prefix.attention import layout_keywords, use_shared_prefix
from learner.shared_prefix.batch import TrainBatch
from learner.shared_prefix.clip_features import ClipFeatures, Pixels
from video.families import family_of
from wire.errors import ConfigError


class Policy(nn.Module):
    """A Qwen-VL model (video/families.py) with a forward pass over shared-prefix rows."""

    def __init__(self, vlm: Any) -> None:
        super().__init__()
        self.vlm = vlm
        self.head = TokenHead(vlm.lm_head)
        use_shared_prefix(vlm)

    @classmethod
    def load(cls, model_dir: Path, dtype: str) -> "Policy":
        """Load a model from a Hugging Face directory. ``dtype``: "float32", "bfloat16", or "auto":
        as the file has it, which then is not copied but mapped.

        Raises ConfigError unless it is a whole model of a known family.
        """
        import transformers
        from safetensors import SafetensorError

        family = family_of(model_dir)
        model_class: Any = getattr(transformers, family.model_class)
        try:
            vlm, report = model_class.from_pretrained(
                model_dir,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
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
        return cls(vlm)

    @property
    def tower(self) -> Any:
        """The vision tower with its mergers."""
        return self.vlm.model.visual

    @property
    def text_model(self) -> nn.Module:
        """The text model."""
        return self.vlm.model.language_model  # type: ignore[no-any-return]

    @property
    def tower_config(self) -> dict[str, Any]:
        """Settings of the vision tower that change its output but are not weights: sizes, attention
        kernel."""
        config = self.tower.config
        return {**config.to_dict(), "attention": config._attn_implementation}

    @property
    def trains_tower(self) -> bool:
        """Whether any parameter of the tower is trained, also an adapter's."""
        return any(parameter.requires_grad for parameter in self.tower.parameters())

    def blank_clip(self, grid_thw: tuple[int, int, int]) -> Pixels:
        """A blank clip of this size."""
        patch = self.tower.patch_embed
        width = patch.in_channels * patch.temporal_patch_size * patch.patch_size**2
        return Pixels(torch.zeros(math.prod(grid_thw), width), torch.tensor([grid_thw]))

    def forward(
        self, batch: TrainBatch | Pixels, *, features: bool = False
    ) -> TokenScores | Tensor | tuple[Tensor, ...]:
        """Scores of every response token, or ``features``: hidden states [R, H]. Of pixels alone:
        the tower's features, as a tuple, because ZeRO-3's hooks look into no other value.

        Features are those at the last token of each of the R rows, which the head classifier reads;
        they need one response per row. All go through here, because ZeRO-3 hooks this call.
        """
        if isinstance(batch, Pixels):
            seen = self.look(batch.values, batch.grid_thw)
            return seen.embeds, *seen.deepstack
        hidden = self._hidden(batch)
        if not features:
            return self.head(  # type: ignore[no-any-return]
                hidden[batch.predict_at], batch.target, batch.temperature
            )
        ends = torch.tensor([span.end - 1 for span in batch.layout.spans], device=hidden.device)
        assert len(ends) == len(batch.lengths), "features needs one response per row"
        return hidden[ends]

    def look(
        self, pixel_values: Float[Tensor, "P D"], grid_thw: Int[Tensor, "C 3"]
    ) -> ClipFeatures:
        """Vision-tower features of C clips, computed once each."""
        seen = self.vlm.model.get_video_features(
            pixel_values.to(self.vlm.dtype), grid_thw, return_dict=True
        )
        layers = getattr(seen, "deepstack_features", None) or []
        return ClipFeatures(torch.cat(seen.pooler_output), tuple(torch.cat(x) for x in layers))

    def _hidden(self, batch: TrainBatch) -> Float[Tensor, "L H"]:
        if batch.seen is not None:
            return self.read(batch, batch.seen.at(batch.patch_at))
        if len(batch.grid_thw):
            return self.read(
                batch, self.look(batch.pixel_values, batch.grid_thw).at(batch.patch_at)
            )
        # The tower runs all the same, and enters with weight 0: under ZeRO-3 its weights are
        # gathered from all ranks, which would wait for this one forever.
        side = self.vlm.config.vision_config.spatial_merge_size
        blank = self.blank_clip((1, side, side)).to(batch.input_ids.device)
        seen = self.look(blank.values, blank.grid_thw)
        nothing = sum(layer.sum() for layer in (seen.embeds, *seen.deepstack))
        return self.read(batch, seen.at(batch.patch_at)) + 0.0 * nothing

    def read(self, batch: TrainBatch, seen: ClipFeatures) -> Float[Tensor, "L H"]:
        """Hidden states of the text model; ``seen``: features of the batch's video tokens, in
        order."""
        video = _Seen(pooler_output=[seen.embeds], deepstack_features=[[x] for x in seen.deepstack])
        output = self.vlm.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            mm_encoder_outputs={"video": video} if len(seen.embeds) else {},
            use_cache=False,
            **layout_keywords(batch.layout, batch.input_ids.device),
        )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Vision-tower features in the form that transformers' models take."""

    pooler_output: list[Tensor]
    deepstack_features: list[list[Tensor]]


def _few(names: Sequence[str]) -> str:
    """The first three names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
