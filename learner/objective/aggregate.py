"""Values per token -> one number, by the counts of the whole update. Pure.

Every mode is a weighted sum over this process's tokens, whose weights depend only on the token's
own response and on the update's global counts: any split over ranks, micro-batches or packed rows
adds up to the same number. As verl's ``agg_loss``; averaging over ranks is undone in
learner/engine.py.

N is the number of response tokens in a micro-batch, R of its responses.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from learner.shared_prefix.rows import StepCounts


def aggregate(
    values: Float[Tensor, " N"], lengths: Sequence[int], counts: StepCounts, mode: str
) -> Float[Tensor, ""]:
    """This process's part of the aggregate of ``values``, which are 0 where masked.

    token-mean                 sum of v_t / tokens
    seq-mean-token-sum         sum of v_t / responses
    seq-mean-token-mean        sum of v_t / (length of its response * responses)
    seq-mean-token-sum-norm    sum of v_t / (longest allowed response * responses)
    """
    if mode == "token-mean":
        return values.sum() / counts.num_tokens
    if mode == "seq-mean-token-sum":
        return values.sum() / counts.num_responses
    if mode == "seq-mean-token-mean":
        return means(values, lengths).sum() / counts.num_responses
    assert mode == "seq-mean-token-sum-norm", mode
    assert counts.max_response_length > 0, "this mode divides by StepCounts.max_response_length"
    return values.sum() / (counts.num_responses * counts.max_response_length)


def sums(values: Float[Tensor, " N"], lengths: Sequence[int]) -> Float[Tensor, " R"]:
    """The sum over each response."""
    return torch.stack([part.sum() for part in values.split(list(lengths))])


def means(values: Float[Tensor, " N"], lengths: Sequence[int]) -> Float[Tensor, " R"]:
    """The mean over each response."""
    return torch.stack([part.mean() for part in values.split(list(lengths))])


def spread(values: Float[Tensor, " R"], lengths: Sequence[int]) -> Float[Tensor, " N"]:
    """Each response's value at all of its tokens."""
    repeats = torch.tensor(lengths, device=values.device)
    return values.repeat_interleave(repeats, output_size=sum(lengths))
