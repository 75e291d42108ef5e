"""Pictures from outside: read whole and upright, or refused with one clear sentence."""

import contextlib
import os
import pathlib
import stat

import numpy as np

from spherekeras.data.picture_headers import exif_orientation, read_header
from spherekeras.errors import ImageError

MAX_PIXELS = 100_000_000
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
"""How pictures that `read_image` reads are named, in any case of the letters."""


def read_image(source: str | os.PathLike[str] | bytes, name: str | None = None) -> np.ndarray:
    """Reads a picture as RGB, upright, whatever its file format, depth and channels.

    The EXIF orientation is applied (where OpenCV finds it: not in a PNG's text, nor in a WebP that
    names it as a JPEG does); grey, palette and CMYK pictures become RGB, other depths become 8
    bits, and transparency is laid on white (not that of a grey PNG with one transparent shade or of
    a grey TIFF, which OpenCV does not tell); pictures of floats are refused. Of an animation or a
    TIFF with several pages it is the first. A JPEG that was cut short is refused: some decoders
    fill its missing part with grey and say nothing. The size is checked before anything is decoded.

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
        data = read_bytes(source, name)
    else:
        raise ImageError(
            f"`read_image` expects a path or bytes. Received: {type(source).__name__}. "
            "An array needs no reading: pass it on as it is."
        )
    if not data:
        raise ImageError(f"{name} is empty (0 bytes). Copy or download the picture again.")
    header = read_header(data)
    if header is None:
        raise ImageError(
            f"{name} is not a picture: it starts with {data[:12]!r}. "
            "Expected JPEG, PNG, WebP, BMP, TIFF, GIF or PNM; convert it to one of them."
        )
    if header.width * header.height > MAX_PIXELS:
        raise ImageError(
            f"{name} is too large: {header.width} x {header.height} pixels. Expected at most "
            f"{MAX_PIXELS // 1_000_000} megapixels; make it smaller first."
        )
    if not header.whole:
        raise ImageError(
            f"{name} is a JPEG that was cut short: its end is missing. "
            "Copy or download the picture again."
        )
    image = None
    if header.width and header.height:
        buffer = np.frombuffer(data, np.uint8)
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB)
            if image is not None and header.format not in ("JPEG", "BMP", "PNM"):
                _lay_on_white(image, buffer, header.format == "TIFF")
            if image is not None and header.white not in (255, 65535):
                whole = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
                image = None if whole is None else _brightened(whole, header.white)
    if image is None:
        raise ImageError(
            f"{name} is damaged and cannot be decoded. Copy or download the picture again; if it "
            "opens elsewhere, save it as PNG with 8 bits."
        )
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


def read_bytes(path: str | os.PathLike[str], name: str) -> bytes:
    """Reads a file, or says why not in words.

    Args:
        path: the file.
        name: what error messages call it.

    Raises:
        ImageError: no such file, a folder, a pipe or device, or no right to read it.
    """
    try:
        kind = pathlib.Path(path).stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # a pipe would be waited for
            raise ImageError(f"{name} is no file but a pipe or device. Expected a picture.")
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


def _brightened(samples: np.ndarray, white: int) -> np.ndarray:
    """The RGB picture of samples as a PNM holds them, grey or BGR, of which `white` is white."""
    scaled = np.clip(np.rint(samples * np.float32(255 / max(white, 1))), 0, 255).astype(np.uint8)
    return np.dstack([scaled] * 3) if scaled.ndim == 2 else np.ascontiguousarray(scaled[..., ::-1])


def _lay_on_white(image: np.ndarray, buffer: np.ndarray, tiff: bool) -> None:
    """Lays an RGB picture on white, in place, by the transparency that its file holds, if any.

    Colours of 8 bits in a TIFF come multiplied by their opacity already. OpenCV turns a picture by
    its EXIF orientation only where it also drops the fourth channel, so the transparency is turned
    here.
    """
    import cv2

    whole, kinds, values = cv2.imdecodeWithMetadata(buffer, flags=cv2.IMREAD_UNCHANGED)
    if whole is None or whole.ndim != 3 or whole.shape[2] != 4 or whole.dtype.kind != "u":
        return
    multiplied = tiff and whole.dtype == np.uint8
    alpha, opaque = whole[..., 3], 255 if whole.dtype == np.uint8 else 65535
    exif = dict(zip(kinds, values, strict=True)).get(cv2.IMAGE_METADATA_EXIF)
    orientation = 1 if exif is None else exif_orientation(np.asarray(exif).tobytes())
    if orientation >= 5:
        alpha = alpha.T
    if orientation in (3, 4, 7, 8):
        alpha = alpha[::-1]
    if orientation in (2, 3, 6, 7):
        alpha = alpha[:, ::-1]
    if alpha.shape != image.shape[:2]:
        return
    for row in range(len(image)):  # row by row: the sum takes eight bytes a value
        if (alpha[row] != opaque).any():
            opacity = alpha[row][:, None] / opaque
            colours = image[row] if multiplied else image[row] * opacity
            image[row] = np.rint(np.minimum(colours + 255.0 * (1.0 - opacity), 255.0))
