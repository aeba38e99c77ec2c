"""DICOM files: windows as pydicom makes them, inversion, tables, frames, and what strangers may send."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from metaformer_plugin_xray.codestream import Size, coded_sizes
from metaformer_plugin_xray.levels import read_xray
from metaformer_plugin_xray.slices import pydicom_folder
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from metaformer.errors import DataError

FOLDER = pydicom_folder()
LEVELS = np.random.default_rng(0).integers(0, 4096, (6, 5), dtype=np.uint16)


def made(levels: np.ndarray = LEVELS, syntax: str = ExplicitVRLittleEndian, **elements) -> bytes:
    """A radiograph of 12 bits."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.SOPClassUID, file.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    file.Modality, file.SamplesPerPixel, file.PhotometricInterpretation = "DX", 1, "MONOCHROME2"
    file.Rows, file.Columns = levels.shape[-2:]
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PixelData = levels.astype("<u2").tobytes()
    for name, value in elements.items():
        if value is None:
            delattr(file, name)
        else:
            setattr(file, name, value)
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize(
    ("function", "centre", "width"),
    [("LINEAR", 2000, 1000), ("LINEAR", 2000, 2), ("LINEAR_EXACT", 1500.5, 700.25), ("SIGMOID", 2000, 500)],
)
def test_windows_are_those_of_pydicom(function, centre, width):
    data = made(
        WindowCenter=[centre, 1], WindowWidth=[width, 1], VOILUTFunction=function, RescaleSlope=1, RescaleIntercept=-20
    )
    file = pydicom.dcmread(io.BytesIO(data))
    theirs = apply_windowing(apply_modality_lut(file.pixel_array, file), file)
    theirs = (theirs + 20) / 4095  # it spreads to the range of the rescaled bits
    np.testing.assert_allclose(read_xray(data), theirs, atol=2e-6)


def test_the_smallest_level_of_monochrome1_is_white():
    plain, inverted = made(), made(PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read_xray(inverted), 1 - read_xray(plain), atol=1e-6)
    assert read_xray(inverted).argmax() == LEVELS.argmin()


def test_without_a_window_levels_are_spread_and_padding_is_left_out():
    levels = LEVELS.clip(1000, 3000)
    levels[0] = 0
    found = read_xray(made(levels, PixelPaddingValue=0))
    expected = ((levels.astype(float) - levels[1:].min()) / (levels[1:].max() - levels[1:].min())).clip(0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_full_takes_what_the_bits_hold_and_a_window_of_ones_own_is_in_rescaled_units():
    data = made(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=5, WindowWidth=7)
    np.testing.assert_allclose(read_xray(data, "full"), LEVELS / 4095, atol=1e-6)
    expected = ((LEVELS * 2.0 - 1000 - 2000) / 4000 + 0.5).clip(0, 1)
    np.testing.assert_allclose(read_xray(data, (2000.0, 4000.0)), expected, atol=1e-6)


def test_a_table_takes_the_place_of_a_window():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], (np.arange(4096) // 16)[::-1].tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    found = read_xray(made(VOILUTSequence=[table], WindowCenter=1, WindowWidth=1))
    np.testing.assert_allclose(found, (np.arange(4096) // 16)[::-1][LEVELS] / 255, atol=1e-6)


def test_one_frame_of_several():
    levels = np.stack([LEVELS, LEVELS[::-1]])
    data = made(levels, NumberOfFrames=2)
    np.testing.assert_array_equal(read_xray(data, "full", 1), read_xray(made(LEVELS[::-1]), "full"))
    with pytest.raises(DataError, match="frame 2"):
        read_xray(data, "full", 2)


def test_deflated_files_and_such_as_are_not_give_the_same():
    levels = np.tile(LEVELS, (8, 8))
    np.testing.assert_array_equal(
        read_xray(made(levels, DeflatedExplicitVRLittleEndian)), read_xray(made(levels, ExplicitVRLittleEndian))
    )
    assert read_xray(FOLDER / "image_dfl.dcm").shape == (512, 512)


@pytest.mark.parametrize(
    "name",
    [
        *("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"),
        *("MR_small_jp2klossless.dcm", "SC_rgb_small_odd.dcm", "JPEG2000.dcm", "examples_jpeg2k.dcm"),
    ],
)
def test_files_of_pydicom_are_read(name):
    pytest.importorskip("openjpeg", reason="pip install 'metaformer-plugin-xray[compressed]'")
    gray = read_xray(FOLDER / name)
    file = pydicom.dcmread(FOLDER / name, stop_before_pixels=True)
    assert gray.shape == (file.Rows, file.Columns)
    assert gray.dtype == np.float32
    assert 0 <= gray.min() < gray.max() <= 1


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_files_of_the_libjpeg_family_are_read(name):
    pytest.importorskip("libjpeg", reason="pip install 'metaformer-plugin-xray[libjpeg]'")
    assert read_xray(FOLDER / name).max() <= 1


@pytest.mark.parametrize(
    "name",
    [
        *("rtplan.dcm", "reportsi.dcm", "waveform_ecg.dcm", "liver_1frame.dcm", "examples_palette.dcm"),
        *("MR_truncated.dcm", "badVR.dcm", "no_meta.dcm", "dicomdirtests/TINY_ALPHA/DICOMDIR"),
    ],
)
def test_what_is_no_gray_picture_or_damaged_is_refused(name):
    with pytest.raises(DataError):
        read_xray(FOLDER / name)


def test_a_directory_is_not_followed():
    with pytest.raises(DataError, match="only names other files"):
        read_xray(FOLDER / "dicomdirtests" / "TINY_ALPHA" / "DICOMDIR")


# Strangers.


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm"])
def test_cut_off_and_flipped_files_are_read_or_refused(name):
    whole = (FOLDER / name).read_bytes()
    draw = np.random.default_rng(0)
    for end in [0, 100, 132, 200, *draw.integers(200, len(whole), 8).tolist()]:
        try_to_read(whole[:end])
    for _ in range(24):
        broken = bytearray(whole)
        # Headers only: damaged entropy-coded bytes are a matter between the decoder and its makers.
        for place in draw.integers(132, 2000, 3):
            broken[place] = draw.integers(256)
        try_to_read(bytes(broken))


def try_to_read(data: bytes) -> None:
    with contextlib.suppress(DataError):
        assert np.isfinite(read_xray(data, max_pixels=2**20)).all()


def test_sizes_are_checked_before_pixels():
    with pytest.raises(DataError, match="max_pixels 29"):
        read_xray(made(), max_pixels=29)
    with pytest.raises(DataError, match="max_pixels"):
        read_xray(made(Rows=65535, Columns=65535))
    with pytest.raises(DataError):
        read_xray(made(Rows=600))  # fewer pixels than it says
    with pytest.raises(DataError, match="frame 5"):
        read_xray(made(), frame=5)


def test_a_deflated_bomb_is_not_blown_up():
    head = made(syntax=DeflatedExplicitVRLittleEndian)
    end = 144 + int.from_bytes(head[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    with pytest.raises(DataError, match="deflated to more than"):
        read_xray(head[:end] + bomb, max_pixels=2**20)
    with pytest.raises(DataError, match="without its end"):
        read_xray(head[:-4])
    with pytest.raises(DataError, match="out of order"):  # the length of the meta information lies
        read_xray(head[:140] + b"\x02\0\0\0" + head[144:])


def test_a_compressed_picture_that_claims_another_size_is_not_decoded():
    code = (FOLDER / "JPEG2000.dcm").read_bytes()
    at = code.find(b"\xff\x4f\xff\x51")
    assert coded_sizes(code[at:]) == {Size(1024, 256, 1)}
    huge = code[: at + 8] + struct.pack(">2I", 60000, 60000) + code[at + 16 :]
    with pytest.raises(DataError, match="60000x60000x1"):
        read_xray(huge)


@pytest.mark.parametrize(("marker", "size"), [(0xC0, (7, 9, 1)), (0xC3, (7, 9, 1)), (0xF7, (65535, 65535, 3))])
def test_sizes_of_the_jpeg_family(marker, size):
    table = b"\xff\xc4\x00\x04ab"
    frame = bytes([0xFF, marker]) + struct.pack(">HBHHB", 11, 8, *size) + b"\0\0\0"
    assert coded_sizes(b"\xff\xd8" + table + b"\xff" + frame + b"\xff\xda\0\2\xff\xc0") == {Size(*size)}
    assert coded_sizes(b"\xff\xd8\xff\xd9") == set()
    assert coded_sizes(b"RIFF") == set()


@pytest.mark.parametrize(
    "elements",
    [
        *({"RescaleSlope": 0, "RescaleIntercept": 0}, {"WindowCenter": 1, "WindowWidth": -1}, {"BitsStored": 17}),
        *({"SamplesPerPixel": 2}, {"PhotometricInterpretation": "PALETTE COLOR"}, {"PixelData": None}, {"Rows": None}),
        *({"Rows": 0}, {"NumberOfFrames": 9}),
    ],
    ids=str,
)
def test_elements_that_make_no_sense_are_refused(elements):
    with pytest.raises(DataError):
        read_xray(made(**elements))


def test_a_table_that_is_shorter_than_it_says_is_refused():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], [1, 2, 3]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    with pytest.raises(DataError, match="lookup table"):
        read_xray(made(VOILUTSequence=[table]))


# Plain pictures.


def test_plain_pictures_keep_their_bits(tmp_path: Path):
    from PIL import Image

    deep = LEVELS.astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_xray(tmp_path / "deep.png", "full"), deep / 65535, atol=1e-7)
    spread = (deep.astype(float) - deep.min()) / (deep.max() - deep.min())
    np.testing.assert_allclose(read_xray(tmp_path / "deep.png"), spread, atol=1e-6)
    np.testing.assert_allclose(read_xray((deep // 16).astype(np.uint8)), (deep // 16) / 255, atol=1e-6)
    colour = np.repeat((deep // 16).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_allclose(read_xray(colour), (deep // 16) / 255, atol=1e-6)
    hounsfield = deep.astype(np.int16) - 1024
    expected = ((hounsfield + 600.0) / 1500 + 0.5).clip(0, 1)
    np.testing.assert_allclose(read_xray(hounsfield, (-600.0, 1500.0)), expected, atol=1e-6)


def test_plain_values_that_cannot_be_used_are_refused(tmp_path: Path):
    for value in (np.full((3, 3), np.inf), np.zeros((3, 3, 2)), tmp_path / "none.dcm", tmp_path, 5, b""):
        with pytest.raises(DataError):
            read_xray(value)
    with pytest.raises(DataError, match="bits say"):
        read_xray(LEVELS.astype(np.int32), "full")
    assert not read_xray(np.full((3, 3), 7, dtype=np.uint16)).any()
