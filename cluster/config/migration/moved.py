"""Setting of another system with our recipe key: a row of the tables of this folder."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moved:
    """Setting of another system, with our recipe key.

    Example:
        Moved("actor_rollout_ref.rollout.n", "rollout.group_size", "traces per clip")
    """

    theirs: str
    """Dotted, as it is typed there; ``a.b.*`` stands for all below it."""
    ours: str
    """Our recipe key; empty: there is none."""
    note: str = ""
    """Difference to our key; without a key, the substitute, or the reason why there is none."""
