"""What a picture file says of itself in its first bytes: format, size, frames, and its end.

Read before anything is decoded, since a small file can unpack to a picture that fills the memory.
Bytes that are missing count as zero: nothing here fails on a damaged file.
"""

import dataclasses
import re
from typing import Literal

Order = Literal["little", "big"]

_GAP = rb"\s+(?:#[^\n]*\n\s*)*"
_PNM = re.compile(
    rb"P(?:[14]|[2356](?=%b\d+%b\d+%b(\d{1,5})))%b(\d{1,9})%b(\d{1,9})" % ((_GAP,) * 5)
)
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}  # markers that no length follows, and none at all
# Inside entropy-coded data 0xFF is followed by 0x00 (a stuffed byte) or a restart marker.
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MOST_FRAMES = 10_000


@dataclasses.dataclass(frozen=True)
class Header:
    """What a picture file states.

    Attributes:
        format: "JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF" or "PNM".
        width: in pixels as stored; 0 where the file does not say.
        height: in pixels as stored; 0 where the file does not say.
        frames: pictures in the file: an animation's, or a TIFF's pages.
        whole: False for a JPEG whose end is missing.
        white: of a PNM, the sample that stands for white, as OpenCV gives it.
    """

    format: str
    width: int
    height: int
    frames: int = 1
    whole: bool = True
    white: int = 255


def read_header(data: bytes) -> Header | None:
    """Reads the header of a picture file.

    Args:
        data: the whole file.

    Returns:
        The header, or None where the file is of none of the seven formats.

    Example:

    >>> read_header(b"P6 640 480 255 ")
    Header(format='PNM', width=640, height=480, frames=1, whole=True, white=255)
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG"):
        frames = 1
        at = 8
        while data[at + 4 : at + 8] not in (b"IDAT", b"") and frames == 1:
            if data[at + 4 : at + 8] == b"acTL":
                frames = _number(data, at + 8, 4, "big")
            at += 12 + _number(data, at, 4, "big")
        width, height = (_number(data, at, 4, "big") for at in (16, 20))
        return Header("PNG", width, height, max(frames, 1))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(b"BM"):
        length = 2 if _number(data, 14, 4) == 12 else 4
        height = _number(data, 18 + length, length)
        return Header("BMP", _number(data, 18, length), min(height, (1 << 8 * length) - height))
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff(data)
    if data.startswith(b"GIF8"):
        return Header("GIF", _number(data, 6, 2), _number(data, 8, 2), _gif_frames(data))
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        size = _PNM.match(data)
        if not size:
            return Header("PNM", 0, 0)
        white = int(size[1] or 255)
        if data[1:2] in b"1234" and white < 256:  # which OpenCV scales itself
            white = 255
        return Header("PNM", int(size[2]), int(size[3]), white=white)
    return None


def exif_orientation(exif: bytes) -> int:
    """Returns tag 0x0112 of the first directory, 1 (upright) where it is missing or odd."""
    orientation = _tags(exif).get(0x0112, 1)
    return orientation if 1 <= orientation <= 8 else 1


def _number(data: bytes, start: int, length: int, order: Order = "little") -> int:
    return int.from_bytes(data[start : start + length], order)


def _jpeg(data: bytes) -> Header:
    width = height = 0
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        marker = data[position + 1]
        if marker == 0xD9:
            return Header("JPEG", width, height)
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _ALONE:
            position += 2
            continue
        if marker in _START_OF_FRAME and not width and len(data) >= position + 9:
            height, width = (_number(data, position + at, 2, "big") for at in (5, 7))
        position += 2 + _number(data, position + 2, 2, "big")
        if marker == 0xDA:
            following = _MARKER_AFTER_SCAN.search(data, position)
            if following is None:
                break
            position = following.start()
    return Header("JPEG", width, height, whole=False)


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (_number(data, at, 3) + 1 for at in (24, 27))
        frames, at = 0, 12
        while at + 8 <= len(data):
            frames += data[at : at + 4] == b"ANMF"
            length = _number(data, at + 4, 4)
            at += 8 + length + length % 2
        return Header("WebP", width, height, max(frames, 1))
    if kind == b"VP8L":
        bits = _number(data, 21, 4)
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return Header("WebP", _number(data, 26, 2) & 0x3FFF, _number(data, 28, 2) & 0x3FFF)


def _gif_frames(data: bytes) -> int:
    def colours(flags: int) -> int:
        return 3 << (flags % 8 + 1) if flags & 0x80 else 0

    frames, at = 0, 13 + colours(_number(data, 10, 1))
    while frames < _MOST_FRAMES and data[at : at + 1] in (b"!", b","):
        if data[at : at + 1] == b",":
            frames += 1
            at += 11 + colours(_number(data, at + 9, 1))
        else:
            at += 2
        while length := _number(data, at, 1):
            at += 1 + length
        at += 1
    return max(frames, 1)


def _order(data: bytes) -> Order:
    return "little" if data.startswith(b"II") else "big"


def _tags(data: bytes) -> dict[int, int]:
    """Returns the tags of the first directory of a TIFF that are of the types SHORT and LONG."""
    order = _order(data)
    at = _number(data, 4, 4, order)
    tags: dict[int, int] = {}
    for entry in range(at + 2, min(at + 2 + 12 * _number(data, at, 2, order), len(data)), 12):
        length = {3: 2, 4: 4}.get(_number(data, entry + 2, 2, order), 0)
        value = _number(data, entry + 8, length, order)
        tags.setdefault(_number(data, entry, 2, order), value)
    return tags


def _tiff(data: bytes) -> Header:
    order = _order(data)
    at, seen = _number(data, 4, 4, order), {0}
    while at not in seen and len(seen) <= _MOST_FRAMES:
        seen.add(at)
        at = _number(data, at + 2 + 12 * _number(data, at, 2, order), 4, order)
    tags = _tags(data)
    return Header("TIFF", tags.get(256, 0), tags.get(257, 0), max(len(seen) - 1, 1))
