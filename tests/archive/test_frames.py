"""Files with many frames: OCT rasters, enhanced CT and MR, and what only looks like them."""

import numpy as np
import pytest

from medssl.archive import Refusal, open_volume
from medssl.archive.headers import read_header
from medssl.archive.series import assemble

PLACES = [(0, 0, 0.2 * k) for k in range(5)]
UPRIGHT = {"PlaneOrientationSequence": [{"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}]}


def raster(frames=5, rows=4, columns=6):
    return np.arange(frames * rows * columns, dtype=np.uint8).reshape(frames, rows, columns)


def code(path):
    with pytest.raises(Refusal) as refusal:
        open_volume(path)
    return refusal.value.code


def test_an_oct_raster_is_a_scan_by_b_scan_by_depth(tmp_path, write_frames):
    scans = raster()
    volume = open_volume(write_frames(tmp_path / "a.dcm", scans, "OPT", PLACES))
    assert volume.shape == (6, 5, 4)
    assert volume.voxels[0, 4, 3, 1] == scans[3, 1, 4]
    assert volume.spacing == pytest.approx((0.25, 0.2, 0.5))
    assert (volume.modality, volume.oriented, volume.orientation) == ("OPT", False, "unknown")


def test_frames_in_any_order_are_the_same_volume(tmp_path, write_frames):
    scans = raster()
    straight = open_volume(write_frames(tmp_path / "a.dcm", scans, "OPT", PLACES))
    for n, order in enumerate(([4, 3, 2, 1, 0], [2, 0, 4, 1, 3])):
        path = write_frames(tmp_path / f"{n}.dcm", scans[order], "OPT", [PLACES[k] for k in order])
        volume = open_volume(path)
        assert np.array_equal(volume.voxels, straight.voxels)
        assert np.array_equal(volume.affine, straight.affine)


@pytest.mark.parametrize(
    "places",
    [
        [(0, 0, 0), (0, 0, 0.2), (0, 0, 0.4), (0, 0, 0.9), (0, 0, 1.0)],
        [(0, 0, 0)] * 5,
        [(float(np.cos(a)), 0, float(np.sin(a))) for a in np.linspace(0, np.pi, 5, endpoint=False)],
    ],
    ids=["uneven", "one line", "radial"],
)
def test_oct_that_is_no_raster_is_left_out(tmp_path, write_frames, places):
    assert code(write_frames(tmp_path / "a.dcm", raster(), "OPT", places)) == "OCT_NON_RASTER"


def test_a_single_b_scan_is_no_raster(tmp_path, write_frames):
    assert code(write_frames(tmp_path / "a.dcm", raster(1), "OPT", PLACES[:1])) == "OCT_NON_RASTER"


def test_a_pair_of_crossed_b_scans_is_no_raster(tmp_path, write_frames):
    each = [
        {"PlaneOrientationSequence": [{"ImageOrientationPatient": cosines}]}
        for cosines in ([1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0])
    ]
    shared = {"PlaneOrientationSequence": None}
    path = write_frames(tmp_path / "a.dcm", raster(2), "OPT", [(0, 0, 3), (3, 0, 0)], shared=shared, each=each)
    assert code(path) == "OCT_NON_RASTER"


def test_a_frame_without_a_position_is_no_raster(tmp_path, write_dicom):
    shared = {"PixelMeasuresSequence": [{"PixelSpacing": [1, 1]}], **UPRIGHT}
    path = write_dicom(tmp_path / "a.dcm", raster(), "OPT", SharedFunctionalGroupsSequence=[shared])
    assert code(path) == "OCT_NON_RASTER"


@pytest.mark.parametrize("cosines", [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [-1, 0, 0, 0, 1, 0]])
def test_an_enhanced_mr_is_where_its_frames_are(tmp_path, write_frames, cosines):
    normal = np.cross(cosines[:3], cosines[3:])
    places = [tuple(np.array([7.0, -8, 9]) + 3 * k * normal) for k in (3, 1, 0, 2)]
    pixels = raster(4).astype(np.int16)
    shared = {"PlaneOrientationSequence": [{"ImageOrientationPatient": cosines}]}
    volume = open_volume(write_frames(tmp_path / "a.dcm", pixels, "enhanced MR", places, shared=shared))
    assert volume.oriented
    for frame, place in enumerate(places):
        for row, column in ((0, 0), (3, 5), (1, 2)):
            lps = np.array(place) + 0.25 * column * np.array(cosines[:3]) + 0.5 * row * np.array(cosines[3:])
            index = np.linalg.solve(volume.affine, [-lps[0], -lps[1], lps[2], 1])[:3]
            assert np.allclose(index, np.round(index), atol=1e-6)
            assert volume.voxels[(0, *np.round(index).astype(int))] == pixels[frame, row, column]


def test_an_enhanced_ct_is_in_hounsfield_units(tmp_path, write_frames):
    pixels = np.full((5, 4, 6), 1064, np.int16)
    scale = {"PixelValueTransformationSequence": [{"RescaleSlope": 1, "RescaleIntercept": -1024}]}
    volume = open_volume(write_frames(tmp_path / "a.dcm", pixels, "enhanced CT", PLACES, shared=scale))
    assert volume.unit == "HU"
    assert (volume.voxels == 40).all()


def test_each_frame_has_its_own_slope(tmp_path, write_frames):
    order = [3, 0, 2, 1, 4]
    each = [{"PixelValueTransformationSequence": [{"RescaleSlope": k + 1, "RescaleIntercept": 5}]} for k in order]
    pixels = np.full((5, 4, 6), 100, np.int16)
    places = [PLACES[k] for k in order]
    volume = open_volume(write_frames(tmp_path / "a.dcm", pixels, "enhanced MR", places, each=each))
    assert volume.voxels[0, 0, 0].tolist() == [105, 205, 305, 405, 505]


def test_enhanced_frames_at_one_place_are_ambiguous(tmp_path, write_frames):
    path = write_frames(tmp_path / "a.dcm", raster(6).astype(np.int16), "enhanced MR", PLACES[:3] * 2)
    (stack,) = assemble([read_header(path)])
    assert (stack.status, stack.reason) == ("excluded", "AMBIGUOUS_STACK")


def test_a_moving_radiograph_is_left_out(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", raster().astype(np.uint16), "DX", ImagerPixelSpacing=[0.1, 0.1])
    assert code(path) == "NDIM"
