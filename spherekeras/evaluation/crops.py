"""From the pictures of a test set to crops and raw embeddings: what the protocols share."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from spherekeras.data import alignment, images
from spherekeras.errors import DataError, NoFaceError
from spherekeras.files import files_below, is_hidden

MIRRORS = {
    "none": "no mirror image",
    "sum": "the embeddings of a crop and of its mirror image are added",
    "concat": "the embeddings of a crop and of its mirror image are concatenated",
}
_BATCH = 64
_WIDE = "arcface_112x112"
_Picture = TypeVar("_Picture")


class CropFaces(Protocol):
    """What a protocol on crops asks of a face embedder: `config.template`, and embeddings."""

    config: Any

    def embed_crops(
        self, crops: NDArray[np.uint8], mirror: str, normalize: bool
    ) -> NDArray[np.float32]:
        """Returns the embeddings (n, dim) of crops (n, height, width, 3)."""


class Faces(CropFaces, Protocol):
    """What a protocol on photographs asks; `lfw` does not read `config`.

    An optional `detector_name`, and `unit_parts` where that is true, go into the protocol.
    """

    def crop(self, source: Any, name: str) -> NDArray[np.uint8]:
        """Returns the aligned crop (height, width, 3); raises `NoFaceError`."""

    def centre_crop(self, source: Any) -> NDArray[np.uint8]:
        """Returns the fixed central crop for a picture without a face."""


class Crops:
    """Makes the crops of a test set, none dropped, and says how.

    Attributes:
        no_face: names of the photographs in which no face was found.
    """

    def __init__(self, faces: Any) -> None:
        self.no_face: list[str] = []
        self._faces = faces
        self._photographs = self._whole = self._inner = 0
        self._size = ""

    def photograph(self, picture: bytes | NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Returns the aligned crop of a photograph; the centre crop where no face is found."""
        self._photographs += 1
        try:
            crop = self._faces.crop(picture, name)
        except NoFaceError:
            self.no_face.append(name)
            crop = self._faces.centre_crop(picture)
        self._size = f"{crop.shape[1]}x{crop.shape[0]}"
        return crop

    def aligned(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Returns the crop that a picture of a template's size is already, else None.

        That is the embedder's template, or `arcface_112x112` for `sphereface_112x96`, which is
        columns 8 to 103 of it.
        """
        name = self._faces.config.template
        own, wide = alignment.find_template(name), alignment.TEMPLATES[_WIDE]
        if picture.shape[:2] == (own.height, own.width):
            self._whole += 1
            return picture
        if name == "sphereface_112x96" and picture.shape[:2] == (wide.height, wide.width):
            self._inner += 1
            return picture[:, alignment.INNER_COLUMNS]
        return None

    def file(self, path: pathlib.Path) -> NDArray[np.uint8]:
        """Returns the crop of a picture file, which may be an aligned crop or a photograph.

        In `no_face` it is called `folder/folder/file`.
        """
        picture = images.read_image(path)
        crop = self.aligned(picture)
        name = "/".join(path.parts[-3:])
        return self.photograph(picture, name) if crop is None else crop

    def how(self, mirror: str) -> str:
        """Returns the part of the protocol on crops and mirror images."""
        parts = []
        if self._whole:
            parts.append(f"{self._whole} aligned crops as they are")
        if self._inner:
            parts.append(f"columns 8 to 103 of {self._inner} crops aligned to {_WIDE}")
        if self._photographs:
            parts.append(
                f"{self._photographs} photographs, faces found by "
                f"{getattr(self._faces, 'detector_name', 'an unnamed detector')} and aligned to "
                f"the {self._size} template (width x height), the centre crop where there was none "
                f"({len(self.no_face)} pictures)"
            )
        return f"{' and '.join(parts)}; none dropped; {mirrored(self._faces, mirror)}"


def mirrored(faces: CropFaces, mirror: str) -> str:
    """Returns the part of the protocol on mirror images and lengths."""
    unit = ""
    if getattr(faces, "unit_parts", False):
        own = getattr(getattr(faces, "config", None), "mirror", "none")  # done inside the file
        inside = mirror == own != "none"
        unit = ", then of unit length" if inside else ", each of unit length"
    return MIRRORS[mirror] + unit


def check_mirror(mirror: str) -> None:
    """Refuses an unknown rule for mirror images, before the long work."""
    if mirror not in MIRRORS:
        raise DataError(f'Expected mirror "none", "sum" or "concat". Received: mirror={mirror!r}.')


def embed(
    faces: CropFaces,
    pictures: Sequence[_Picture],
    crop: Callable[[_Picture], NDArray[np.uint8]],
    mirror: str,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Returns the raw embeddings (pictures, dim) of pictures; memory holds few crops at a time.

    Args:
        faces: embeds crops.
        pictures: names, paths, or whatever `crop` takes.
        crop: from a picture to its crop (height, width, 3).
        mirror: "none", "sum" or "concat" of the embeddings of a crop and of its mirror image.
        progress: called with (pictures done, pictures in all).
    """
    rows = np.empty((0, 0), np.float32)
    for first in range(0, len(pictures), _BATCH):
        batch = np.stack([crop(picture) for picture in pictures[first : first + _BATCH]])
        part = faces.embed_crops(batch, mirror=mirror, normalize=False)
        if not first:
            rows = np.empty((len(pictures), part.shape[1]), np.float32)
        rows[first : first + len(part)] = part
        if progress is not None:
            progress(first + len(batch), len(pictures))
    return rows


def list_pictures(
    folder: str | os.PathLike[str], depth: int | None, wanted: str
) -> list[pathlib.Path]:
    """Returns the pictures of a folder, through links too, sorted; none that is hidden.

    Args:
        folder: where to look.
        depth: 2 for `<person>/<picture>.jpg`, 3 for `<person>/<video>/<frame>.jpg`, None for any.
        wanted: what the folder should hold, for the error.

    Raises:
        DataError: there is none, or a folder may not be listed.
    """
    found = []
    for path in files_below(folder) if os.path.isdir(folder) else ():
        parts = path.relative_to(folder).parts
        shown = path.suffix.lower() in images.SUFFIXES and not is_hidden(parts)
        if shown and depth in (None, len(parts)):
            found.append(path)
    if not found:
        raise DataError(f"{folder} holds no pictures. Expected {wanted} in it.")
    return sorted(found)
