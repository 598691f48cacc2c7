"""Headers of CT-like files: medssl's own walker against pydicom on the same files and for the same elements.

Example: python benchmarks/headers.py --files 2000 --rounds 15

The files are made for the measurement: 264 elements, among them sequences and a private blob of 14 to 72 KB, and 512 KB
of pixels that take no room on the disk; all are in the page cache. All ways take turns in every round, another one
first each time, so that noise from other processes and cold caches fall on all of them. Times are CPU milliseconds of
this process, the median over rounds. "raw" leaves pydicom's values as bytes, "converted" asks for each of them; our
Header is converted and checked. Wall times on one and two processes are the best of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medssl.archive.headers import read_header
from medssl.archive.tags import TAGS
from medssl.archive.walker import FIRST_BYTES, walk

ELEMENTS = 264
PIXELS = 512 * 512 * 2
WANTED = [tag for tag, kind in TAGS.values() if kind != "sequence"]
VALUES = {
    "CS": "STANDARD", "LO": "Some words of a scanner", "SH": "short", "DA": "20240102", "TM": "101112.130000",
    "UI": "1.2.840.113619.2.55.3.604688119.971.1255", "DS": "1.250000", "IS": "12", "PN": "Made^Up", "US": 12,
    "SS": 1, "UL": 3, "SL": 1, "FD": 1.5, "FL": 1.5, "LT": "a comment of a technician", "ST": "a text", "AS": "061Y",
}  # fmt: skip
GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x0032, 0x0040)


def ct_like() -> Dataset:
    """A data set with ELEMENTS elements, in whose private part there is room for a blob."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    told = {
        "SpecificCharacterSet": "ISO_IR 100", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": generate_uid(), "StudyDate": "20240102",
        "Modality": "CT", "Manufacturer": "GE MEDICAL SYSTEMS", "InstitutionName": "An invented hospital",
        "SeriesDescription": "CHEST 2.5", "ManufacturerModelName": "LightSpeed VCT", "PatientName": "Made^Up",
        "PatientID": "FAKE-0001", "PatientBirthDate": "19500601", "PatientSex": "F", "PatientAge": "073Y",
        "BodyPartExamined": "CHEST", "SliceThickness": 2.5, "KVP": 120, "ConvolutionKernel": "STANDARD",
        "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "AcquisitionNumber": 1,
        "InstanceNumber": 1, "ImagePositionPatient": [-250.0, -250.0, 0.0],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "FrameOfReferenceUID": generate_uid(),
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": 512, "Columns": 512,
        "PixelSpacing": [0.9765625, 0.9765625], "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
        "PixelRepresentation": 1, "RescaleIntercept": -1024, "RescaleSlope": 1, "RescaleType": "HU",
    }  # fmt: skip
    for name, value in told.items():
        setattr(data, name, value)
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, "1.2"
    for name in ("ReferencedImageSequence", "RequestAttributesSequence"):
        item = Dataset()
        item.ReferencedSOPInstanceUID, item.StudyDescription = generate_uid(), "inside"
        setattr(data, name, [item, item])
    for group in (0x0009, 0x0019, 0x0027, 0x0043):
        data.add_new(group << 16 | 0x10, "LO", "SOMEBODY_01")
        for element in range(0x1001, 0x1001 + 18):
            data.add_new(group << 16 | element, "DS", "12.500")
    data.add_new(0x00290010, "LO", "SOMEBODY_02")
    data.add_new(0x00291010, "OB", b"")
    for tag, (kind, count, _, retired, name) in sorted(pydicom.datadict.DicomDictionary.items()):
        if len(data) >= ELEMENTS:
            break
        ordinary = name and not retired and count == "1" and kind in VALUES
        if ordinary and tag >> 16 in GROUPS and tag not in data and tag not in WANTED:
            data.add_new(tag, kind, VALUES[kind])
    return data


def write_files(folder: Path, count: int) -> list[Path]:
    """The files, numbered. Pixels are a hole in the file."""
    data, paths = ct_like(), []
    for number in range(count):
        data.InstanceNumber, data.SOPInstanceUID = number + 1, f"2.25.{10**20 + number}"
        data.ImagePositionPatient = [-250.0, -250.0, round(-1.25 * number, 3)]
        data[0x00291010].value = bytes(14_000 + 2 * (number * 7919 % 29_000))
        path = folder / f"IM{number:05d}.dcm"
        data.save_as(path, enforce_file_format=True)
        with path.open("ab") as file:
            file.write(b"\xe0\x7f\x10\x00OW\0\0" + PIXELS.to_bytes(4, "little"))
            file.truncate(file.tell() + PIXELS)
        paths.append(path)
    return paths


def stat(path: Path) -> object:
    """The cheapest that can be done to a file."""
    return path.stat()


def walked(path: Path) -> object:
    """The elements as bytes, by our walker."""
    descriptor = os.open(path, os.O_RDONLY)
    facts = walk(descriptor, os.fstat(descriptor).st_size, os.pread(descriptor, FIRST_BYTES, 0))
    os.close(descriptor)
    if facts is None:
        raise SystemExit(f"{path.name}: the walker handed it back")
    return facts


def raw(path: Path) -> object:
    """The same elements as bytes, by pydicom."""
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=WANTED)


def converted(path: Path) -> object:
    """The same elements as values, by pydicom."""
    data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=WANTED)
    return [element.value for element in data]


def everything(path: Path) -> object:
    """All elements as bytes, by pydicom."""
    return pydicom.dcmread(path, stop_before_pixels=True)


WAYS: dict[str, Callable[[Path], object]] = {
    "stat": stat,
    "medssl, walk alone": walked,
    "medssl, whole Header": read_header,
    "pydicom, specific tags, raw": raw,
    "pydicom, specific tags, converted": converted,
    "pydicom, before pixels": everything,
}


def measure(paths: Sequence[Path], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds a file of every round, by way."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    share = max(1, len(paths) // rounds)
    for number in range(rounds + 1):  # the first round warms the caches
        some = paths[(number - 1) * share % len(paths) :][:share]
        turn = number % len(WAYS)  # whoever comes first brings the files into the processor's cache
        for name, way in [*WAYS.items()][turn:] + [*WAYS.items()][:turn]:
            before = time.process_time()
            for path in some:
                way(path)
            if number:
                times[name].append(1e3 * (time.process_time() - before) / len(some))
    return times


def count_headers(paths: Sequence[Path]) -> int:
    """How many of the files have a header that the fast parser reads."""
    return sum(read_header(path).parse_path == "fast" for path in paths)


def wall(paths: Sequence[Path], rounds: int) -> tuple[float, float]:
    """Seconds for all files on one and on two processes, in turns, the best of the rounds; starts are not counted."""
    batches = [paths[start : start + 100] for start in range(0, len(paths), 100)]
    best = [float("inf"), float("inf")]
    spawn = get_context("spawn")
    with spawn.Pool(1) as one, spawn.Pool(2) as two:
        for number in range(rounds + 1):  # the first round warms the caches
            for which, pool in enumerate((one, two)):
                start = time.perf_counter()
                if sum(pool.imap_unordered(count_headers, batches)) != len(paths):
                    raise SystemExit("a file was not read by the fast parser")
                if number:
                    best[which] = min(best[which], time.perf_counter() - start)
    return best[0], best[1]


def main() -> None:
    """Nothing; the table is on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="how many files are made (2000)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds over which the median is taken (15)")
    given = parser.parse_args()
    if given.rounds < 1 or given.files < given.rounds:
        parser.error(f"--rounds {given.rounds}: give 1 or more, and at least as many --files")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), given.files)
        times = measure(paths, given.rounds)
        one, two = wall(paths, given.rounds)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    lines = [f"{given.files} files of {ELEMENTS} elements, {given.rounds} rounds, CPU ms a file"]
    lines += [f"{'way':<36}{'median':>8}{'files/CPU-s':>13}{'x walk':>8}{'x Header':>10}"]
    for name, median in medians.items():
        ratios = (median / medians[other] for other in ("medssl, walk alone", "medssl, whole Header"))
        lines.append(f"{name:<36}{median:>8.4f}{1e3 / median:>13.0f}" + "{:>8.2f}{:>10.2f}".format(*ratios))
    rates = (len(paths) / one, len(paths) / two)
    lines += ["whole Headers a second of wall time: one process {:.0f}, two {:.0f}".format(*rates)]
    lines += [f"two processes are {one / two:.2f} times as fast as one"]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
