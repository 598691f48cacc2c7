"""Every kind of DICOM object: read as what it is, or left out with a reason of its own."""

import numpy as np
import pydicom.uid
import pytest

from medssl.archive import REASONS, Refusal, open_volume
from medssl.archive.headers import read_header
from medssl.archive.series import assemble
from medssl.archive.sop_classes import LEFT_OUT, PICTURE_SOPS, STORAGE, VOLUME_SOPS, route

PIXELS = np.arange(20, dtype=np.int16).reshape(4, 5)

# Names that pydicom's dictionary gives the SOP classes, and what becomes of them.
ROUTES = {
    "PositronEmissionTomographyImageStorage": "PET_LEFT_OUT",
    "LegacyConvertedEnhancedPETImageStorage": "PET_LEFT_OUT",
    "EnhancedPETImageStorage": "PET_LEFT_OUT",
    "BreastTomosynthesisImageStorage": "TOMOSYNTHESIS",
    "BreastProjectionXRayImageStorageForPresentation": "TOMOSYNTHESIS",
    "DigitalIntraOralXRayImageStorageForPresentation": "DENTAL",
    "DigitalIntraOralXRayImageStorageForProcessing": "DENTAL",
    "XRay3DCraniofacialImageStorage": "DENTAL",
    "BasicTextSRStorage": "STRUCTURED_REPORT",
    "EnhancedSRStorage": "STRUCTURED_REPORT",
    "ComprehensiveSRStorage": "STRUCTURED_REPORT",
    "XRayRadiationDoseSRStorage": "DOSE_PAGE",
    "EnhancedXRayRadiationDoseSRStorage": "DOSE_PAGE",
    "KeyObjectSelectionDocumentStorage": "KEY_OBJECTS",
    "GrayscaleSoftcopyPresentationStateStorage": "PRESENTATION_STATE",
    "ColorSoftcopyPresentationStateStorage": "PRESENTATION_STATE",
    "SegmentationStorage": "SEGMENTATION",
    "SurfaceSegmentationStorage": "SEGMENTATION",
    "66.7": "SEGMENTATION",
    "67": "NON_IMAGE_SOP",
    "RTImageStorage": "RADIOTHERAPY",
    "RTDoseStorage": "RADIOTHERAPY",
    "RTStructureSetStorage": "RADIOTHERAPY",
    "RTPlanStorage": "RADIOTHERAPY",
    "TwelveLeadECGWaveformStorage": "WAVEFORM",
    "EncapsulatedPDFStorage": "ENCAPSULATED_DOCUMENT",
    "EncapsulatedCDAStorage": "ENCAPSULATED_DOCUMENT",
    "RawDataStorage": "RAW_DATA",
    "SpatialRegistrationStorage": "NON_IMAGE_SOP",
    "MRSpectroscopyStorage": "SPECTROSCOPY",
    "EnhancedMRColorImageStorage": "COLOR_IMAGE",
    "ParametricMapStorage": "PARAMETRIC_MAP",
    "OphthalmicPhotography8BitImageStorage": "EYE_PHOTO",
    "OphthalmicPhotography16BitImageStorage": "EYE_PHOTO",
    "WideFieldOphthalmicPhotographyStereographicProjectionImageStorage": "EYE_PHOTO",
    "OphthalmicOpticalCoherenceTomographyEnFaceImageStorage": "OCT_EN_FACE",
    "OphthalmicOpticalCoherenceTomographyBscanVolumeAnalysisStorage": "OCT_EN_FACE",
    "OphthalmicVisualFieldStaticPerimetryMeasurementsStorage": "EYE_MEASUREMENT",
    "AutorefractionMeasurementsStorage": "EYE_MEASUREMENT",
    "CornealTopographyMapStorage": "EYE_MEASUREMENT",
    "VLWholeSlideMicroscopyImageStorage": "PATHOLOGY",
    "VLMicroscopicImageStorage": "PATHOLOGY",
    "VLEndoscopicImageStorage": "VISIBLE_LIGHT",
    "VLPhotographicImageStorage": "VISIBLE_LIGHT",
    "UltrasoundImageStorage": "ULTRASOUND",
    "UltrasoundMultiFrameImageStorage": "ULTRASOUND",
    "XRayAngiographicImageStorage": "ANGIOGRAPHY",
    "XRayRadiofluoroscopicImageStorage": "ANGIOGRAPHY",
    "XRay3DAngiographicImageStorage": "ANGIOGRAPHY",
    "NuclearMedicineImageStorage": "NUCLEAR_MEDICINE",
    "SecondaryCaptureImageStorage": "DERIVED_OR_SC",
    "MultiFrameTrueColorSecondaryCaptureImageStorage": "DERIVED_OR_SC",
    "IntravascularOpticalCoherenceTomographyImageStorageForPresentation": "UNSUPPORTED_SOP",
    "MediaStorageDirectoryStorage": "DICOM_DIRECTORY",
}


@pytest.fixture
def written(tmp_path, write_dicom):
    """written(**tags): the path of a small DICOM file."""
    return lambda kind="CT", **tags: write_dicom(tmp_path / "x.dcm", PIXELS, kind, **tags)


def code(path):
    with pytest.raises(Refusal) as refusal:
        read_header(path)
    return refusal.value.code


def test_the_names_of_the_dictionary_are_known():
    assert {name for name in ROUTES if not name[0].isdigit() and not hasattr(pydicom.uid, name)} == set()


@pytest.mark.parametrize(("name", "reason"), ROUTES.items())
def test_every_object_that_is_no_image_of_ours_has_its_reason(written, name, reason):
    assert code(written(SOPClassUID=str(getattr(pydicom.uid, name, STORAGE + name)))) == reason


def test_every_storage_class_of_the_dictionary_is_read_or_left_out():
    """Also those that nobody thought of: what has Rows is an image of an unknown kind, what has none is no image."""
    read = VOLUME_SOPS | PICTURE_SOPS
    for uid, (name, kind, *_) in pydicom.uid.UID_dictionary.items():
        if kind == "SOP Class" and "Storage" in name and uid not in read:
            with pytest.raises(Refusal) as refusal:
                route("x", {"SOPClassUID": uid, "Rows": (4.0,), "Columns": (5.0,)})
            assert refusal.value.code in REASONS
    assert {name.removeprefix(STORAGE) for name in read} & set(LEFT_OUT) == set()


@pytest.mark.parametrize(
    ("reason", "tags"),
    [
        ("SCREEN_SAVE", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
        ("DOSE_PAGE", {"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}),
        ("DOSE_PAGE", {"SeriesDescription": "Dose Report"}),
        ("DOSE_PAGE", {"SeriesDescription": "Patient Protocol"}),
        ("DERIVED_OR_SC", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("DERIVED_OR_SC", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        ("DERIVED_OR_SC", {"ImageType": ["DERIVED", "PRIMARY", "PROJECTION IMAGE"]}),
        ("DERIVED_OR_SC", {"ConversionType": "WSD"}),
        ("MOSAIC_UNSUPPORTED", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}),
        ("BURNED_IN", {"BurnedInAnnotation": "YES"}),
        ("COLOR_IMAGE", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("COLOR_IMAGE", {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}),
        ("PHANTOM", {"QualityControlSubject": "YES"}),
        ("PHANTOM", {"PatientName": "ACR^Phantom"}),
        ("PHANTOM", {"PatientName": "QC^daily"}),
        ("PHANTOM", {"PatientName": "Quality^Assurance"}),
        ("ANIMAL", {"AnatomicalOrientationType": "QUADRUPED"}),
        ("ANIMAL", {"PatientSpeciesDescription": "Canis lupus familiaris"}),
        ("NO_PIXELS", {"Rows": 0}),
    ],
)
def test_images_that_are_no_acquisition_of_a_patient(written, reason, tags):
    assert code(written(**tags)) == reason


@pytest.mark.parametrize(
    "tags",
    [
        {"PatientName": "Phantomas^Qadir"},
        {"PatientName": "McQC^Anna"},
        {"PatientID": "QA17"},
        {"PatientSpeciesDescription": "homo sapiens", "AnatomicalOrientationType": "BIPED"},
        {"SeriesDescription": "low dose chest"},
        {"SeriesDescription": "LOW DOSE REPEAT"},
        {"BurnedInAnnotation": "NO", "ConversionType": "DV", "QualityControlSubject": "NO"},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
    ],
)
def test_people_are_not_left_out_for_their_names(written, tags):
    assert read_header(written(**tags)).modality == "CT"


def test_a_map_computed_on_the_scanner_is_secondary_and_stays(written):
    kinds = ["DERIVED", "SECONDARY", "DIFFUSION", "ADC"]
    assert read_header(written("MR", ImageType=kinds)).modality == "MR"
    assert code(written("CT", ImageType=kinds)) == "DERIVED_OR_SC"


@pytest.mark.parametrize(
    ("name", "modality", "intent"),
    [
        ("ComputedRadiographyImageStorage", "CR", "presentation"),
        ("DigitalXRayImageStorageForPresentation", "DX", "presentation"),
        ("DigitalXRayImageStorageForProcessing", "DX", "processing"),
        ("DigitalMammographyXRayImageStorageForPresentation", "MG", "presentation"),
        ("DigitalMammographyXRayImageStorageForProcessing", "MG", "processing"),
    ],
)
def test_radiographs_and_what_they_are_for(written, name, modality, intent):
    path = written("DX", SOPClassUID=str(getattr(pydicom.uid, name)), Modality=modality, ViewPosition="MLO")
    header = read_header(path)
    assert (header.modality, header.intent, header.view_position) == (modality, intent, "MLO")
    (stack,) = assemble([header])
    assert (stack.status, stack.shape, stack.modality) == ("ok", (5, 4, 1), modality)
    assert open_volume(path).modality == modality


def test_volumes_have_no_intent(written):
    assert read_header(written()).intent == ""
