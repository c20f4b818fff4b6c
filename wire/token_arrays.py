"""Token ids and logprobs: immutable arrays of 32-bit numbers that cross process borders.

A tuple of Python numbers takes ten times the memory and fifty times the time to send. The bytes
are part of the pickle, not a buffer beside it: they are small (a few kB), and a buffer in Ray's
object store would stay pinned there for as long as a process keeps the trace.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self, TypeVar, overload

N = TypeVar("N", int, float)

_SHOWN = 8


class _Numbers(Sequence[N]):
    """Immutable sequence of 32-bit numbers. Equal to any sequence of the same type, or tuple or
    list, with the same numbers; hashes as a tuple does; ``numpy.asarray`` reads it without a
    copy."""

    __slots__ = ("_data",)

    _code: ClassVar[str]
    """Type of the numbers, as ``array`` and ``numpy`` name it."""
    _data: bytes

    def __init__(self, values: Iterable[N] = ()) -> None:
        """Raises ValueError for a number that 32 bits do not hold."""
        self._data = values._data if isinstance(values, type(self)) else self._packed(values)

    def _packed(self, values: Iterable[N]) -> bytes:
        numbers = getattr(values, "tolist", None)  # of numpy or torch: ten times as fast
        try:
            return array(self._code, values if numbers is None else numbers()).tobytes()
        except OverflowError as error:
            raise ValueError(f"{type(self).__name__}: {error}; they hold 32 bits each") from error

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """The array whose memory is ``data``, in this machine's byte order."""
        made = cls.__new__(cls)
        made._data = data
        return made

    def tobytes(self) -> bytes:
        """The array's memory, not a copy."""
        return self._data

    def tolist(self) -> list[N]:
        """The numbers as Python's."""
        return list(self._view())

    def _view(self) -> "memoryview[N]":
        return memoryview(self._data).cast(self._code)  # type: ignore[call-overload, no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        values = np.frombuffer(self._data, self._code)
        if dtype is not None and dtype != values.dtype:
            return values.astype(dtype)
        return values.copy() if copy else values

    def __len__(self) -> int:
        return len(self._data) // 4

    def __iter__(self) -> Iterator[N]:
        return iter(self._view())

    def __contains__(self, value: object) -> bool:
        return value in self._view()

    @overload
    def __getitem__(self, index: int) -> N: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> "N | Self":
        if isinstance(index, slice):
            return self.of_bytes(self._view()[index].tobytes())
        return self._view()[index]

    def index(self, value: Any, *span: int) -> int:
        """Place of the first such number. Raises ValueError."""
        return self.tolist().index(value, *span)

    def __add__(self, other: Iterable[N]) -> Self:
        return self.of_bytes(self._data + type(self)(other)._data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, type(self)) and other._data == self._data:
            return True
        if isinstance(other, type(self) | tuple | list):
            return self.tolist() == list(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self[:_SHOWN]))
        rest = f", ... {len(self)} in all" if len(self) > _SHOWN else ""
        return f"{type(self).__name__}({shown}{rest})"

    def __reduce__(self) -> Any:
        return type(self).of_bytes, (self._data,)


class TokenIds(_Numbers[int]):
    """Token ids, int32.

    Example:
        TokenIds((12, 9))
    """

    __slots__ = ()
    _code = "i"


class Logprobs(_Numbers[float]):
    """Logprobs of tokens in nats, float32 as engines and learner compute them.

    Example:
        Logprobs((-0.25, -1.5))
    """

    __slots__ = ()
    _code = "f"
