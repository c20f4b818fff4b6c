"""Parts of the service without engines: a scripted backend, tiny published classifiers. (No test
file.)

    registry.register(publish_tiny(tmp_path / "a", "first").path, source="test", by="test")
    serving = Serving(registry, ScriptedBackend(), config)

``ScriptedBackend`` opens published directories and answers from a file's bytes: equal bytes,
classifier and id give equal evidence, other ones other evidence. What a file *begins with*
commands:

    fail: REASON      a failure of decoding with that reason
    slow: SECONDS     an answer after so long
    die:              the engines end, each time
    die: NAME         the engines end the first time that NAME is seen by this backend
    unparsed:         a trace without reasoning
"""

import asyncio
import hashlib
import math
import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrate.calibration import Calibration
from calibrate.classifier import Classifier, load_classifier
from calibrate.decision import Evidence
from calibrate.description import ClassifierDescription
from calibrate.service.protocols import ClipToClassify
from calibrate.shift.features import TraceFeatures, TraceReference
from calibrate.thresholds.held_out import HeldOut
from tests.calibrate.classifiers import (
    make_description,
    measured_calibration,
    measured_evaluation,
    publish,
)
from wire.errors import DeepIntuitError, WorkerDied
from wire.types import Failure, FailureKind


def publish_tiny(
    folder: Path,
    name: str = "tiny",
    *,
    calibration: Calibration | None = None,
    reference: bool = False,
    held_out: HeldOut | None = None,
    **description: Any,
) -> Classifier:
    """A published classifier of two labels, abnormal and normal, at ``folder/NAME``; its weights
    are a few bytes. Its calibration has sets, a threshold and figures. ``reference``: that its
    shift can be watched; ``held_out``: that policies have thresholds. Another ``name`` is another
    classifier."""
    calibration = calibration or measured_calibration()
    sources = calibration.calibrator.sources
    folder.mkdir(parents=True, exist_ok=True)
    changes: dict[str, Any] = {} if "verdict" in sources else {"verdict_dir": None}
    return publish(
        folder,
        out=folder / name,
        description=make_description(name=name, sources=sources, **description),
        calibration=calibration,
        evaluation=measured_evaluation(),
        held_out=held_out,
        reference=TraceReference.of(_archived(200), _LABELS) if reference else None,
        **changes,
    )


class ScriptedClassifier:
    """A classifier whose engine is a script."""

    def __init__(self, backend: "ScriptedBackend", directory: Path) -> None:
        self.directory, self._backend = directory, backend
        self.description: ClassifierDescription = load_classifier(
            directory, check_weights=False
        ).description
        self.running = self.most_running = self.num_cancelled = 0
        self._ended = asyncio.Event()

    async def evidence(self, clip: ClipToClassify, view: str | None = None) -> Evidence | Failure:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self._backend.asked.append((self.description.name, clip, view))
        try:
            return await self._unless_ended(self._answer(clip, view))
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.running -= 1

    async def close(self) -> None:
        self._ended.set()

    @property
    def is_ended(self) -> bool:
        return self._ended.is_set()

    def die(self) -> None:
        """End, as a killed process does: what it was asked is not answered."""
        self._ended.set()

    async def _unless_ended(self, answer: Any) -> Evidence | Failure:
        ended = asyncio.ensure_future(self._ended.wait())
        answering = asyncio.ensure_future(answer)
        try:
            await asyncio.wait({ended, answering}, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.is_set():
                raise WorkerDied(f"the process of {self.description.name} ended (scripted)")
            result: Evidence | Failure = answering.result()
            return result
        finally:
            ended.cancel()
            answering.cancel()

    async def _answer(self, clip: ClipToClassify, view: str | None) -> Evidence | Failure:
        if self._backend.delay_s:
            await asyncio.sleep(self._backend.delay_s)
        try:
            content = clip.path.read_bytes()
        except OSError as error:
            return _failure(FailureKind.DISK, clip, f"cannot read {clip.path.name}: {error}")
        command, _, rest = content[:200].partition(b":")
        argument = rest.decode(errors="replace").strip()
        match command:
            case b"fail":
                return _failure(FailureKind.DECODE, clip, argument or "it is damaged")
            case b"slow":
                await asyncio.sleep(float(argument))
            case b"die":
                if not argument or argument not in self._backend.seen:
                    self._backend.seen.add(argument)
                    self.die()
        evidence = scripted_evidence(self.description, content, clip.id, view)
        if command == b"unparsed":
            return replace(evidence, trace="I saw it", parsed=False)
        return evidence


class ScriptedBackend:
    """Backend of scripted classifiers."""

    def __init__(
        self, *, delay_s: float = 0.0, open_s: float = 0.0, faults: Sequence[DeepIntuitError] = ()
    ) -> None:
        """``delay_s``: of each answer; ``open_s``: of a start; ``faults``: of the first starts."""
        self.delay_s, self.open_s, self.faults = delay_s, open_s, list(faults)
        self.opened: list[ScriptedClassifier] = []
        self.asked: list[tuple[str, ClipToClassify, str | None]] = []
        self.seen: set[str] = set()
        self.most_open = 0
        self.num_starts = 0
        self.is_closed = False

    @property
    def running(self) -> list[ScriptedClassifier]:
        """Those that are open."""
        return [one for one in self.opened if not one.is_ended]

    async def open(self, directory: Path) -> ScriptedClassifier:
        self.num_starts += 1
        await asyncio.sleep(self.open_s)
        if self.faults:
            raise self.faults.pop(0)
        one = ScriptedClassifier(self, directory)
        self.opened.append(one)
        self.most_open = max(self.most_open, len(self.running))
        return one

    async def close(self) -> None:
        for one in self.opened:
            await one.close()
        self.is_closed = True


def scripted_evidence(
    description: ClassifierDescription, content: bytes, clip_id: str, view: str | None = None
) -> Evidence:
    """Evidence that follows from all of its arguments; its trace names the classifier."""
    names = description.label_names
    draw = random.Random(
        f"{description.name}/{clip_id}/{view}/{hashlib.sha256(content).hexdigest()}"
    )
    rows = {}
    for source in description.sources:
        powers = [draw.gauss(0, 2) for _ in names]
        total = math.log(sum(map(math.exp, powers)))
        rows[source] = tuple(power - total for power in powers)
    label = names[max(range(len(names)), key=lambda k: sum(row[k] for row in rows.values()))]
    seen = "" if view is None else f" {view}"
    return Evidence(
        trace=f"<think>{description.name} saw{seen} it</think><answer>{label}</answer>",
        parsed=True,
        logprobs=rows,
        frames=(0, 8, 16),
        trace_logprobs=tuple(draw.uniform(-1, 0) for _ in range(8)),
        video_hash=hashlib.sha256(content).hexdigest(),
    )


def tiny_png(grey: int, side: int = 8) -> bytes:
    """A grey PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checked

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes([grey]) * side) * side)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


_LABELS = make_description().label_names


def _archived(num: int) -> list[TraceFeatures]:
    """Archived traces that scripted ones are drawn like: of eight tokens, half of each label."""
    draw = random.Random(0)
    return [
        TraceFeatures(
            num_tokens=8,
            mean_logprob=sum(draw.uniform(-1, 0) for _ in range(8)) / 8,
            parsed=True,
            answer=_LABELS[draw.random() < 0.5],
            confidence=draw.uniform(0.5, 1),
        )
        for _ in range(num)
    ]


def _failure(kind: FailureKind, clip: ClipToClassify, reason: str) -> Failure:
    return Failure(kind=kind, culprit=str(clip.path), reason=reason)
