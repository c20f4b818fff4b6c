"""A user function as it is sent to another node: its term, and where its file is there.

term, columns -> ShippedFunction.of (driver) -> term_here (node) -> PluginRunner
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from reward.config import RewardTerm
from reward.spec import FILE, locate
from wire.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedFunction:
    """One user function of the recipe, for nodes that share the driver's files or not.

    Example:
        ShippedFunction.of(RewardTerm(function="mine.py:compute_score"), ["fps"])
    """

    term: RewardTerm
    columns: tuple[str, ...] | None
    """The manifest's further ones, if known."""
    path: Path | None = None
    """The function's file on the driver's node; None for one of a module or an entry point."""
    digest: str = ""
    """Of that file."""

    @classmethod
    def of(cls, term: RewardTerm, columns: tuple[str, ...] | None) -> "ShippedFunction":
        """The function with what the driver has as its file. Raises ConfigError if there is
        none."""
        located = FILE.match(locate(term.function))
        if located is None:
            return cls(term=term, columns=columns)
        path = Path(located["path"])
        return cls(term=term, columns=columns, path=path, digest=_digest(path))

    def term_here(self) -> RewardTerm:
        """The term with the file of this node: that of the driver's path, or of the same path from
        this process's working folder, where Ray puts what a job ships.

        Raises ConfigError if neither is there, or holds what the driver's does.
        """
        if self.path is None:
            return self.term
        written = FILE.match(self.term.function)
        assert written is not None, f"{self.term.function} has been located"
        places = dict.fromkeys((self.path, Path(written["path"]).expanduser().absolute()))
        there = [place for place in places if place.is_file()]
        for place in there:
            if _digest(place) == self.digest:
                function = f"{place}:{written['function']}"
                return self.term.model_copy(update={"function": function, "name": self.term.part})
        raise ConfigError(
            f"reward {self.term.function!r}: {self._lack(list(places), there)}; start the run as a "
            "job with a working dir (ray job submit --working-dir .), keep the file on a disk that "
            'all nodes share, or set reward.placement = "driver"'
        )

    @staticmethod
    def _lack(places: list[Path], there: list[Path]) -> str:
        if there:
            return f"{there[0]} is another file than the driver's of that name"
        return f"there is no file {' or '.join(map(str, places))}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
