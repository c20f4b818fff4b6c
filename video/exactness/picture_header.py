"""Picture header of a packet: what the packet shows, read without decoding it."""

from collections.abc import Callable
from dataclasses import dataclass

from video.exactness.bits import Data, NotPlain


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureHeader:
    """Header of the picture in one packet."""

    shows_one: bool
    """The packet shows exactly one picture: none is hidden, and none shares the packet."""
    is_clean_start: bool
    """Nothing after it needs what comes before (H.264: IDR)."""
    keeps_format: bool
    """Size and coding are those of the first packet (H.264: of the stream's header)."""


NOT_PLAIN = PictureHeader(shows_one=False, is_clean_start=False, keeps_format=False)
"""A packet that is damaged, or uses what is not known here."""

HeaderReader = Callable[[Data], PictureHeader]
"""Called with a stream's packets in their order."""
Format = tuple[int, ...]
"""What must not change in a stream: width, height, colour."""
Parse = Callable[[Data, Format | None], tuple[int, bool, Format | None]]
"""(packet, first format) -> pictures shown, is the first a key frame, the format if stated."""


def first_is_the_format(parse: Parse) -> HeaderReader:
    """Reader that holds every format stated later against the first."""
    first: Format | None = None

    def read(data: Data) -> PictureHeader:
        nonlocal first
        try:
            shown, is_key, stated = parse(data, first)
        except (NotPlain, IndexError):
            return NOT_PLAIN
        first = first or stated
        return PictureHeader(
            shows_one=shown == 1,
            is_clean_start=is_key,
            keeps_format=first is not None and stated in (None, first),
        )

    return read
