"""Readers of files, beside what open3d and laspy write, and against damage."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from metaformer_plugin_pointcloud.pcd import unpack
from metaformer_plugin_pointcloud.read import Limits, read_cloud

from metaformer.errors import DataError

ALL = Limits(1000, None)
RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(40, 3)).astype(np.float32).astype(np.float64)
COLOR = RNG.integers(0, 256, (40, 3)) / 255
NORMAL = (POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


def read(path: Path, limits: Limits = ALL, columns: tuple[str, ...] = (), seed: int = 0):
    return read_cloud(path, limits, columns, 1.0, seed)


def ply(form: str, order: str = "<") -> bytes:
    fields = "property float x\nproperty float y\nproperty float z\nproperty uchar red\nproperty uchar green\n"
    head = f"ply\nformat {form} 1.0\ncomment any\nelement vertex 40\n{fields}property uchar blue\n"
    head += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    if form == "ascii":
        rows = [
            " ".join(map(repr, map(float, p))) + " " + " ".join(map(str, c)) for p, c in zip(POINTS, BYTES, strict=True)
        ]
        return (head + "\n".join([*rows, "3 0 1 2", "4 3 4 5 6", ""])).encode()
    rows = [struct.pack(order + "3f3B", *p, *c) for p, c in zip(POINTS, BYTES, strict=True)]
    faces = struct.pack(order + "B3i", 3, 0, 1, 2) + struct.pack(order + "B4i", 4, 3, 4, 5, 6)
    return head.encode() + b"".join(rows) + faces


BYTES = (COLOR * 255).round().astype(int).tolist()
MOVED = np.array([5e5, 4e6, 0])


@pytest.mark.parametrize(("form", "order"), [("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")])
def test_ply(tmp_path, form, order):
    path = tmp_path / "a.ply"
    path.write_bytes(ply(form, order))
    found = read(path)
    np.testing.assert_allclose(found.points, POINTS)
    np.testing.assert_allclose(found.channels["color"], COLOR)
    drawn = read(path, Limits(1000, 30))
    assert drawn.points.shape == drawn.channels["normal"].shape == drawn.channels["color"].shape == (30, 3)


@pytest.mark.parametrize(
    ("suffix", "knobs"), [(s, k) for s in ("ply", "pcd") for k in ({}, {"write_ascii": True}, {"compressed": True})]
)
def test_what_open3d_writes(tmp_path, suffix, knobs):
    open3d = pytest.importorskip("open3d")
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(POINTS))
    cloud.colors, cloud.normals = open3d.utility.Vector3dVector(COLOR), open3d.utility.Vector3dVector(NORMAL)
    path = tmp_path / f"a.{suffix}"
    assert open3d.io.write_point_cloud(str(path), cloud, **knobs)
    found = read(path)
    np.testing.assert_allclose(found.points, POINTS, atol=1e-5)  # six digits as text
    np.testing.assert_allclose(found.channels["normal"], NORMAL, atol=1e-6)
    np.testing.assert_allclose(found.channels["color"], COLOR, atol=1e-6)


def test_meshes_that_open3d_writes(tmp_path):
    open3d = pytest.importorskip("open3d")
    box = open3d.geometry.TriangleMesh.create_box()
    box.compute_triangle_normals()
    for suffix in ("obj", "stl", "off", "ply"):
        path = tmp_path / f"box.{suffix}"
        assert open3d.io.write_triangle_mesh(str(path), box)
        found = read(path, Limits(1000, 6000))
        # On the surface, as much on each of the six sides, with its normal.
        normal = found.channels["normal"]
        side = np.abs(normal).argmax(axis=1)
        where = found.points[np.arange(6000), side]
        np.testing.assert_allclose(np.abs(where - 0.5), 0.5, atol=1e-6)
        np.testing.assert_allclose(np.sign(where - 0.5), normal[np.arange(6000), side], atol=1e-6)
        counts = np.unique(side * 2 + (where > 0.5), return_counts=True)[1]
        assert len(counts) == 6
        assert 850 < counts.min() <= counts.max() < 1150
        assert np.array_equal(found.points, read(path, Limits(1000, 6000)).points)
        assert not np.array_equal(found.points, read(path, Limits(1000, 6000), seed=1).points)


def test_modelnets_glued_header(tmp_path):
    path = tmp_path / "a.off"
    path.write_text("OFF3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    assert len(read(path)) == 3
    assert read(path, Limits(100, 5)).channels["normal"].tolist() == [[0, 0, 1]] * 5


def test_text_and_tables(tmp_path):
    table = np.concatenate([POINTS, COLOR], axis=1)
    texts = {
        "a.xyz": "\n".join(" ".join(map(repr, row)) for row in table.tolist()),
        "a.txt": "# of a scanner\nx y z r g b\n" + "\n".join(",".join(map(repr, row)) for row in table.tolist()),
        "a.pts": "40\n" + "\n".join(" ".join(map(repr, row)) for row in table.tolist()),
        "a.csv": "x,y,z,r,g,b\n" + "\n".join(",".join(map(repr, row)) for row in table.tolist()),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    np.save(tmp_path / "a.npy", table)
    for name in (*texts, "a.npy"):
        found = read(tmp_path / name, columns=("color",))
        np.testing.assert_allclose(found.points, POINTS)
        np.testing.assert_allclose(found.channels["color"], COLOR)
        assert not read(tmp_path / name, columns=("skip",) * 3).channels
        with pytest.raises(DataError, match="columns"):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_las(tmp_path, suffix):
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=2, version="1.2")
    header.scales, header.offsets = np.full(3, 1e-4), MOVED
    las = laspy.LasData(header)
    las.x, las.y, las.z = (POINTS + MOVED).T
    las.red, las.green, las.blue = (COLOR * 65535).round().astype(np.uint16).T
    las.intensity = np.arange(40, dtype=np.uint16) * 1000
    path = tmp_path / f"a.{suffix}"
    las.write(str(path))
    found = read(path)
    np.testing.assert_allclose(found.points, POINTS + MOVED, atol=1e-4)
    np.testing.assert_allclose(found.channels["color"], COLOR, atol=1e-5)
    np.testing.assert_allclose(found.channels["intensity"][:, 0], np.arange(40) * 1000 / 65535)


def files(folder: Path) -> dict[str, bytes]:
    """A small good file of every kind."""
    good = {
        "ascii.ply": ply("ascii"),
        "binary.ply": ply("binary_little_endian"),
        "a.pcd": b"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 40\nHEIGHT 1\nDATA binary\n"
        + POINTS.astype("<f4").tobytes(),
        "a.off": b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
        "a.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1//1 2 -1\n",
        "a.stl": bytes(80) + struct.pack("<I", 1) + struct.pack("<12fH", 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0),
        "text.stl": b"solid a\nfacet\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendfacet\nendsolid\n",
        "a.xyz": b"1 2 3\n4 5 6\n",
    }
    packed = bytes(12 * 40)
    runs = b"".join(bytes([31]) + packed[:32] for _ in range(15))
    good["packed.pcd"] = good["a.pcd"].partition(b"DATA")[0] + b"DATA binary_compressed\n"
    good["packed.pcd"] += struct.pack("<II", len(runs), 480) + runs
    try:
        import laspy
    except ImportError:
        return good
    for suffix in ("las", "laz"):
        las = laspy.LasData(laspy.LasHeader(point_format=2, version="1.2"))
        las.x, las.y, las.z = POINTS.T
        las.write(str(folder / f"good.{suffix}"))
        good[f"a.{suffix}"] = (folder / f"good.{suffix}").read_bytes()
    return good


def test_damage_is_a_data_error_or_other_points(tmp_path):
    for name, good in files(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(good)
        assert len(read(path, Limits(1000, 20)))
        head = len(good) // 2 if "binary" in name else len(good)
        random = np.random.default_rng(3)
        for _ in range(2 if name == "a.laz" else 25):  # a process each
            bad = bytearray(good)
            for place in random.integers(0, head, 3):
                bad[place] ^= int(random.integers(1, 256))
            path.write_bytes(bad)
            with contextlib.suppress(DataError):
                read(path, Limits(1000, 20))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_files_that_end_early(tmp_path, share):
    for name, good in files(tmp_path).items():
        if name in ("a.xyz", "a.obj") and share:
            continue  # what is left of a text of lines may be sound
        path = tmp_path / name
        path.write_bytes(good[: int(len(good) * share)])
        with pytest.raises(DataError):
            read(path, Limits(1000, 20))


HUGE = b"99999999999"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex " + HUGE + b"\nproperty float x\nend_header\n1\n"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex -1\nproperty float x\nend_header\n"),
        ("a.ply", b"ply\nformat binary_little_endian 1.0\nelement vertex 900\nproperty double x\nend_header\n1"),
        ("a.ply", ply("binary_little_endian")[:-34] + b"\xff" * 34),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH " + HUGE + b"\nHEIGHT 9\nDATA binary\n"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 99999999\nWIDTH 9\nHEIGHT 1\nDATA binary\n"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 1\nHEIGHT 1\nDATA binary_compressed\n" + b"\xff" * 9),
        ("a.off", b"OFF\n" + HUGE + b" 1 0\n0 0 0\n"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -2\n"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n"),
        ("a.obj", b"v 0 0 0\nf 1 1 4\n"),
        ("a.stl", bytes(80) + b"\xff\xff\xff\xff"),
        ("a.las", b"LASF" + bytes(90) + struct.pack("<HIIBHI", 227, 227, 4_000_000_000, 2, 26, 5) + bytes(200)),
        ("a.las", b"LASF" + bytes(90) + struct.pack("<HIIBHI", 227, 227, 0, 2, 26, 4_000_000_000) + bytes(200)),
        ("a.las", b"LASF" + bytes(90) + struct.pack("<HIIBHI", 227, 227, 0, 2, 26, 900) + bytes(200)),
        ("a.xyz", b"1 2 3\n" * 1001),
        ("a.xyz", b"1 2 3\n1 2\n"),
        ("a.xyz", b"\0\1\2"),
        ("a.pts", b"5\n1 2 3\n"),
        ("a.zip", b"PK"),
    ],
)
def test_hostile_headers(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError):
        read(path, Limits(1000, 20))


def test_files_too_large_are_not_opened(tmp_path):
    path = tmp_path / "a.xyz"
    with path.open("wb") as file:
        file.truncate(1 << 33)  # no blocks on disk
    with pytest.raises(DataError, match="max_points"):
        read(path)
    with pytest.raises(DataError):
        read(tmp_path / "absent.ply")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(DataError):
        read(tmp_path / "folder.ply")


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        read(tmp_path / "a.npy")


def test_copies_that_reach_into_themselves_repeat():
    # One literal, then seven bytes from one place before.
    assert unpack(bytes([0, 65, 5 << 5, 0]), 8) == b"AAAAAAAA"
    with pytest.raises(ValueError, match="before"):
        unpack(bytes([0, 65, 5 << 5, 9]), 8)
    with pytest.raises(ValueError, match="more than"):
        unpack(bytes([0, 65, 7 << 5, 255, 0]), 8)
