"""Engine group of a collective weight transfer: its members, and where they meet.

    pool -> Membership -> rank 0 forms a group of exactly these -> all send and receive

NCCL knows only groups of a fixed size, in which everybody waits for everybody. So a group is formed
anew whenever its membership differs from the one it was formed for, and what NCCL cannot say goes
through a small store that rank 0 keeps: who has come, who went into a transfer, and whether the
group was given up.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import (  # type: ignore[attr-defined]  # documented there
    PrefixStore,
    Store,
    TCPStore,
)

from wire.errors import WeightUpdateError

GIVEN_UP = "the transfer group was given up"
"""In the error of a member that was sound itself, when others did not take part."""

_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Engines that take part in a weight update together.

    Example:
        Membership(epoch=2, members=("rollout-0", "rollout-3"), ranks_per_engine=1)
    """

    epoch: int
    """Changes whenever an engine is lost, restarts or joins: the same names are another group
    then."""
    members: tuple[str, ...]
    ranks_per_engine: int = 1

    @property
    def world_size(self) -> int:
        """Rank 0 of the learner, and every rank of every engine."""
        return 1 + self.ranks_per_engine * len(self.members)

    def first_rank(self, name: str) -> int:
        """Rank of an engine's first process in the group; the learner's is 0."""
        return 1 + self.ranks_per_engine * self.members.index(name)

    def owners(self, ranks: Iterable[int]) -> list[str]:
        """Names of the engines to which these ranks belong."""
        places = {(rank - 1) // self.ranks_per_engine for rank in ranks if rank > 0}
        return [self.members[place] for place in sorted(places)]


def open_store() -> TCPStore:
    """Store of all groups of this process, on a port that the system chooses."""
    return TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False)


def join_store(address: str, port: int, timeout_s: float) -> Store:
    """The store that another process opened. Raises WeightUpdateError if nobody listens there."""
    try:
        timeout = timedelta(seconds=timeout_s)
        return TCPStore(address, port, is_master=False, timeout=timeout)
    except RuntimeError as error:
        raise WeightUpdateError(
            f"the learner's rank 0 does not answer at {address}:{port} within {timeout_s:.0f} s; "
            "the engine's node must reach it"
        ) from error


class Meeting:
    """Meeting of one group: a generation's part of the store."""

    def __init__(self, store: Store, generation: int) -> None:
        self._store = PrefixStore(f"group-{generation}", store)

    def come(self, rank: int) -> None:
        """Note that a rank is ready to form the group."""
        self._store.set(f"come-{rank}", "1")

    def absent(self, ranks: Sequence[int]) -> list[int]:
        """Those of the ranks that have not come."""
        return [rank for rank in ranks if not self._store.check([f"come-{rank}"])]

    def begin(self) -> None:
        """Note that all have come."""
        self._store.set("begin", "1")

    def wait_for_begin(self, timeout_s: float) -> None:
        """Wait until all have come. Raises WeightUpdateError."""
        deadline = time.monotonic() + timeout_s
        while not self._store.check(["begin"]):
            if self.is_given_up:
                raise WeightUpdateError(GIVEN_UP)
            if time.monotonic() > deadline:
                raise WeightUpdateError(
                    f"{GIVEN_UP}: it did not come together within {timeout_s:.0f} s"
                )
            time.sleep(_LOOK_EVERY_S)

    def enter(self, rank: int, transfer: int) -> None:
        """Note that a rank takes part in the group's transfer of that number."""
        self._store.set(f"enter-{transfer}-{rank}", "1")

    def outside(self, ranks: Sequence[int], transfer: int) -> list[int]:
        """Those of the ranks that never went into the transfer."""
        return [rank for rank in ranks if not self._store.check([f"enter-{transfer}-{rank}"])]

    def give_up(self) -> None:
        """Release whoever waits in the group."""
        self._store.set("given-up", "1")

    @property
    def is_given_up(self) -> bool:
        """Whether rank 0 gave the group up, or is gone."""
        try:
            return bool(self._store.check(["given-up"]))
        except RuntimeError:  # a lost connection
            return True
