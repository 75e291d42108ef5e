import builtins
import collections
import copyreg
import fractions
import io
import operator
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import safe_pickle
from spherekeras.evaluation.safe_pickle import load_plain

RANDOM = np.random.default_rng(17)
PICTURES = [RANDOM.bytes(size) for size in (1, 40, 300, 255, 256, 70_000)]
ARRAYS = [np.frombuffer(picture, np.uint8) for picture in PICTURES]
NO_BYTES = b""
PLAIN = (PICTURES, [True, False, True])

WATCHED: list[str] | None = None


def watch(event: str, _: tuple) -> None:
    if WATCHED is not None and event.split(".")[0] in (
        *("import", "exec", "compile", "os", "subprocess", "pickle", "code", "ctypes", "shutil"),
        *("marshal", "socket", "builtins", "object", "function"),
    ):
        WATCHED.append(event)


sys.addaudithook(watch)  # cannot be removed, so it looks at a switch


def read(content: bytes, tmp_path: pathlib.Path) -> Any:
    """Reads under a hook that hears of imports, code, processes and unpickling: none may come."""
    global WATCHED
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    WATCHED = []
    try:
        return load_plain(path, "a.bin")
    finally:
        heard, WATCHED = WATCHED, None
        assert heard == []


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, np.ndarray):
        return isinstance(ours, np.ndarray) and np.array_equal(ours, theirs)
    if isinstance(theirs, (list, tuple)):
        pairs = zip(ours, theirs, strict=True)
        return type(ours) is type(theirs) and all(same(a, b) for a, b in pairs)
    return type(ours) is type(theirs) and ours == theirs


VALUES = {
    "bytes": PLAIN,
    "arrays": (ARRAYS, [True, False, True]),
    "one array twice": ([ARRAYS[1], ARRAYS[1], ARRAYS[1][::2]], [1, 0]),
    "flat and tall": ([ARRAYS[2][:, None], ARRAYS[2].reshape(2, 150)], []),
    "by columns": ([np.asfortranarray(ARRAYS[2].reshape(20, 15))], [False]),
    "an array of flags": (PICTURES, np.array([True, False, True])),
    "other integers": [np.array([1, -2, 3]), np.array([7, 8], ">u2"), np.array([0], np.int8)],
    "numbers": [0, 1, 255, 256, 65_536, -1, 2**31, -(2**40), True, None, "text", "é", NO_BYTES],
    "writable bytes": [b"one", (b"two", ("three", (4, 5, 6, 7)))],
    "many": ([bytes([place % 256]) for place in range(3000)], [True] * 1500),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_reads_what_was_written(value: Any, protocol: int, tmp_path: pathlib.Path) -> None:
    if protocol == 2:  # b"" is written as a call of `bytes`, and no picture is empty
        value = [each for each in value if each is not NO_BYTES] if type(value) is list else value
    content = pickle.dumps(value, protocol)
    assert same(read(content, tmp_path), value)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_reads_numpys_flags_and_numbers(protocol: int, tmp_path: pathlib.Path) -> None:
    value = [np.True_, np.False_, np.uint8(7), np.int64(-3)]
    assert same(read(pickle.dumps(value, protocol), tmp_path), [True, False, 7, -3])


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_spellings_of_numpys_modules(core: str, tmp_path: pathlib.Path) -> None:
    content = pickle.dumps((ARRAYS, [np.True_]), 2)
    old, new = (b"cnumpy._core.", b"cnumpy.core.")[:: 1 if core == "numpy.core" else -1]
    assert content.replace(old, new).count(f"c{core}.multiarray".encode()) == 2
    assert same(read(content.replace(old, new), tmp_path), (ARRAYS, [True]))


def short(name: str) -> bytes:
    return b"\x8c" + bytes([len(name)]) + name.encode()


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_spellings_in_protocol_5(core: str, tmp_path: pathlib.Path) -> None:
    content = pickle.dumps([np.array([1, 2, 3], np.uint8)], 5)
    ours = short(f"{core}.numeric")
    theirs = next(
        each
        for each in (short("numpy._core.numeric"), short("numpy.core.numeric"))
        if each in content
    )
    assert read(content.replace(theirs, ours), tmp_path)[0].tolist() == [1, 2, 3]


def python_2(pictures: list[bytes], flags: list[bool], arrays: bool) -> bytes:
    """What Python 2.7 wrote with protocol 2: strings are bytes, names of types too."""
    out = bytearray(b"\x80\x02]q\x00(")
    for picture in pictures:
        text = b"T" + struct.pack("<I", len(picture)) + picture
        if len(picture) < 256:
            text = b"U" + bytes([len(picture)]) + picture
        if arrays:
            out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            out += b"(K\x01\x8a\x04" + struct.pack("<i", len(picture)) + b"\x85"
            out += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
            out += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text + b"tb"
        else:
            out += text
    out += b"e](" + b"".join(b"\x88" if flag else b"\x89" for flag in flags) + b"e\x86."
    return bytes(out)


@pytest.mark.parametrize("arrays", [False, True])
def test_reads_what_python_2_wrote(arrays: bool, tmp_path: pathlib.Path) -> None:
    content = python_2(PICTURES, [True, False, True], arrays)
    wanted = pickle.loads(content.replace(b"numpy.core", b"numpy._core"), encoding="bytes")
    assert same(wanted, (ARRAYS if arrays else PICTURES, [True, False, True]))
    assert same(read(content, tmp_path), wanted)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *values: Any) -> None:
        self.call = function, values

    def __reduce__(self) -> tuple:
        return self.call


class State:
    def __init__(self) -> None:
        self.a = 1


OBJECTS = np.array([b"a", None, [1]], dtype=object)
HOSTILE = {
    "os.system": (Calls(os.system, "touch {made}"), f"{os.system.__module__}.system"),
    "eval": (Calls(eval, "open({made!r}, 'w')"), "builtins.eval"),
    "exec": (Calls(exec, "open({made!r}, 'w')"), "builtins.exec"),
    "open": (Calls(open, "{made}", "w"), f"{open.__module__}.open"),
    "import": (Calls(__import__, "antigravity"), "builtins.__import__"),
    "getattr": (Calls(getattr, np.ndarray, "tofile"), "builtins.getattr"),
    "Popen": (Calls(subprocess.Popen, ["touch", "{made}"]), "subprocess.Popen"),
    "attrgetter": (operator.attrgetter("system"), "operator.attrgetter"),
    "numpy's load": (Calls(np.load, "{made}"), "numpy.load"),
    "numpy's fromfile": (Calls(np.fromfile, "/dev/zero"), "numpy.fromfile"),
    "numpy's memmap": (Calls(np.memmap, "{made}"), "numpy.memmap"),
    "nested pickle": (Calls(pickle.loads, b"."), "_pickle.loads"),
    "partial": (Calls(__import__("functools").partial, print), "functools.partial"),
    "a class": (State(), ".State"),
    "a plain class": (collections.OrderedDict(a=1), "collections.OrderedDict"),
    "a number class": (fractions.Fraction(1, 3), "fractions.Fraction"),
    "bytes of a size": (Calls(bytes, 10**12), "builtins.bytes"),
    "bytearray of a size": (Calls(bytearray, 10**12), "builtins.bytearray"),
    "range to list": (Calls(list, range(3)), "builtins.list"),
    "an object array": (OBJECTS, "O8"),
    "a text array": (np.array(["a"]), "U1"),
    "a float array": (np.array([0.5]), "f8"),
    "a float": (np.float64(0.5), "f8"),
    "a record array": (np.array([(1, 2)], "u1,u1"), "V2"),
    "a date": (np.datetime64("2020-01-01"), "M8"),
    "a subclass of array": (np.ma.array([1]), "_mareconstruct"),
    "a float64 builtin": (0.5, "BINFLOAT"),
    "a dict": ({"a": 1}, "EMPTY_DICT"),
    "a frozen set": ({1, 2}, "EMPTY_SET"),
    "a huge number": (1 << 3000, "LONG4"),
    "an array of no size": (np.zeros((0, 10**15), np.uint8), "shape"),
}


@pytest.mark.parametrize("nest", ["alone", "among pictures", "deep", "twice"])
@pytest.mark.parametrize("case", HOSTILE)
def test_refuses_and_runs_nothing(case: str, nest: str, tmp_path: pathlib.Path) -> None:
    value, named = HOSTILE[case]
    made = tmp_path / "made"
    if isinstance(value, Calls):
        function, values = value.call
        texts = [each.format(made=made) if type(each) is str else each for each in values]
        value = Calls(function, *texts)
    value = {
        "alone": value,
        "among pictures": ([b"a", value], [True]),
        "deep": ([b"a", b"b"], [((((value,),),),)]),
        "twice": ([value, b"a", value], [True, value]),
    }[nest]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps(value, protocol)
        with pytest.raises(
            DataError, match=r"a\.bin .* nothing of it was run\. Get the file"
        ) as told:
            read(content, tmp_path)
        if protocol > 3 and nest != "twice":
            assert named in str(told.value)
    assert not made.exists()


def test_the_message_names_the_call(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError) as told:
        read(pickle.dumps(Calls(os.system, "true"), 4), tmp_path)
    assert str(told.value) == (
        f"a.bin asks for {os.system.__module__}.system. Expected tuples, lists, bytes, text, "
        "booleans, integers and NumPy arrays of integers or booleans, pickled with protocol 2 or "
        "later; nothing of it was run. Get the file from its source again."
    )


def number(opcode: bytes, value: int, size: int) -> bytes:
    return opcode + value.to_bytes(size, "little")


ENCODE, DTYPE, ARRAY = b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n"
REBUILD = b"cnumpy.core.multiarray\n_reconstruct\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
BUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
U1 = DTYPE + b"X\x02\x00\x00\x00u1\x89\x88\x87R"
ORDER = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
BLANK = REBUILD + ARRAY + b"K\x00\x85C\x01b\x87R"
BYTES = {
    "BINPERSID": (b"X\x01\x00\x00\x00aQ.", "opcode BINPERSID"),
    "PERSID": (b"Pa\n.", "opcode PERSID"),
    "EXT1": (number(b"\x82", 240, 1) + b".", "opcode EXT1"),
    "EXT2": (number(b"\x83", 240, 2) + b".", "opcode EXT2"),
    "EXT4": (number(b"\x84", 240, 4) + b".", "opcode EXT4"),
    "INST": (b"(S'true'\nios\nsystem\n.", "opcode STRING"),
    "INST alone": (b"(ios\nsystem\n.", "opcode INST"),
    "OBJ": (b"(cos\nsystem\no.", "asks for os.system"),
    "OBJ of NumPy": (b"(" + ARRAY + b"K\x01o.", "opcode OBJ"),
    "NEWOBJ": (ARRAY + b"K\x01\x85\x81.", "opcode NEWOBJ"),
    "NEWOBJ_EX": (ARRAY + b")}\x92.", "opcode EMPTY_DICT"),
    "NEXT_BUFFER": (b"\x97.", "opcode NEXT_BUFFER"),
    "READONLY_BUFFER": (b"C\x01a\x98.", "opcode READONLY_BUFFER"),
    "no opcode": (b"\x80\x04\xff.", r"opcode b'\xff'"),
    "dotted name": (short("numpy") + short("ndarray.__class__") + b"\x93.", "ndarray.__class__"),
    "joined name": (short("numpy.core") + short("multiarray.scalar") + b"\x93.", "alone"),
    "dunder": (short("numpy") + short("__builtins__") + b"\x93.", "numpy.__builtins__"),
    "name of bytes": (b"C\x05numpyC\x05dtype\x93.", "a nameless thing"),
    "name of numbers": (b"K\x01K\x02\x93.", "a nameless thing"),
    "name without end": (b"cnumpy\n" + b"d" * 300 + b"\n.", "a name without an end"),
    "name alone": (DTYPE + b".", "a part of a NumPy array alone"),
    "name in a list": (b"]" + DTYPE + b"a.", "appends what is no value"),
    "name in the answer": (DTYPE + b"\x85.", "a part of a NumPy array alone"),
    "type alone": (U1 + ORDER + b".", "a part of a NumPy array alone"),
    "blank alone": (BLANK + b".", "a part of a NumPy array alone"),
    "blank in a list": (b"]" + BLANK + b"a.", "appends what is no value"),
    "call of a class": (ARRAY + b"K\x01\x85R.", "calls what no NumPy array needs"),
    "call of bytes": (b"C\x01a)R.", "calls what no NumPy array needs"),
    "call of an answer": (U1 + b")R.", "calls what no NumPy array needs"),
    "call with a list": (DTYPE + b"]R.", "calls what no NumPy array needs"),
    "call with too few": (DTYPE + b")R.", "is no whole pickle"),
    "another coding": (ENCODE + b"X\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", "no bytes"),
    "coding of bytes": (ENCODE + b"C\x01aX\x06\x00\x00\x00latin1\x86R.", "no bytes"),
    "beyond latin1": (
        ENCODE + b"X\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R.",
        "is no whole pickle",
    ),
    "state of a name": (DTYPE + b")b.", "sets the state"),
    "state of a list": (b"])b.", "sets the state"),
    "state of bytes": (b"C\x01a)b.", "sets the state"),
    "state of a type twice": (U1 + ORDER + ORDER[:-1] + b"b.", "sets the state"),
    "state that is no tuple": (U1 + b"Nb.", "is no whole pickle"),
    "dtype of objects": (DTYPE + b"X\x02\x00\x00\x00O8\x89\x88\x87R.", "'O8'"),
    "dtype of a list": (DTYPE + b"]\x89\x88\x87R.", "'?'"),
    "dtype with fields": (
        U1
        + b"(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00aNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
        "no plain number",
    ),
    "dtype with flags": (ORDER.join([U1, b"."]).replace(b"K\x00tb", b"K\x3ftb"), "no plain number"),
    "another base": (REBUILD + DTYPE + b"K\x00\x85C\x01b\x87R.", "a class of its own"),
    "base of text": (REBUILD + b"C\x01aK\x00\x85C\x01b\x87R.", "a class of its own"),
    "content as list": (
        BLANK + b"(K\x01K\x01\x85" + U1 + ORDER + b"\x89]C\x01aatb.",
        "an array of objects",
    ),
    "type without order": (BLANK + b"(K\x01K\x01\x85" + U1 + b"\x89C\x01atb.", "array of objects"),
    "shape too large": (
        BUFFER + b"(C\x01a" + U1 + ORDER + b"J\xff\xff\xff\x7f\x85X\x01\x00\x00\x00CtR.",
        "does not fit its shape",
    ),
    "shape below zero": (
        BUFFER + b"(C\x01a" + U1 + ORDER + b"J\xff\xff\xff\xff\x85X\x01\x00\x00\x00CtR.",
        "does not fit its shape",
    ),
    "shape of text": (
        BUFFER + b"(C\x01a" + U1 + ORDER + b"X\x01\x00\x00\x001\x85X\x01\x00\x00\x00CtR.",
        "does not fit its shape",
    ),
    "no shape": (BUFFER + b"(C\x01a" + U1 + ORDER + b"NX\x01\x00\x00\x00CtR.", "not fit its shape"),
    "scalar of an object": (SCALAR + U1 + ORDER + b"]\x86R.", "number that is an object"),
    "scalar too long": (SCALAR + U1 + ORDER + b"C\x02ab\x86R.", "number that is an object"),
    "false length": (number(b"\x8e", 2**62, 8) + b"a.", "is cut short"),
    "false length of text": (number(b"X", 2**32 - 1, 4) + b"a.", "is cut short"),
    "false length of a buffer": (number(b"\x96", 2**40, 8) + b"a.", "is cut short"),
    "memo of nothing": (b"h\x05.", "is no whole pickle"),
    "stack of nothing": (b"a.", "is no whole pickle"),
    "stack left over": (b"NN.", "is no whole pickle"),
    "nothing": (b".", "is no whole pickle"),
    "mark alone": (b"(.", "is no whole pickle"),
    "mark remembered": (b"(q\x00.", "is no whole pickle"),
    "mark as item": (b"](a.", "is no whole pickle"),
    "tuple without mark": (b"Nt.", "is no whole pickle"),
    "bad text": (b"X\x01\x00\x00\x00\xff.", "is no whole pickle"),
    "no ascii": (b"c\xff\nx\n.", "is no whole pickle"),
    "duplicated": (b"]2.", "opcode DUP"),
    "empty file": (b"", "is cut short"),
    "protocol 0": (pickle.dumps(([b"a"], [True]), 0), "opcode"),
    "a zip": (b"PK\x03\x04" + bytes(40), "opcode PERSID"),
    "a picture": (b"\xff\xd8\xff\xe0" + bytes(40), "opcode"),
}


@pytest.mark.parametrize("case", BYTES)
def test_refuses_these_bytes(case: str, tmp_path: pathlib.Path) -> None:
    content, named = BYTES[case]
    with pytest.raises(DataError) as told:
        read(content, tmp_path)
    assert named in str(told.value)


def test_an_extension_code_is_not_looked_up(tmp_path: pathlib.Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        content = pickle.dumps(Calls(os.system, "true"), 2)
        with pytest.raises(DataError, match="holds the opcode EXT1|asks for posix"):
            read(content, tmp_path)
        with pytest.raises(DataError, match="holds the opcode EXT1"):
            read(b"\x80\x02\x82\xf0X\x04\x00\x00\x00true\x85R.", tmp_path)
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize(
    "bomb",
    [
        b"]" + number(b"r", 2**32 - 1, 4) + b".",  # a memo of 32 GB, were it an array
        b"".join(b"]" + number(b"r", 2**32 - 1 - place, 4) for place in range(2000)),
        b"\x80\x05" + number(b"\x95", 2**63, 8) + b"].",
        b"](" + b"h\x00" * 50_000 + b"e.",
        b"C\xff" + bytes(255) + b"\x94" + b"](" + b"h\x00" * 100_000 + b"e.",
        b"]("
        + b"".join(
            [
                b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000 + b"\x94",
                *[b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"] * 600,
            ]
        )
        + b"e.",
        b"".join(
            [b")\x94", *(b"(h%bh%bt\x94" % (bytes([i]), bytes([i])) for i in range(100)), b"."]
        ),
    ],
    ids=[
        "memo",
        "many memos",
        "frame",
        "recalls",
        "one picture often",
        "encoded",
        "doubling tuples",
    ],
)
def test_bombs_take_no_memory(bomb: bytes, tmp_path: pathlib.Path) -> None:
    tracemalloc.start()
    try:
        read(bomb, tmp_path)
    except DataError:
        pass
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 8_000_000 + 20 * len(bomb)


def test_limits(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps(PLAIN)
    monkeypatch.setattr(safe_pickle, "MAX_STEPS", 20)
    with pytest.raises(DataError, match="has more than 20 steps"):
        read(content, tmp_path)
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", len(content) - 1)
    with pytest.raises(DataError, match=f"has more than {len(content) - 1:,} bytes"):
        read(content, tmp_path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        DataError, match=r"^b cannot be read: No such file or directory. Expected a"
    ):
        load_plain(tmp_path / "b", "b")
    with pytest.raises(DataError, match=r"^b cannot be read: Is a directory. Expected a pickle; "):
        load_plain(tmp_path, "b")


SMALL = ([b"abcd" * 9, b"e" * 30], [True])
SAMPLES = {
    **{f"bytes, protocol {p}": pickle.dumps(SMALL, p) for p in (2, 3, 4, 5)},
    **{
        f"arrays, protocol {p}": pickle.dumps(([np.arange(9, dtype=np.uint8)] * 2, [np.True_]), p)
        for p in (2, 4, 5)
    },
    "Python 2": python_2([b"abcd", b"ef"], [True], arrays=True),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_cut_is_refused(sample: str, tmp_path: pathlib.Path) -> None:
    content = SAMPLES[sample]
    read(content, tmp_path)
    for end in range(len(content)):
        with pytest.raises(DataError):
            read(content[:end], tmp_path)


@pytest.mark.parametrize("sample", SAMPLES)
def test_flipped_bits_give_data_or_an_error(sample: str, tmp_path: pathlib.Path) -> None:
    random = np.random.default_rng(len(sample))
    right = refused = 0
    for _ in range(300):
        content = bytearray(SAMPLES[sample])
        for place in random.integers(0, 8 * len(content), random.integers(1, 4)):
            content[place // 8] ^= 1 << (place % 8)
        try:
            value = read(bytes(content), tmp_path)
        except DataError:
            refused += 1
        else:
            right += 1
            check_plain(value)
    assert right and refused


def check_plain(value: Any) -> None:
    if type(value) in (tuple, list):
        for item in value:
            check_plain(item)
    elif isinstance(value, np.ndarray):
        assert type(value) is np.ndarray and value.dtype.kind in "iub"
    else:
        assert type(value) in (bytes, str, int, bool, type(None))


def test_random_bytes_are_refused(tmp_path: pathlib.Path) -> None:
    codes = b"".join(safe_pickle._STEPS) + b"."
    random = np.random.default_rng(1)
    for _ in range(500):
        content = bytes(random.choice(list(codes), random.integers(1, 60)).astype(np.uint8))
        try:
            value = read(content, tmp_path)
        except DataError:
            continue
        check_plain(value)


def test_the_hook_hears() -> None:
    global WATCHED
    WATCHED = []
    pickle.loads(pickle.dumps(builtins.len))
    pickle.load(io.BytesIO(pickle.dumps(1)))
    heard, WATCHED = WATCHED, None
    assert "pickle.find_class" in heard
