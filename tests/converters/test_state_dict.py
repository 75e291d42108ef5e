"""PyTorch's weight files: both forms, wrappers, what is not weights, damage."""

import io
import os
import pathlib
import pickle
import pickletools
import resource
import sys
import types
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spherekeras.converters.state_dict import read_state_dict
from spherekeras.errors import DataError

try:
    import torch
except ImportError:
    torch: Any = None  # type: ignore[no-redef]

needs_torch = pytest.mark.skipif(
    torch is None, reason="PyTorch is not installed: `pip install torch`"
)


def weights() -> dict[str, Any]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.fixture
def save(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    def write(content: Any, zipped: bool = True) -> pathlib.Path:
        path = tmp_path / "net.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return path

    return write


def test_without_pytorch_the_line_that_installs_it(
    save: Callable[..., pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DataError, match="which reads .*net.pth, is not installed. Run `pip inst"):
        read_state_dict(save(b"PK"))
    with pytest.raises(DataError, match="none.pth cannot be read"):
        read_state_dict("none.pth")


@pytest.mark.parametrize("version", ["2.5.1+cpu", "1.13.0", "0.4.1.post2"])
def test_a_pytorch_that_executes_files_is_not_asked(
    version: str, save: Callable[..., pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__=version))
    with pytest.raises(DataError, match=r"PyTorch .* can be made to execute .*'torch>=2.6'"):
        read_state_dict(save(b"PK"))


@needs_torch
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_names_and_values(zipped: bool, save: Callable[..., pathlib.Path]) -> None:
    arrays, left_out = read_state_dict(save(weights(), zipped))
    assert list(arrays) == ["a.weight", "a.bias"] and left_out == ()
    np.testing.assert_array_equal(arrays["a.weight"], np.arange(6.0).reshape(2, 3))
    assert arrays["a.weight"].dtype == np.float32


@needs_torch
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(kind: str, save: Callable[..., pathlib.Path]) -> None:
    named = {name: value.to(getattr(torch, kind)) for name, value in weights().items()}
    arrays, _ = read_state_dict(save(named))
    np.testing.assert_array_equal(arrays["a.weight"], np.arange(6.0).reshape(2, 3))
    assert arrays["a.weight"].dtype == np.float32


@needs_torch
def test_wrappers_prefix_and_counters(save: Callable[..., pathlib.Path]) -> None:
    named = {"module." + name: value for name, value in weights().items()}
    named["module.bn.num_batches_tracked"] = torch.tensor(7)
    checkpoint = {"step": 3, "model": {"backbone": named, "head": {"w": torch.ones(2)}}}
    arrays, left_out = read_state_dict(save(checkpoint), "model", "backbone")
    assert sorted(arrays) == ["a.bias", "a.weight"] and left_out == ("step", "head")
    both = {**weights(), "module.a.bias": torch.ones(2)}
    with pytest.raises(DataError, match="holds a.bias twice, with and without 'module.'"):
        read_state_dict(save(both))


@needs_torch
def test_a_file_of_python_2(save: Callable[..., pathlib.Path]) -> None:
    """Its names are byte strings; the files of 2017 are such."""
    data = save(weights(), zipped=False).read_bytes()
    stream, older = io.BytesIO(data), b""
    for _ in range(5):
        start = stream.tell()
        for operation, argument, _ in pickletools.genops(stream):
            raw = data[start : stream.tell()]
            if operation.name == "BINUNICODE":
                raw = b"U" + bytes([len(argument)]) + argument.encode()
            older, start = older + raw, stream.tell()
    older += data[stream.tell() :]
    assert b"X\x08\0\0\0a.weight" in data and b"U\x08a.weight" in older
    arrays, _ = read_state_dict(save(older))
    np.testing.assert_array_equal(arrays["a.weight"], np.arange(6.0).reshape(2, 3))


class Command:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 1",)


@needs_torch
def test_nothing_is_executed(save: Callable[..., pathlib.Path]) -> None:
    for zipped in (True, False):
        with pytest.raises(DataError, match="holds the Python object .*system, which could do any"):
            read_state_dict(save({"a": Command()}, zipped))
    with pytest.raises(DataError, match=r"modules.linear.Linear.* Save `network.state_dict\(\)`"):
        read_state_dict(save(torch.nn.Linear(2, 2)))
    with pytest.raises(DataError, match="is damaged"):
        read_state_dict(save(pickle.dumps(Command())))


@needs_torch
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"holds no named weights, but a list. Save `network.state_dict\(\)`"),
        ({}, "holds no named weights, but a dict"),
        ({"a": 3}, "a is not an array of floating-point numbers"),
        ({"a": [1.0]}, "a is not an array of floating-point numbers"),
    ],
)
def test_what_is_no_state_dict(
    content: Any, message: str, save: Callable[..., pathlib.Path]
) -> None:
    with pytest.raises(DataError, match=message):
        read_state_dict(save(content))
    for other in (torch.arange(3), torch.eye(3).to_sparse(), torch.ones(3, device="meta")):
        with pytest.raises(DataError, match="a is not an array of floating-point numbers"):
            read_state_dict(save({"a": other}))


@needs_torch
def test_views_larger_than_the_file(save: Callable[..., pathlib.Path]) -> None:
    huge = torch.ones(1).expand(10**12)
    for zipped in (True, False):
        with pytest.raises(DataError, match="its weights are larger than the file"):
            read_state_dict(save({"a": huge}, zipped))


@needs_torch
def test_packed_parts_larger_than_the_file(save: Callable[..., pathlib.Path]) -> None:
    path = save(weights())
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data if not name.endswith("/0") else b"\0" * 10**7)
    assert path.stat().st_size < 10**5
    with pytest.raises(DataError, match="its parts are larger than the file"):
        read_state_dict(path)


@needs_torch
def test_other_files(save: Callable[..., pathlib.Path], tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"none.pth cannot be read \(No such file or directory\)"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(DataError, match=r"compressed. Unpack it first: `7z x .*net.pth`"):
        read_state_dict(save(b"7z\xbc\xaf\x27\x1c\0\4"))
    for data in (b"", b"\0" * 99, b"\x89PNG\r\n", np.random.default_rng(0).bytes(4096)):
        with pytest.raises(DataError, match="net.pth is not a PyTorch weight file, or is damaged"):
            read_state_dict(save(data))


@needs_torch
@pytest.mark.parametrize("zipped", [True, False])
def test_damage_is_refused_or_harmless_and_takes_no_memory(
    zipped: bool, save: Callable[..., pathlib.Path]
) -> None:
    data, random = save(weights(), zipped).read_bytes(), np.random.default_rng(1)
    damaged = [data[:length] for length in range(0, len(data), 9)]
    for _ in range(300):
        flipped = bytearray(data)
        flipped[random.integers(len(data))] ^= 1 << random.integers(8)
        damaged.append(bytes(flipped))
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for content in damaged:
        try:
            arrays, _ = read_state_dict(save(content))
        except DataError as error:
            refused += 1
            assert "weights_only" not in str(error)  # no advice to execute it
        else:
            assert not zipped or set(arrays) == {"a.weight", "a.bias"}
    assert refused > len(damaged) / 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
