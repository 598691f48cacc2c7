"""A mammogram is prepared, measured, planned and altered as a radiograph is."""

import json

import numpy as np
import pytest

from medssl.manifest import index
from medssl.phantom.dicom import pixel_tags, write
from medssl.store import Preparation, open_store, prepare
from medssl.store.fingerprint import fingerprint
from medssl.store.plan import plan
from medssl.store.settings import MODALITIES

SOP = {"MG": "1.2.840.10008.5.1.4.1.1.1.2", "DX": "1.2.840.10008.5.1.4.1.1.1.1"}
ROWS, COLUMNS = 80, 50


def breast(inverted=False):
    """Tissue that grows towards the chest wall at the left, air at the right; 12 bits."""
    tissue = np.linspace(3000, 500, COLUMNS).astype(np.uint16)
    picture = np.where(np.arange(COLUMNS) < 40, tissue, 0) + np.zeros((ROWS, 1), np.uint16)
    return (4095 - picture if inverted else picture).astype(np.uint16)


def mammogram(folder, modality, number, inverted):
    uid = f"2.25.{1000 + number}"
    told = {
        "SOPClassUID": SOP[modality], "SOPInstanceUID": f"{uid}.1", "Modality": modality, "PatientID": f"P{number}",
        "PatientSex": "F", "StudyInstanceUID": f"{uid}.2", "SeriesInstanceUID": f"{uid}.3",
        "ImageType": ["ORIGINAL", "PRIMARY"], "PresentationIntentType": "FOR PRESENTATION", "ViewPosition": "MLO",
        "ImageLaterality": "L", "BodyPartExamined": "BREAST", "ImagerPixelSpacing": [0.1, 0.1], "WindowCenter": 2048,
        "WindowWidth": 4096,
    }  # fmt: skip
    pixels = pixel_tags(breast(inverted), bits_stored=12)
    pixels["PhotometricInterpretation"] = f"MONOCHROME{1 if inverted else 2}"
    write(folder / f"{number}.dcm", told | pixels)


@pytest.fixture
def stores(tmp_path):
    """A store of mammograms and one of radiographs of the same pictures."""
    for modality in SOP:
        for number, inverted in enumerate((False, True)):
            mammogram(tmp_path / modality, modality, number, inverted)
        index(tmp_path / modality, tmp_path / f"{modality}c")
        receipt = prepare(tmp_path / f"{modality}c", tmp_path / f"{modality}s", settings=Preparation(xray_pixels=64))
        assert (receipt.prepared, receipt.reasons, receipt.not_asked) == (2, {}, {})
    return open_store(tmp_path / "MGs"), open_store(tmp_path / "DXs")


def test_a_mammogram_is_prepared_as_a_radiograph(stores):
    mammograms, radiographs = stores
    assert set(mammograms.volumes["modality"]) == {"MG"}
    image = mammograms.read(mammograms.volumes["volume_id"].iloc[0])
    assert image.shape == (1, 64, 64, 1)
    filled = image[0, 12:52, :, 0].astype(np.float32)  # columns are I; the sides of the letterbox are not measured
    step = COLUMNS / 40
    centres = (np.arange(40) + 0.5) * step - 0.5
    expected = np.interp(centres, np.arange(COLUMNS), breast()[0] / 4095.0)
    inner = (centres > 1) & (centres < 37)
    assert np.abs(filled[inner] - expected[inner, None]).max() < 0.01
    for one, other in zip(mammograms.volumes["volume_id"], radiographs.volumes["volume_id"], strict=True):
        assert np.array_equal(mammograms.read(one, "valid"), radiographs.read(other, "valid"))
    both = [np.sort([s.read(v).mean() for v in s.volumes["volume_id"]]) for s in stores]
    assert both[0] == pytest.approx(both[1])


def test_an_inverted_mammogram_shows_the_same(stores):
    mammograms = stores[0]
    one, other = (mammograms.read(name) for name in mammograms.volumes["volume_id"])
    assert np.abs(one.astype(np.float32) - other).max() < 2e-3


def test_mammograms_are_planned_as_radiographs(stores):
    plans = [plan(json.loads(json.dumps(fingerprint(store.path)))) for store in stores]
    assert [made.modality for made in plans] == ["MG", "DX"]
    assert plans[0].size == plans[1].size
    assert plans[0].recipe()["prepare"] == {"modalities": ["MG"], "xray_pixels": 64}


def test_every_modality_has_its_changes_of_intensity():
    from medssl.views.intensity import BY_MODALITY

    assert set(BY_MODALITY) == set(MODALITIES)
    assert BY_MODALITY["MG"] == BY_MODALITY["DX"]
