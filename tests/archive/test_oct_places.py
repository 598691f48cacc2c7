"""OCT without plane positions: its B-scans are where lines on a picture of the eye are, or it is left out."""

import numpy as np
import pytest

from medssl.archive import Refusal, open_volume
from medssl.archive.headers import read_header
from medssl.archive.series import assemble

FRAMES, ROWS, COLUMNS = 6, 5, 9
DEPTH_MM, ACROSS_MM = 0.004, 0.0125
PICTURE_MM = 0.02
"""Size of a pixel of the picture of the eye, which no OCT file tells."""

LONG = (COLUMNS - 1) * ACROSS_MM / PICTURE_MM
"""Length of a B-scan in pixels of the picture."""


def line(start, along, length=LONG):
    """The ends (row, column) of a line on the picture from its start, in the direction of `along` (row, column)."""
    start, along = np.array(start, float), np.array(along, float)
    return [*start, *(start + length * along / np.linalg.norm(along))]


def place(coordinates, **told):
    item = {"ReferencedSOPInstanceUID": "1.2.3.50", "ReferenceCoordinates": [float(x) for x in coordinates],
            "OphthalmicImageOrientation": "LINEAR", **told}  # fmt: skip
    return {"OphthalmicFrameLocationSequence": [item]}


@pytest.fixture
def write(tmp_path, write_dicom):
    """Writes an OPT file from the places of its frames; the grey value of frame k is 10 k and more."""

    def write(places, **tags):
        pixels = (
            np.arange(ROWS * COLUMNS).reshape(1, ROWS, COLUMNS) // COLUMNS + 10 * np.arange(len(places))[:, None, None]
        )
        shared = {"PixelMeasuresSequence": [{"PixelSpacing": [DEPTH_MM, ACROSS_MM], "SpacingBetweenSlices": 77}]}
        return write_dicom(tmp_path / "a.dcm", pixels.astype(np.uint8), "OPT", SharedFunctionalGroupsSequence=[shared],
                           PerFrameFunctionalGroupsSequence=places, **tags)  # fmt: skip

    return write


def scans(volume):
    """Which written frames the B-scans of a volume are."""
    return [int(value) // 10 for value in volume.voxels[0, 0, :, 0]]


def code(path):
    with pytest.raises(Refusal) as refusal:
        open_volume(path)
    return refusal.value.code


@pytest.mark.parametrize("along", [(0, 1), (1, 0), (-1, 1), (0, -1)])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 4, 3]])
def test_lines_on_a_picture_are_a_raster_in_the_order_of_their_places(write, along, order):
    across = np.array([along[1], -along[0]]) / np.linalg.norm(along)  # to the right of the line, rows going down
    lines = [line((300 + 12.5 * k * across[0], 300 + 12.5 * k * across[1]), along) for k in order]
    volume = open_volume(write([place(ends) for ends in lines]))
    assert volume.shape == (COLUMNS, FRAMES, ROWS)
    assert volume.spacing == pytest.approx((ACROSS_MM, 12.5 * PICTURE_MM, DEPTH_MM), rel=1e-5)
    assert (volume.spacing_source, volume.oriented) == ("nominal", False)
    assert [order[n] for n in scans(volume)] == [5, 4, 3, 2, 1, 0]
    assert volume.voxels[0, 0, 0].tolist() == [10 * scans(volume)[0] + k for k in range(ROWS)]


def test_plane_positions_and_lines_on_the_picture_give_one_order(write, tmp_path):
    """The picture's columns as x, its rows as y, the depth as z: what a file with both says, both ways."""
    lines = [line((100 + 10 * k, 200), (0, 1)) for k in (3, 1, 0, 2)]
    positions = [
        {"PlanePositionSequence": [{"ImagePositionPatient": [PICTURE_MM * ends[1], PICTURE_MM * ends[0], 0]}],
         "PlaneOrientationSequence": [{"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}]}
        for ends in lines
    ]  # fmt: skip
    placed = open_volume(write(positions))
    located = open_volume(write([place(ends) for ends in lines]))
    assert scans(placed) == scans(located) == [0, 3, 1, 2]
    assert np.allclose(placed.affine, located.affine, atol=1e-6)
    assert (placed.spacing_source, located.spacing_source) == ("header", "nominal")


def test_positions_count_before_lines(write):
    both = [{**positioned(k), **place(line((100 + 10 * k, 200), (0, 1)))} for k in range(4)]
    volume = open_volume(write(both))
    assert volume.spacing[1] == pytest.approx(0.3)
    assert volume.spacing_source == "header"


def test_whole_pixels_are_evened_where_a_missing_scan_would_show(write):
    rows = [100, 105, 111, 116, 121, 127]  # 5.33 pixels apart
    volume = open_volume(write([place([row, 50, row, 55]) for row in rows]))
    assert volume.spacing[1] == pytest.approx(5.4 * PICTURE_MM)
    assert scans(volume) == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("aside", [-4, 0.5, 3])
def test_lines_that_begin_further_and_further_aside_are_a_sheared_raster(write, aside):
    lines = np.array([line((10 * k, 300 + aside * k), (0, 1)) for k in range(5)])
    (stack,) = assemble([read_header(write([place(ends) for ends in lines]))])
    assert (stack.status, stack.reason) == ("warn", "GANTRY_TILT")
    corners = np.array([[i, j, 0] for i in (0, COLUMNS - 1) for j in (0, 4)])
    ours = corners @ stack.affine[:3, :3].T
    theirs = PICTURE_MM * np.array([lines[4 - j].reshape(2, 2)[i // (COLUMNS - 1)] for i, j, _ in corners])
    ours, theirs = (np.linalg.norm(ends[:, None] - ends, axis=-1) for ends in (ours, theirs))
    assert np.allclose(ours, theirs, atol=1e-5)


def positioned(k):
    return {"PlanePositionSequence": [{"ImagePositionPatient": [0, 0, 0.3 * k]}],
            "PlaneOrientationSequence": [{"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}]}  # fmt: skip


def circle(n):
    angles = np.linspace(0, 2 * np.pi, n)
    return np.stack([300 + 50 * np.sin(angles), 300 + 50 * np.cos(angles)], -1).ravel()


NO_RASTER = {
    "radial": [place(line((300, 300), (np.sin(a), np.cos(a)))) for a in np.arange(6) * np.pi / 6],
    "circle": [place(circle(COLUMNS), OphthalmicImageOrientation="NONLINEAR")] * FRAMES,
    "two points of a curve": [place(line((k, 300), (0, 1)), OphthalmicImageOrientation="NONLINEAR") for k in range(6)],
    "en face": [place([k, 0, k + 9, 9], OphthalmicImageOrientation="TRANSVERSE") for k in range(6)],
    "one line": [place(line((300, 300), (0, 1)))] * FRAMES,
    "cross": [place(line((300, 300), (0, 1))), place(line((200, 400), (1, 0)))],
    "a scan missing": [place(line((10 * k, 300), (0, 1))) for k in (0, 1, 2, 4, 5, 6)],
    "a scan missing, whole pixels": [place([10 * k, 300, 10 * k, 305]) for k in (0, 1, 2, 4, 5, 6)],
    "dense whole pixels": [place([k, 300, k, 305]) for k in (0, 2, 3, 5, 6, 8)],
    "uneven": [place(line((10 * k + 2.5 * (k == 2), 300), (0, 1))) for k in range(6)],
    "a little uneven": [place(line((10 * k + 0.5 * (k == 2), 300), (0, 1))) for k in range(6)],
    "to and fro": [place(line((10 * k, 300 + LONG * (k % 2)), (0, 1 - 2 * (k % 2)))) for k in range(6)],
    "fan": [place(line((10 * k, 300), (0, 1), LONG + 2 * k)) for k in range(6)],
    "no length": [place([10 * k, 300, 10 * k, 300]) for k in range(6)],
    "two pictures": [place(line((10 * k, 300), (0, 1)), ReferencedSOPInstanceUID=f"1.2.{k}") for k in range(6)],
    "a place missing": [*[place(line((10 * k, 300), (0, 1))) for k in range(5)], {}],
    "a position missing": [*map(positioned, range(5)), {}],
    "one scan": [place(line((300, 300), (0, 1)))],
}  # fmt: skip


@pytest.mark.parametrize("name", NO_RASTER)
def test_what_is_no_raster_is_left_out(write, name):
    assert code(write(NO_RASTER[name])) == "OCT_NON_RASTER"


def test_a_raster_in_two_files_is_put_together(write, tmp_path):
    for part in range(2):
        places = [place(line((10 * k, 300), (0, 1))) for k in range(3 * part, 3 * part + 3)]
        write(places, ConcatenationUID="1.2.3.8", ConcatenationFrameOffsetNumber=3 * part).rename(
            tmp_path / f"{part}.dcm"
        )
    volume = open_volume(tmp_path)
    assert volume.shape == (COLUMNS, 6, ROWS)
    assert scans(volume) == [2, 1, 0, 2, 1, 0]
    (tmp_path / "0.dcm").unlink()
    assert code(tmp_path / "1.dcm") == "CONCATENATION_INCOMPLETE"


def test_the_eye_of_the_frames_counts_before_that_of_the_file(write):
    eye = {"FrameAnatomySequence": [{"FrameLaterality": "L"}]}
    path = write([{**eye, **positioned(k)} for k in range(4)], ImageLaterality="R")
    assert read_header(path).laterality == "L"


def test_two_rasters_of_a_series_stay_two(write, tmp_path):
    for eye in "RL":
        places = [place(line((10 * k, 300), (0, 1))) for k in range(4)]
        write(places, ImageLaterality=eye).rename(tmp_path / f"{eye}.dcm")
    found = assemble([read_header(tmp_path / f"{eye}.dcm") for eye in "RL"])
    assert sorted((stack.status, stack.headers[0].laterality) for stack in found) == [("ok", "L"), ("ok", "R")]
