"""Crops of many people as sharded TFRecord files with an index.

A records folder holds `shard-00000.tfrecord` … (standard TFRecord of `tf.train.Example`, for any
other reader), `index.npz` (label, shard, offset and length of every encoded picture, for reading
any of them directly) and `records.json` (identities, counts, crop size, a SHA-256 of every other
file). `records.json` is written last: a folder without it is unfinished and is written anew.
"""

import dataclasses
import json
import mmap
import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spherekeras.data.images import read_image
from spherekeras.errors import DataError, ImageError
from spherekeras.files import atomic_path, sha256

PICTURES = (".jpg", ".jpeg", ".png")
_SHARD = 8192


@dataclasses.dataclass(frozen=True)
class Records:
    """Crops of people, read by position.

    Attributes:
        folder: where the files are.
        identities: names, one a label.
        labels: int32 `(n,)`, sorted.
        height, width: of every crop, in pixels.
        skipped: pictures left out when packing, with the reason.
        checksum: of the whole content; equal records have equal checksums.
    """

    folder: pathlib.Path
    identities: list[str]
    labels: np.ndarray
    height: int
    width: int
    skipped: list[dict[str, str]]
    checksum: str
    _places: np.ndarray = dataclasses.field(repr=False)
    _shards: list[mmap.mmap] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the encoded pictures at these positions."""
        places = self._places[np.asarray(indices)]
        return [self._shards[shard][start : start + size] for shard, start, size in places]

    def crops(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the decoded pictures at these positions, uint8 `(n, height, width, 3)`."""
        return np.stack([read_image(data) for data in self.read(indices)])


def open_records(folder: str | os.PathLike[str]) -> Records:
    """Opens a records folder and checks every file against its checksum.

    Raises:
        DataError: the folder is unfinished, or a file of it is missing or changed.
    """
    folder = pathlib.Path(folder)
    try:
        description = json.loads((folder / "records.json").read_text())
        files, size = description["files"], description["size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
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
    index = np.load(folder / "index.npz", allow_pickle=False)
    shards = []
    for name in sorted(n for n in files if n.endswith(".tfrecord")):
        with open(folder / name, "rb") as file:
            shards.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return Records(
        folder=folder,
        identities=description["identities"],
        labels=index["labels"],
        height=size[0],
        width=size[1],
        skipped=description["skipped"],
        checksum=sha256(folder / "records.json"),
        _places=index["places"],
        _shards=shards,
    )


def pack(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
) -> Records:
    """Writes the crops of a folder or zip, a folder a person, as records.

    Pictures keep their encoded bytes. A picture that cannot be read, or has another size than
    the first, is left out and listed. The result depends on the content alone: the same
    source gives the same bytes, also after a killed run.

    Args:
        source: a folder or zip with `<person>/<picture>.jpg` at any depth.
        out: the records folder.
        progress: called with (done, total).

    Returns:
        The opened records.

    Raises:
        DataError: the source is missing or holds fewer than two people.
    """
    import tensorflow as tf

    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for stale in (*out.glob("shard-*.tfrecord"), out / "index.npz", out / "records.json"):
        stale.unlink(missing_ok=True)
    names, read = _source(source)
    people: dict[str, list[str]] = {}
    for name in names:
        people.setdefault(pathlib.PurePosixPath(name).parent.name, []).append(name)
    if len(people) < 2:
        raise DataError(
            f"{source} holds pictures of {len(people)} people; training needs at least 2. Expected "
            "`<person>/<picture>.jpg`, a folder a person."
        )
    ordered = [(person, name) for person in sorted(people) for name in sorted(people[person])]
    size: tuple[int, int] | None = None
    skipped: list[dict[str, str]] = []
    identities: list[str] = []
    labels: list[int] = []
    places: list[tuple[int, int, int]] = []
    files: dict[str, str] = {}
    for shard, first in enumerate(range(0, len(ordered), _SHARD)):
        shard_name = f"shard-{shard:05d}.tfrecord"
        with atomic_path(out / shard_name) as temporary:
            offset = 0
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for number, (person, name) in enumerate(ordered[first : first + _SHARD], first):
                    if progress:
                        progress(number, len(ordered))
                    try:
                        data = read(name)
                        found = read_image(data).shape[:2]
                    except ImageError as error:
                        skipped.append({"picture": name, "reason": str(error)})
                        continue
                    size = size or (int(found[0]), int(found[1]))
                    if found != size:
                        reason = f"is {found[0]}x{found[1]}, the first picture {size[0]}x{size[1]}"
                        skipped.append({"picture": name, "reason": reason})
                        continue
                    if not identities or identities[-1] != person:
                        identities.append(person)
                    label = len(identities) - 1
                    example = _example(tf, data, label, person)
                    places.append((shard, offset + 12 + example.index(data), len(data)))
                    labels.append(label)
                    writer.write(example)
                    offset += 16 + len(example)
        files[shard_name] = sha256(out / shard_name)
    if progress:
        progress(len(ordered), len(ordered))
    if size is None:
        raise DataError(
            f"None of the {len(ordered)} pictures of {source} can be read. First reason: "
            f"{skipped[0]['reason']}"
        )
    with atomic_path(out / "index.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, labels=np.asarray(labels, np.int32), places=np.asarray(places, np.int64))
    files["index.npz"] = sha256(out / "index.npz")
    description = {
        "format": 1,
        "size": size,
        "pictures": len(labels),
        "identities": identities,
        "skipped": skipped,
        "files": files,
    }
    with atomic_path(out / "records.json") as temporary:
        temporary.write_text(json.dumps(description, indent=1) + "\n")
    return open_records(out)


def _source(source: str | os.PathLike[str]) -> tuple[list[str], Callable[[str], bytes]]:
    """The picture names of a folder or zip, and how to read one."""
    path = pathlib.Path(source)
    if path.is_dir():
        names = [
            p.relative_to(path).as_posix()
            for p in path.rglob("*")
            if p.suffix.lower() in PICTURES and p.is_file()
        ]
        return names, lambda name: (path / name).read_bytes()
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist. Expected a folder or zip with `<person>/<picture>.jpg`."
        ) from None
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path} is neither a folder nor a zip ({error}). Expected a folder or zip with "
            "`<person>/<picture>.jpg`."
        ) from None

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ImageError(f"{name} cannot be read from {path} ({error}).") from None

    return [n for n in archive.namelist() if n.lower().endswith(PICTURES)], read


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
