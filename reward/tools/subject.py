"""The reward under test of `lint` and `bench`: a function or a recipe, as terms that can be scored.

"file.py:f" | package.module:f | built-in | entry point -> one term, made-up samples
recipe.toml                                             -> its terms, samples of its manifest
"""

from collections.abc import Mapping
from dataclasses import dataclass

from reward.builtins.judge import FrameReader
from reward.config import RewardConfig, RewardTerm
from reward.plugins.signature import Signature
from reward.scorer import Scorer
from wire.labels import LabelSet
from wire.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardUnderTest:
    """Reward terms, and the labels, samples and prompts to try them on.

    Example:
        read_subject("rewards/brevity.py:compute_score", ["params.limit=40"])
    """

    reward: RewardConfig
    labels: LabelSet
    samples: tuple[Sample, ...]
    """The first of each label, in the order of the manifest."""
    prompts: tuple[str, ...]
    """Text of the prompt of each of ``samples``, without the video."""
    num_with: Mapping[str, int] | None
    """Further column of the manifest -> samples that have it; None: there is no manifest."""
    num_samples: int
    """Samples of the whole manifest."""
    max_response_length: int | None
    read_frames: FrameReader | None = None
    """Reads frames of a clip, for a judge that looks."""

    def scorer(self, term: RewardTerm) -> Scorer:
        """A scorer of this term alone. Raises UserError as Scorer does."""
        return Scorer(
            self.reward.only(term),
            self.labels,
            columns=None if self.num_with is None else self.num_with.keys(),
            max_response_length=self.max_response_length,
            read_frames=self.read_frames,
        )

    def why_not_tried(self, term: RewardTerm, signature: Signature | None) -> str | None:
        """Why a term cannot be tried without a manifest, and what to do; None if it can."""
        if signature is None or self.num_with is not None:
            return None
        lacking = signature.missing(term.params)
        if not lacking:
            return None
        return (
            f"takes {', '.join(lacking)} from the manifest, so it was not tried; give a recipe "
            f"that has one, or --set params.{lacking[0]}=VALUE"
        )
