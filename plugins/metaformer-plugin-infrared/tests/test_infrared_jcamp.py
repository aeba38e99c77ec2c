"""JCAMP-DX: every number form that the format has, written by hand, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from metaformer_plugin_infrared.jcamp import read_jcamp

from metaformer.errors import DataError

VALUES = [1.0, 2, 3, 3, 2, 1, 0, -1, -2, -3]
"""The example that the forms below write; X runs from 400 to 409."""
HEAD = """##TITLE= hand made $$ with a comment
##JCAMP-DX= 4.24
##DATA TYPE= INFRARED SPECTRUM
##XUNITS= 1/CM
##YUNITS= ABSORBANCE
##XFACTOR= 1.0
##YFACTOR= {factor}
##FIRSTX= {first}
##LASTX= {last}
##NPOINTS= {points}
##FIRSTY= 1
##XYDATA= (X++(Y..Y))
"""
FORMS = {
    "free": "400 1 2 3 3 2\n405 1 0 -1 -2 -3\n",
    "free with exponents": "400 1.0E0 20E-1 +3 3.0 2\n405 1, 0; -1 -2 -.3E+1 $$ comment\n",
    "packed": "400+1+2+3+3+2\n405+1+0-1-2-3\n",
    "squeezed": "400ABCCB\n405A@abc\n",
    "repeated": "400ABCTB\n405A@abc\n",
    "differenced": "400AJJ%jj\n405Ajjjj\n409c\n",
    "differenced and repeated": "400AJT%jT\n405AjV\n409c\n",
}


def written(folder: Path, body: str, head: str = HEAD, **said) -> Path:
    known = {"factor": 1.0, "first": 400, "last": 409, "points": 10, **said}
    path = folder / "hand.jdx"
    path.write_text(f"{head.format(**known)}{body}##END=\n")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(tmp_path, form):
    curve = read_jcamp(written(tmp_path, FORMS[form], factor=0.5), 100)
    np.testing.assert_allclose(curve.values, np.array(VALUES) * 0.5)
    np.testing.assert_allclose(curve.axis, np.arange(400, 410))
    assert (curve.x_unit, curve.y_unit) == ("1/cm", "absorbance")


def test_digits_after_a_letter_belong_to_it(tmp_path):
    body = "400A23b5K0J2m\n"  # 123, -25, then +20, +12, -4 from there
    curve = read_jcamp(written(tmp_path, body + "404C\n", last=404, points=5), 100)
    np.testing.assert_allclose(curve.values, [123, -25, -5, 7, 3])


def test_a_decreasing_axis_and_a_missing_ordinate(tmp_path):
    curve = read_jcamp(written(tmp_path, "4000 1 ? 3\n", first=4000, last=3998, points=3), 100)
    np.testing.assert_allclose(curve.axis, [4000, 3999, 3998])
    np.testing.assert_array_equal(curve.values, [1, np.nan, 3])


def test_points_with_an_axis_of_their_own(tmp_path):
    head = HEAD.replace("##XYDATA= (X++(Y..Y))", "##XYPOINTS= (XY..XY)").replace("##XFACTOR= 1.0", "##XFACTOR= 10")
    curve = read_jcamp(written(tmp_path, "40.0, 1; 41.5, 2\n43 4E0\n", head, points=3), 100)
    np.testing.assert_allclose(curve.axis, [400, 415, 430])
    np.testing.assert_allclose(curve.values, [1, 2, 4])


def test_abscissae_are_multiplied_by_their_factor_before_they_are_checked(tmp_path):
    head = HEAD.replace("##XFACTOR= 1.0", "##XFACTOR= 0.5")
    curve = read_jcamp(written(tmp_path, FORMS["free"].replace("405", "810").replace("400", "800"), head), 100)
    np.testing.assert_allclose(curve.values, VALUES)


@pytest.mark.parametrize(
    ("body", "said", "found"),
    [
        ("400 1 2 3 3 2\n", {}, "5"),  # cut off
        ("400 1 2 3 3 2\n409 -3\n", {}, "lost line"),
        ("400AJJ%jj\n405Bjjjj\n409c\n", {}, "check value"),
        ("400 1 2 3 3 2 1 0 -1 -2 -3 -4\n", {}, "more than 10"),
        ("400As9999999999\n", {}, "beyond"),
        ("400S5A\n", {}, "repeats nothing"),
        ("400J5\n", {}, "difference to nothing"),
        ("400 1 & 2\n", {}, "no number"),
        ("abc\n", {}, "no abscissa"),
        ("400 1\n", {"points": 10**9}, "at most 100"),
        ("400 1\n", {"points": -1}, "points"),
        ("400 1\n", {"points": "ten"}, "'ten'"),
        ("400 1\n", {"points": "1e999"}, "1e999"),
        ("400 1\n", {"first": "nan"}, "nan"),
        ("", {}, "no ##XYDATA"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, body, said, found):
    with pytest.raises(DataError, match=found):
        read_jcamp(written(tmp_path, body, **said), 100)


def test_other_kinds_of_tables_are_refused(tmp_path):
    for head in (
        HEAD.replace("##XYDATA= (X++(Y..Y))", "##PEAK TABLE= (XY..XY)"),
        HEAD.replace("(X++(Y..Y))", "(R++(A..D))"),
        HEAD.replace("##NPOINTS= {points}\n", ""),
    ):
        with pytest.raises(DataError):
            read_jcamp(written(tmp_path, FORMS["free"], head), 100)
    with pytest.raises(DataError):
        read_jcamp(tmp_path / "absent.jdx", 100)
    (tmp_path / "long.jdx").write_bytes(b"##TITLE=" + b"x" * 70000)
    with pytest.raises(DataError, match="characters"):
        read_jcamp(tmp_path / "long.jdx", 100)
    (tmp_path / "long.jdx").write_bytes(b"\n" * 2**21)
    with pytest.raises(DataError, match="bytes"):
        read_jcamp(tmp_path / "long.jdx", 100)


def test_flipped_bytes_give_numbers_or_an_error(tmp_path):
    draw = np.random.default_rng(0)
    for form in ("free", "differenced and repeated"):
        path = written(tmp_path, FORMS[form])
        whole = path.read_bytes()
        for _ in range(60):
            broken = bytearray(whole)
            broken[draw.integers(len(whole))] = draw.integers(256)
            path.write_bytes(broken)
            try:
                curve = read_jcamp(path, 100)
            except DataError:
                continue
            assert len(curve.values) == len(curve.axis) <= 100
