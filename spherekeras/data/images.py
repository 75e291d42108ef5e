"""Pictures from outside: read whole and upright, or refused with one clear sentence."""

import os
import re
from typing import Literal

import numpy as np

from spherekeras.errors import ImageError

MAX_PIXELS = 100_000_000

_FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF or PNM"
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|BM|II\*\0|MM\0\*|GIF8|P[1-6]\s", re.DOTALL)
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Inside entropy-coded data 0xFF is followed by 0x00 (a stuffed byte) or a restart marker.
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def read_image(source: str | os.PathLike[str] | bytes, name: str | None = None) -> np.ndarray:
    """Reads a picture as RGB, upright, whatever its file format, depth and channels.

    The EXIF orientation is applied, grey and palette pictures become RGB, 16 bits become 8,
    and transparency is laid on white. A JPEG that was cut short is refused: some decoders
    fill its missing part with grey and say nothing.

    Args:
        source: a path, or the bytes of a picture file.
        name: what error messages call the picture. Default: the path.

    Returns:
        uint8 array of shape `(height, width, 3)`, RGB.

    Raises:
        ImageError: no such file, empty, cut short, not a picture, or over 100 megapixels.

    Example:

    >>> import cv2, numpy as np
    >>> _, encoded = cv2.imencode(".png", np.full((4, 6), 7, np.uint8))
    >>> read_image(encoded.tobytes()).shape
    (4, 6, 3)
    """
    import cv2

    if isinstance(source, bytes):
        data, name = source, name or "The picture given as bytes"
    elif isinstance(source, str | os.PathLike):
        name = name or os.fspath(source)
        data = _read_bytes(source, name)
    else:
        raise ImageError(
            f"`read_image` expects a path or bytes. Received: {type(source).__name__}. "
            "An array needs no reading: pass it on as it is."
        )
    if not data:
        raise ImageError(f"{name} is empty (0 bytes). Copy or download the picture again.")
    size, whole = _declared(data)
    _check_size(size, name)
    if not whole:
        raise ImageError(
            f"{name} is a JPEG that was cut short: its end is missing. "
            "Copy or download the picture again."
        )
    buffer = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
        alpha = None if data.startswith(b"\xff\xd8") else _read_alpha(buffer)
    except cv2.error:
        image = None
    if image is None:
        if _MAGIC.match(data):
            raise ImageError(
                f"{name} is damaged and cannot be decoded. Copy or download the picture again."
            )
        raise ImageError(
            f"{name} is not a picture: it starts with {data[:12]!r}. "
            f"Expected {_FORMATS}; convert it to one of them."
        )
    _check_size((image.shape[1], image.shape[0]), name)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if alpha is not None:
        opacity = alpha[..., None]
        image = np.rint(image * opacity + 255.0 * (1.0 - opacity)).astype(np.uint8)
    return image


def check_image(array: np.ndarray) -> None:
    """Refuses anything but an RGB picture in memory.

    Args:
        array: wanted: uint8 of shape `(height, width, 3)`, of any size but empty.

    Raises:
        ImageError: another type, dtype or shape.

    Example:

    >>> check_image(np.zeros((250, 250, 3), np.uint8))
    """
    given = type(array).__name__
    if isinstance(array, np.ndarray):
        if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size:
            return
        given = f"{array.dtype}, shape {array.shape}"
    raise ImageError(
        "Expected an RGB picture: uint8, shape (height, width, 3). "
        f"Received: {given}. Read the file with `images.read_image(path)`."
    )


def check_crop(array: np.ndarray, height: int, width: int) -> None:
    """Refuses anything but one aligned crop of the wanted size.

    Args:
        array: wanted: uint8 of shape `(height, width, 3)`, RGB.
        height: height of the crop in pixels.
        width: width of the crop in pixels.

    Raises:
        ImageError: another type, dtype or shape; the message holds the line that mends it.

    Example:

    >>> check_crop(np.zeros((112, 96, 3), np.uint8), 112, 96)
    """
    wanted = f"Expected an aligned crop: uint8, shape ({height}, {width}, 3), RGB."
    if not isinstance(array, np.ndarray):
        raise ImageError(
            f"{wanted} Received: {type(array).__name__}. Convert it: `np.asarray(crop)`."
        )
    shape = array.shape
    if shape == (height, width, 3) and array.dtype == np.uint8:
        return
    if array.dtype != np.uint8:
        mend = "Give the pixels as 0 to 255: `crop.astype('uint8')` (times 255 first if in [0, 1])."
    elif shape == (height, width):
        mend = "Make the grey crop RGB: `np.repeat(crop[..., None], 3, axis=-1)`."
    elif shape == (height, width, 1):
        mend = "Make the grey crop RGB: `np.repeat(crop, 3, axis=-1)`."
    elif shape == (height, width, 4):
        mend = "Drop the fourth channel: `crop[..., :3]`."
    elif shape == (3, height, width):
        mend = "Move the channels last: `crop.transpose(1, 2, 0)`."
    else:
        mend = "Cut a photograph with `alignment.align(image, landmarks)`, or pass its path."
    raise ImageError(f"{wanted} Received: {array.dtype}, shape {shape}. {mend}")


def _read_bytes(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise ImageError(f"There is no file {name}. Expected a picture; check the path.") from None
    except IsADirectoryError:
        raise ImageError(
            f"{name} is a folder. Expected one picture; for a folder use `align_folder`."
        ) from None
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror}. Check its rights.") from None


def _check_size(size: tuple[int, int] | None, name: str) -> None:
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        width, height = size
        raise ImageError(
            f"{name} is too large: {width} x {height} pixels. Expected at most "
            f"{MAX_PIXELS // 1_000_000} megapixels; make it smaller first."
        )


def _declared(data: bytes) -> tuple[tuple[int, int] | None, bool]:
    """Returns the (width, height) that a PNG or JPEG states, and False for a JPEG cut short."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        return (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])), True
    if not data.startswith(b"\xff\xd8"):
        return None, True
    size, position = None, 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        marker = data[position + 1]
        if marker == 0xD9:
            return size, True
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME and len(data) >= position + 9:
            fields = data[position + 5 : position + 9]
            size = int.from_bytes(fields[2:]), int.from_bytes(fields[:2])
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
        if marker == 0xDA:
            following = _MARKER_AFTER_SCAN.search(data, position)
            if following is None:
                break
            position = following.start()
    return size, False


def _read_alpha(buffer: np.ndarray) -> np.ndarray | None:
    """Returns the opacity in [0, 1], turned as its EXIF orientation says; None where there is none.

    OpenCV turns a picture only where it also drops the fourth channel, so this turns it itself.
    """
    import cv2

    image, kinds, values = cv2.imdecodeWithMetadata(buffer, flags=cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4:
        return None
    alpha = image[..., 3] / (255.0 if image.dtype == np.uint8 else 65535.0)
    metadata = dict(zip(kinds, values, strict=True))
    exif = metadata.get(cv2.IMAGE_METADATA_EXIF)
    orientation = 1 if exif is None else _exif_orientation(np.asarray(exif).tobytes())
    if orientation >= 5:
        alpha = alpha.T
    if orientation in (3, 4, 7, 8):
        alpha = alpha[::-1]
    if orientation in (2, 3, 6, 7):
        alpha = alpha[:, ::-1]
    return alpha


def _exif_orientation(exif: bytes) -> int:
    """Returns tag 0x0112 of the first directory, 1 (upright) where it is missing or odd."""
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(start: int, length: int) -> int:
        return int.from_bytes(exif[start : start + length], order)

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
