from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from scipy.ndimage import binary_dilation

from medssl.phantom import PhantomSettings, chest
from medssl.phantom.cohort import generator, people

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def stack(folder: Path) -> tuple[np.ndarray, np.ndarray, pydicom.Dataset]:
    """Rescaled voxels (I, J, K), RAS+ affine and one header of a folder of slices, read in the plainest way."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    row, column = np.reshape([float(v) for v in slices[0].ImageOrientationPatient], (2, 3))
    slices.sort(key=lambda s: float(np.dot(np.cross(row, column), [float(v) for v in s.ImagePositionPatient])))
    first, last = (np.array([float(v) for v in s.ImagePositionPatient]) for s in (slices[0], slices[-1]))
    down, across = (float(v) for v in slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.stack([row * across, column * down, (last - first) / (len(slices) - 1), first], axis=1)
    slope, intercept = float(slices[0].get("RescaleSlope", 1)), float(slices[0].get("RescaleIntercept", 0))
    voxels = np.stack([s.pixel_array.T for s in slices], axis=-1) * slope + intercept
    return voxels, LPS_TO_RAS @ affine, slices[0]


def prostates(folder: Path) -> list[Path]:
    """The study folders of the prostate patients."""
    return sorted(folder.glob("pacs/FAKE-P*/ST01"))


def test_the_label_map_has_the_geometry_of_the_t2w_series(small_archive: Path) -> None:
    for study in prostates(small_archive):
        voxels, affine, header = stack(study / "SE01")
        mask = nibabel.load(small_archive / "masks" / f"{header.SeriesInstanceUID}.nii.gz")
        assert mask.shape == voxels.shape
        np.testing.assert_allclose(mask.affine, affine, atol=1e-3)
        assert np.abs(affine[:3, :3]).astype(bool).sum() > 3  # oblique


def test_the_gland_is_outlined_in_the_image(small_archive: Path) -> None:
    """A dark rim surrounds the gland: just outside the label map T2w is darker than inside and than far outside."""
    for study in prostates(small_archive):
        voxels, _, header = stack(study / "SE01")
        mask = nibabel.load(small_archive / "masks" / f"{header.SeriesInstanceUID}.nii.gz")
        gland = np.asanyarray(mask.dataobj) > 0
        near = binary_dilation(gland, iterations=1) & ~gland
        far = binary_dilation(gland, iterations=4) & ~binary_dilation(gland, iterations=3)
        assert voxels[near].mean() < 0.9 * voxels[gland].mean()
        assert voxels[near].mean() < 0.9 * voxels[far].mean()


def test_a_lesion_is_dark_on_adc_and_bright_at_high_b_in_world_coordinates(small_archive: Path) -> None:
    seen = 0
    for study in prostates(small_archive):
        t2, affine, header = stack(study / "SE01")
        labels = np.asanyarray(nibabel.load(small_archive / "masks" / f"{header.SeriesInstanceUID}.nii.gz").dataobj)
        if not (labels == 2).any():
            continue
        seen += 1
        places = {
            name: np.argwhere(labels == value) @ affine[:3, :3].T + affine[:3, 3] for name, value in LABELS.items()
        }
        for series, darker in (("SE02", True), ("SE03", False)):
            image, grid, _ = stack(study / series)
            inverse = np.linalg.inv(grid)
            means = {}
            for name, points in places.items():
                index = np.round(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
                index = index[((index >= 0) & (index < image.shape)).all(1)]
                means[name] = image[tuple(index.T)].mean()
            assert (means["lesion"] < 0.8 * means["gland"]) if darker else (means["lesion"] > 1.3 * means["gland"])
        assert t2[labels == 2].mean() < t2[labels == 1].mean()
    assert seen


LABELS = {"gland": 1, "lesion": 2}


def test_roles_can_be_told_from_the_headers(small_archive: Path) -> None:
    for study in prostates(small_archive):
        (_, _, t2), (adc, _, header), (_, _, high_b) = (stack(study / name) for name in ("SE01", "SE02", "SE03"))
        assert t2.EchoTime > 70 and "ADC" in header.ImageType and high_b.DiffusionBValue == 1400
        assert len({t2.FrameOfReferenceUID, header.FrameOfReferenceUID, high_b.FrameOfReferenceUID}) == 1
        inside = adc[18:30, 18:30, 5:9]
        assert 300 < np.median(inside) < 3500  # 1e-6 mm2/s at either slope


def test_ct_is_in_hounsfield_units_with_padding_outside_the_round_field(small_archive: Path) -> None:
    for series in small_archive.glob("pacs/FAKE-C*/ST01/SE01"):
        voxels, affine, header = stack(series)
        padded = voxels == -2000 - 1024
        assert padded[0, 0].all() and not padded[32, 32].any() and 0.15 < padded.mean() < 0.25
        assert ("PixelPaddingValue" in header) == (header.ManufacturerModelName == "Zeta CT")
        tissue = voxels[~padded]
        for low, high, share in ((-1024, -950, 0.1), (-950, -750, 0.05), (-20, 100, 0.1), (250, 1500, 0.001)):
            assert ((tissue >= low) & (tissue <= high)).mean() > share, (low, high)
        np.testing.assert_allclose(affine[:3, :3], np.diag([-5.9375, -5.9375, 8.0]), atol=1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_monochrome1_shows_the_same_film_after_inversion(
    small_archive: Path, small_settings: PhantomSettings, number: int
) -> None:
    person = people("xray", 2, small_settings.seed)[number]
    image = pydicom.dcmread(small_archive / "pacs" / person.patient_id / "ST01" / "SE01" / "IM0001.dcm")
    assert image.PhotometricInterpretation == f"MONOCHROME{1 if number else 2}"
    shown = 4095 - image.pixel_array if number else image.pixel_array
    rng = generator(small_settings.seed, "xray", number)
    view = "AP" if rng.random() < 0.4 else "PA"
    assert image.ViewPosition == view
    anatomy = chest.thorax(rng, bool(person.affected), view == "AP")
    np.testing.assert_array_equal(shown, chest.radiograph(rng, anatomy, person.scanner))
    lung, spine, air = shown[40:60, 30:45].mean(), shown[80:100, 60:68].mean(), shown[-20:, :4].mean()
    assert air < lung < spine


def test_the_heart_is_on_the_patients_left() -> None:
    anatomy = chest.thorax(np.random.default_rng(0), with_nodule=False)
    left, right = np.array([[-60.0, 20, -40]]), np.array([[60.0, 20, -40]])
    assert chest.hounsfield(anatomy, left) > 0 > -700 > chest.hounsfield(anatomy, right)
    film = chest.radiograph(np.random.default_rng(0), anatomy, "Theta DX")
    assert film[75:90, 80:90].mean() > 1.1 * film[75:90, 38:48].mean()


def test_a_nodule_changes_the_chest_only_where_it_is() -> None:
    with_it, without = (chest.thorax(np.random.default_rng(4), with_nodule=flag) for flag in (True, False))
    centre = with_it.nodule[None]
    assert chest.hounsfield(with_it, centre) == pytest.approx(30, abs=5)
    assert chest.hounsfield(without, centre) < -400
