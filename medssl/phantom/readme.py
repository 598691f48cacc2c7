"""The archive's own README.txt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl.phantom.cohort import BLANK_RATES, HEADER_RATE, MUTED_RACE
from medssl.phantom.eye import DIFFUSE, LOOKS, MUTED_EFFECT, MUTED_LOOKS, THINNING_PER_YEAR, WEDGE
from medssl.phantom.spoiled import SPOILED

if TYPE_CHECKING:
    from medssl.phantom.write import PhantomSettings


def readme(settings: PhantomSettings) -> str:
    """The text of README.txt: what is invented, what is planted, what is spoiled. Equal settings give equal text."""
    facts = "\n".join(f"  {name} = {value}" for name, value in vars(settings).items())
    blanks = ", ".join(f"{name} {rate:.0%}" for name, rate in BLANK_RATES.items())
    bad = "\n".join(f"  {path}: {why}" for path, why in SPOILED.items())
    return _TEXT.format(
        facts=facts, blanks=blanks, bad=bad, header=HEADER_RATE, effect=_effect(settings),
        faintest=settings.faintest, clearest=settings.clearest,
        mimics="half of the prostates" if settings.mimics else "no prostates",
    )  # fmt: skip


def _effect(settings: PhantomSettings) -> str:
    return (_DISEASE + (_PLANTED if settings.planted_gap else _NOT_PLANTED)).format(
        mildest=settings.mildest,
        worst=settings.worst,
        diffuse=DIFFUSE,
        wedge=WEDGE,
        yearly=THINNING_PER_YEAR,
        race=MUTED_RACE,
        effect=MUTED_EFFECT,
        coarse=MUTED_LOOKS,
        looks=LOOKS,
    )


_DISEASE = """\
  Glaucoma of severity s (uniform in {mildest:g} to {worst:g} a patient) thins the nerve fibre layer by {diffuse:.2f} s
  everywhere, by up to {wedge:.2f} s more in one arcuate wedge, and widens the cup. Age thins it by {yearly:.1%} a year.
"""
_PLANTED = """\
  PLANTED: in {race} patients (28 % of the cohort) all of this is multiplied by {effect:.2f} and the speckle averages
  {coarse:g} looks instead of {looks:g}. A sound model has a clearly lower AUROC there.
"""
_NOT_PLANTED = """\
  No subgroup effect is planted in this archive: the disease looks the same in every race.
"""

_TEXT = """An invented hospital archive. No person in it exists; nothing in it is medical data.

Settings
{facts}

Layout
  pacs/PATIENT/STUDY/SERIES/   DICOM: OPT (eyes), MR (prostate: T2w, ADC, high b), CT (chest), DX (chest films)
  oct_npz/PATIENT_EYE.npz      about 60 % of the eye patients, in the manner of the Harvard sets: oct_bscans
                               (B-scan, depth, A-scan) without spacing; the field is 6 x 6 mm and 2 mm deep
  nifti/PATIENT_T1w.nii.gz     heads
  masks/SERIESUID.nii.gz       label map of the T2w series: 1 prostate gland, 2 lesion inside it
  clinical.csv                 one row a patient; glaucoma is blank for all but eye patients
Patient ids are FAKE-, a letter (E eye, P prostate, C chest, X film, H head, B spoiled) and a number. File names of NPZ
and NIfTI begin with them.

Demographics
  Race is 28 % Black, 52 % White, 20 % Asian; half of the eye patients of every race have glaucoma. Age, sex, site and
  scanner are drawn independently of race and of disease. Cells left blank in clinical.csv:
  {blanks}; an NPZ file leaves out what the table does.
  {header:.0%} of the DICOM patients carry sex and age in their headers, also where the table is blank.

What is planted in the eyes
{effect}  Nothing depends on sex: it is the negative control.

Other facts that a reader must get right
  The Gamma OCT writes its frames from top to bottom. Slices are numbered against their positions. ADC of the Epsilon
  MR is stored at RescaleSlope 0.5. CT pixels outside the round field of view are stored as -2000 (only the Zeta CT
  declares it as PixelPaddingValue); the rescale intercept is -1024. Every second film is MONOCHROME1. Half of the
  prostate patients have a lesion, half of the chests and films a lung nodule. Lesions show from {faintest:g} to {clearest:g}
  of what their tissue differs by; {mimics} hold a benign nodule, as dark as a lesion on the T2w alone.

What is spoiled on purpose
{bad}
"""
