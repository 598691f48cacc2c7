"""Heidelberg's exports: written here byte by byte, read as rasters of B-scans in millimetres, or refused."""

import shutil
import struct

import numpy as np
import pytest
from skimage.io import imsave

from medssl.archive import Refusal, open_volume
from medssl.archive.finding import find_files
from medssl.archive.headers import read_header
from medssl.archive.series import assemble
from medssl.manifest import index, read_cohort
from medssl.store import prepare

ACROSS, COUNT, DEPTH, EXTRA = 12, 5, 9, 300
LARGEST = np.finfo(np.float32).max


def places(count=COUNT):
    """Start and end of horizontal B-scans 0.25 mm apart."""
    return [(1.0, 2.0 + 0.25 * n, 4.0, 2.0 + 0.25 * n) for n in range(count)]


def write_vol(path, values, where=None, **told):
    """A .vol file of values (B-scan, depth, A-scan), with a fundus picture of 7 x 6 pixels."""
    facts = {
        "version": b"HSF-OCT-103",
        "pattern": 3,
        "eye": b"OS",
        "patient": b"Canary-7",
        "mm": (0.011, 0.25, 0.0039),
    } | told
    count, depth, across = told.get("sizes", values.shape)
    header = bytearray(2048)
    struct.pack_into("<12siii", header, 0, facts["version"], across, count, depth)
    struct.pack_into("<ddd", header, 24, *facts["mm"])
    struct.pack_into("<ii", header, 48, 7, 6)
    struct.pack_into("<4s", header, 84, facts["eye"])
    struct.pack_into("<ii", header, 96, facts["pattern"], EXTRA)
    struct.pack_into("<21s", header, 140, facts["patient"])
    content = bytes(header) + bytes(42)
    for place, scan in zip(where or places(len(values)), values, strict=True):
        before = bytearray(EXTRA)
        struct.pack_into("<4d", before, 16, *place)
        content += bytes(before) + scan.astype("<f4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def values():
    return np.random.default_rng(0).uniform(0, 1, (COUNT, DEPTH, ACROSS)).astype(np.float32)


def code(path):
    with pytest.raises(Refusal) as refused:
        open_volume(path)
    return refused.value.code


def test_values_places_and_spacing(tmp_path, values):
    values[1, 2, 3], values[0, 0, 0] = LARGEST, np.nan
    volume = open_volume(write_vol(tmp_path / "a.vol", values))
    assert (volume.shape, volume.modality, volume.oriented) == ((ACROSS, COUNT, DEPTH), "OPT", False)
    assert volume.spacing == pytest.approx((0.011, 0.25, 0.0039))
    assert np.argwhere(~volume.valid).tolist() == [[0, 0, 0], [3, 1, 2]]
    for scan, row, column in ((0, 1, 2), (4, 8, 11), (2, 0, 5)):
        shown = round(255 * (np.log(float(values[scan, row, column]) + 2.44e-4) + 8.3) / 8.285)
        assert volume.voxels[0, column, scan, row] == min(max(shown, 0), 255)


def test_black_and_white_are_the_ends_of_the_scale(tmp_path, values):
    values[:] = 0.0
    values[2:] = 1.0
    voxels = open_volume(write_vol(tmp_path / "a.vol", values)).voxels
    assert (voxels[0, :, :2] == 0).all()
    assert (voxels[0, :, 2:] == 255).all()


def test_scans_from_below_and_in_any_order_are_the_same(tmp_path, values):
    truth = open_volume(write_vol(tmp_path / "a.vol", values)).voxels
    order = [3, 0, 4, 1, 2]
    mixed = write_vol(tmp_path / "b.vol", values[order], where=[places()[n] for n in order])
    assert np.array_equal(open_volume(mixed).voxels, truth)


def test_what_a_header_keeps_of_the_patient(tmp_path, values):
    header = read_header(write_vol(tmp_path / "a.vol", values))
    assert (header.patient_id, header.laterality, header.shape) == ("Canary-7", "L", (ACROSS, COUNT, DEPTH))


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"pattern": 1}, "OCT_NON_RASTER"),
        ({"pattern": 2}, "OCT_NON_RASTER"),
        ({"pattern": 5}, "OCT_NON_RASTER"),
        ({"version": b"HSF-XXX-103"}, "UNREADABLE"),
        ({"sizes": (COUNT, DEPTH, 0)}, "BAD_GEOMETRY"),
        ({"sizes": (-COUNT, DEPTH, ACROSS)}, "BAD_GEOMETRY"),
        ({"sizes": (30000, 30000, 30000)}, "TOO_LARGE"),
        ({"sizes": (COUNT, DEPTH, ACROSS + 1)}, "FILE_TRUNCATED"),
        ({"mm": (0.0, 0.25, 0.0039)}, "BAD_GEOMETRY"),
        ({"mm": (0.011, float("nan"), 0.0039)}, "BAD_GEOMETRY"),
    ],
)
def test_headers_that_cannot_be(tmp_path, values, told, reason):
    assert code(write_vol(tmp_path / "a.vol", values, **told)) == reason


@pytest.mark.parametrize(
    "where",
    [
        [(0, 0, 3, 0), (0, 0.2, 3, 0.2), (0, 0.4, 3, 0.4), (0, 0.9, 3, 0.9), (0, 1.1, 3, 1.1)],
        [(0, 0, 3, 0), (0, 0.2, 3, 0.5), (0, 0.4, 3, 0.4), (0, 0.6, 3, 0.6), (0, 0.8, 3, 0.8)],
        [(0, 0, 3, 0)] * 5,
        [(0, 0, 0, 0)] * 5,
        [(float("nan"), 0, 3, 0)] * 5,
    ],
)
def test_b_scans_that_make_no_raster(tmp_path, values, where):
    assert code(write_vol(tmp_path / "a.vol", values, where=where)) == "OCT_NON_RASTER"


def test_a_single_b_scan_is_no_raster(tmp_path, values):
    assert code(write_vol(tmp_path / "a.vol", values[:1])) == "OCT_NON_RASTER"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_file_is_refused(tmp_path, values, share):
    path = write_vol(tmp_path / "a.vol", values)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert code(path) in {"FILE_TRUNCATED", "UNREADABLE"}


IMAGE = """<Image><ImageType><Type>OCT</Type></ImageType><OphthalmicAcquisitionContext>
<Width>12</Width><Height>9</Height><ScaleX>0.011</ScaleX><ScaleY>0.0039</ScaleY>
<Start><Coord><X>{0}</X><Y>{1}</Y></Coord></Start><End><Coord><X>{2}</X><Y>{3}</Y></Coord></End>
</OphthalmicAcquisitionContext><ImageData><ExamURL>D:\\Export\\{4}</ExamURL></ImageData></Image>"""
FUNDUS = "<Image><ImageType><Type>LOCALIZER</Type></ImageType><ImageData><ExamURL>x</ExamURL></ImageData></Image>"


def write_xml(folder, scans, where=None, kind="png", prefix=""):
    """An XML export of pictures (B-scan, depth, A-scan) and the pictures beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    images = FUNDUS
    for number, (place, scan) in enumerate(zip(where or places(len(scans)), scans, strict=True)):
        imsave(folder / f"{number}.{kind}", scan, check_contrast=False)
        images += IMAGE.format(*place, f"{number}.{kind}")
    patient = "<Patient><LastName>Canary</LastName><PatientID>Canary-7</PatientID><Study><Series>"
    text = f"<HEDX><BODY>{patient}<Laterality>R</Laterality>{images}</Series></Study></Patient></BODY></HEDX>"
    (folder / "scan.xml").write_text(prefix + text)
    return folder / "scan.xml"


@pytest.fixture
def scans():
    return np.random.default_rng(1).integers(0, 255, (COUNT, DEPTH, ACROSS)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["png", "tif", "bmp"])
def test_an_xml_and_its_pictures_are_one_scan(tmp_path, scans, kind):
    order = [4, 3, 2, 1, 0]
    path = write_xml(tmp_path / "a", scans[order], where=[places()[n] for n in order], kind=kind)
    volume = open_volume(path)
    assert volume.spacing == pytest.approx((0.011, 0.25, 0.0039))
    assert np.array_equal(volume.voxels[0], scans.transpose(2, 0, 1))
    header = read_header(path)
    assert (header.patient_id, header.laterality) == ("Canary-7", "R")


def test_the_pictures_of_a_scan_are_no_images_of_their_own(tmp_path, scans):
    write_xml(tmp_path / "a", scans)
    stacks = assemble([read_header(path) for path in find_files(tmp_path / "a").files])
    assert sorted((stack.status, stack.reason) for stack in stacks) == [("excluded", "PART_OF_SCAN")] * 5 + [("ok", "")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<a/>", "NOT_AN_ARCHIVE_FILE"),
        ("<HEDX></HEDX>", "NOT_AN_ARCHIVE_FILE"),
        ("no XML", "NOT_AN_ARCHIVE_FILE"),
        ('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><HEDX>&b;</HEDX>', "XML_ENTITIES"),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><HEDX>&a;</HEDX>', "XML_ENTITIES"),
    ],
)
def test_other_xml(tmp_path, text, reason):
    (tmp_path / "x.xml").write_text(text)
    assert code(tmp_path / "x.xml") == reason


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "gone.png", "", ".."])
def test_pictures_elsewhere_are_never_opened(tmp_path, scans, name):
    path = write_xml(tmp_path / "a" / "b", scans)
    imsave(tmp_path / "secret.png", scans[0], check_contrast=False)
    path.write_text(path.read_text().replace("D:\\Export\\3.png", name))
    assert code(path) == "XML_PICTURE_MISSING"


def test_a_linked_picture_is_not_followed(tmp_path, scans):
    path = write_xml(tmp_path / "a", scans)
    (tmp_path / "a" / "3.png").unlink()
    (tmp_path / "a" / "3.png").symlink_to("/etc/passwd")
    assert code(path) == "XML_PICTURE_MISSING"


def test_scans_of_several_sizes_and_in_colour(tmp_path, scans):
    path = write_xml(tmp_path / "a", scans)
    imsave(tmp_path / "a" / "2.png", scans[0][:-1], check_contrast=False)
    assert code(path) == "BAD_GEOMETRY"
    imsave(tmp_path / "a" / "2.png", scans[0].astype(np.uint16), check_contrast=False)
    assert code(path) == "COLOR_IMAGE"


@pytest.mark.parametrize("ending", ["e2e", "fda", "fds", "sdb"])
def test_formats_that_only_their_vendor_knows(tmp_path, ending):
    (tmp_path / f"a.{ending}").write_bytes(b"CMDb")
    with pytest.raises(Refusal) as refused:
        read_header(tmp_path / f"a.{ending}")
    assert refused.value.code == "OCT_VENDOR_FORMAT"


def test_both_in_one_archive(tmp_path, values, scans):
    """The patient is one, and nothing of the name is left."""
    write_vol(tmp_path / "a" / "x.vol", values)
    write_xml(tmp_path / "a" / "y", scans)
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert (receipt.volumes, receipt.patients, receipt.by_modality) == (2, 1, {"OPT": 2})
    assert sorted(read_cohort(tmp_path / "c").volumes.query("status != 'excluded'")["laterality"]) == ["L", "R"]
    for path in (tmp_path / "c").glob("*.*"):
        assert b"Canary" not in path.read_bytes()


def test_one_picture_many_times_is_no_scan(tmp_path, scans):
    path = write_xml(tmp_path / "a", scans)
    path.write_text(path.read_text().replace("3.png", "2.png"))
    assert code(path) == "BAD_GEOMETRY"


def test_more_than_a_scan_can_be(tmp_path, scans):
    path = write_xml(tmp_path / "a", scans)
    path.write_text(path.read_text().replace("<Width>12<", "<Width>999999999<"))
    assert code(path) == "TOO_LARGE"


def test_a_cohort_keeps_up_with_the_pictures_of_a_scan(tmp_path, scans):
    write_xml(tmp_path / "a", scans)
    (tmp_path / "a" / "3.png").rename(tmp_path / "3.png")
    assert index(tmp_path / "a", tmp_path / "c").files_left_out == {"XML_PICTURE_MISSING": 1}
    (tmp_path / "3.png").rename(tmp_path / "a" / "3.png")
    assert index(tmp_path / "a", tmp_path / "c").by_modality == {"OPT": 1}
    (before,) = read_cohort(tmp_path / "c").volumes.query("status == 'ok'")["volume_id"]
    assert prepare(tmp_path / "c", tmp_path / "s").prepared == 1

    imsave(tmp_path / "a" / "3.png", 255 - scans[3], check_contrast=False)
    shutil.rmtree(tmp_path / "s")
    assert prepare(tmp_path / "c", tmp_path / "s").reasons == {"SOURCE_CHANGED": 1}
    assert index(tmp_path / "a", tmp_path / "c").by_modality == {"OPT": 1}
    (after,) = read_cohort(tmp_path / "c").volumes.query("status == 'ok'")["volume_id"]
    assert after != before
    assert prepare(tmp_path / "c", tmp_path / "s").prepared == 1
