"""Files that are whole or not there: atomic writing and checksums."""

import contextlib
import errno
import hashlib
import lzma
import os
import pathlib
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator

from spherekeras.errors import DataError

# What `zipfile` raises for a damaged zip; for one with a password, RuntimeError.
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    NotImplementedError,
)
_END = 24  # characters of a name
_PIECE = 1 << 16
_UMASK = os.umask(0o022)  # it can only be read by setting it; done once, before any thread
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; on success it becomes `path`, on error it vanishes.

    A reader sees the old file or the new one, never a part. The temporary name keeps the
    suffix of `path`, since several writers look at it (`.weights.h5`, `.keras`, `.npz`).

    Args:
        path: the file to write; where it is a link, what it links to. Its folder is made where it
            is missing.

    Raises:
        OSError: it cannot be written, or `path` is a folder, a device or a pipe.

    Example:

    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    end = "-" + pathlib.Path(path).name[-_END:]  # no longer than `path` may be
    path = _target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=end)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        mode = 0o666 & ~_UMASK
        with contextlib.suppress(FileNotFoundError):  # a file keeps the rights that it has
            mode = stat.S_IMODE(path.stat().st_mode)
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: str | os.PathLike[str]) -> None:
    """Finds out before long work whether a file can be written, in a folder that exists.

    Raises:
        DataError: its folder is missing, closed or a file, or `path` is no file.

    Example:

    >>> check_target("page.html")
    """
    try:
        target = _target(path)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "its folder does not exist" if missing else error.strerror
        raise DataError(
            f"{os.fspath(path)} cannot be written: {reason}. Name a file in a folder that exists "
            "and may be written, such as `report.html` or `result.json`."
        ) from error


def _target(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file itself that a path leads to: a link is followed, and stays."""
    target = pathlib.Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is a device or a pipe", os.fspath(path))
    return target


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(
    folder: str | os.PathLike[str],
    but: pathlib.Path | None = None,
    closed: list[pathlib.Path] | None = None,
) -> Iterator[pathlib.Path]:
    """Yields what lies in a folder and its subfolders and is no folder, through links too.

    A link to a folder that it lies in is passed over.

    Args:
        folder: where to look. The paths begin with it, whatever it or a part of it links to.
        but: a folder to pass over, resolved.
        closed: takes the folders that may not be listed or entered, which are passed over.

    Raises:
        DataError: such a folder, where `closed` is None and the folder is not hidden.
    """

    def walk(here: str, above: frozenset[str]) -> Iterator[pathlib.Path]:
        real = os.path.realpath(here)
        if real in above or real == left_out:
            return
        try:
            os.stat(os.path.join(here, "."))  # a folder may be listed and not entered
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except PermissionError:
            if closed is not None:
                closed.append(pathlib.Path(here))
            elif not is_hidden(pathlib.Path(here).relative_to(folder).parts):
                raise DataError(
                    f"{here} may not be listed, and what lies in it is not known. Change its "
                    "rights, or leave it out."
                ) from None
            return
        for entry in entries:
            if os.path.isdir(entry.path):  # False, not an error, for a link to itself
                yield from walk(entry.path, above | {real})
            else:
                yield pathlib.Path(entry.path)

    left_out = None if but is None else str(but)
    return walk(os.fspath(folder), frozenset())


def is_hidden(parts: Iterable[str]) -> bool:
    """Returns whether a path lies among what systems keep: dotted names, macOS' own in zips.

    Args:
        parts: of the path, below where it was looked for.

    Example:

    >>> is_hidden(["ann", ".trash", "1.jpg"]), is_hidden(["ann", "1.jpg"])
    (True, False)
    """
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Returns a file of a zip, inflated piece by piece and no further than it says it is long.

    `ZipFile.read` inflates all that there is before it looks at what was promised. Here a piece is
    of 64 kB; where it was packed by bzip2 or LZMA, what 4 kB of it hold, which may be some MB.

    Args:
        archive: the zip, open.
        member: which file of it; whether `member.file_size` is too much is the caller's question.
    """
    piece = _PIECE if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 4096
    with archive.open(member) as file:
        return b"".join(iter(lambda: file.read(piece), b""))
