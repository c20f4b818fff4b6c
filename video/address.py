"""Address of a clip, as a sample's ``video`` names it: a file, and perhaps a part or a view of it.

    clip.mp4                        the whole clip
    clip.mp4#t=3.5,9                from 3.5 s to before 9 s (``#t=3.5`` to its end, ``#t=,9``)
    clip.mp4#view=blank             another view of it (video/view.py)
    clip.mp4#t=3.5,9&view=shuffled  both
    clip.mp4#tokens=3f9c0a7b51de    its narrative, by the semantic tokenizer of this version, in
                                    place of pixels (video/semantic_tokens); also with t= and view=

The times are those of W3C Media Fragments: seconds from the clip's first frame, the end excluded.
"""

import math
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from wire.errors import ClipError
from wire.types import Sample

_KEYS = ("t", "view", "tokens")
_VERSION = re.compile(r"[0-9a-f]{12}")

Addressed = TypeVar("Addressed", str, Sample)


class View(StrEnum):
    """A view that is shown instead of the clip. The name is part of the clip key: a view that comes
    to show other pixels needs another name."""

    BLANK = "blank"
    """Grey frames: nothing to see but size and length."""
    SHUFFLED = "shuffled"
    """The same frames in another order, which follows from the file's content alone."""
    REVERSED = "reversed"
    """The last frame first."""
    DROPPED = "dropped"
    """Half of the actions left out; of a narrative alone, as the next one."""
    RANDOM = "random"
    """The same durations, with actions by chance."""

    @property
    def needs_tokens(self) -> bool:
        """Whether it is a view of a narrative alone, not of frames."""
        return self in (View.DROPPED, View.RANDOM)


@dataclass(frozen=True, slots=True)
class Window:
    """Time window of a clip, in seconds from its first frame.

    Example:
        str(Window(3.5, 9.0)) == "3.5,9"
    """

    start_s: float = 0.0
    end_s: float | None = None
    """The first moment that is not shown; None: to the end."""

    def __post_init__(self) -> None:
        end = math.inf if self.end_s is None else self.end_s
        if not 0 <= self.start_s < end:
            raise ValueError(
                f"a window from {self.start_s:g} s to {end:g} s holds no frame; "
                "give 0 <= start < end"
            )

    def __str__(self) -> str:
        end = "" if self.end_s is None else f",{_number(self.end_s)}"
        return f"{_number(self.start_s)}{end}"

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Parse a window as ``str`` writes it; also ``,9``. Raises ValueError."""
        start, comma, end = text.partition(",")
        if not start and not end:
            raise ValueError("no time in it; write t=START,END in seconds")
        return cls(float(start or 0), float(end) if comma else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A file, the window and view of it, and what it is shown as."""

    path: Path
    window: Window | None = None
    view: View | None = None
    tokens: str | None = None
    """Version of the semantic tokenizer whose narrative is shown; None: the video is."""

    def __str__(self) -> str:
        window = [] if self.window is None else [f"t={self.window}"]
        tokens = [] if self.tokens is None else [f"tokens={self.tokens}"]
        view = [] if self.view is None else [f"view={self.view}"]
        parts = "&".join(window + tokens + view)
        return f"{self.path}#{parts}" if parts else str(self.path)

    @classmethod
    def parse(cls, address: str | Path) -> "Address":
        """Parse an address. A file whose own name is the whole address wins.

        Raises ClipError if the window, the view or the tokenizer's version is none.
        """
        whole = Path(address)
        name, _, fragment = whole.name.rpartition("#")
        values = dict(part.partition("=")[::2] for part in fragment.split("&"))
        if not name or not set(values) <= set(_KEYS) or "=" not in fragment or _is_file(whole):
            return cls(path=whole)
        if len(values) <= fragment.count("&"):
            raise ClipError(f"{address} names a part twice; give t=, tokens= and view= once each")
        window = _window(address, values["t"]) if "t" in values else None
        tokens = _tokens(address, values["tokens"]) if "tokens" in values else None
        view = _view(address, values["view"], tokens) if "view" in values else None
        return cls(path=whole.parent / name, window=window, view=view, tokens=tokens)


def with_view(of: Addressed, view: View | None) -> Addressed:
    """An address, or a sample with its clip, under another view than it has now; without a view, as
    it is.

    Its window stays. Raises ClipError if its present view is unknown.
    """
    if isinstance(of, Sample):
        return replace(of, video=with_view(of.video, view))
    return str(replace(Address.parse(of), view=view))


def with_tokens(of: Addressed, tokens: str | None) -> Addressed:
    """An address, or a sample with its clip, shown as the narrative of a semantic tokenizer's
    version; None: as the video.

    Its window and view stay. Raises ClipError if its present view is unknown.
    """
    if isinstance(of, Sample):
        return replace(of, video=with_tokens(of.video, tokens))
    return str(replace(Address.parse(of), tokens=tokens))


def _window(address: str | Path, text: str) -> Window:
    try:
        return Window.parse(text)
    except ValueError as error:
        raise ClipError(
            f"{address} asks for the time window {text!r}: {error}; "
            "expected #t=START,END in seconds"
        ) from error


def _view(address: str | Path, name: str, tokens: str | None) -> View:
    known = [view for view in View if tokens or not view.needs_tokens]
    if name not in known:
        of = "" if tokens is None else " of a narrative"
        raise ClipError(
            f"{address} asks for the view {name!r}; known{of}: {', '.join(known)}; "
            f"leave view={name} away to see the clip as it is"
        )
    return View(name)


def _tokens(address: str | Path, version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise ClipError(
            f"{address} asks for the narrative of the tokenizer {version!r}; expected a version of "
            "12 hex digits, as tokenizer.json and done.json of its stage name it"
        )
    return version


def _number(seconds: float) -> str:
    """Shortest text of a number: 9 for 9.0."""
    return repr(seconds).removesuffix(".0")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # who reads the file says why it cannot be read
        return False
