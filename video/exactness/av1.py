"""Headers of AV1 (its bitstream's specification, 5.3 to 5.9)."""

from video.exactness.bits import Bits, Data, NotPlain
from video.exactness.picture_header import Format

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6
_KEY_FRAME, _SWITCH_FRAME = 0, 3
_SELECT = 2
_LONGEST_HEADER = 16


def av1(data: Data, first: Format | None) -> tuple[int, bool, Format | None]:
    """Pictures that an AV1 packet shows, whether it starts with a key frame, and the sequence if
    stated."""
    shown, is_key, stated = 0, None, None
    for kind, part in _units(data):
        if kind == _SEQUENCE:
            stated = (*_sequence(Bits(part)), int.from_bytes(part, "big"))
        elif kind in (_FRAME_HEADER, _FRAME):
            sequence = first or stated
            if sequence is None:
                raise NotPlain
            frame_shown, frame_is_key = _frame(Bits(part[:_LONGEST_HEADER]), sequence)
            shown += frame_shown
            is_key = frame_is_key if is_key is None else is_key
    return shown, bool(is_key), stated


def _units(data: Data) -> list[tuple[int, Data]]:
    units, at = [], 0
    while at < len(data):
        head = data[at]
        if head & 0b10000100:  # forbidden; or layers of a scalable stream
            raise NotPlain
        at += 1
        size = len(data) - at
        if head & 0b10:
            size, at = _leb128(data, at)
        if at + size > len(data):
            raise NotPlain
        units.append((head >> 3 & 15, data[at : at + size]))
        at += size
    return units


def _leb128(data: Data, at: int) -> tuple[int, int]:
    """A number in steps of seven bits, and where it ends."""
    value, shift = 0, 0
    while data[at] > 127:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _sequence(bits: Bits) -> Format:
    """Sequence header of a plain stream: one layer, times that come from the container."""
    bits.expect(3, 0)  # profile main
    bits.take(1)
    bits.expect(1, 0)  # not a reduced header of a still picture
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.golomb()
        bits.expect(1, 0)  # no model of the decoder's buffers
    has_delay = bits.take(1)
    bits.expect(5, 0)  # one operating point
    bits.expect(12, 0)
    if bits.take(5) > 7:  # its level
        bits.take(1)
    if has_delay and bits.take(1):
        bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    number_bits = 0
    if bits.take(1):
        number_bits = bits.take(4) + 2
        number_bits += bits.take(3) + 1
    bits.take(7)
    if bits.take(1):
        bits.take(2)
    tools = _SELECT if bits.take(1) else bits.take(1)
    integer = _SELECT
    if tools and not bits.take(1):
        integer = bits.take(1)
    return width, height, number_bits, tools, integer


def _frame(bits: Bits, sequence: Format) -> tuple[bool, bool]:
    """Whether a picture is shown, and whether it is a key frame. Raises NotPlain if it may be of
    another size than the sequence."""
    number_bits, tools, integer = sequence[2:5]
    if bits.take(1):  # shows a frame that was decoded before
        return True, False
    kind, is_shown = bits.take(2), bool(bits.take(1))
    if kind == _SWITCH_FRAME:
        raise NotPlain
    if not is_shown:
        bits.take(1)
    if not (kind == _KEY_FRAME and is_shown):
        bits.take(1)
    bits.take(1)
    if (bits.take(1) if tools == _SELECT else tools) and integer == _SELECT:
        bits.take(1)
    bits.take(number_bits)
    bits.expect(1, 0)
    return is_shown, kind == _KEY_FRAME and is_shown
