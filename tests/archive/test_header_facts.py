"""What a header is understood to say, and what is refused with which words."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest

import medssl.archive
from medssl.archive import REASONS, Refusal, open_volume, read_stack
from medssl.archive.finding import find_files
from medssl.archive.headers import read_header, to_float
from medssl.archive.series import assemble
from medssl.errors import UserError

AXIAL = [1, 0, 0, 0, 1, 0]


@pytest.fixture
def series(write_dicom):
    """series(folder, positions, **tags): one small slice at each position."""

    def make(folder, places, **tags):
        for number, place in enumerate(places):
            pixels = np.full((4, 5), 1000 + number, np.int16)
            write_dicom(folder / f"{number:03d}.dcm", pixels, **{
                "ImagePositionPatient": list(place), "ImageOrientationPatient": AXIAL, "PixelSpacing": [1, 1], **tags,
            })  # fmt: skip
        return folder

    return make


def stacks(folder):
    return assemble([read_header(path) for path in find_files(folder).files])


def test_slices_from_head_to_feet_are_turned_round(tmp_path, series):
    up = open_volume(series(tmp_path / "up", [(0, 0, 2 * k) for k in range(5)]))
    down = open_volume(series(tmp_path / "down", [(0, 0, 2 * k) for k in reversed(range(5))]))
    assert np.array_equal(up.affine, down.affine)
    assert np.array_equal(up.voxels, down.voxels[..., ::-1])


def test_a_couch_that_moved_sideways_is_no_straight_volume(tmp_path, series):
    (stack,) = stacks(series(tmp_path, [(0, 0, 0), (0, 0, 2), (9, 0, 4), (0, 0, 6), (0, 0, 8)]))
    assert (stack.status, stack.reason) == ("excluded", "BAD_GEOMETRY")


@pytest.mark.parametrize(
    "tags",
    [
        {"ImageOrientationPatient": None},
        {"ImagePositionPatient": None},
        {"PixelSpacing": None},
        {"PixelSpacing": [0, 1]},
        {"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]},
        {"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]},
    ],
    ids=["no orientation", "no position", "no spacing", "zero spacing", "skewed cosines", "long cosine"],
)
def test_slices_that_are_nowhere(tmp_path, series, tags):
    (stack,) = stacks(series(tmp_path, [(0, 0, k) for k in range(4)], **tags))
    assert (stack.status, stack.reason, len(stack.headers)) == ("excluded", "BAD_GEOMETRY", 4)


def test_two_tags_together_tell_slices_apart(tmp_path, series):
    places = [(0, 0, 3 * k) for k in range(4)]
    for b in (0, 800):
        for time in ("1", "2"):
            series(tmp_path / f"{b}_{time}", places, DiffusionBValue=float(b), TemporalPositionIdentifier=time)
    found = stacks(tmp_path)
    assert [(s.status, s.split_by, len(s.headers)) for s in found] == [("ok", "b_value+temporal", 4)] * 4
    assert all(len({h.b_value for h in s.headers}) == 1 for s in found)


def test_different_shapes_and_frames_of_reference_do_not_mix(tmp_path, series, write_dicom):
    places = [(0, 0, k) for k in range(4)]
    series(tmp_path / "a", places)
    series(tmp_path / "b", places, FrameOfReferenceUID="1.2.3.99")
    for k in range(4):
        write_dicom(tmp_path / "c" / f"{k}.dcm", np.zeros((6, 7), np.int16), ImagePositionPatient=[0, 0, k],
                    ImageOrientationPatient=AXIAL, PixelSpacing=[1, 1])  # fmt: skip
    assert sorted(stack.shape for stack in stacks(tmp_path)) == [(5, 4, 4), (5, 4, 4), (7, 6, 4)]


def test_a_localizer_beside_a_volume_is_set_aside(tmp_path, series):
    series(tmp_path / "a", [(0, 0, 2 * k) for k in range(9)])
    series(tmp_path / "b", [(0, 2 * k, 0) for k in range(3)], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    told = sorted((s.status, s.reason, len(s.headers)) for s in stacks(tmp_path))
    assert told == [("excluded", "LOCALIZER_OR_TOO_FEW", 3), ("ok", "", 9)]


def test_every_header_is_in_exactly_one_stack_whatever_the_order(tmp_path, series):
    series(tmp_path / "a", [(0, 0, k) for k in (0, 1, 2, 3, 3)])
    series(tmp_path / "b", [(0, 0, k) for k in range(5)], SeriesInstanceUID="1.2.3.5")
    headers = [read_header(path) for path in find_files(tmp_path).files]
    once = [[h.path for h in s.headers] for s in assemble(headers)]
    assert sorted(path for group in once for path in group) == find_files(tmp_path).files
    rng = np.random.default_rng(0)
    for _ in range(5):
        again = assemble([headers[n] for n in rng.permutation(len(headers))])
        assert [[h.path for h in s.headers] for s in again] == once


def test_pixels_that_went_missing_after_indexing(tmp_path, series):
    (stack,) = stacks(series(tmp_path, [(0, 0, k) for k in range(4)]))
    path = stack.headers[2].path
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Refusal) as refusal:
        read_stack(stack)
    assert (refusal.value.code, refusal.value.thing) == ("PIXELDATA_TRUNCATED", path.name)


def test_links_are_not_followed_and_a_file_is_no_folder(tmp_path, series):
    series(tmp_path / "a", [(0, 0, 0)])
    (tmp_path / "a" / "link.dcm").symlink_to(tmp_path / "a" / "000.dcm")
    assert [path.name for path in find_files(tmp_path).files] == ["000.dcm"]
    with pytest.raises(UserError, match="is a file"):
        find_files(tmp_path / "a" / "000.dcm")


def test_numbers_in_headers_may_have_a_decimal_comma():
    assert [to_float(v) for v in ("0,5", b"2", 3, "1e-1")] == [0.5, 2, 3, 0.1]
    assert all(np.isnan(to_float(v)) for v in ("", "x", None, "1,2,3"))


def codes_used():
    """Upper-case words in the sources of the archive that name a reason."""
    found = set()
    for path in Path(medssl.archive.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                place = {"Refusal": 0, "_left_out": 1}.get(name)
                places = [] if place is None else node.args[place : place + 1]
                places += [k.value for k in node.keywords if k.arg == "reason"]
                for part in places:
                    found |= {
                        c.value for c in ast.walk(part) if isinstance(c, ast.Constant) and isinstance(c.value, str)
                    }
    return {word for word in found if word.isupper() and len(word) > 3}


def test_every_code_is_used_and_every_code_used_is_explained():
    used = codes_used()
    assert used <= set(REASONS)
    assert len(used) > 20
    text = "".join(path.read_text() for path in Path(medssl.archive.__file__).parents[1].rglob("*.py"))
    assert {code for code in REASONS if text.count(f'"{code}"') < 2} == set()


@pytest.mark.parametrize("code", sorted(REASONS))
def test_a_refusal_names_the_thing_and_the_remedy_and_survives_travel(code):
    refusal = Refusal(code, "scan.dcm", "3x4")
    again = pickle.loads(pickle.dumps(refusal))
    assert (again.code, again.thing, again.value) == (code, "scan.dcm", "3x4")
    assert str(again) == str(refusal) == f"scan.dcm: {code} (3x4). {REASONS[code]}"
    assert REASONS[code].endswith(".")
    assert len(REASONS[code]) > 20


def test_roles_reach_the_stack_and_adc_beats_its_b_value(tmp_path, series):
    slow = {"kind": "MR", "EchoTime": 100.0, "RepetitionTime": 4000.0}
    kinds = {
        "t2": (slow, "t2w"),
        "adc": (slow | {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "DiffusionBValue": 1000.0}, "adc"),
        "high": (slow | {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION"], "DiffusionBValue": 1500.0}, "hbv"),
        "low": (slow | {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION"], "DiffusionBValue": 50.0}, ""),
        "named": ({"kind": "MR", "SeriesDescription": "ep2d_diff ADC map"}, "adc"),
        "knee": (slow | {"BodyPartExamined": "KNEE"}, ""),
        "sagittal": (slow | {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, ""),
    }
    for number, (name, (tags, role)) in enumerate(kinds.items()):
        line = [(3.0 * k, 0, 0) if name == "sagittal" else (0, 0, 3.0 * k) for k in range(4)]
        folder = series(tmp_path / name, line, SeriesInstanceUID=f"1.2.3.{number + 10}", **tags)
        assert [(s.status, s.role) for s in stacks(folder)] == [("ok", role)], name
