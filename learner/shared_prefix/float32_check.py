"""Float32 check of shared prefix on a rank's device: attention kernel, positions and model code,
whatever the precision of training.

    layout of a batch -> attend on random tensors = softmax over what each token may see
    rows of a batch   -> a small text model of the policy's class, both layouts = plain causal rows

Rounding in bfloat16 hides what a wrong mask does to a few tokens. Here everything is float32, so
that 1e-4 tells them apart. The kernels are those of training: on CUDA FlexAttention, compiled, with
the block mask of the layout.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from learner.shared_prefix.attention import NAME, attend, layout_keywords
from learner.shared_prefix.batch import TrainBatch, micro_batches
from learner.shared_prefix.layout import Layout
from learner.shared_prefix.rows import Row, one_row_per_response, small_group, split_rows

LIMIT = 1e-4
"""Of the largest difference of a token over its norm. Rounding gives less than 5e-6 on 100 random
layouts; the smallest faults that were tried, on short rows, 0.2 (positions off by 3) and 0.3 (a
ragged end); one unseen token of some thousand would be in the order of 1e-2."""

_QUERIES = 256  # rows of a softmax at once
_KEY_HEADS = 2  # of the model's, each with its query heads
_SEED = 0


def float32_gap(
    rows: Sequence[Row],
    max_tokens: int,
    text_model: nn.Module,
    device: torch.device,
    in_step: Callable[[Sequence[Row]], Iterator[TrainBatch]],
) -> float:
    """Largest difference of a token that the check sees with these rows: in the attention of their
    first micro-batch, and in a small model of the shortest group. All ranks call; ``in_step`` makes
    batches of rows, on all ranks in step."""
    few = small_group(rows)
    (packed, *_), apart = list(in_step([few])), list(in_step(one_row_per_response(few)))
    model = SmallTextModel(text_model, device)
    first = next(micro_batches(split_rows(rows, max_tokens), max_tokens))
    gaps = [
        attention_gap(first, text_model.config, device),
        model.gap(packed, apart),
    ]
    return float(np.max(gaps))  # NaN, if one is


def attention_gap(rows: Sequence[Row], text_config: Any, device: torch.device) -> float:
    """Largest difference of a token between the attention of a packed row and a softmax over the
    tokens that it may see: of outputs and gradients, relative to the token's norm."""
    groups = [
        (len(row.prompt.token_ids), [len(r.token_ids) for r in row.responses]) for row in rows
    ]
    layout = Layout.of(groups)
    heads, key_heads, size = _heads(text_config)
    random = torch.Generator(device).manual_seed(_SEED)

    def draw(count: int) -> Tensor:
        shape = (1, layout.num_tokens, count, size)
        return torch.randn(shape, generator=random, device=device).transpose(1, 2)

    inputs = [draw(count).requires_grad_() for count in (heads, key_heads, key_heads)]
    query, key, value = inputs
    weight, scaling = draw(heads).detach(), size**-0.5
    with torch.enable_grad():
        out, _ = attend(
            nn.Identity(),
            *(query, key, value, None),
            scaling=scaling,
            **layout_keywords(layout, device),
        )
        out = out.transpose(1, 2)
        gradients = torch.autograd.grad((out * weight).sum(), inputs)
        expected = torch.empty_like(weight)
        for tensor in inputs:
            tensor.grad = None
        for at, part in _softmax_attention(query, key, value, groups, scaling):
            (part * weight[:, :, at]).sum().backward()  # part by part: no row's softmax is kept
            expected[:, :, at] = part.detach()
    of_softmax = [cast(Tensor, tensor.grad) for tensor in inputs]
    pairs = [(out.detach(), expected), *zip(gradients, of_softmax, strict=True)]
    return float(np.max([_largest_gap(one, other, dim=(1, 3)) for one, other in pairs]))


def _softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Sequence[tuple[int, list[int]]],
    scaling: float,
) -> Iterator[tuple[slice, Tensor]]:
    """Attention by its definition, some queries at a time: a prompt's token sees the prompt up to
    itself, a response's token the prompt and the response up to itself."""
    share = query.shape[1] // key.shape[1]
    start = 0
    for prompt, responses in groups:
        end_of_prompt = own = start + prompt
        spans = [(start, start, end_of_prompt)]
        for length in responses:
            spans.append((end_of_prompt, own, own + length))
            own += length
        for before, first, end in spans:
            for low in range(first, end, _QUERIES):
                high = min(low + _QUERIES, end)
                seen = [*range(start, before), *range(first, high)]
                keys, values = (
                    tensor[:, :, seen].repeat_interleave(share, dim=1) for tensor in (key, value)
                )
                scores = query[:, :, low:high] @ keys.transpose(-1, -2) * scaling
                later = torch.ones_like(scores, dtype=torch.bool).triu(len(seen) - high + low + 1)
                yield slice(low, high), scores.masked_fill(later, -torch.inf).softmax(-1) @ values
        start = own


class SmallTextModel:
    """A text model of the policy's class with two narrow layers, float32, with random weights; its
    heads are as many to a key head, and as wide, as the policy's."""

    def __init__(self, text_model: nn.Module, device: torch.device) -> None:
        config: Any = copy.deepcopy(text_model.config)
        heads, key_heads, size = _heads(config)
        config.update(
            {
                "hidden_size": heads * size,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": heads,
                "num_key_value_heads": key_heads,
                "layer_types": ["full_attention"] * 2,
                "vocab_size": 8,
                "pad_token_id": None,
            }
        )
        config.dtype = torch.float32
        config._attn_implementation = NAME
        self._device, self._width = device, heads * size
        random = torch.Generator().manual_seed(_SEED)
        model_class: Any = type(text_model)
        with torch.random.fork_rng(devices=[]):
            self._model: nn.Module = model_class(config).to(device, torch.float32).eval()
        for parameter in self._model.parameters():
            # norms and biases stay as they are; large weights, so that positions show
            if parameter.dim() == 2:
                values = torch.randn(parameter.shape, generator=random)
                parameter.data = (values * parameter.shape[1] ** -0.5).to(device)
        self._embeds = torch.randn(64, self._width, generator=random).to(device)

    def gap(self, packed: TrainBatch, apart: Sequence[TrainBatch]) -> float:
        """Largest difference of a response token's hidden state between a packed batch and its
        responses as plain causal rows; ``apart``: batches of one response per row, in order."""
        keywords = layout_keywords(packed.layout, self._device)
        states = _of_responses(packed, self._hidden(packed, **keywords))
        expected = []
        for batch in apart:
            for span in batch.layout.spans:
                alone = self._hidden(batch, slice(span.start, span.end))
                expected.append(alone[span.end_of_prompt - span.start :])
        # in step with other ranks, fillers may follow the responses
        gaps = [_largest_gap(a, b, dim=(1,)) for a, b in zip(states, expected, strict=False)]
        return float(np.max(gaps))

    @torch.no_grad()
    def _hidden(
        self, batch: TrainBatch, at: slice = slice(None), **keywords: Any
    ) -> Float[Tensor, "L H"]:
        ids = batch.input_ids[0, at].to(self._device)
        output = self._model(
            inputs_embeds=self._embeds[ids % len(self._embeds)][None],
            position_ids=batch.position_ids[..., at].to(self._device),
            use_cache=False,
            **keywords,
        )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]


def _of_responses(batch: TrainBatch, states: Tensor) -> list[Tensor]:
    """The states of each response."""
    return [states[slice(*at)] for span in batch.layout.spans for at in span.response_spans]


def _heads(config: Any) -> tuple[int, int, int]:
    """Query heads, key heads and their width, as in the model but few."""
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    few = min(_KEY_HEADS, key_heads)
    return few * (heads // key_heads), few, size


def _largest_gap(one: Tensor, other: Tensor, dim: tuple[int, ...]) -> float:
    """Largest norm of a token's difference, over its norm or that of a usual token. NaN stays."""
    norms = other.norm(dim=dim)
    usual = norms.square().mean().sqrt()
    return float(((one - other).norm(dim=dim) / norms.clamp(min=usual)).max())
