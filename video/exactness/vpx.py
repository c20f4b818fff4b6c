"""Headers of VP8 (RFC 6386, 9.1) and VP9 (its bitstream's specification, 6.2 and annex B)."""

from video.exactness.bits import Bits, Data, NotPlain
from video.exactness.picture_header import Format

_VP8_SYNC = b"\x9d\x01\x2a"
_VP9_SYNC = 0x498342
_SRGB = 7
_LONGEST_HEADER = 16


def vp8(data: Data, _: Format | None) -> tuple[int, bool, Format | None]:
    """Pictures that a VP8 packet shows, whether it is a key frame, and its size if stated."""
    is_key, shown = not data[0] & 1, data[0] >> 4 & 1
    if not is_key:
        return shown, False, None
    if bytes(data[3:6]) != _VP8_SYNC:
        raise NotPlain
    return shown, True, (data[6] | (data[7] & 63) << 8, data[8] | (data[9] & 63) << 8)


def vp9(data: Data, first: Format | None) -> tuple[int, bool, Format | None]:
    """Pictures that a VP9 packet shows, whether it starts with a key frame, and its size and colour
    if stated."""
    shown, keys, stated = 0, [], None
    for part in _vp9_frames(data):
        is_shown, is_key, size = _vp9_frame(Bits(part[:_LONGEST_HEADER]), first)
        shown += is_shown
        keys.append(is_key)
        if size is not None and stated not in (None, size):
            raise NotPlain
        stated = stated or size
    return shown, keys[0], stated


def _vp9_frames(data: Data) -> list[Data]:
    """The frames of a superframe, or the one that the packet is."""
    last = data[-1]
    count, width = (last & 7) + 1, (last >> 3 & 3) + 1
    start = len(data) - 2 - count * width
    if last >> 5 != 0b110 or start < 0 or data[start] != last:
        return [data]
    frames, at = [], 0
    for i in range(start + 1, len(data) - 1, width):
        size = int.from_bytes(data[i : i + width], "little")
        frames.append(data[at : at + size])
        at += size
    if at > start or not all(map(len, frames)):
        raise NotPlain
    return frames


def _vp9_frame(bits: Bits, first: Format | None) -> tuple[bool, bool, Format | None]:
    """Whether it is shown, whether it is a key frame, and the size and colour that it states."""
    bits.expect(2, 0b10)
    bits.expect(2, 0)  # profile 0: 8 bit, 4:2:0
    if bits.take(1):  # shows a frame that was decoded before
        return True, False, None
    is_key, is_shown, is_resilient = not bits.take(1), bool(bits.take(1)), bits.take(1)
    if is_key:
        bits.expect(24, _VP9_SYNC)
        colour = bits.take(3)
        if colour == _SRGB:
            raise NotPlain
        is_full = bits.take(1)
        return is_shown, True, (bits.take(16) + 1, bits.take(16) + 1, colour, is_full)
    is_intra = 0 if is_shown else bits.take(1)
    if not is_resilient:
        bits.take(2)
    if is_intra:
        bits.expect(24, _VP9_SYNC)
    bits.take(8)
    if not is_intra:
        bits.take(12)
        if bits.take(1) or bits.take(1) or bits.take(1):  # the size of a frame it refers to
            return is_shown, False, None
    if first is None:
        raise NotPlain
    return is_shown, False, (bits.take(16) + 1, bits.take(16) + 1, *first[2:])
