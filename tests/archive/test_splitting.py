"""A series of several volumes is split by the fewest tags that make volumes of it; each row of the hazards is a series
as a scanner writes it, with the volumes or the reason that must come of it.
"""

import numpy as np
import pytest

from medssl.archive.finding import find_files
from medssl.archive.headers import read_header
from medssl.archive.series import assemble

AXIAL = [1, 0, 0, 0, 1, 0]


@pytest.fixture
def slices(tmp_path, write_dicom):
    """Writes one slice of a series for each dictionary: its place along the normal in mm, and its tags."""

    def write(rows, kind="MR", orientation=AXIAL):
        normal = np.cross(orientation[:3], orientation[3:])
        for number, (place, tags) in enumerate(rows):
            pixels = np.random.default_rng(number).integers(0, 900, (6, 5)).astype(np.int16)
            facts = {"ImageOrientationPatient": orientation, "PixelSpacing": [1, 1], "InstanceNumber": number}
            position = [float(mm) for mm in place * normal]
            write_dicom(
                tmp_path / "s" / f"{number:03d}.dcm",
                pixels,
                kind,
                **{**facts, "ImagePositionPatient": position, **tags},
            )
        return assemble([read_header(path) for path in find_files(tmp_path / "s").files])

    return write


def stack_of(count, step=2.5, **tags):
    return [(step * k, tags) for k in range(count)]


def told(stacks):
    return sorted((len(stack.headers), stack.split_by, stack.status, stack.reason) for stack in stacks)


TELLING = {
    "b_value": [{"DiffusionBValue": b} for b in (0.0, 50.0, 800.0)],
    "direction": [{"DiffusionBValue": 800.0, "DiffusionGradientOrientation": list(row)} for row in np.eye(3)],
    "echo_time": [{"EchoTime": ms} for ms in (4.9, 7.4)],
    "image_type": [{"ImageType": ["ORIGINAL", "PRIMARY", part]} for part in ("M", "P")],
    "component": [{"ComplexImageComponent": part} for part in ("REAL", "IMAGINARY")],
    "temporal": [{"TemporalPositionIdentifier": n} for n in (1, 2, 3)],
    "trigger": [{"TemporalPositionIdentifier": 1, "TriggerTime": ms} for ms in (12.5, 40.0)],
    "acquisition": [{"AcquisitionNumber": n} for n in (1, 2)],
    "energy": [{"KVP": kv} for kv in (80, 140)],
    "contrast": [{"ContrastBolusAgent": agent} for agent in ("", "Gadolinium")],
    "time": [{"ContentTime": time} for time in ("101500.25", "102345.5")],
}


@pytest.mark.parametrize("name", TELLING)
def test_one_tag_tells_volumes_apart(slices, name):
    rows = [row for tags in TELLING[name] for row in stack_of(5, **tags)]
    order = np.random.default_rng(0).permutation(len(rows))
    stacks = slices([rows[n] for n in order])
    assert told(stacks) == [(5, name, "ok", "")] * len(TELLING[name])
    for stack in stacks:
        assert [header.position[2] for header in stack.headers] == [0, 2.5, 5, 7.5, 10]
        assert stack.affine[2, 2] == pytest.approx(2.5)


@pytest.mark.parametrize("kernel", [("B30f", "B70f"), ("STANDARD", "LUNG")])
def test_two_kernels_are_two_volumes(slices, kernel):
    rows = [row for name in kernel for row in stack_of(4, ConvolutionKernel=name)]
    assert told(slices(rows, kind="CT")) == [(4, "kernel", "ok", "")] * 2


def test_several_tags_are_needed_together(slices):
    """Two echoes at two times, magnitude and phase of each: no two of the three tell them all apart."""
    rows = [
        row
        for echo in (5, 10)
        for when in (1, 2)
        for part in ("M", "P")
        for row in stack_of(4, EchoTime=echo, TemporalPositionIdentifier=when, ImageType=["ORIGINAL", "PRIMARY", part])
    ]
    assert told(slices(rows)) == [(4, "echo_time+image_type+temporal", "ok", "")] * 8


def test_a_tag_that_makes_volumes_beats_an_earlier_one_that_does_not(slices):
    """The b-value of one slice is wrong; the number of the acquisition is right on all."""
    rows = [(2.5 * k, {"DiffusionBValue": 50.0 if k == 5 else 0.0, "AcquisitionNumber": 1}) for k in range(6)]
    rows += stack_of(6, DiffusionBValue=100.0, AcquisitionNumber=2)
    assert told(slices(rows)) == [(6, "acquisition", "ok", "")] * 2


def test_one_of_several_volumes_lacks_a_slice(slices):
    rows = stack_of(6, EchoTime=5) + [row for k, row in enumerate(stack_of(6, EchoTime=10)) if k != 2]
    assert told(slices(rows)) == [(5, "echo_time", "excluded", "MISSING_SLICE"), (6, "echo_time", "ok", "")]


def test_the_same_place_four_times_is_no_volume(slices):
    assert told(slices([(0.0, {"ContentTime": f"10{n}000"}) for n in range(4)])) == [
        (4, "", "excluded", "AMBIGUOUS_STACK")
    ]


@pytest.mark.parametrize("cosines", [[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 2, 0], [1, 0, 0, 0.1, 1, 0], [0, 0, 0, 0, 0, 0]])
def test_directions_that_are_none(slices, cosines):
    rows = [(0.0, {"ImagePositionPatient": [0, 0, 2.0 * k]}) for k in range(5)]
    assert told(slices(rows, orientation=cosines)) == [(5, "", "excluded", "BAD_GEOMETRY")]


@pytest.mark.parametrize("degrees", [-14, 0.3, 14, 25])
def test_a_tilted_gantry_whatever_its_tag_says(slices, degrees):
    """The shear is in the positions; the tag (0018,1120) lies or is missing."""
    shear = np.tan(np.deg2rad(degrees))
    rows = [(0.0, {"ImagePositionPatient": [0, 3.0 * k * shear, 3.0 * k], "GantryDetectorTilt": 0}) for k in range(7)]
    (stack,) = slices(rows, kind="CT")
    assert (stack.status, stack.reason) == ("warn", "GANTRY_TILT")
    step = stack.affine[:3, 2] * [-1, -1, 1]
    assert step == pytest.approx([0, 3 * shear, 3])


def test_three_planes_of_a_localizer_are_three_groups_too_small(slices, tmp_path, write_dicom):
    planes = [AXIAL, [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]]
    rows = []
    for plane in planes:
        normal = np.cross(plane[:3], plane[3:])
        rows += [
            (0.0, {"ImageOrientationPatient": plane, "ImagePositionPatient": [float(mm) for mm in 20 * k * normal]})
            for k in range(4)
        ]
    assert told(slices(rows)) == [(4, "orientation", "excluded", "LOCALIZER_OR_TOO_FEW")] * 3


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ([0, 3, 6, 12, 15], "MISSING_SLICE"),
        ([0, 3, 9, 12, 21], "MISSING_SLICE"),
        ([0, 3, 6.2, 9, 12], "NONUNIFORM_SPACING"),
        ([0, 3, 6.02, 9, 12], ""),
    ],
)
def test_gaps(slices, places, reason):
    ((count, _, status, found),) = told(slices([(place, {}) for place in places]))
    assert (count, status, found) == (5, "excluded" if reason else "ok", reason)
