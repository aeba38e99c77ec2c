"""Readers: what others write is read alike, and damaged or hostile files are a DataError."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from metaformer_plugin_hyperspectral.cube import read_cube, read_labels

from metaformer.errors import DataError

CUBE = np.random.default_rng(0).integers(0, 10_000, (5, 4, 6)).astype(np.uint16)
MAP = np.arange(20).reshape(5, 4) % 4


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "i8", "f4", "f8"])
def test_matlab_5_as_scipy_writes_it(tmp_path: Path, compressed: bool, dtype: str) -> None:
    scipy = pytest.importorskip("scipy.io")
    cube = (CUBE % 200).astype(dtype)
    more = {"text": "a text", "cell": np.array([1, "a"], dtype=object), "z": 1j * cube, "struct": {"a": 1}, "m": MAP}
    scipy.savemat(tmp_path / "a.mat", {**more, "cube": cube}, do_compression=compressed)
    np.testing.assert_array_equal(read_cube(tmp_path / "a.mat"), cube)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.mat", "m"), MAP)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.mat"), MAP)


def test_matlab_5_of_the_other_byte_order_and_numbers_stored_small(tmp_path: Path) -> None:
    # MATLAB stores a double array of small whole numbers in bytes; short parts stand in their tags.
    body = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIiii4x", 5, 12, 1, 2, 2)
    body += struct.pack(">HH4s", 1, 1, b"c") + struct.pack(">HH4B", 4, 2, 1, 2, 3, 4)
    head = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    (tmp_path / "a.mat").write_bytes(head + struct.pack(">II", 14, len(body)) + body)
    np.testing.assert_array_equal(read_cube(tmp_path / "a.mat"), np.array([[[1, 3], [2, 4]]], dtype="u1"))


def test_matlab_73_as_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file.create_dataset("cube", data=CUBE.T, chunks=True, compression="gzip")
        file.create_dataset("m", data=MAP.T.astype(float))
        file.create_group("#refs#")
        file["text"] = "a text"
    np.testing.assert_array_equal(read_cube(tmp_path / "a.mat"), CUBE)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.mat"), MAP)


def test_matlab_73_reads_no_other_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["cube"] = CUBE.T
    (tmp_path / "raw").write_bytes(CUBE.tobytes())
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "cube")
        file.create_dataset("outside", CUBE.shape, "u2", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout(CUBE.T.shape, "u2")
        layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "cube", CUBE.T.shape)
        file.create_virtual_dataset("virtual", layout)
        file["huge"] = np.zeros(3)
    for name in ("linked", "outside", "virtual", ""):
        with pytest.raises(DataError):
            read_cube(tmp_path / "a.mat", name)


def test_which_array_of_a_matlab_file(tmp_path: Path) -> None:
    scipy = pytest.importorskip("scipy.io")
    scipy.savemat(tmp_path / "a.mat", {"one": CUBE, "two": CUBE + 1})
    np.testing.assert_array_equal(read_cube(tmp_path / "a.mat", "two"), CUBE + 1)
    for name in ("", "three"):
        with pytest.raises(DataError, match=r"one \[5, 4, 6\], two \[5, 4, 6\]"):
            read_cube(tmp_path / "a.mat", name)


def test_a_file_that_inflates_to_more_than_it_says_is_not_inflated(tmp_path: Path) -> None:
    body = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, 1, 1) + struct.pack("<HH4s", 1, 1, b"c")
    body += struct.pack("<II", 9, 1 << 30)
    zipped = zlib.compressobj()
    packed = zipped.compress(struct.pack("<II", 14, len(body) + (1 << 30)) + body)
    packed += zipped.compress(bytes(1 << 20)) + zipped.flush()
    head = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    (tmp_path / "a.mat").write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(DataError, match="1073741824 bytes for an array of shape"):
        read_labels(tmp_path / "a.mat")


def write_envi(folder: Path, **changes: object) -> Path:
    said = {"samples": 4, "lines": 5, "bands": 6, "header offset": 0, "data type": 12, "interleave": "bsq"}
    said |= {"byte order": 0, "description": "{a scene,\n  = over two lines}"} | changes
    text = "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in said.items() if value is not None)
    (folder / "scene.hdr").write_text(text)
    (folder / "scene.raw").write_bytes(CUBE.transpose(2, 0, 1).astype("<u2").tobytes())
    return folder / "scene.hdr"


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize(("dtype", "order"), [("u2", 0), ("u2", 1), ("f4", 1), ("i4", 0), ("f8", 0), ("u1", 0)])
def test_envi_as_spectral_writes_it(tmp_path: Path, interleave: str, dtype: str, order: int) -> None:
    envi = pytest.importorskip("spectral.io.envi")
    cube = (CUBE % 200).astype(dtype)
    envi.save_image(str(tmp_path / "a.hdr"), cube, interleave=interleave, byteorder=order, dtype=dtype, ext=".img")
    found = read_cube(tmp_path / "a.hdr")
    np.testing.assert_array_equal(found, cube)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, np.asarray(envi.open(str(tmp_path / "a.hdr")).load()))


def test_envi_by_hand(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_cube(write_envi(tmp_path)), CUBE)
    shifted = write_envi(tmp_path, **{"header offset": 2, "bands": 5})
    np.testing.assert_array_equal(read_cube(shifted)[0, 0, 0], CUBE[0, 1, 0])
    without = read_cube(write_envi(tmp_path, **{"data ignore value": int(CUBE[2, 1, 3])}))
    assert np.isnan(without[2, 1, 3])
    assert np.nanmax(without) == np.where(CUBE[2, 1, 3] == CUBE, 0, CUBE).max()


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 5},
        {"lines": 0},
        {"bands": None},
        {"samples": 10**11, "lines": 10**11},
        {"header offset": 1},
        {"header offset": -1},
        {"data type": 6},
        {"data type": "x"},
        {"interleave": "bbq"},
        {"byte order": 2},
        {"file compression": 1},
        {"data ignore value": "none"},
    ],
    ids=str,
)
def test_envi_headers_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError):
        read_cube(write_envi(tmp_path, **changes))


def test_envi_needs_its_numbers(tmp_path: Path) -> None:
    path = write_envi(tmp_path)
    (tmp_path / "scene.raw").unlink()
    with pytest.raises(DataError, match=r"scene\.raw"):
        read_cube(path)


def write_tiff(path: Path, driver: str = "GTiff", **settings: object) -> None:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(
        path, "w", driver=driver, width=4, height=5, count=6, dtype="uint16", crs=None, **settings
    ) as file:
        file.write(np.moveaxis(CUBE, 2, 0))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_geotiff(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", compress="deflate")
    np.testing.assert_array_equal(read_cube(tmp_path / "a.tif"), CUBE)
    write_tiff(tmp_path / "b.tiff", nodata=int(CUBE[2, 1, 3]))
    found = read_cube(tmp_path / "b.tiff")
    assert np.isnan(found[2, 1, 3])
    assert found.dtype == np.float32
    with pytest.raises(DataError, match="max_values"):
        read_cube(tmp_path / "a.tif", most=100)


def test_a_virtual_raster_is_not_followed(tmp_path: Path) -> None:
    # GDAL goes by content: this names another file, and could name an address.
    text = '<VRTDataset rasterXSize="4" rasterYSize="5"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
    text += "<SourceFilename>/vsicurl/http://localhost:9/a.tif</SourceFilename></SimpleSource></VRTRasterBand>"
    (tmp_path / "a.tif").write_text(text + "</VRTDataset>")
    with pytest.raises(DataError, match="no TIFF file"):
        read_cube(tmp_path / "a.tif")


def test_numpy_without_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    np.testing.assert_array_equal(read_cube(tmp_path / "a.npy"), CUBE)
    np.save(tmp_path / "b.npy", np.array([[[print]]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        read_cube(tmp_path / "b.npy")


@pytest.mark.parametrize("labels", [np.array([[0.5]]), np.array([[-1]]), np.array([[1 << 20]]), np.array([[np.inf]])])
def test_labels_are_small_whole_numbers(tmp_path: Path, labels: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", labels)
    with pytest.raises(DataError):
        read_labels(tmp_path / "a.npy")


def whole_files(folder: Path) -> list[Path]:
    scipy, h5py = pytest.importorskip("scipy.io"), pytest.importorskip("h5py")
    scipy.savemat(folder / "a.mat", {"cube": CUBE})
    scipy.savemat(folder / "b.mat", {"cube": CUBE}, do_compression=True)
    with h5py.File(folder / "c.mat", "w") as file:
        file["cube"] = CUBE.T
    np.save(folder / "d.npy", CUBE)
    write_tiff(folder / "e.tif")
    return [write_envi(folder), *(folder / name for name in ("a.mat", "b.mat", "c.mat", "d.npy", "e.tif"))]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_damaged_files_are_a_data_error_or_other_numbers(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for path in whole_files(tmp_path):
        data = path.read_bytes()
        for _ in range(40):
            broken = bytearray(data)
            for at in generator.integers(0, len(data), 3):
                broken[at] ^= 1 << int(generator.integers(8))
            path.write_bytes(broken)
            try:
                found = read_cube(path, most=10_000)
            except DataError:
                continue
            assert found.size <= 10_000
            assert found.dtype.kind in "biuf"
        # Half a header may still say all that is needed; half of its numbers does not do.
        cut = path.with_suffix(".raw") if path.suffix == ".hdr" else path
        whole = cut.read_bytes() if cut != path else data
        path.write_bytes(data)
        for length in (0, 1, 100, len(whole) // 2):
            cut.write_bytes(whole[:length])
            with pytest.raises(DataError):
                read_cube(path)
        cut.write_bytes(whole)
        assert read_cube(path).shape == CUBE.shape
        if path.suffix != ".hdr":
            with pytest.raises(DataError):
                read_cube(path, most=100)


def test_what_is_no_file_of_a_scene(tmp_path: Path) -> None:
    (tmp_path / "a.mat").mkdir()
    (tmp_path / "a.txt").write_text("1 2 3")
    for path in (tmp_path / "a.mat", tmp_path / "a.txt", tmp_path / "none.tif", Path("/vsimem/a.tif")):
        with pytest.raises(DataError):
            read_cube(path)
