"""Layout of a packed row: positions of prompts and responses, and which tokens attend to which.

    [prompt | r1 | ... | rG][prompt | r1][...]      one group after another, no padding

A response sees its prompt and its own past; a prompt sees its own past; nobody sees another group.
So a token at q sees two intervals: ``[group's start, end of prompt)`` and ``[own start, q]``. This
is all that the attention (learner/shared_prefix/attention.py) knows of a batch.

L tokens of the row, in blocks of S where a block mask asks for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Call(NamedTuple):
    """One call of an attention kernel: queries and keys as half-open intervals."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    causal: bool
    """False: every query attends to every key. Causal calls have equal queries and keys."""


@dataclass(frozen=True, slots=True)
class Span:
    """Position of one group in the row: starts of its prompt and of its responses, end of the last
    one."""

    start: int
    responses: tuple[int, ...]
    end: int

    def __post_init__(self) -> None:
        edges = (self.start, *self.responses, self.end)
        assert len(edges) > 2, "a group without a response"
        assert all(a < b for a, b in pairwise(edges)), f"an empty part: {edges}"

    @property
    def end_of_prompt(self) -> int:
        """End of the prompt, which is where the first response starts."""
        return self.responses[0]

    @property
    def response_spans(self) -> list[tuple[int, int]]:
        """Start and end of each response."""
        return list(zip(self.responses, (*self.responses[1:], self.end), strict=True))

    @property
    def calls(self) -> list[Call]:
        """Kernel calls of this group's attention: one for a prompt with one response, which is an
        ordinary causal sequence."""
        if len(self.responses) == 1:
            return [Call((self.start, self.end), (self.start, self.end), True)]
        prompt = (self.start, self.end_of_prompt)
        return [
            Call(prompt, prompt, True),
            Call((self.end_of_prompt, self.end), prompt, False),
            *(Call(span, span, True) for span in self.response_spans),
        ]


@dataclass(frozen=True)
class Layout:
    """Layout of a packed row: the spans of its groups."""

    spans: tuple[Span, ...]

    @classmethod
    def of(cls, groups: Sequence[tuple[int, Sequence[int]]]) -> "Layout":
        """Layout of groups in order; ``groups``: tokens of the prompt, and of each response."""
        spans, start = [], 0
        for prompt, responses in groups:
            edges = [int(edge) for edge in start + np.cumsum([prompt, *responses])]
            spans.append(Span(start, tuple(edges[:-1]), edges[-1]))
            start = edges[-1]
        return cls(tuple(spans))

    @property
    def num_tokens(self) -> int:
        """Length of the row."""
        return self.spans[-1].end

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """Kernel calls of the row's attention."""
        return tuple(call for span in self.spans for call in span.calls)

    @property
    def predict_at(self) -> Ints:
        """Position whose output predicts each response token, in their order: the one before, and
        for a first token the prompt's last."""
        return np.concatenate(
            [
                np.concatenate([[span.end_of_prompt - 1], np.arange(start, end - 1)])
                for span in self.spans
                for start, end in span.response_spans
            ]
        )

    @property
    def sight(self) -> Ints:
        """Attention bounds of each token, [3, L]: start of its group, end of the prompt, start of
        its own prompt or response."""
        columns: list[tuple[int, int, int, int]] = []
        for span in self.spans:
            columns += [
                (span.end_of_prompt - span.start, span.start, span.end_of_prompt, span.start)
            ]
            for start, end in span.response_spans:
                columns += [(end - start, span.start, span.end_of_prompt, start)]
        lengths, *values = zip(*columns, strict=True)
        return np.stack([np.repeat(row, lengths) for row in values])

    def seen_in_blocks(self, size: int) -> Ints:
        """[Q, K]: number of pairs of a token of query block Q and a token of key block K that
        attend to each other; ``size ** 2`` is a block without a mask."""
        place = np.arange(self.num_tokens)
        group, end_of_prompt, own = self.sight
        edges = np.arange(-(-self.num_tokens // size) + 1) * size
        seen = _overlap(own, place + 1, edges)
        seen += _overlap(group, np.minimum(end_of_prompt, own), edges)
        return np.add.reduceat(seen, edges[:-1], axis=0)


def _overlap(low: Ints, high: Ints, edges: Ints) -> Ints:
    """[L, K]: how much of each interval ``[low, high)`` lies between two neighbouring edges."""
    shared: Ints = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
    return shared.clip(0)
