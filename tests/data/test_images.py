import io
import os
import pathlib
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from spherekeras.data import images
from spherekeras.errors import ImageError

DATA = pathlib.Path(
    os.environ.get("SPHEREKERAS_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")
)
UPRIGHT = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
# What each EXIF orientation asks the viewer to do with the stored pixels.
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def encode(image, suffix=".png", *options):
    """Encodes an RGB, RGBA or grey array as a picture file."""
    if image.ndim == 3:
        order = [2, 1, 0, 3][: image.shape[2]]
        image = np.ascontiguousarray(image[..., order])
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(samples, colour_type, *extra):
    """Writes an 8-bit PNG by hand: grey, palette and grey-alpha, which OpenCV does not write."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def exif(orientation, order="<"):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return mark + directory


def jpeg_with_exif(data, content):
    segment = b"Exif\0\0" + content
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def photograph():
    y, x = np.mgrid[:120, :160]
    return np.stack([x, y * 2, (x * y) % 251], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_formats_come_back_as_rgb(suffix):
    np.testing.assert_array_equal(images.read_image(encode(UPRIGHT, suffix)), UPRIGHT)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_come_back_near(suffix):
    flat = np.full((40, 40, 3), (200, 90, 30), np.uint8)
    back = images.read_image(encode(flat, suffix))
    assert np.abs(back.astype(int) - flat).max() <= 4


def test_a_path_and_its_bytes_are_the_same_picture(tmp_path):
    path = tmp_path / "ünï cödé.png"
    path.write_bytes(encode(UPRIGHT))
    np.testing.assert_array_equal(images.read_image(path), UPRIGHT)
    np.testing.assert_array_equal(images.read_image(str(path)), UPRIGHT)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("order", "<>")
def test_exif_orientation_is_applied(orientation, order):
    stored = encode(photograph(), ".jpg")
    turned = images.read_image(jpeg_with_exif(stored, exif(orientation, order)))
    np.testing.assert_array_equal(turned, TURNS[orientation](images.read_image(stored)))


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_a_senseless_orientation_is_upright(orientation):
    opaque = np.dstack([UPRIGHT, np.full(UPRIGHT.shape[:2], 255, np.uint8)])
    data = encode(opaque)
    data = data[:33] + chunk(b"eXIf", exif(orientation)) + data[33:]
    np.testing.assert_array_equal(images.read_image(data), UPRIGHT)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("order", "<>")
def test_transparency_turns_with_the_picture(orientation, order):
    alpha = np.random.default_rng(1).integers(0, 2, UPRIGHT.shape[:2], np.uint8) * 255
    data = encode(np.dstack([UPRIGHT, alpha]))
    data = data[:33] + chunk(b"eXIf", exif(orientation, order)) + data[33:]
    expected = np.where(alpha[..., None] == 255, UPRIGHT, 255)
    np.testing.assert_array_equal(images.read_image(data), TURNS[orientation](expected))


def test_transparency_is_laid_on_white():
    black = np.zeros((1, 3, 3), np.uint8)
    data = encode(np.dstack([black, np.array([[0, 128, 255]], np.uint8)]))
    assert images.read_image(data)[0, :, 0].tolist() == [255, 127, 0]


def test_16_bit_transparency_is_laid_on_white():
    black = np.zeros((1, 3, 3), np.uint16)
    data = encode(np.dstack([black, np.array([[0, 128 * 257, 65535]], np.uint16)]))
    assert images.read_image(data)[0, :, 0].tolist() == [255, 127, 0]


def test_grey_becomes_rgb():
    grey = UPRIGHT[..., 0]
    for data in (encode(grey), png(grey, 0)):
        np.testing.assert_array_equal(images.read_image(data), np.stack([grey] * 3, axis=-1))


def test_grey_with_transparency():
    samples = np.array([[[10, 255], [10, 0]]], np.uint8)
    assert images.read_image(png(samples, 4)).tolist() == [[[10] * 3, [255] * 3]]


def test_palette_with_transparency():
    palette = chunk(b"PLTE", bytes([1, 2, 3, 40, 50, 60])) + chunk(b"tRNS", bytes([255, 0]))
    data = png(np.array([[0, 1]], np.uint8), 3, palette)
    assert images.read_image(data).tolist() == [[[1, 2, 3], [255, 255, 255]]]


COLOURS = np.array([[[200, 90, 30], [20, 60, 220]], [[250, 250, 250], [10, 10, 10]]], np.uint8)


def test_the_unused_fourth_byte_of_a_bitmap_is_no_transparency():
    rows = [np.pad(row[:, ::-1], [(0, 0), (0, 1)]).tobytes() for row in UPRIGHT[::-1]]
    header = struct.pack("<IHHIIiiHHIIiiII", 54 + 160, 0, 0, 54, 40, 8, 5, 1, 32, 0, 0, 0, 0, 0, 0)
    np.testing.assert_array_equal(images.read_image(b"BM" + header + b"".join(rows)), UPRIGHT)


@pytest.mark.parametrize("marker", ["inverted", "YCCK", "none"])
def test_cmyk_has_the_colours_that_pillow_sees(marker):
    """Adobe writes them inverted, with the colour transform or without."""
    picture = Image.fromarray(np.kron(COLOURS, np.ones((32, 32, 1), np.uint8))).convert("CMYK")
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=95)
    data = bytearray(content.getvalue())
    start = data.index(b"\xff\xee\0\x0eAdobe")
    if marker == "YCCK":
        data[start + 15] = 2
    if marker == "none":
        del data[start : start + 16]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    read = images.read_image(bytes(data))
    assert np.abs(read - expected).max() <= 2
    if marker != "YCCK":  # that was made of other numbers
        assert np.abs(read[16::32, 16::32].astype(int) - COLOURS).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_tiff_modes_have_the_colours_that_pillow_sees(mode):
    picture = Image.fromarray(COLOURS)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        expected = np.asarray(picture) // 257
        expected = np.stack([expected] * 3, axis=-1)
    else:
        expected = np.asarray(picture.convert(mode).convert("RGB"))
        picture = picture.convert(mode)
    content = io.BytesIO()
    picture.save(content, "TIFF")
    assert np.abs(images.read_image(content.getvalue()).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_and_transparency_are_as_pillow_has_them(kind, orientation):
    alpha = np.random.default_rng(1).integers(0, 2, UPRIGHT.shape[:2], np.uint8) * 255
    exif_data = Image.Exif()
    exif_data[0x0112] = orientation
    content = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(np.dstack([UPRIGHT, alpha])).save(content, kind, exif=exif_data, **options)
    pillow = np.asarray(ImageOps.exif_transpose(Image.open(content)).convert("RGBA"))
    expected = np.where(pillow[..., 3:] == 255, pillow[..., :3], 255)
    np.testing.assert_array_equal(images.read_image(content.getvalue()), expected)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_it_is_the_first(kind):
    first, *rest = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    content = io.BytesIO()
    first.save(content, kind, save_all=True, append_images=rest)
    read = images.read_image(content.getvalue())
    assert np.abs(read.astype(int) - [255, 0, 0]).max() <= 3
    assert read.shape == (7, 9, 3)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (1, 3000), (9000, 2)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".ppm"])
def test_tiny_and_thin_pictures(shape, suffix):
    assert images.read_image(encode(np.full((*shape, 3), 99, np.uint8), suffix)).shape == (
        *shape,
        3,
    )


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_become_8(suffix):
    data = encode(UPRIGHT.astype(np.uint16) * 257, suffix)
    np.testing.assert_array_equal(images.read_image(data), UPRIGHT)


@pytest.mark.parametrize(
    "options",
    [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 3)],
    ids=["baseline", "progressive", "restart markers"],
)
def test_a_jpeg_cut_anywhere_is_refused_and_a_longer_one_is_not(options):
    data = encode(photograph(), ".jpg", *options)
    whole = images.read_image(data)
    np.testing.assert_array_equal(images.read_image(data + b"junk after the end"), whole)
    for length in [*range(4, len(data) - 2, 97), len(data) - 2, len(data) - 1]:
        with pytest.raises(ImageError, match=r"^a\.jpg is a JPEG that was cut short: its end is"):
            images.read_image(data[:length], name="a.jpg")


def test_the_end_of_an_embedded_thumbnail_is_not_the_end():
    data = jpeg_with_exif(encode(photograph(), ".jpg"), encode(UPRIGHT, ".jpg"))
    images.read_image(data)
    with pytest.raises(ImageError, match="cut short"):
        images.read_image(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tiff", ".gif"])
def test_other_formats_cut_short_are_damaged(suffix):
    data = encode(photograph(), suffix)
    with pytest.raises(ImageError, match=r"^x is damaged and cannot be decoded\. Copy or downl"):
        images.read_image(data[: len(data) // 2], name="x")


def test_missing_file(tmp_path):
    with pytest.raises(ImageError) as error:
        images.read_image(tmp_path / "no.jpg")
    assert str(error.value) == (
        f"There is no file {tmp_path / 'no.jpg'}. Expected a picture; check the path."
    )


def test_folder(tmp_path):
    with pytest.raises(ImageError, match="is a folder. Expected one picture; .* `align_folder`"):
        images.read_image(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"is no file but a pipe or device\. Expected a picture"):
        images.read_image(tmp_path / "pipe.jpg")


def test_empty_file(tmp_path):
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(ImageError) as error:
        images.read_image(path)
    assert str(error.value) == (f"{path} is empty (0 bytes). Copy or download the picture again.")


def test_text_called_jpg(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("Not Found: the picture has moved")
    with pytest.raises(ImageError) as error:
        images.read_image(path)
    assert str(error.value) == (
        f"{path} is not a picture: it starts with b'Not Found: t'. "
        "Expected JPEG, PNG, WebP, BMP, TIFF, GIF or PNM; convert it to one of them."
    )


def test_an_array_is_not_read():
    with pytest.raises(ImageError, match="Received: ndarray. An array needs no reading"):
        images.read_image(UPRIGHT)


def test_an_absurd_size_is_refused_before_decoding():
    bomb = png(np.zeros((1, 1), np.uint8), 0)
    bomb = bomb[:16] + struct.pack(">II", 20000, 20000) + bomb[24:]
    with pytest.raises(ImageError) as error:
        images.read_image(bomb, name="bomb.png")
    assert str(error.value) == (
        "bomb.png is too large: 20000 x 20000 pixels. Expected at most 100 megapixels; "
        "make it smaller first."
    )
    data = encode(photograph(), ".jpg")
    frame = data.index(b"\xff\xc0")
    data = data[: frame + 5] + struct.pack(">HH", 60000, 50000) + data[frame + 9 :]
    with pytest.raises(ImageError, match="too large: 50000 x 60000 pixels"):
        images.read_image(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".ppm"])
def test_the_size_is_checked_before_decoding(suffix, monkeypatch):
    data = encode(UPRIGHT, suffix)
    monkeypatch.setattr(images, "MAX_PIXELS", 40)
    images.read_image(data)
    monkeypatch.setattr(images, "MAX_PIXELS", 39)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageError, match="too large: 8 x 5 pixels"):
        images.read_image(data)


@pytest.mark.parametrize("archive", ["lfw-deepfunneled.zip", "faces_112x112.zip"])
def test_real_pictures_are_not_refused(archive):
    path = DATA / archive
    if not path.is_file():
        pytest.skip(f"no {path}; set SPHEREKERAS_DATA")
    with zipfile.ZipFile(path) as pictures:
        names = [name for name in pictures.namelist() if name.endswith(".jpg")]
        for name in names[::97]:
            side = 250 if archive.startswith("lfw") else 112
            assert images.read_image(pictures.read(name), name).shape == (side, side, 3)


@pytest.mark.parametrize(
    ("shape", "dtype", "mend"),
    [
        ((112, 96, 3), np.float32, "`crop.astype('uint8')`"),
        ((112, 96), np.uint8, "`np.repeat(crop[..., None], 3, axis=-1)`"),
        ((112, 96, 1), np.uint8, "`np.repeat(crop, 3, axis=-1)`"),
        ((112, 96, 4), np.uint8, "`crop[..., :3]`"),
        ((3, 112, 96), np.uint8, "`crop.transpose(1, 2, 0)`"),
        ((250, 250, 3), np.uint8, "`alignment.align(image, landmarks)`"),
        ((96, 112, 3), np.uint8, "`alignment.align(image, landmarks)`"),
    ],
)
def test_check_crop_says_what_came_what_was_wanted_and_the_mend(shape, dtype, mend):
    with pytest.raises(ImageError) as error:
        images.check_crop(np.zeros(shape, dtype), 112, 96)
    message = str(error.value)
    assert message.startswith("Expected an aligned crop: uint8, shape (112, 96, 3), RGB. ")
    assert f"Received: {np.dtype(dtype)}, shape {shape}. " in message
    assert mend in message


def test_check_crop_takes_the_wanted_crop_and_no_list():
    images.check_crop(np.zeros((112, 96, 3), np.uint8), 112, 96)
    with pytest.raises(ImageError, match=r"Received: list\. Convert it: `np\.asarray\(crop\)`"):
        images.check_crop([[0]], 112, 96)


@pytest.mark.parametrize(
    "given", [None, np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_check_image_refuses_what_is_no_rgb_picture(given):
    with pytest.raises(ImageError, match=r"Expected an RGB picture: uint8.*`images.read_image"):
        images.check_image(given)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_what_is_half_transparent_is_as_pillow_lays_it_on_white(kind):
    random = np.random.default_rng(3)
    picture = Image.fromarray(random.integers(0, 256, (9, 7, 4), np.uint8), "RGBA")
    content = io.BytesIO()
    picture.save(content, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    white = Image.new("RGBA", picture.size, "white")
    wanted = np.asarray(Image.alpha_composite(white, picture).convert("RGB")).astype(int)
    got = images.read_image(content.getvalue()).astype(int)
    assert np.abs(got - wanted).max() <= 2


@pytest.mark.parametrize("white", [15, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_white_is_white_in_a_pnm_of_any_depth(kind, white):
    samples = [0, white // 2, white, white // 3] * (3 if kind in ("P3", "P6") else 1)
    header = f"{kind} # how deep\n2 2\n{white}\n".encode()
    if kind in ("P2", "P3"):
        body = " ".join(map(str, samples)).encode() + b"\n"
    else:
        body = b"".join(s.to_bytes(2 if white > 255 else 1, "big") for s in samples)
    got = images.read_image(header + body).astype(float)
    wanted = np.array(samples).reshape(2, 2, -1) * 255 / white * np.ones(3)
    np.testing.assert_allclose(got, wanted, atol=1)
