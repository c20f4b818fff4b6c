"""Messages between the service and the process of a loaded classifier: JSON behind its length.

    start   {directory, machine, cpus}                 -> {ready} or {refused}
    ask     {id, ask: evidence, clip, view}            -> {id, evidence | failure | error}
    leave   {id, ask: cancel}                          (nobody waits for the answer any more)

JSON, not pickle: that process reads strangers' videos, and what it says must stay data. Every float
comes back to the bit, NaN and the infinities too.
"""

import asyncio
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibrate.decision import Evidence
from calibrate.service.protocols import ClipToClassify
from wire.types import Failure, FailureKind

_LENGTH = struct.Struct(">I")
MAX_BYTES = 2**28


def packed(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


async def read_message(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next message. Raises EOFError once the other side has ended, ValueError if it sends
    anything else."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_BYTES:
        raise ValueError(f"a message of {length} bytes, at most {MAX_BYTES} are sent")
    message = json.loads(await reader.readexactly(length))
    if not isinstance(message, dict):
        raise ValueError(f"a message that is a {type(message).__name__}, expected an object")
    return message


def clip_values(clip: ClipToClassify) -> dict[str, Any]:
    """A clip as plain values."""
    return {
        "id": clip.id,
        "path": str(clip.path),
        "window": clip.window,
        "columns": dict(clip.columns),
        "text": clip.text,
    }


def clip_of(values: Mapping[str, Any]) -> ClipToClassify:
    """The inverse of :func:`clip_values`."""
    window = values["window"]
    return ClipToClassify(
        id=values["id"],
        path=Path(values["path"]),
        window=None if window is None else (window[0], window[1]),
        columns=values["columns"],
        text=values["text"],
    )


def answer_values(answer: Evidence | Failure) -> dict[str, Any]:
    """Evidence or a failure as plain values."""
    if isinstance(answer, Failure):
        return {"failure": {n: str(getattr(answer, n)) for n in ("kind", "culprit", "reason")}}
    return {"evidence": asdict(answer)}


def answer_of(values: Mapping[str, Any]) -> Evidence | Failure:
    """The inverse of :func:`answer_values`."""
    if "failure" in values:
        one = values["failure"]
        return Failure(kind=FailureKind(one["kind"]), culprit=one["culprit"], reason=one["reason"])
    one = values["evidence"]
    return Evidence(
        trace=one["trace"],
        parsed=one["parsed"],
        logprobs={name: tuple(row) for name, row in one["logprobs"].items()},
        votes=one["votes"],
        frames=tuple(one["frames"]),
        trace_logprobs=tuple(one["trace_logprobs"]),
        video_hash=one["video_hash"],
    )
