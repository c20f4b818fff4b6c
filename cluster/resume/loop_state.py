"""Loop state: how far a stage is, without the learner's own state. Saved in each checkpoint.

    loop -> LoopState -> CHECKPOINT/loop.json -> LoopState -> loop

Everything else of the loop follows from the recipe and the loop state: samples and seeds come from
the index of a place (rollout/sampler.py), groups from the archive by their place's id
(cluster/resume/archived_groups.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cluster.metrics.learning_guards import LearningState
from cluster.resume.validations import Validated
from reward.hacking_alerts import AlertState
from wire.errors import UserError

LOOP_FILE = "loop.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """An earlier attempt of the run whose weights a checkpoint builds on.

    Example:
        Ancestor(attempt=0, until=41)
    """

    attempt: int
    until: int
    """The last version step of that attempt which later attempts built on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """State of a stage's loop after a step of GRPO, or an update of supervised training.

    Example:
        LoopState(step=40, next_index=2560, buffered=("grpo/00002560",), journal_position=2561,
                  ancestors=(Ancestor(attempt=0, until=41),), score=1.25)
    """

    step: int = 0
    """Steps (GRPO) or updates (supervised) done."""
    next_index: int = 0
    """The sampler's cursor: the place of the next group that no step has taken."""
    buffered: tuple[str, ...] = ()
    """Ids of groups that wait in the buffer for later steps; the archive holds them."""
    journal_position: int = 0
    """Number of groups that the attempt had archived; an archive with fewer has lost some."""
    ancestors: tuple[Ancestor, ...] = ()
    """Oldest first; the last one wrote the checkpoint."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Versions of the prompts' wording, by the name of the text."""
    score: float | None = None
    """Mean of ``grpo.keep_best_by`` over the steps since the checkpoint before; none without a
    value."""
    scored_by: str = "reward/mean"
    """``grpo.keep_best_by`` of the score."""
    guards: AlertState = field(default_factory=AlertState)
    """What the guards against reward hacking remember."""
    learning: LearningState = field(default_factory=LearningState)
    """What the guards against learning nothing remember."""
    validations: tuple[Validated, ...] = ()
    """Validations so far; those of these weights may not have ended yet, and are then repeated."""

    def to_json(self) -> str:
        """The state as JSON, for the checkpoint."""
        return _ADAPTER.dump_json(self, indent=1).decode()

    @classmethod
    def read(cls, checkpoint: Path) -> "LoopState":
        """Read the loop state of a checkpoint. Raises UserError."""
        try:
            return _ADAPTER.validate_json((checkpoint / LOOP_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise UserError(
                f"{checkpoint / LOOP_FILE} does not say where the stage stood ({error}); use an "
                "earlier checkpoint"
            ) from error


_ADAPTER = TypeAdapter(LoopState)
