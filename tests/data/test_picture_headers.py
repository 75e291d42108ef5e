import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from spherekeras.data import picture_headers
from spherekeras.data.picture_headers import Header, exif_orientation, read_header

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8))


def written(kind, image=PICTURE, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "mode", "options"),
    [
        ("JPEG", "JPEG", "RGB", {}),
        ("JPEG", "JPEG", "RGB", {"progressive": True}),
        ("JPEG", "JPEG", "CMYK", {}),
        ("PNG", "PNG", "RGBA", {}),
        ("WebP", "WEBP", "RGB", {}),
        ("WebP", "WEBP", "RGB", {"lossless": True}),
        ("WebP", "WEBP", "RGBA", {}),
        ("BMP", "BMP", "RGB", {}),
        ("TIFF", "TIFF", "RGB", {}),
        ("TIFF", "TIFF", "I;16B", {}),
        ("TIFF", "TIFF", "L", {"compression": "tiff_lzw"}),
        ("GIF", "GIF", "P", {}),
        ("PNM", "PPM", "RGB", {}),
        ("PNM", "PPM", "1", {}),
    ],
)
def test_what_another_library_writes_is_read(name, kind, mode, options):
    image = PICTURE.convert("I;16").convert(mode) if mode == "I;16B" else PICTURE.convert(mode)
    assert read_header(written(kind, image, **options)) == Header(name, 53, 37)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_frames_are_counted(kind, frames):
    images = [Image.new("RGB", (40, 30), (50 * shade, 0, 0)) for shade in range(frames)]
    data = written(kind, images[0], save_all=True, append_images=images[1:])
    assert read_header(data).frames == frames
    if frames == 5 and kind == "GIF":  # with colours of its own for every frame
        noise = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), np.uint8)
        first, *rest = [Image.fromarray(image).quantize(200) for image in noise]
        assert read_header(written("GIF", first, save_all=True, append_images=rest)).frames == 5


def test_a_bitmap_from_top_to_bottom_has_a_negative_height():
    data = bytearray(written("BMP"))
    data[22:26] = struct.pack("<i", -37)
    assert read_header(bytes(data)) == Header("BMP", 53, 37)


def test_comments_in_a_pnm():
    data = b"P6 # one\n# two\n640 # three\n480\n255\n"
    assert read_header(data) == Header("PNM", 640, 480)
    assert read_header(b"P6 no numbers") == Header("PNM", 0, 0)


def test_the_first_of_two_sizes_counts_as_decoders_take_it():
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 50000, 60000, 3) + bytes(9)
    small = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 8, 8, 3) + bytes(9)
    header = read_header(b"\xff\xd8" + frame + small + b"\xff\xd9")
    assert header == Header("JPEG", 60000, 50000)


@pytest.mark.parametrize("alone", [b"\xff\x01", b"\xff\xd0", b"\xff\xd7", b"\xff\xd8", b"\xff\x00"])
def test_markers_without_a_length_hide_no_size(alone):
    frame = struct.pack(">HBHHB", 17, 8, 50000, 60000, 3) + bytes(9)
    small = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 8, 8, 3) + bytes(9)
    data = b"\xff\xd8" + alone + b"\xff\xc0" + frame + bytes(0xFFC0) + small + b"\xff\xd9"
    assert read_header(data) == Header("JPEG", 60000, 50000)


def test_what_a_decoder_makes_of_such_markers_is_what_the_header_says():
    data = cv2.imencode(".jpg", np.zeros((70, 90, 3), np.uint8))[1].tobytes()
    for alone in (b"\xff\x01", b"\xff\xd0\xff\xd7", b"\xff\x00", b"\xff\x00junk"):
        changed = data[:2] + alone + data[2:]
        decoded = cv2.imdecode(np.frombuffer(changed, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is None or decoded.shape == (70, 90, 3)
        assert read_header(changed) == Header("JPEG", 90, 70)


def test_other_files_have_no_header():
    for data in (b"", b"P", b"P6", b"PK\x03\x04", b"RIFF1234WAVE", b"\x80\x04\x95", b"<html>"):
        assert read_header(data) is None


@pytest.mark.parametrize("order", "<>")
def test_a_tiff_whose_pages_are_a_ring_ends(order):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    page = struct.pack(order + "HHHIHH", 1, 256, 3, 1, 9, 0)
    data = mark + struct.pack(order + "I", 8) + page + struct.pack(order + "I", 26) + page
    assert read_header(data + struct.pack(order + "I", 8)) == Header("TIFF", 9, 0, 2)


def test_no_bytes_make_it_fail_or_take_long(monkeypatch):
    """Headers cut anywhere and flipped bits; a TIFF of ever new pages, a GIF of empty frames."""
    random = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        data = written(kind)
        for _ in range(60):
            wrong = bytearray(data[: random.integers(2, len(data))])
            for at in random.integers(0, min(len(wrong), 60), 3):
                wrong[at] = random.integers(256)
            header = read_header(bytes(wrong))
            assert header is None or (header.width >= 0 <= header.height and header.frames > 0)
    monkeypatch.setattr(picture_headers, "_MOST_FRAMES", 100)
    pages = b"".join(struct.pack("<HI", 0, 8 + 6 * page) for page in range(1, 1000))
    assert read_header(b"II*\0" + struct.pack("<I", 8) + pages).frames == 100
    assert read_header(b"GIF89a" + bytes(7) + (b"," + bytes(11)) * 1000).frames == 100


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("kind", "value", "wanted"), [(3, 6, 6), (4, 8, 8), (3, 0, 1), (3, 99, 1)])
def test_orientation_of_exif(order, kind, value, wanted):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    packed = struct.pack(order + ("HH" if kind == 3 else "I"), *((value, 0)[: 5 - kind]))
    entry = struct.pack(order + "IHHHI", 8, 1, 0x0112, kind, 1) + packed
    assert exif_orientation(mark + entry) == wanted
    assert exif_orientation(mark) == exif_orientation(b"") == 1
