"""Thumbnails: the right way up, true to millimetres, and a broken file costs one of them."""

import io
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medssl.archive import open_volume
from medssl.archive.reasons import REASONS
from medssl.manifest import Card, index, read_cohort
from medssl.manifest.thumbnails import LONGEST_SIDE, chosen, draw, plane, png
from medssl.progress import silent
from medssl.units import HERE, Work
from medssl.volume import Volume

CODES = [a + b + c for a in "RL" for b in "AP" for c in "SI"] + ["SPL", "AIR", "PRS"]


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def marked(sizes=(40, 40, 10), spacing=(1.0, 1.0, 4.0)):
    """A volume in RAS in which the patient's left, front and top are brighter: left most, front less, top least."""
    left, front, top = np.meshgrid(*(np.linspace(0, 1, n) for n in sizes), indexing="ij")
    values = 100 * (1 - left) + 30 * front + 10 * top
    return Volume(values[None].astype(np.float32), np.diag([*spacing, 1.0]), "MR")


@pytest.mark.parametrize("codes", CODES)
def test_an_axial_slice_is_seen_from_the_feet_whatever_the_order_of_the_axes(codes):
    grey, millimetres = plane(marked().reorient(codes))
    assert grey[:, -10:].mean() > grey[:, :10].mean() + 50  # the patient's left is on the right
    assert grey[:10].mean() > grey[-10:].mean() + 20  # the front is up
    assert (grey.shape, millimetres) == ((40, 40), (1.0, 1.0))
    assert np.array_equal(grey, plane(marked())[0])


@pytest.mark.parametrize("codes", CODES)
def test_a_coronal_and_a_sagittal_slice_have_the_head_up(codes):
    coronal, millimetres = plane(marked((40, 10, 30), (1.0, 5.0, 2.0)).reorient(codes))
    assert coronal[:5].mean() > coronal[-5:].mean() and coronal[:, -5:].mean() > coronal[:, :5].mean()
    assert (coronal.shape, millimetres) == ((30, 40), (2.0, 1.0))
    sagittal, millimetres = plane(marked((10, 40, 30), (5.0, 1.0, 2.0)).reorient(codes))
    assert sagittal[:5].mean() > sagittal[-5:].mean() and sagittal[:, :5].mean() > sagittal[:, -5:].mean()
    assert (sagittal.shape, millimetres) == ((30, 40), (2.0, 1.0))


def test_the_slice_is_the_middle_one_and_axial_where_all_sides_are_equal():
    values = np.zeros((1, 8, 9, 10), np.float32)
    values[0, :, :, 5] = np.arange(72).reshape(8, 9)
    grey, _ = plane(Volume(values, np.diag([-1.0, -1.0, 1.0, 1.0]), "MR"))
    assert grey.shape == (9, 8)
    assert np.corrcoef(grey.ravel(), values[0, :, :, 5].T.ravel())[0, 1] > 0.999


def test_an_oct_shows_its_middle_scan_with_the_depth_downwards():
    values = np.zeros((1, 30, 7, 20), np.uint8)
    values[0, :, 3, :] = np.linspace(0, 255, 20)
    values[0, :5, 3, :] = 255
    grey, millimetres = plane(Volume(values, np.diag([0.2, 0.25, 0.01, 1.0]), "OPT", oriented=False))
    assert (grey.shape, millimetres) == ((20, 30), (0.01, 0.2))
    assert (np.diff(grey[:, 20].astype(int)) > 0).all() and (grey[:, :5] == 255).all()


def test_a_radiograph_is_shown_as_it_is_stored(tmp_path):
    picture = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (50, 1))
    picture[:10] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    grey, millimetres = plane(open_volume(tmp_path / "a.png", modality="DX"))
    assert np.array_equal(grey, picture) and millimetres == (1.0, 1.0)


@pytest.mark.parametrize(("hounsfield", "seen"), [(-1000, 0), (-2000, 0), (-300, 127), (400, 255), (3000, 255)])
def test_ct_has_one_window_for_all(hounsfield, seen):
    values = np.full((1, 4, 4, 4), hounsfield, np.float32)
    assert (plane(Volume(values, np.eye(4), "CT"))[0] == seen).all()


def test_what_was_never_measured_is_black_and_moves_no_window():
    values = np.random.default_rng(0).normal(100, 10, (1, 30, 30, 3)).astype(np.float32)
    valid = np.ones((30, 30, 3), bool)
    valid[:10] = False
    plain = plane(Volume(values, np.diag([-1.0, -1.0, 3.0, 1.0]), "MR", valid=valid))[0]
    values[0, :10] = 1e6
    values[0, 15, 15, :] = np.nan
    grey = plane(Volume(values, np.diag([-1.0, -1.0, 3.0, 1.0]), "MR", valid=valid))[0]
    assert (grey[:, :10] == 0).all() and grey[15, 15] == 0
    assert np.abs(grey[:, 10:].astype(int) - plain[:, 10:]).mean() < 2


@pytest.mark.parametrize("fill", [7.0, np.nan])
def test_a_picture_without_contrast_is_black(fill):
    assert (plane(Volume(np.full((1, 4, 4, 4), fill, np.float32), np.eye(4), "MR"))[0] == 0).all()


@pytest.mark.parametrize(
    ("shape", "millimetres", "size"),
    [((100, 100), (1.0, 1.0), (150, 150)), ((100, 50), (1.0, 2.0), (150, 150)), ((20, 100), (2.0, 1.0), (60, 150)),
     ((500, 10), (0.01, 6.0), (12, 150)), ((9000, 1), (1.0, 1.0), (150, 1))],
)  # fmt: skip
def test_sides_are_true_to_millimetres(shape, millimetres, size):
    assert pixels(png(np.zeros(shape, np.uint8), millimetres)).shape == size
    assert max(size) == LONGEST_SIDE


def test_volumes_are_taken_in_turn_from_modalities_roles_and_scanners():
    rows = [
        {"volume_id": f"{modality}{role}{scanner}{n}", "modality": modality, "role": role, "scanner": scanner,
         "status": "excluded" if n == 0 else "ok"}
        for modality, role, scanner, count in
        [("MR", "t2w", "A", 50), ("MR", "t2w", "B", 5), ("MR", "adc", "A", 9), ("CT", "", "C", 4), ("DX", "", "D", 2)]
        for n in range(count)
    ]  # fmt: skip
    volumes = pd.DataFrame(rows)
    for shuffled in volumes, volumes.sample(frac=1, random_state=1):
        assert [*chosen(shuffled, 7)["volume_id"]] == [
            "CTC1", "CTC2", "CTC3", "DXD1", "MRadcA1", "MRadcA2", "MRt2wA1"
        ]  # fmt: skip
        assert [*chosen(shuffled, 3)["volume_id"]] == ["CTC1", "DXD1", "MRadcA1"]
        assert len(chosen(shuffled, 500)) == sum(volumes["status"] == "ok")


@pytest.fixture
def cohort(series, scan, tmp_path):
    """A cohort of a CT series and three NIfTI volumes, and the archive it was made from."""
    series(tmp_path / "a" / "ct", "P1")
    for number in range(3):
        scan(tmp_path / "a" / f"mr{number}.nii.gz", number)
    index(tmp_path / "a", tmp_path / "c", card=Card(name="x", modality="MR"))
    return tmp_path / "c"


def drawn(cohort, count=24, work=HERE):
    return draw(cohort, read_cohort(cohort).volumes, count, work, silent)


def by_file(cohort):
    """Volume id -> name of its (first) file."""
    sources = pd.read_parquet(cohort / "phi" / "sources.parquet")
    return sources.drop_duplicates("volume_id").set_index("volume_id")["path"].to_dict()


def test_real_files_give_the_pictures_of_their_volumes(cohort, tmp_path):
    names = by_file(cohort)
    for thumbnail in drawn(cohort):
        assert thumbnail.reason == ""
        path = tmp_path / "a" / names[thumbnail.volume_id]
        volume = open_volume(path.parent if thumbnail.modality == "CT" else path, modality="MR")
        grey, millimetres = plane(volume)
        assert thumbnail.png == png(grey, millimetres)
        assert sorted(thumbnail.shape) == sorted(volume.shape)
    assert len(drawn(cohort, 2)) == 2 and drawn(cohort, 0) == []


def test_a_broken_or_lost_file_is_shown_as_its_reason(cohort, tmp_path):
    content = (tmp_path / "a" / "mr0.nii.gz").read_bytes()
    (tmp_path / "a" / "mr0.nii.gz").write_bytes(content[:-9])
    (tmp_path / "a" / "mr1.nii.gz").unlink()
    (tmp_path / "a" / "mr2.nii.gz").write_bytes(b"x" * 400)
    names = by_file(cohort)
    found = {names[each.volume_id]: (each.reason, bool(each.png)) for each in drawn(cohort)}
    assert found.pop("ct/0.dcm") == ("", True)
    assert found.pop("mr0.nii.gz") == ("GZIP_DAMAGED", False)
    assert found.pop("mr1.nii.gz") == ("SOURCE_MISSING", False)
    ((code, content),) = found.values()
    assert code in REASONS and not content


def test_a_file_that_hangs_costs_one_picture(cohort, tmp_path):
    (tmp_path / "a" / "mr1.nii.gz").unlink()
    os.mkfifo(tmp_path / "a" / "mr1.nii.gz")  # reading waits for a writer who never comes
    names = by_file(cohort)
    found = {names[each.volume_id]: each.reason for each in drawn(cohort, work=Work(workers=1, seconds=4))}
    assert found == {"ct/0.dcm": "", "mr0.nii.gz": "", "mr1.nii.gz": "TIMEOUT", "mr2.nii.gz": ""}


def test_a_file_that_kills_its_decoder_costs_one_picture(series, scan, tmp_path):
    import jpeg_ls
    import pydicom
    from pydicom.encaps import encapsulate

    series(tmp_path / "a" / "one", "P1", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", Modality="DX")
    for number in range(1, 6):
        (tmp_path / "a" / "one" / f"{number}.dcm").unlink()
    scan(tmp_path / "a" / "mr.nii.gz", 1)
    path = tmp_path / "a" / "one" / "0.dcm"
    data = pydicom.dcmread(path)
    stream = bytearray(bytes(jpeg_ls.encode(data.pixel_array.astype(np.uint16))))
    start = stream.index(b"\xff\xf7")  # the frame header: length, precision, rows, columns
    stream[start + 5 : start + 9] = (60000).to_bytes(2, "big") * 2
    data.PixelData = encapsulate([bytes(stream) + b"\0" * (len(stream) % 2)])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    data.save_as(path)
    index(tmp_path / "a", tmp_path / "c", card=Card(name="x", modality="MR"))
    found = {each.modality: each.reason for each in drawn(tmp_path / "c", work=Work(workers=1))}
    assert found == {"DX": "CRASHED", "MR": ""}


def test_of_a_long_stack_only_the_middle_file_is_opened(cohort, tmp_path):
    for number in (0, 1, 2, 4, 5):
        (tmp_path / "a" / "ct" / f"{number}.dcm").unlink()
    assert [each.reason for each in drawn(cohort, 1)] == [""]
    volumes = read_cohort(cohort).volumes
    volumes["shape"] = [np.array([32, 32, 7])] * len(volumes)
    (whole,) = draw(cohort, volumes, 1, HERE, silent)  # files that are not slices: all of them are needed
    assert whole.reason == "SOURCE_MISSING"


def test_thumbnails_stand_in_order_whoever_draws_them(cohort):
    order = [*chosen(read_cohort(cohort).volumes, 24)["volume_id"]]
    assert [each.volume_id for each in drawn(cohort, work=Work(workers=2))] == order
    assert [each.volume_id for each in drawn(cohort)] == order
