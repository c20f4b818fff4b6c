"""Losses of the tokenizer: reconstruction, commitment, temporal consistency, semantics.

    L = w_rec L_rec + beta L_commit + w_tc L_tc + w_sem L_sem

All are ours in their details (docs/semantic-tokens.md). Sizes: B clips, T segments of the
longest, D width of a segment's vector, A attributes. ``is_segment`` is false where a shorter clip
was padded.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_NEVER = -1e30  # not -inf, whose logsumexp has no gradient


def reconstruction_loss(
    decoded: Float[Tensor, "B T F"],
    standardised: Float[Tensor, "B T F"],
    is_segment: Bool[Tensor, "B T"],
) -> Float[Tensor, ""]:
    """Reconstruction loss: share of the features' variance that the decoder does not recover.

    L_rec = mean |decoded - x|^2 over segments and features, x standardised to variance 1.
    """
    return (decoded - standardised).square().mean(-1)[is_segment].mean()


def commitment_loss(
    vectors: Float[Tensor, "B T D"],
    codes: Float[Tensor, "B T D"],
    is_segment: Bool[Tensor, "B T"],
) -> Float[Tensor, ""]:
    """Commitment loss, which moves segments to their codes; the codes follow by running means.

    L_commit = mean |z - sg(e)|^2 (van den Oord et al. 2017, equation 3, third term).
    """
    return (vectors - codes.detach()).square().sum(-1)[is_segment].mean()


def temporal_loss(
    vectors: Float[Tensor, "B T D"],
    standardised: Float[Tensor, "B T F"],
    is_segment: Bool[Tensor, "B T"],
) -> Float[Tensor, ""]:
    """Temporal consistency: neighbours that look alike should have the same vector.

    L_tc = mean over pairs of w_t |z_t - z_{t-1}|^2,  w_t = exp(-d_t / mean d),
    d_t = mean |x_t - x_{t-1}|^2: the frozen features say where an action may end, so that the
    network cannot move the borders to please the loss. Unit vectors cannot please it by shrinking.
    """
    pairs = is_segment[:, 1:] & is_segment[:, :-1]
    if not pairs.any():
        return vectors.sum() * 0.0
    change = (standardised[:, 1:] - standardised[:, :-1]).square().mean(-1)[pairs]
    alike = torch.exp(-change / change.mean().clamp_min(1e-12))
    moved = (vectors[:, 1:] - vectors[:, :-1]).square().sum(-1)[pairs]
    return (alike.detach() * moved).mean()


def semantic_loss(
    segments: Float[Tensor, "B T P"],
    attributes: Float[Tensor, "A P"],
    mentioned: Bool[Tensor, "B A"],
    is_segment: Bool[Tensor, "B T"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Multiple-instance contrastive loss between a clip's segments and the attributes of its text.

    s_ia = log mean_t exp(cos(u_it, v_a) / temperature): how well some segment of clip i shows a.
    L_sem = mean over mentioned (i, a) of
            [ -log e^s_ia / (e^s_ia + sum of e^s_ib over attributes b not mentioned in i)
              -log e^s_ia / (e^s_ia + sum of e^s_ja over clips j that do not mention a, but have
                             a text) ] / 2
    Which segment shows it is left open: no segment needs a label. A clip without a mention has no
    part in it.
    """
    has_text = mentioned.any(-1)
    if not has_text.any():
        return segments.sum() * 0.0
    cosines = F.normalize(segments, dim=-1) @ F.normalize(attributes, dim=-1).T
    logits = (cosines / temperature).masked_fill(~is_segment[..., None], _NEVER)
    scores = torch.logsumexp(logits, 1) - is_segment.sum(1, keepdim=True).log()
    scores, mentioned = scores[has_text], mentioned[has_text]
    others = scores.masked_fill(mentioned, _NEVER)
    in_clip = torch.logaddexp(scores, torch.logsumexp(others, 1, keepdim=True)) - scores
    over_clips = torch.logaddexp(scores, torch.logsumexp(others, 0, keepdim=True)) - scores
    return ((in_clip + over_clips) / 2)[mentioned].mean()
