"""The reference model of a KL term: the model that the stage started from, frozen.

TrainBatch -> logprobs of its responses, without a gradient
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from learner.model.policy import Policy
from learner.shared_prefix.batch import TrainBatch


class FrozenPolicy:
    """A second copy of the weights, whole on every rank, in the precision of training; no optimiser
    knows it. Under ZeRO-3 :class:`learner.engine.FrozenEngine` takes its place."""

    def __init__(self, policy: Policy, device: torch.device) -> None:
        self._policy = policy.requires_grad_(False).eval().to(device)

    @classmethod
    def load(cls, model_dir: Path, dtype: str, device: torch.device) -> "FrozenPolicy":
        """Load a frozen copy. Raises ConfigError unless it is a whole model of a known family."""
        return cls(Policy.load(model_dir, dtype), device)

    @torch.no_grad()
    def logprobs(self, batch: TrainBatch) -> Float[Tensor, " N"]:
        """Logprobs of every response token of a batch, on the batch's device. All ranks call
        together."""
        return self._policy(batch).logp  # type: ignore[no-any-return]
