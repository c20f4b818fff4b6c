"""Bits of a packet's header, first to last."""

Data = bytes | memoryview

_LONGEST_CODE = 32


class NotPlain(Exception):
    """The header is damaged, or uses what is not known here; never leaves this folder."""


class Bits:
    """Bits of a header. Raises NotPlain past the end."""

    def __init__(self, data: Data) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next bits as a number."""
        self._left -= count
        if self._left < 0:
            raise NotPlain
        return self._value >> self._left & ((1 << count) - 1)

    def expect(self, count: int, value: int) -> None:
        """Take bits that can have one value only. Raises NotPlain if they have another."""
        if self.take(count) != value:
            raise NotPlain

    def golomb(self, count: int = 1) -> int:
        """The last of some Exp-Golomb codes, ue(v) of H.264; 0 of none."""
        value = 0
        for _ in range(count):
            zeros = 0
            while not self.take(1):
                zeros += 1
            if zeros > _LONGEST_CODE:
                raise NotPlain
            value = (1 << zeros) - 1 + self.take(zeros)
        return value

    def signed_golomb(self) -> int:
        """A signed Exp-Golomb code, se(v) of H.264."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)
