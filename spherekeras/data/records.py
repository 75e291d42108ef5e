"""Crops of many people as sharded TFRecord files with an index.

A records folder holds `shard-00000.tfrecord` … (standard TFRecord of `tf.train.Example`, for any
other reader), `index.npz` (label, shard, offset and length of every encoded picture, for reading
any of them directly) and `records.json` (identities, counts, crop size, a SHA-256 of every other
file). `records.json` is written last: a folder without it is unfinished and is written anew.
"""

import collections
import dataclasses
import hashlib
import json
import mmap
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spherekeras.data.images import SUFFIXES, read_image
from spherekeras.errors import DataError, ImageError
from spherekeras.files import atomic_path, files_below, is_hidden, read_member, sha256

PICTURES = (".jpg", ".jpeg", ".png")
_SHARD = 8192
_SHARD_NAME = re.compile(r"shard-\d{5,}\.tfrecord")
_LARGEST = 2**28


@dataclasses.dataclass(frozen=True)
class Records:
    """Crops of people, read by position.

    Attributes:
        folder: where the files are.
        identities: names, one a label.
        labels: int32 `(n,)`, sorted.
        height, width: of every crop, in pixels.
        skipped: pictures left out when packing, with the reason.
        source: fingerprint of what was packed, see `fingerprint`.
        checksum: of the whole content; equal records have equal checksums.
    """

    folder: pathlib.Path
    identities: list[str]
    labels: np.ndarray
    height: int
    width: int
    skipped: list[dict[str, str]]
    source: str
    checksum: str
    _places: np.ndarray = dataclasses.field(repr=False)
    _shards: list[mmap.mmap] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the encoded pictures at these positions."""
        places = self._places[np.asarray(indices)]
        return [self._shards[shard][start : start + size] for shard, start, size in places]

    def crop(self, index: int) -> np.ndarray:
        """Returns one decoded picture, uint8 `(height, width, 3)`, as `read_image` reads it."""
        import cv2

        shard, start, size = self._places[index]
        data = self._shards[shard][start : start + size]
        if data.startswith(b"\xff\xd8"):  # whole and of the right size: seen when it was packed
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            return np.asarray(picture)
        return read_image(data)

    def crops(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the decoded pictures at these positions, uint8 `(n, height, width, 3)`."""
        return np.stack([self.crop(index) for index in np.asarray(indices)])


def open_records(folder: str | os.PathLike[str]) -> Records:
    """Opens a records folder and checks every file against its checksum.

    Raises:
        DataError: the folder is unfinished, or a file of it is missing or changed.
    """
    folder = pathlib.Path(folder)
    try:
        description = json.loads((folder / "records.json").read_text(encoding="utf-8"))
        if description["format"] != 1:
            raise ValueError(f"format {description['format']} is not 1")
        files = {str(name): str(digest) for name, digest in description["files"].items()}
        height, width = map(int, description["size"])
        identities, skipped = list(description["identities"]), list(description["skipped"])
        source = str(description["source"])
        shards = sorted(name for name in files if name != "index.npz")
        if "index.npz" not in files or not all(_SHARD_NAME.fullmatch(name) for name in shards):
            raise ValueError("it lists other files than shards and index.npz")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} is not a finished records folder (records.json: {error}). Write it with "
            f"`spherekeras pack CROPS --out {folder}`."
        ) from None
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            state = "does not match its checksum" if path.is_file() else "is missing"
            raise DataError(
                f"{path} {state}. Delete {folder} and write it anew with `spherekeras pack`."
            )
    with np.load(folder / "index.npz", allow_pickle=False) as index:
        labels, places = index["labels"], index["places"]
    maps = []
    for name in shards:
        with open(folder / name, "rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    checksum = sha256(folder / "records.json")
    return Records(
        folder, identities, labels, height, width, skipped, source, checksum, places, maps
    )


def family(identity: str) -> str:
    """Returns the family that a person's name states, as in Families In the Wild, else the name.

    Of folders inside folders the last counts, wherever its people were unpacked; the one before it
    where the last is a member's, as that set has them.

    Example:

    >>> family("fiw_F0001_MID2"), family("faces/celeba_77"), family("FIDs/F0001/MID2")
    ('fiw_F0001', 'celeba_77', 'F0001')
    """
    folders = identity.split("/")
    if len(folders) > 1 and re.fullmatch(r"MID\d+", folders[-1]):
        return folders[-2]
    return folders[-1].split("_MID")[0]


def fingerprint(source: str | os.PathLike[str]) -> str:
    """Returns a SHA-256 over the names and sizes of a source's pictures."""
    return _fingerprint(_open(source))


def pack(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
) -> Records:
    """Writes the crops of a folder or zip, a folder a person, as records.

    Pictures keep their encoded bytes. A picture that cannot be read, or has another size than
    most, is left out and listed. The result depends on the content alone: the same source
    gives the same bytes, also after a killed run.

    Args:
        source: a folder or zip with `<person>/<picture>.jpg`. Deeper folders are fine: a person is
            the whole path below what all pictures share, so `F1/Ann` and `F2/Ann` are two.
        out: the records folder. Records that it holds are replaced once the source is read.
        progress: called with (done, total).

    Returns:
        The opened records.

    Raises:
        DataError: the source is missing or holds fewer than two people.
    """
    import tensorflow as tf

    out = pathlib.Path(out)
    others: list[str] = []
    pictures = _open(source, others)
    kept, skipped, size = _survey(pictures, progress)
    skipped += [
        {"picture": name, "reason": f"{name} is neither JPEG nor PNG by its name. Convert it."}
        for name in others
    ]
    skipped.sort(key=lambda left: left["picture"])
    if len({picture.person for picture in kept}) < 2:
        reason = f" The first of {len(skipped)} left out: {skipped[0]['reason']}" if skipped else ""
        people = len({picture.person for picture in kept})
        raise DataError(
            f"{source} holds pictures of {people} people; training needs at least 2. Expected "
            f"`<person>/<picture>.jpg`, a folder a person.{reason}"
        )
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("records.json", "index.npz", "shard-*.tfrecord", ".part-*"):
        for stale in out.glob(pattern):  # a killed run leaves parts behind
            stale.unlink(missing_ok=True)
    identities = sorted({picture.person for picture in kept})
    number = {person: label for label, person in enumerate(identities)}
    places: list[tuple[int, int, int]] = []
    files: dict[str, str] = {}
    for shard, first in enumerate(range(0, len(kept), _SHARD)):
        name = f"shard-{shard:05d}.tfrecord"
        with atomic_path(out / name) as temporary:
            offset = 0
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for picture in kept[first : first + _SHARD]:
                    data = picture.read()
                    example = _example(tf, data, number[picture.person], picture.person)
                    places.append((shard, offset + 12 + example.index(data), len(data)))
                    writer.write(example)
                    offset += 16 + len(example)
        files[name] = sha256(out / name)
    labels = np.asarray([number[picture.person] for picture in kept], np.int32)
    with atomic_path(out / "index.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, labels=labels, places=np.asarray(places, np.int64))
    files["index.npz"] = sha256(out / "index.npz")
    description = {
        "format": 1,
        "size": size,
        "pictures": len(labels),
        "identities": identities,
        "skipped": skipped,
        "source": _fingerprint(pictures),
        "files": files,
    }
    with atomic_path(out / "records.json") as temporary:
        temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return open_records(out)


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A picture of a source: its name below what all share, its size in bytes, how to read it."""

    name: str
    size: int
    read: Callable[[], bytes]

    @property
    def person(self) -> str:
        return str(pathlib.PurePosixPath(self.name).parent)


def _open(source: str | os.PathLike[str], others: list[str] | None = None) -> list[_Picture]:
    """The pictures of a folder or zip, sorted by name; `others` takes names of other formats."""
    path = pathlib.Path(source)
    if path.is_dir():
        found = [
            (
                p.relative_to(path).as_posix(),
                os.path.getsize(p) if os.path.exists(p) else 0,
                p.read_bytes,
            )
            for p in files_below(path)
            if os.path.isfile(p) or not os.path.exists(p)  # a link to nothing is told of, no pipe
        ]
    else:
        found = _open_zip(path)
    named = [
        (pathlib.PurePosixPath(name), size, read)
        for name, size, read in found
        if name.lower().endswith(PICTURES) and not is_hidden(name.split("/"))
    ]
    if others is not None:
        others += [
            name.encode("utf-8", "backslashreplace").decode()
            for name, _, _ in found
            if name.lower().endswith(SUFFIXES)
            and not name.lower().endswith(PICTURES)
            and not is_hidden(name.split("/"))
        ]
    while named and len({name.parts[0] for name, _, _ in named}) == 1:
        if any(len(name.parts) < 3 for name, _, _ in named):
            break
        named = [(name.relative_to(name.parts[0]), size, read) for name, size, read in named]
    pictures = [_Picture(str(name), size, read) for name, size, read in named]
    return sorted(pictures, key=lambda picture: (picture.person, picture.name))


def _open_zip(path: pathlib.Path) -> list[tuple[str, int, Callable[[], bytes]]]:
    wanted = "Expected a folder or zip with `<person>/<picture>.jpg`."
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. {wanted}") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is neither a folder nor a zip ({error}). {wanted}") from None

    def reader(member: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            if member.file_size > _LARGEST:
                raise ImageError(f"{member.filename} says it has {member.file_size:,} bytes.")
            try:
                return read_member(archive, member)
            except (
                *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
                *(RuntimeError, NotImplementedError, ValueError),
            ) as error:
                reason = f"{member.filename} cannot be read from {path} ({error})."
                raise ImageError(reason) from None

        return read

    return [
        (member.filename, member.file_size, reader(member))
        for member in archive.infolist()
        if not member.is_dir()
    ]


def _survey(
    pictures: list[_Picture], progress: Callable[[int, int], None] | None
) -> tuple[list[_Picture], list[dict[str, str]], tuple[int, int]]:
    """The pictures to keep, those left out with their reasons, and the size of most."""
    sizes: list[tuple[int, int] | None] = []
    reasons: dict[str, str] = {}
    for done, picture in enumerate(pictures):
        if progress:
            progress(done, len(pictures))
        size = None
        name = picture.name.encode("utf-8", "backslashreplace").decode()
        try:
            if name != picture.name:
                raise ImageError(f"{name} is not named in UTF-8. Rename it.")
            if picture.person == ".":
                raise ImageError(f"{picture.name} lies in no person's folder.")
            height, width = read_image(picture.read(), picture.name).shape[:2]
            size = (height, width)
        except (ImageError, OSError) as error:
            reasons[name] = str(error)
        sizes.append(size)
    if progress:
        progress(len(pictures), len(pictures))
    common = collections.Counter(size for size in sizes if size).most_common(1)
    size = common[0][0] if common else (0, 0)
    kept = []
    for picture, found in zip(pictures, sizes, strict=True):
        if found == size:
            kept.append(picture)
        elif found:
            reason = f"{picture.name} is {found[0]}x{found[1]}, most are {size[0]}x{size[1]}."
            reasons[picture.name] = reason
    return kept, [{"picture": name, "reason": reasons[name]} for name in sorted(reasons)], size


def _fingerprint(pictures: list[_Picture]) -> str:
    lines = "".join(f"{picture.name}\t{picture.size}\n" for picture in pictures)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _example(tf: Any, data: bytes, label: int, person: str) -> bytes:
    def feature(value: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image": feature(data),
                "identity": feature(person.encode()),
                "label": number,
            }
        )
    ).SerializeToString(deterministic=True)
