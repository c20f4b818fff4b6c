"""Work folder of a fit, OUT.work: kept over interrupts and kills, and taken up by the same order.

    order, its traces -> fingerprint -> OUT.work/order.json
        the same      -> checkpoints and scores in it are gone on from
        another one   -> they are removed, and the fit begins anew

One process at a time works in it. After a fit that is published or refused it is gone.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibrate.protocols import FeatureReader, PolicyScorer
from calibrate.traces import TraceSet
from wire.disk import naming_full_disk
from wire.errors import ConfigError, DiskFull, UserError
from wire.strict_json import to_json
from wire.whole_file import whole_file, write_json

_ORDER_FILE = "order.json"
_LOCK_FILE = ".lock"
_FORMAT = 1


def work_folder(out: Path) -> Path:
    """The work folder of a fit that publishes ``out``."""
    return out.with_name(f"{out.name}.work")


@contextmanager
def fit_work(out: Path, order: str) -> Iterator[Path]:
    """The work folder of a fit during the block. ``order``: fingerprint of what is fitted to what.

    What an interrupted or killed fit of the same order has left is there. After the block, and
    after an error that giving the order again would repeat, the folder is removed; after any other
    it is kept. Raises ConfigError if another process fits ``out``.
    """
    work = work_folder(out)
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK_FILE).open("w") as lock:
        _lock(lock.fileno(), out)
        if _order_in(work) != order:
            _empty(work)
            write_json(work / _ORDER_FILE, {"format": _FORMAT, "order": order})
        try:
            yield work
        except DiskFull:
            raise
        except UserError:
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)


def fingerprint(settings: dict[str, Any], traces: Sequence[TraceSet]) -> str:
    """Fingerprint of an order: its settings, as JSON has them, and the traces that it reads."""
    digest = hashlib.sha256(to_json(settings).encode())
    for part in traces:
        digest.update(b"part")
        for one in part.facts:
            versions = [str(version) for version in sorted(one.versions)]
            facts = [one.sample.id, one.sample.label, versions, one.answers, one.num_tokens]
            digest.update(to_json(facts).encode())
    return digest.hexdigest()


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another process fits {out}; wait for it, end it, or give another OUT"
        ) from error
    except OSError:
        pass  # a file system without locks


def _order_in(work: Path) -> str | None:
    """The fingerprint of the fit that left a folder; None: of none that can be gone on with."""
    try:
        values = json.loads((work / _ORDER_FILE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        return None
    return str(values.get("order"))


def _empty(work: Path) -> None:
    for entry in work.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK_FILE:
            entry.unlink()


class PolicyReader(PolicyScorer, FeatureReader, Protocol):
    """Reads a policy both ways; cluster/stages/verdict_trainer.py implements it."""


@dataclass(frozen=True, slots=True)
class KeptScores:
    """Label logprobs and hidden states of a policy, each set of traces read once: what an earlier
    process of the fit has read lies in the work folder."""

    reader: PolicyReader
    folder: Path

    async def label_logprobs(self, traces: TraceSet) -> NDArray[np.float64]:
        """[G, L], as calibrate's PolicyScorer."""
        file = self._file("logprobs", traces)
        if not file.exists():
            _save(file, await self.reader.label_logprobs(traces))
        logprobs: NDArray[np.float64] = np.load(file)
        return logprobs

    async def features(self, traces: TraceSet) -> NDArray[np.float32]:
        """[N, H], as calibrate's FeatureReader; mapped from a file."""
        file = self._file("features", traces)
        if not file.exists():
            _save(file, await self.reader.features(traces))
        features: NDArray[np.float32] = np.load(file, mmap_mode="r")
        return features

    def _file(self, what: str, traces: TraceSet) -> Path:
        """By the clips: the folder is of one order, in which a clip's traces are the same."""
        ids = to_json([[one.sample.id, len(one.answers)] for one in traces.facts])
        return self.folder / f"{what}-{hashlib.sha256(ids.encode()).hexdigest()[:16]}.npy"


def _save(file: Path, values: NDArray[Any]) -> None:
    with naming_full_disk(file), whole_file(file, sync=True) as partial, partial.open("wb") as out:
        np.save(out, values)
