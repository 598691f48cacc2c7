"""Finding and reading files: label maps apart from images, and no file that stops the others."""

import os
import random
import subprocess
import sys

import pandas as pd
import pytest

from medssl.manifest import Card, index, read_cohort
from medssl.manifest.reading import read_file


@pytest.mark.parametrize("masks", ["im/{stem}_seg.nii.gz", "seg/{name}"])
def test_label_maps_may_lie_beside_the_images(scan, tmp_path, masks):
    scan(tmp_path / "a" / "im" / "p1.nii.gz", 1)
    scan(tmp_path / "a" / "im" / "p2.nii.gz", 2)
    scan(tmp_path / "a" / masks.format(stem="p1", name="p1.nii.gz"), 3)
    scan(tmp_path / "a" / masks.format(stem="lost", name="lost.nii.gz"), 4)
    receipt = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", modality="MR", masks=masks))
    assert (receipt.files, receipt.volumes, receipt.masks) == (2, 2, 1)
    assert (receipt.label_maps_without_image.count, receipt.volumes_without_label_map.count) == (1, 1)
    bare = read_cohort(tmp_path / "c").volumes.query("not has_mask")
    assert tuple(bare["volume_id"]) == receipt.volumes_without_label_map.first
    told = pd.read_parquet(tmp_path / "c" / "phi" / "files.parquet").set_index("instance_pid")
    assert "lost" in told.loc[receipt.label_maps_without_image.first[0], "path"]


def test_a_label_map_outside_the_archive_is_none(series, scan, tmp_path):
    series(tmp_path / "a" / "s", "P-1", SeriesInstanceUID="../../../evil")
    scan(tmp_path / "evil.nii.gz", 1)
    receipt = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", masks="m/{series_uid}.nii.gz"))
    assert receipt.masks == 0


def test_a_cohort_inside_the_archive_is_not_indexed(scan, tmp_path):
    scan(tmp_path / "one.nii.gz", 1)
    once = index(tmp_path, tmp_path / "c")
    assert index(tmp_path, tmp_path / "c") == once
    assert once.files == 1


def test_damage_of_any_kind_gets_a_reason(series, scan, tmp_path):
    series(tmp_path / "s", "P-1")
    scan(tmp_path / "v.nii.gz", 1)
    draw = random.Random(3)
    reasons = set()
    for n in range(150):
        source = (tmp_path / "s" / "0.dcm", tmp_path / "v.nii.gz")[n % 2]
        content = bytearray(source.read_bytes())
        for _ in range(draw.choice((1, 5, 30))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        damaged = tmp_path / f"damaged{''.join(source.suffixes)}"
        damaged.write_bytes(content[: draw.randrange(len(content)) if n % 3 == 0 else None])
        file = read_file(damaged)
        assert bool(file.reason) == (file.header is None)
        reasons.add(file.reason)
    assert {"", "GZIP_DAMAGED", "PIXELDATA_TRUNCATED"} <= reasons


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_gets_a_reason(scan, tmp_path):
    scan(tmp_path / "v.nii.gz", 1)
    (tmp_path / "v.nii.gz").chmod(0)
    assert read_file(tmp_path / "v.nii.gz").reason == "IO_ERROR"


def test_an_archive_of_which_nothing_can_be_used(scan, tmp_path):
    scan(tmp_path / "a" / "v.nii.gz", 1)
    (tmp_path / "a" / "v.nii.gz").write_bytes((tmp_path / "a" / "v.nii.gz").read_bytes()[:-50])
    (tmp_path / "a" / "empty.dcm").touch()
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert (receipt.files, receipt.volumes, receipt.patients) == (2, 0, 0)
    assert receipt.files_left_out == {"EMPTY_FILE": 1, "GZIP_DAMAGED": 1}
    assert receipt.splits == {}
    cohort = read_cohort(tmp_path / "c")
    assert len(cohort.instances) == 2
    assert len(cohort.volumes) == len(cohort.patients) == len(cohort.labels) == 0


def test_a_series_with_a_truncated_slice_is_left_out_with_both_reasons(series, tmp_path):
    series(tmp_path / "a" / "s", "P-1")
    cut = tmp_path / "a" / "s" / "1.dcm"
    cut.write_bytes(cut.read_bytes()[:-1500])
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert receipt.files_left_out == {"PIXELDATA_TRUNCATED": 1}
    assert receipt.series_left_out == {"MISSING_SLICE": 1}
    told = read_cohort(tmp_path / "c").instances["reason"]
    assert sorted(told) == ["MISSING_SLICE"] * 5 + ["PIXELDATA_TRUNCATED"]


def test_the_room_opens_without_the_heavy_libraries():
    heavy = "('numpy', 'pandas', 'pyarrow', 'pydicom', 'nibabel', 'torch', 'monai')"
    code = f"import sys, medssl.manifest; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
