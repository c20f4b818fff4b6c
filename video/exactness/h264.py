"""H.264 in mp4 and mkv: the stream's parameters, and what the units of a packet are.

"avcC" header -> Parameters; packet -> PictureHeader
"""

from dataclasses import dataclass

from video.exactness.bits import Bits, Data, NotPlain
from video.exactness.picture_header import NOT_PLAIN, HeaderReader, PictureHeader

_SLICE, _IDR, _MESSAGE, _PARAMETERS = 1, 5, 6, 7
_PARTITIONS = (2, 3, 4)
_WITH_CHROMA = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)
"""Profiles whose parameters say how colour is stored (7.3.2.1.1)."""
_SCALING_LISTS = 8
_ORIENTATION = 47
_EXTENDED_ASPECT = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters of a stream that decide whether a picture comes out for each packet."""

    is_progressive: bool
    """No picture may consist of fields."""
    reordered: int | None
    """How many pictures may come before one in the file and after it on the screen; None if the
    stream leaves that to be guessed."""


def h264_parameters(stream_header: bytes) -> Parameters | None:
    """Parameters of a stream from its "extradata"; None if there are none, several, or damaged
    ones."""
    if stream_header[:1] != b"\1" or len(stream_header) < 8 or stream_header[5] & 31 != 1:
        return None
    size = int.from_bytes(stream_header[6:8], "big")
    unit = stream_header[8 : 8 + size]
    try:
        return _parameters(Bits(unit[1:].replace(b"\0\0\3", b"\0\0")))
    except NotPlain:
        return None


def h264_reader(stream_header: bytes) -> HeaderReader:
    """Reader of packets whose units have their length in front."""
    if stream_header[:1] != b"\1" or len(stream_header) < 7:
        return lambda _: NOT_PLAIN  # units with start codes: not what mp4 and mkv hold
    width = (stream_header[4] & 3) + 1

    def read(data: Data) -> PictureHeader:
        pictures, is_clean, keeps, at = 0, False, True, 0
        while at < len(data):
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
            if size < 2 or at + size > len(data):
                return NOT_PLAIN
            kind = data[at] & 31
            if kind in _PARTITIONS or (kind == _MESSAGE and _turns(data[at + 1 : at + size])):
                return NOT_PLAIN
            if kind in (_SLICE, _IDR):
                pictures += data[at + 1] >> 7  # its first macroblock is number 0
                is_clean |= kind == _IDR
            elif kind == _PARAMETERS:
                keeps &= bytes(data[at : at + size]) in stream_header
            at += size
        return PictureHeader(shows_one=pictures == 1, is_clean_start=is_clean, keeps_format=keeps)

    return read


def _turns(message: Data) -> bool:
    """Whether supplemental information says how to turn the picture (D.1.27)."""
    left = bytes(message).replace(b"\0\0\3", b"\0\0")
    while len(left) > 2:  # its last byte ends it
        kind, left = _number(left)
        size, left = _number(left)
        if kind == _ORIENTATION:
            return True
        left = left[size:]
    return False


def _number(data: bytes) -> tuple[int, bytes]:
    rest = data.lstrip(b"\xff")
    return 255 * (len(data) - len(rest)) + rest[0] if rest else 0, rest[1:]


def _parameters(bits: Bits) -> Parameters:
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()
    if profile in _WITH_CHROMA:
        _skip_chroma(bits)
    bits.golomb()
    _skip_order(bits)
    bits.golomb()
    bits.take(1)
    bits.golomb(2)  # width and height
    is_progressive = bool(bits.take(1))
    bits.take(1 if is_progressive else 2)
    if bits.take(1):
        bits.golomb(4)  # cropping
    reordered = _reordered(bits) if bits.take(1) else None
    return Parameters(is_progressive=is_progressive, reordered=reordered)


def _skip_chroma(bits: Bits) -> None:
    if bits.golomb() != 1:  # not 4:2:0
        raise NotPlain
    bits.golomb(2)
    bits.take(1)
    if bits.take(1):
        for i in range(_SCALING_LISTS):
            if bits.take(1):
                _skip_scaling_list(bits, 16 if i < 6 else 64)


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = 8
    for _ in range(size):
        last = (last + bits.signed_golomb()) % 256
        if last == 0:
            return


def _skip_order(bits: Bits) -> None:
    kind = bits.golomb()
    if kind == 0:
        bits.golomb()
    elif kind == 1:
        bits.take(1)
        bits.golomb(2)
        bits.golomb(bits.golomb())


def _reordered(bits: Bits) -> int | None:
    """From the usability information (annex E)."""
    if bits.take(1) and bits.take(8) == _EXTENDED_ASPECT:
        bits.take(32)
    if bits.take(1):
        bits.take(1)
    if bits.take(1):
        bits.take(4)
        if bits.take(1):
            bits.take(24)
    if bits.take(1):
        bits.golomb(2)
    if bits.take(1):
        bits.take(65)
    buffers = 0
    for _ in range(2):
        if bits.take(1):
            _skip_buffers(bits)
            buffers += 1
    bits.take(2 if buffers else 1)
    if not bits.take(1):
        return None
    bits.take(1)
    bits.golomb(4)
    return bits.golomb()


def _skip_buffers(bits: Bits) -> None:
    count = bits.golomb() + 1
    bits.take(8)
    for _ in range(count):
        bits.golomb(2)
        bits.take(1)
    bits.take(20)
