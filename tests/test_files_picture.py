"""Reading: the right pixels out of every format and mode, and a `DataError` out of everything else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaformer.errors import DataError
from metaformer.files.picture import read_image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def ramp(height: int = 12, width: int = 20) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 20, columns * 12, rows + columns], axis=2).astype(np.uint8)


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
LOSSLESS = [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("PPM", {})]


@pytest.mark.parametrize(("kind", "options"), [*LOSSLESS, ("WEBP", {"lossless": True})])
def test_lossless_formats_give_the_very_pixels(kind, options, tmp_path):
    data = encode(Image.fromarray(ramp()), kind, **options)
    path = tmp_path / "picture"
    path.write_bytes(data)
    for value in (data, bytearray(data), path, str(path), Image.open(path), ramp()):
        np.testing.assert_array_equal(np.asarray(read_image(value)), ramp())


def test_jpeg_is_close():
    image = read_image(encode(Image.fromarray(ramp()), "JPEG", quality=95, subsampling=0))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - ramp()).max() < 16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation):
    upright = Image.fromarray(ramp())
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # the file says "turn me 90 degrees clockwise"
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        image = read_image(encode(stored, kind, exif=exif))
        np.testing.assert_array_equal(np.asarray(image), ramp())


def test_transparency_shows_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (255, 128, 0)
    image = np.asarray(read_image(pixels))
    assert image[0, :, 0].tolist() == [0, 127, 255]
    np.testing.assert_array_equal(np.asarray(read_image(encode(Image.fromarray(pixels), "PNG"))), image)
    gray = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 0)])
    assert read_image(encode(gray, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    assert read_image(encode(palette, "PNG")).getpixel((0, 0)) == (10, 20, 30)
    assert read_image(encode(palette, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_range(kind):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = read_image(encode(Image.fromarray(values), kind))
    assert np.asarray(image).tolist() == [[0, 1, 128, 255]]
    assert np.asarray(read_image(values)).tolist() == [[0, 1, 128, 255]]


def test_arrays_of_other_types():
    assert np.asarray(read_image(np.array([[True, False]]))).tolist() == [[255, 0]]
    assert np.asarray(read_image(np.array([[0.0, 0.5, 1.0]], np.float32))).tolist() == [[0, 128, 255]]
    assert np.asarray(read_image(np.full((2, 2, 1), 7, np.uint8))).tolist() == [[7, 7], [7, 7]]
    assert np.asarray(read_image(Image.fromarray(np.array([[0, 65535]], np.int32)))).tolist() == [[0, 255]]
    assert read_image(Image.new("CMYK", (2, 2), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    assert read_image(Image.new("1", (2, 2), 1)).getpixel((0, 0)) == 255


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.array([[0.0, np.nan]]), "floats"),
        (np.array([[0.0, 255.0]]), "floats from 0 to 255"),
        (np.array([[1, 2]]), "int64"),
        (np.zeros((4, 4, 2), np.uint8), "shape (4, 4, 2)"),
        (np.zeros((3, 8), np.uint8)[None, None], "shape (1, 1, 3, 8)"),
        (np.zeros((0, 4), np.uint8), "shape (0, 4)"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (Image.fromarray(np.array([[-1]], np.int32)), "32-bit"),
        (b"", "0 bytes"),
        (b"not an image", "cannot identify"),
        (Path("absent.jpg"), "no such file"),
        (7, "type int"),
        (None, "type NoneType"),
    ],
)
def test_what_is_not_a_picture_is_named(value, says):
    with pytest.raises(DataError) as error:
        read_image(value)
    assert says in str(error.value)
    assert error.value.do


def test_the_file_is_named(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(encode(Image.fromarray(NOISE), "PNG")[:300])
    with pytest.raises(DataError, match=r"cat\.png"):
        read_image(path)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_image(tmp_path)  # a folder


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_truncated_files_are_refused(kind, options):
    data = encode(Image.fromarray(NOISE), kind, **options)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(DataError):
            read_image(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {})],
)
def test_flipped_bytes_give_a_picture_or_a_data_error(kind, options):
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
    data = encode(Image.fromarray(NOISE), kind, **options, **more)
    random = np.random.default_rng(1)
    for _ in range(40):
        broken = bytearray(data)
        # Headers are where the interesting damage is.
        limit = len(data) if random.random() < 0.5 else min(len(data), 120)
        broken[random.integers(limit)] ^= 1 << int(random.integers(8))
        try:
            image = read_image(bytes(broken), max_pixels=2**20)
        except DataError:
            continue
        assert image.mode in ("L", "RGB")
        assert 0 < image.size[0] * image.size[1] <= 2**20


def test_max_pixels_is_exact():
    data = encode(Image.fromarray(ramp(10, 10)), "PNG")
    assert read_image(data, max_pixels=100).size == (10, 10)
    with pytest.raises(DataError, match="more than max_pixels 99"):
        read_image(data, max_pixels=99)
