"""Codebook of unit vectors: nearest code, moving-average update, restart of dead codes.

    z [N, D] -> nearest (argmax z.e) -> codes [N]
             -> update:  n_k <- g n_k + (1 - g) |z of k|,  m_k <- g m_k + (1 - g) sum(z of k),
                         e_k = m_k / |m_k|;  a code that is hardly used starts again at some z

The moving average is that of van den Oord et al. 2017 (Neural Discrete Representation Learning,
appendix A.1); unit vectors and the restart are ours. No gradient ever reaches a code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video.semantic_tokens.config import SemanticTokensConfig


class Codebook(nn.Module):
    """Codes and their running means."""

    codes: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, config: SemanticTokensConfig) -> None:
        super().__init__()
        self._decay, self._restart_below = config.decay, config.restart_below
        start = F.normalize(torch.randn(config.num_codes, config.dim), dim=-1)
        self.register_buffer("codes", start)
        self.register_buffer("sums", torch.zeros_like(start))
        self.register_buffer("counts", torch.zeros(config.num_codes))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Codes of unit vectors: ``[..., D] -> [...]``."""
        return (vectors @ self.codes.T).argmax(-1)

    def quantise(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, and their vectors with a straight-through gradient: forward the code, backward the
        vector."""
        chosen = self.nearest(vectors)
        return chosen, vectors + (self.codes[chosen] - vectors).detach()

    @torch.no_grad()
    def update(self, vectors: Tensor, chosen: Tensor, generator: torch.Generator) -> int:
        """Move the codes after ``vectors`` [N, D] that chose them; number of codes restarted."""
        one_hot = F.one_hot(chosen, len(self.codes)).to(vectors.dtype)
        self.counts.mul_(self._decay).add_(one_hot.sum(0), alpha=1 - self._decay)
        self.sums.mul_(self._decay).add_(one_hot.T @ vectors, alpha=1 - self._decay)
        used = self.counts > 0
        self.codes[used] = F.normalize(self.sums[used], dim=-1)
        return self._restart(vectors, generator)

    def _restart(self, vectors: Tensor, generator: torch.Generator) -> int:
        share = self.counts.sum() / len(self.counts)
        dead = (self.counts < self._restart_below * share).nonzero().flatten()
        dead = dead[: len(vectors)]
        start = torch.randperm(len(vectors), generator=generator)[: len(dead)]
        self.codes[dead] = vectors[start]
        self.sums[dead] = vectors[start] * share
        self.counts[dead] = share
        return len(dead)


def perplexity(counts: Tensor) -> float:
    """Perplexity of the use of codes: exp of the entropy of their shares; 1: all segments have one
    code."""
    shares = counts.double() / counts.sum()
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))
