"""Index an archive of many small CT files: files per second with one process and two, a second run, and what merging
costs in time and memory for each file. `python benchmarks/index.py --help`
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from medssl.manifest import index
from medssl.units import Work

SLICES = 40


def write_archive(folder: Path, files: int) -> None:
    """Series of 40 slices of 64 x 64, private text of 20 kB in each header."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    rng = np.random.default_rng(0)
    for n in range(files):
        series, k = divmod(n, SLICES)
        if k == 0:
            study, number, frame = generate_uid(), generate_uid(), generate_uid()
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, number, frame
        data.PatientID, data.Modality, data.Rows, data.Columns = f"P{series // 2}", "CT", 64, 64
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * k], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.RescaleIntercept, data.RescaleSlope = [1, 1], -1024, 1
        block = data.private_block(0x0009, "BENCHMARK", create=True)
        block.add_new(0x10, "OB", bytes(20_000))
        data.PixelData = rng.integers(0, 99, (64, 64)).astype(np.int16).tobytes()
        place = folder / f"{series:05d}" / f"{k:03d}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(place, enforce_file_format=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=8000, help="files in the archive (default 8000)")
    parser.add_argument("--keep", type=Path, help="a folder to keep the archive in, for another run")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    archive = options.keep or work / "archive"
    try:
        if not archive.is_dir():
            write_archive(archive, options.files)
        seconds = {}
        for workers in (1, 2, 1, 2):
            cohort = work / "cohort"
            shutil.rmtree(cohort, ignore_errors=True)
            started = time.perf_counter()
            receipt = index(archive, cohort, work=Work(workers=workers))
            seconds[workers] = min(seconds.get(workers, np.inf), time.perf_counter() - started)
        started, cpu = time.perf_counter(), time.process_time()
        index(archive, cohort, work=Work(workers=2))
        again, merging = time.perf_counter() - started, time.process_time() - cpu
        tracemalloc.start()
        index(archive, cohort)
        peak = tracemalloc.get_traced_memory()[1]
        print(f"{receipt.files} files, {receipt.volumes} volumes")
        for workers, took in seconds.items():
            print(f"{workers} process(es): {took:6.1f} s, {receipt.files / took:7.0f} files/s")
        print(f"two processes against one: {seconds[1] / seconds[2]:.2f}x")
        print(f"again, nothing new: {again:.1f} s wall, {merging / receipt.files * 1e6:.0f} us CPU a file")
        print(f"peak memory of merging: {peak / receipt.files / 1000:.1f} kB a file")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
