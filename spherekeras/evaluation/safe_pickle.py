"""Reads the plain data of a pickle without running anything of it.

`pickle.load` calls whatever a file names. This reader knows the few opcodes (protocols 2 to 5)
that build tuples, lists, bytes, text, booleans and integers, and recognises by name how NumPy
writes an array or a number: it builds that itself, from bytes, and calls nothing. Every other
opcode or name is refused, and so are sizes that no such file needs.
"""

import io
import math
import os
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherekeras.errors import DataError

MAX_BYTES = 1 << 30
MAX_STEPS = 2_000_000

_CORES = ("numpy.core", "numpy._core")  # before and since NumPy 2
_NAMES = {
    "_codecs.encode": "encode",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    **{f"{core}.multiarray._reconstruct": "reconstruct" for core in _CORES},
    **{f"{core}.multiarray.scalar": "scalar" for core in _CORES},
    **{f"{core}.numeric._frombuffer": "frombuffer" for core in _CORES},
}
_TYPES = {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))}
_MARK = object()


class _Refused(Exception):
    """What a pickle holds that plain data does not."""


class _Name:
    """A permitted name: recognised, never called."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Type:
    """A NumPy type: first its code, then its byte order."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.dtype: np.dtype | None = None


class _Blank:
    """A NumPy array, first without its content."""

    array: NDArray[np.generic] | None = None


_UNFINISHED = (_Name, _Type, _Blank)


def load_plain(path: str | os.PathLike[str], name: str) -> Any:
    """Reads a pickle of plain data.

    Args:
        path: of the file.
        name: what error messages call it.

    Returns:
        Tuples, lists, bytes, text, None, booleans, integers and NumPy arrays of integers or
        booleans, as they were written; Python 2's strings as bytes.

    Raises:
        DataError: the file is missing, too large, cut short or damaged, or it holds anything else.

    Example:

    >>> import pathlib, pickle, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.bin")
    >>> _ = path.write_bytes(pickle.dumps(([b"picture"], [True])))
    >>> load_plain(path, "a.bin")
    ([b'picture'], [True])
    >>> _ = path.write_bytes(pickle.dumps(print))
    >>> load_plain(path, "a.bin")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    spherekeras.errors.DataError: a.bin asks for builtins.print. Expected tuples, ...
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size) if size <= MAX_BYTES else b""
    except OSError as error:
        raise DataError(
            f"{name} cannot be read: {error.strerror}. Expected a pickle; check the path."
        ) from None
    try:
        if size > MAX_BYTES:
            raise _Refused(f"has more than {MAX_BYTES:,} bytes")
        return _Reader(data).load()
    except _Refused as error:
        reason = str(error)
    except (IndexError, KeyError, TypeError, ValueError):  # a damaged stack, memo, call or text
        reason = "is no whole pickle"
    raise DataError(
        f"{name} {reason}. Expected tuples, lists, bytes, text, booleans, integers and NumPy "
        "arrays of integers or booleans, pickled with protocol 2 or later; nothing of it was run. "
        "Get the file from its source again."
    )


class _Reader:
    """A stack machine for the opcodes that plain data needs."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._size = len(data)
        self._made = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self._take(1)
            if code == b".":
                result = self._pop()
                if self._stack:
                    raise _Refused("is no whole pickle")
                inside = result if type(result) is tuple else ()
                if any(type(value) in _UNFINISHED for value in (result, *inside)):
                    raise _Refused("holds a part of a NumPy array alone")
                return result
            step = _STEPS.get(code)
            if step is None:
                known = {opcode.code: opcode.name for opcode in pickletools.opcodes}
                name = known.get(code.decode("latin-1"), repr(code))
                raise _Refused(f"holds the opcode {name}")
            step(self)
        raise _Refused(f"has more than {MAX_STEPS:,} steps")

    def _take(self, count: int) -> bytes:
        # Compared before reading, so that a false length asks for no memory.
        if count > self._size - self._file.tell():
            raise _Refused("is cut short")
        return self._file.read(count)

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def content(self, size: int) -> bytes:
        return self._take(self.number(size))

    def text(self, size: int) -> str:
        return self.content(size).decode("utf-8", "surrogatepass")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise _Refused("is no whole pickle")
        return value

    def marked(self) -> list[Any]:
        items = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def tuple(self, count: int) -> None:
        self.push(tuple([self._pop() for _ in range(count)][::-1]))

    def append(self) -> None:
        self.extend([self._pop()])

    def extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list or any(type(item) in _UNFINISHED for item in items):
            raise _Refused("appends what is no value to what is no list")
        target.extend(items)

    def remember(self, place: int | None = None) -> None:
        value = self._pop()
        self._memo[len(self._memo) if place is None else place] = value
        self.push(value)

    def recall(self, place: int) -> None:
        value = self._memo[place]
        filled = value.array if type(value) is _Blank else None
        self.push(value if filled is None else filled)

    def line(self) -> str:
        line = self._file.readline(200)
        if not line.endswith(b"\n"):
            raise _Refused("holds a name without an end")
        return line[:-1].decode("ascii")

    def named(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"[:80] if type(module) is type(name) is str else "a nameless thing"
        if full not in _NAMES:
            raise _Refused(f"asks for {full}")
        self.push(_Name(_NAMES[full]))

    def named_on_stack(self) -> None:
        name, module = self._pop(), self._pop()
        self.named(module, name)

    def call(self) -> None:
        values, name = self._pop(), self._pop()
        if type(name) is not _Name or type(values) is not tuple or name.kind not in _CALLS:
            raise _Refused("calls what no NumPy array needs")
        made = _CALLS[name.kind](*values)
        if type(made) is bytes:  # from text of this file, which is told once
            self._made += len(made)
            if self._made > self._size:
                raise _Refused("makes more bytes than it has")
        self.push(made)

    def build(self) -> None:
        state, target = self._pop(), self._pop()
        if type(target) is _Type and target.dtype is None:
            target.dtype = _ordered(target.code, *state)
            self.push(target)
        elif type(target) is _Blank and target.array is None:
            target.array = _filled(*state)
            self.push(target.array)
        else:
            raise _Refused("sets the state of what is no NumPy array")


_STEPS: dict[bytes, Callable[[_Reader], Any]] = {
    b"\x80": lambda reader: reader.number(1),  # PROTO
    b"\x95": lambda reader: reader.number(8),  # FRAME
    b"(": lambda reader: reader.push(_MARK),
    b"N": lambda reader: reader.push(None),
    b"\x88": lambda reader: reader.push(True),
    b"\x89": lambda reader: reader.push(False),
    b"J": lambda reader: reader.push(reader.number(4, signed=True)),
    b"K": lambda reader: reader.push(reader.number(1)),
    b"M": lambda reader: reader.push(reader.number(2)),
    b"\x8a": lambda reader: reader.push(reader.number(reader.number(1), signed=True)),  # LONG1
    b"C": lambda reader: reader.push(reader.content(1)),
    b"B": lambda reader: reader.push(reader.content(4)),
    b"\x8e": lambda reader: reader.push(reader.content(8)),
    b"\x96": lambda reader: reader.push(reader.content(8)),  # BYTEARRAY8
    b"U": lambda reader: reader.push(reader.content(1)),  # Python 2's strings
    b"T": lambda reader: reader.push(reader.content(4)),
    b"\x8c": lambda reader: reader.push(reader.text(1)),
    b"X": lambda reader: reader.push(reader.text(4)),
    b"\x8d": lambda reader: reader.push(reader.text(8)),
    b")": lambda reader: reader.tuple(0),
    b"\x85": lambda reader: reader.tuple(1),
    b"\x86": lambda reader: reader.tuple(2),
    b"\x87": lambda reader: reader.tuple(3),
    b"t": lambda reader: reader.push(tuple(reader.marked())),
    b"]": lambda reader: reader.push([]),
    b"a": lambda reader: reader.append(),
    b"e": lambda reader: reader.extend(reader.marked()),
    b"q": lambda reader: reader.remember(reader.number(1)),
    b"r": lambda reader: reader.remember(reader.number(4)),
    b"\x94": lambda reader: reader.remember(),
    b"h": lambda reader: reader.recall(reader.number(1)),
    b"j": lambda reader: reader.recall(reader.number(4)),
    b"c": lambda reader: reader.named(reader.line(), reader.line()),
    b"\x93": lambda reader: reader.named_on_stack(),
    b"R": lambda reader: reader.call(),
    b"b": lambda reader: reader.build(),
}


def _ascii(text: Any) -> str:
    """Python 2 wrote these as strings, which are bytes here."""
    text = text.decode("ascii") if type(text) is bytes else text
    return text if type(text) is str else "?"


def _encode(text: Any, coding: Any) -> bytes:
    if type(text) is not str or coding != "latin1":
        raise _Refused("encodes what are no bytes")
    return text.encode("latin-1")


def _type(code: Any, align: Any, copy: Any) -> _Type:
    if _ascii(code) not in _TYPES:
        raise _Refused(f"holds an array of the type {_ascii(code)[:20]!r}")
    return _Type(_ascii(code))


def _ordered(code: str, version: Any, order: Any, *rest: Any) -> np.dtype:
    if (
        version != 3
        or _ascii(order) not in ("|", "<", ">")
        or rest != (None, None, None, -1, -1, 0)
    ):
        raise _Refused("holds an array of a type that is no plain number")
    return np.dtype(_ascii(order).replace("|", "") + code)


def _blank(base: Any, shape: Any, code: Any) -> _Blank:
    if type(base) is not _Name or base.kind != "ndarray":
        raise _Refused("holds an array of a class of its own")
    return _Blank()


def _filled(version: Any, shape: Any, kind: Any, fortran: Any, content: Any) -> NDArray[np.generic]:
    if version != 1:
        raise _Refused("holds an array of an unknown version")
    return _array(content, kind, shape, "F" if fortran else "C")


def _array(content: Any, kind: Any, shape: Any, order: Any) -> NDArray[np.generic]:
    dtype = kind.dtype if type(kind) is _Type else None
    if dtype is None or type(content) is not bytes:
        raise _Refused("holds an array of objects")
    if (
        type(shape) is not tuple
        or not 1 <= len(shape) <= 8
        or any(type(side) is not int or side < 1 for side in shape)
        or math.prod(shape) * dtype.itemsize != len(content)
        or order not in ("C", "F")
    ):
        raise _Refused("holds an array whose content does not fit its shape")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _scalar(kind: Any, content: Any) -> int | bool:
    dtype = kind.dtype if type(kind) is _Type else None
    if dtype is None or type(content) is not bytes or len(content) != dtype.itemsize:
        raise _Refused("holds a NumPy number that is an object")
    return np.frombuffer(content, dtype)[0].item()


_CALLS: dict[str, Callable[..., Any]] = {
    "encode": _encode,
    "dtype": _type,
    "reconstruct": _blank,
    "scalar": _scalar,
    "frombuffer": _array,
}
