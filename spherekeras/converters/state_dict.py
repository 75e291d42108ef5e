"""PyTorch's weight files (.pth), read without executing what is in them."""

import os
import pathlib
import pickle
import re
import warnings
import zipfile
from typing import Any

from numpy.typing import NDArray

from spherekeras.errors import DataError

_SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"


def read_state_dict(
    path: str | os.PathLike[str], *wrappers: str
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Reads the weights of a network from a PyTorch file.

    PyTorch's restricted unpickler (`weights_only=True`) reads it: nothing in the file is
    executed. The prefix "module." of a network trained on several GPUs is taken off, and
    the counters of batch normalisation are skipped.

    Args:
        path: the `.pth` file.
        wrappers: keys under which the weights may lie, from the outermost on, such as "backbone".

    Returns:
        The arrays by name, in the file's order, and the names of what lay beside a wrapper.

    Raises:
        DataError: PyTorch is missing or before 2.6, no such file, another or a damaged file, or
            weights that are no floating-point numbers.

    Example::

        arrays, left_out = read_state_dict("sphere20a_20171020.pth")
    """
    try:
        with pathlib.Path(path).open("rb") as file:
            start = file.read(len(_SEVEN_ZIP))
        size = os.path.getsize(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}). Pass the path of a .pth file."
        ) from error
    if start == _SEVEN_ZIP:
        raise DataError(f"{path} is compressed. Unpack it first: `7z x {path}`.")
    try:
        import torch
    except ImportError:
        raise DataError(
            f"PyTorch, which reads {path}, is not installed. Run `pip install 'torch>=2.6'`; the "
            "preset needs it no more."
        ) from None
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6):
        raise DataError(
            f"PyTorch {torch.__version__} can be made to execute what a weight file holds "
            f"(CVE-2025-32434), so {path} is not read. Run `pip install 'torch>=2.6'`."
        )
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, about the ways of its older files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch names no set of exceptions for files that it cannot read
        if found := re.search(r"(?i)unsupported (?:global|class).*?(\w+(?:\.\w+)+)", str(error)):
            raise DataError(
                f"{path} holds the Python object {found[1]}, which could do anything, and is not "
                "read. Save `network.state_dict()`, weights alone."
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        if isinstance(error, pickle.UnpicklingError):  # PyTorch then advises to execute the file
            reason = "its pickle cannot be read"
        raise DataError(
            f"{path} is not a PyTorch weight file, or is damaged: {reason}. Fetch it again."
        ) from None

    left_out: list[str] = []
    for wrapper in wrappers:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            left_out += [str(name) for name in content if name != wrapper]
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"{path} holds no named weights, but a {type(content).__name__}. Save "
            "`network.state_dict()`."
        )
    arrays: dict[str, NDArray[Any]] = {}
    total = 0
    for key, value in content.items():
        name = str(key).removeprefix("module.")
        if name.endswith(".num_batches_tracked"):
            continue
        plain = isinstance(value, torch.Tensor) and value.layout == torch.strided
        if not plain or value.is_meta or not value.is_floating_point():
            raise DataError(f"{path}: {name} is not an array of floating-point numbers.")
        total += value.numel() * value.element_size()
        if total > size:  # an array can be a view that repeats what is stored
            raise DataError(f"{path} is damaged: its weights are larger than the file.")
        if name in arrays:
            raise DataError(f"{path} holds {name} twice, with and without 'module.'.")
        arrays[name] = value.detach().float().numpy()
    return arrays, tuple(left_out)


def _check_archive(path: str | os.PathLike[str], size: int) -> None:
    """Compares with the checksums, which PyTorch does not; packed parts could be of any size."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise ValueError("its parts are larger than the file")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} does not match its checksum")
