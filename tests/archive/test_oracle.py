"""Every voxel where an independent converter puts it: the dcm2niix binary as oracle, on made and on real series."""

import shutil
import subprocess

import dcm2niix
import nibabel as nib
import numpy as np
import pytest

from medssl.archive import open_volume, read_stack
from medssl.archive.finding import find_files
from medssl.archive.headers import read_header
from medssl.archive.series import assemble
from medssl.volume import Volume

TOLERANCE_MM = 1e-3
CASES = {
    "axial": (1, 0, 0, 0, 1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, 0, 0, -1),
    "double oblique": (0.48, 0.64, 0.6, -0.8, 0.6, 0.0),
}


def convert(paths, folder):
    """What dcm2niix makes of some files: image by image. No files for those that it refuses."""
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    for number, path in enumerate(paths):
        shutil.copy(path, folder / "in" / f"{number:04d}.dcm")
    command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "%s_%e_%p", "-o", folder / "out", folder / "in"]
    subprocess.run(list(map(str, command)), capture_output=True, timeout=120, check=False)
    return [nib.load(path) for path in sorted((folder / "out").glob("*.nii"))]


def assert_same(volume: Volume, image: nib.Nifti1Image) -> None:
    """The same values, where they were measured, at the same millimetres. Axes may be in another order and direction."""
    valid = np.ones(volume.shape) if volume.valid is None else volume.valid
    valid = nib.as_closest_canonical(nib.Nifti1Image(valid.astype(np.uint8), volume.affine)).get_fdata() > 0
    ours = nib.as_closest_canonical(nib.Nifti1Image(volume.voxels[0].astype(np.float32), volume.affine))
    theirs = nib.as_closest_canonical(image)
    assert ours.shape == theirs.shape
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in ours.shape], indexing="ij")).reshape(3, -1).T
    apart = nib.affines.apply_affine(ours.affine, corners) - nib.affines.apply_affine(theirs.affine, corners)
    assert np.abs(apart).max() < TOLERANCE_MM
    assert np.array_equal(ours.get_fdata()[valid], theirs.get_fdata()[valid])


@pytest.mark.parametrize("kind", ["CT", "MR"])
@pytest.mark.parametrize("name", CASES)
def test_made_series(tmp_path, write_dicom, kind, name):
    rng = np.random.default_rng(1)
    cosines = np.array(CASES[name], dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    scale = {"RescaleIntercept": -1024, "RescaleSlope": 1} if kind == "CT" else {}
    for number, k in enumerate(rng.permutation(9)):
        place = np.array([-41.5, 23.25, 310.0]) + 2.5 * k * normal
        write_dicom(
            tmp_path / "s" / f"{number}.dcm", rng.integers(0, 2000, (12, 10)).astype(np.int16), kind,
            ImagePositionPatient=[round(float(mm), 6) for mm in place], ImageOrientationPatient=list(cosines),
            PixelSpacing=[0.75, 0.5], InstanceNumber=int(9 - k), SeriesNumber=3, SliceThickness=7,
            SpacingBetweenSlices=1.25, Manufacturer="GE", **scale,
        )  # fmt: skip
    (image,) = convert(find_files(tmp_path / "s").files, tmp_path / "oracle")
    assert_same(open_volume(tmp_path / "s"), image)


def test_an_enhanced_mr_in_scrambled_order(tmp_path, write_frames):
    rng = np.random.default_rng(2)
    cosines = np.array(CASES["oblique"])
    normal = np.cross(cosines[:3], cosines[3:])
    order = rng.permutation(8)
    places = [[float(mm) for mm in np.array([5.0, -6, 7]) + 3 * k * normal] for k in order]
    each = [{"FrameContentSequence": [{"StackID": "1", "InStackPositionNumber": int(k) + 1}]} for k in order]
    shared = {
        "PlaneOrientationSequence": [{"ImageOrientationPatient": cosines.tolist()}],
        "PixelMeasuresSequence": [{"PixelSpacing": [0.75, 0.5], "SliceThickness": 3, "SpacingBetweenSlices": 3}],
    }
    path = write_frames(
        tmp_path / "a.dcm", rng.integers(0, 900, (8, 12, 10)).astype(np.int16), "enhanced MR", places, each=each,
        shared=shared, Manufacturer="SIEMENS",
    )  # fmt: skip
    (image,) = convert([path], tmp_path / "oracle")
    assert_same(open_volume(path), image)


def diffusion(b, direction=None):
    way = None if direction is None else [{"DiffusionGradientOrientation": [float(part) for part in direction]}]
    kind = "NONE" if b == 0 else "DIRECTIONAL"
    told = {"DiffusionBValue": float(b), "DiffusionDirectionality": kind, "DiffusionGradientDirectionSequence": way}
    return {"MRDiffusionSequence": [told]}


SEVERAL = {
    "echoes": [{"MREchoSequence": [{"EffectiveEchoTime": ms}]} for ms in (4.9, 7.4)],
    "b-values": [diffusion(0), *(diffusion(b, row) for b in (500, 1000) for row in np.eye(3))],
}


@pytest.mark.parametrize("name", SEVERAL)
def test_an_enhanced_mr_with_several_volumes(tmp_path, write_frames, name):
    """dcm2niix writes a file for each echo and one in four dimensions for the weightings, for some manufacturers."""
    rng = np.random.default_rng(3)
    kinds = SEVERAL[name]
    frames = [(n, k) for k in range(8) for n in range(len(kinds))]
    each = [
        {**kinds[n], "FrameContentSequence": [{"StackID": "1", "InStackPositionNumber": k + 1,
                                               "DimensionIndexValues": [1, k + 1, n + 1]}]}
        for n, k in frames
    ]  # fmt: skip
    shared = {
        "PlaneOrientationSequence": [{"ImageOrientationPatient": [0.8, 0.6, 0, 0, 0, -1]}],
        "PixelMeasuresSequence": [{"PixelSpacing": [0.75, 0.5], "SliceThickness": 3, "SpacingBetweenSlices": 3}],
    }
    normal = np.cross([0.8, 0.6, 0], [0, 0, -1])
    path = write_frames(
        tmp_path / "a.dcm", rng.integers(0, 900, (len(frames), 12, 10)).astype(np.int16), "enhanced MR",
        [[float(mm) for mm in 3 * k * normal] for _, k in frames], each=each, shared=shared,
        Manufacturer="Philips Medical Systems",
    )  # fmt: skip
    made = convert([path], tmp_path / "oracle")
    theirs = [part for image in made for part in (nib.four_to_three(image) if image.ndim == 4 else [image])]
    ours = [read_stack(stack) for stack in assemble([read_header(path)])]
    assert len(ours) == len(theirs) == len(kinds)
    for volume in ours:
        found = [image for image in theirs if image.get_fdata().sum() == volume.voxels.sum(dtype=float)]
        assert len(found) == 1
        assert_same(volume, found[0])


@pytest.mark.real
@pytest.mark.slow
def test_real_series(real_data, tmp_path):
    """Every volume that we make of the real archive: those that dcm2niix makes, too, are the same."""
    stacks = assemble([read_header(path) for path in find_files(real_data / "archive_dicom").files])
    kept = [stack for stack in stacks if stack.status != "excluded" and stack.modality in ("CT", "MR")]
    compared = 0
    for number, stack in enumerate(kept):
        images = convert([header.path for header in stack.headers], tmp_path / str(number))
        whole = [image for image in images if image.ndim == 3]
        if len(whole) == 1 and not stack.reason:
            assert_same(read_stack(stack), whole[0])
            compared += 1
    assert compared >= 8
