"""Helper process of video/pool.py: gets a file's path, answers with its frames; ends when idle.

    {"what": "decode", "path", "spec", "window", "decoder"} -> {"shape", ...} + a file in memory
    {"what": "frames", "path", "numbers"}                   -> the same, of frames by number
    {"what": "probe", "path", "window", "decoder"}          -> {}
    {"what": "facts", "path", "max_frames", "max_pixels"}   -> {"seconds", "frames", ...}
    any of them                                             -> {"error", "errno"}

Before decord begins, {"begins": "decord"} says so: if this process then dies or hangs, the file is
not to blame yet. The file holds the times (float64 [T]), the frames' indices (int64 [T]) and then
the pixels (uint8 [T, H, W, 3]); it has no name, so nothing is left behind. Imports neither torch
nor pydantic, so that it starts in a moment.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from video.address import Window
from video.decode import DecodedClip, decode, decode_frames, probe
from video.disk_faults import number_of
from video.facts import facts_of
from video.sampling import FrameSpec
from wire.errors import ClipError

ERROR = "error"
ERRNO = "errno"
"""Number of the system's error behind an error, where there is one."""
READY = {"ready": True}
DECORD_BEGINS = {"begins": "decord"}
MAX_MESSAGE = 64 * 1024
_MAX_REASON = 2000
_IDLE_S = 60.0
_PR_SET_PDEATHSIG = 1

Question = Mapping[str, Any]
Tell = Callable[[], None]
"""Called before decord begins."""
Act = Callable[[Question, Tell], DecodedClip | Mapping[str, Any]]


def main() -> None:
    """Entry point; last three arguments: the socket's number, the parent's id, memory limit in
    bytes."""
    serve(act)


def serve(act: Act) -> None:
    """Answer requests until the other side is gone, or none came for a minute."""
    number, parent, limit = map(int, sys.argv[-3:])
    _confine(parent, limit)
    line = socket.socket(fileno=number)
    _say(line, READY)
    line.settimeout(_IDLE_S)
    while question := _next(line):
        if not _answer(line, json.loads(question), act):
            break
    os._exit(0)


def act(question: Question, on_decord: Tell) -> DecodedClip | Mapping[str, Any]:
    """Do what a request asks for. Raises ClipError."""
    path = Path(question["path"])
    match question["what"]:
        case "facts":
            limits = {name: question[name] for name in ("max_frames", "max_pixels")}
            return asdict(facts_of(path, **limits))
        case "frames":
            return decode_frames(path, question["numbers"])
    window = None if question["window"] is None else Window(*question["window"])
    if question["what"] == "probe":
        probe(path, window, question["decoder"])
        return {}
    spec = FrameSpec(**question["spec"])
    return decode(path, spec, window, question["decoder"], on_decord)


def _confine(parent: int, limit: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _next(line: socket.socket) -> bytes:
    try:
        return line.recv(MAX_MESSAGE)
    except (TimeoutError, ConnectionResetError):
        return b""


def _answer(line: socket.socket, question: Question, act: Act) -> bool:
    """Answer one request; False if this process should be replaced."""
    try:
        clip = act(question, lambda: _say(line, DECORD_BEGINS))
    except ClipError as error:
        return _refuse(line, str(error), number_of(error))
    except MemoryError:
        _refuse(line, f"cannot decode {question['path']}: it needs more than decode_memory_gb")
        return False
    except Exception as error:  # noqa: BLE001  whatever a file brings out in a decoder
        reason = f"cannot decode {question['path']}: {error!r}"
        return _refuse(line, reason, number_of(error))
    if not isinstance(clip, DecodedClip):
        _say(line, clip)
        return True
    described = {
        "shape": clip.frames.shape,
        "fps": clip.fps,
        "total_frames": clip.total_frames,
        "native_fps": clip.native_fps,
        "seconds": clip.seconds,
        "not_by_decord": clip.not_by_decord,
    }
    file = _in_memory(clip)
    try:
        socket.send_fds(line, [json.dumps(described).encode()], [file])
    finally:
        os.close(file)
    return True


def _refuse(line: socket.socket, reason: str, number: int | None = None) -> bool:
    _say(line, {ERROR: reason[:_MAX_REASON], ERRNO: number})
    return True


def _say(line: socket.socket, message: Question) -> None:
    line.send(json.dumps(message).encode())


def _in_memory(clip: DecodedClip) -> int:
    head = np.asarray(clip.timestamps_s, np.float64).tobytes()
    head += np.asarray(clip.frame_indices, np.int64).tobytes()
    file = os.memfd_create(Path(__file__).stem)
    os.ftruncate(file, len(head) + clip.frames.nbytes)
    with mmap.mmap(file, len(head) + clip.frames.nbytes) as shared:
        shared[: len(head)] = head
        np.frombuffer(shared, np.uint8, offset=len(head))[:] = clip.frames.reshape(-1)
    return file
