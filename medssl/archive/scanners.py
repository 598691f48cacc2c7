"""Closed lists for what headers tell of machines and views. The elements are free text and may hold a name: only words of
these lists leave a header, and for a machine in no list one of 256 numbers, by which two of them are mostly told apart.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

VENDORS = {
    "AGFA": "Agfa", "BIOPTIGEN": "Bioptigen", "BRUKER": "Bruker", "CANON": "Canon", "CARESTREAM": "Carestream",
    "CARLZEISS": "Zeiss", "ELEKTA": "Elekta", "ELSCINT": "Elscint", "ESAOTE": "Esaote",
    "FUJI": "Fujifilm", "GENERALELECTRIC": "GE", "GIOTTO": "IMS Giotto", "HEIDELBERG": "Heidelberg",
    "HITACHI": "Hitachi", "HOLOGIC": "Hologic", "IMATRON": "Imatron", "IMSGIOTTO": "IMS Giotto",
    "INVENTEDSCANNERS": "Invented Scanners Ltd", "KODAK": "Carestream", "KONICA": "Konica Minolta",
    "LORAD": "Hologic", "MARCONI": "Marconi", "MINDRAY": "Mindray", "NEUSOFT": "Neusoft", "NIDEK": "Nidek",
    "OPTOPOL": "Optopol", "OPTOVUE": "Optovue", "PHILIPS": "Philips", "PICKER": "Picker", "PLANMECA": "Planmeca",
    "SAMSUNG": "Samsung", "SECTRA": "Sectra", "SHIMADZU": "Shimadzu", "SIEMENS": "Siemens", "SWISSRAY": "Swissray",
    "TOMEY": "Tomey", "TOPCON": "Topcon", "TOSHIBA": "Toshiba", "UIH": "United Imaging",
    "UNITEDIMAGING": "United Imaging", "VARIAN": "Varian", "VATECH": "Vatech", "ZEISS": "Zeiss",
}  # fmt: skip
"""How the letters of Manufacturer begin, and the vendor. Vendors rename themselves; one name is kept for each."""

MODELS = [
    # The phantom's
    "Alpha OCT", "Beta OCT", "Gamma OCT", "Delta MR", "Epsilon MR", "Zeta CT", "Eta CT", "Theta DX", "Iota DX",
    # CT
    "Aquilion", "Aquilion ONE", "Aquilion PRIME", "Asteion", "Brilliance", "Brilliance 16", "Brilliance 40",
    "Brilliance 64", "BrightSpeed", "Definition", "Definition AS", "Definition AS+", "Definition Edge",
    "Definition Flash", "Discovery CT750 HD", "Emotion", "Emotion 6", "Emotion 16", "GO.Top", "GO.Up", "HiSpeed",
    "iCT", "iCT 256", "Incisive CT", "Ingenuity CT", "IQon", "LightSpeed", "LightSpeed16", "LightSpeed Plus",
    "LightSpeed Pro 16", "LightSpeed QX/i", "LightSpeed Ultra", "LightSpeed VCT", "Mx8000", "NAEOTOM Alpha",
    "NeuViz", "Optima CT540", "Optima CT660", "Perspective", "Revolution CT", "Revolution EVO", "Revolution HD",
    "Scenaria", "Sensation", "Sensation 16", "Sensation 4", "Sensation 40", "Sensation 64", "SOMATOM",
    "SOMATOM Drive", "SOMATOM Force", "SOMATOM Scope", "SOMATOM X.cite", "Supria", "uCT", "Volume Zoom",
    # PET with CT or MR
    "Biograph", "Biograph mCT", "Biograph mMR", "Biograph Vision", "Discovery 690", "Discovery 710", "Discovery LS",
    "Discovery MI", "Discovery ST", "Discovery STE", "Gemini", "Ingenuity TF", "Vereos",
    # MR
    "Achieva", "Achieva dStream", "Aera", "Altea", "Ambition", "Amira", "Avanto", "Avanto fit", "Discovery MR450",
    "Discovery MR750", "Discovery MR750w", "Echelon", "Eclipse", "Elition", "Espree", "Galan", "Genesis Signa",
    "Harmony", "Ingenia", "Ingenia Ambition", "Ingenia CX", "Ingenia Elition", "Intera", "Investigational_Device_7T",
    "Lumina", "Magnetom", "Magnetom Vida", "Oasis", "Optima MR360", "Optima MR450w", "Orian", "Panorama", "Prisma",
    "Prisma fit", "Signa Architect", "Signa Artist", "Signa Excite", "Signa HDx", "Signa HDxt", "Signa Pioneer",
    "Signa Premier", "Signa Voyager", "Skyra", "Skyra fit", "Sola", "Sonata", "Spectra", "Symphony", "SymphonyTim",
    "Terra", "Titan", "Trio", "TrioTim", "uMR", "Vantage", "Verio", "Vida",
    # Radiographs and mammograms
    "Affirm", "AMULET", "Clearvue", "CR 30", "CR 35", "CR 75", "CR 85", "Definium", "Digital Diagnost",
    "DigitalDiagnost", "Dimensions", "DRX", "DX-D", "FCR", "FDR", "Inspiration", "Lorad Selenia", "Mammomat",
    "MicroDose", "Multix", "Optima XR", "PCR Eleva", "Pristina", "Revolution XQ", "Revolution XR", "Selenia",
    "Selenia Dimensions", "Senographe", "Senographe DS", "Senographe Essential", "Thunder Platform", "Ysio",
    # OCT
    "3D OCT-1", "3D OCT-1000", "3D OCT-2000", "Avanti", "Cirrus", "Cirrus HD-OCT 400", "Cirrus HD-OCT 4000",
    "Cirrus HD-OCT 500", "Cirrus HD-OCT 5000", "Cirrus HD-OCT 6000", "DRI OCT Triton", "Maestro", "Maestro2",
    "OCT-HS100", "Plex Elite", "RS-3000", "RTVue", "Solix", "Spectralis", "Stratus", "Triton",
]  # fmt: skip
"""Families of machines; the longest one whose letters are in ManufacturerModelName counts."""

KERNELS = {
    "BONE", "BONEPLUS", "BRAIN", "CHEST", "DETAIL", "EDGE", "LUNG", "SHARP", "SMOOTH", "SOFT", "STANDARD", "STND",
    "ULTRA", "A", "B", "C", "D", "E", "F", "L", "UB", "UC", "YA", "YB", "YC", "YD",
}  # fmt: skip
"""Reconstruction kernels with names (GE, Philips)."""

KERNEL_CODE = re.compile(r"[ABCDHIJQSTU][BCHPRUVFX]?[RVSF]?\d{2}[A-Z]?|FC\d{2}|FL\d{2}|FU\d{2}|\d")
"""Siemens' (B30f, Br40d, Hr38, I31f with its strength) and Canon's (FC08) reconstruction kernels; no name has two digits."""

BODY_PARTS = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "AORTA", "BLADDER", "BRAIN", "BREAST", "CALF", "CHEST", "CHESTABDOMEN",
    "CHESTABDPELVIS", "CLAVICLE", "COLON", "CSPINE", "ELBOW", "ESOPHAGUS", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT",
    "HAND", "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "JAW", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LUNG",
    "NECK", "ORBIT", "PANCREAS", "PELVIS", "PROSTATE", "RETINA", "RIB", "SHOULDER", "SINUS", "SKULL", "SPINE", "SPLEEN",
    "SSPINE", "STERNUM", "TEETH", "THIGH", "THORAX", "TOE", "TSPINE", "UTERUS", "WHOLEBODY", "WRIST",
})  # fmt: skip
"""Body parts (DICOM PS3.16 annex L, the common ones)."""

SIDES = frozenset({"L", "R", "B"})

VIEWS = frozenset({
    "AP", "PA", "LL", "RL", "LATERAL", "RLD", "LLD", "RLO", "LLO", "LAO", "RAO", "LPO", "RPO",
    "CC", "MLO", "ML", "LM", "LMO", "XCC", "XCCL", "XCCM", "FB", "SIO", "ISO",
})  # fmt: skip
"""View positions of radiographs and mammograms (PS3.3 C.8.7.1.1.1 and C.8.11.7)."""


@lru_cache(4096)
def vendor(told: str) -> str:
    """The vendor that Manufacturer means, "other" for one that is in no list, "" when it says nothing."""
    letters = _letters(told)
    for start, name in VENDORS.items():
        if letters.startswith(start):
            return name
    return "GE" if GE.match(told.strip().upper()) else "other" if letters else ""


@lru_cache(4096)
def model(told: str) -> str:
    """The family that ManufacturerModelName belongs to, "unlisted-7f" for one that is in no list, "" for nothing."""
    found = max(FAMILY.findall(told.upper()), key=len, default="")
    return FAMILIES[_letters(found)] if found else bucket(_letters(told))


@lru_cache(4096)
def kernel(told: str) -> str:
    """The reconstruction kernel, "unlisted-7f" for one that is in no list, "" when nothing is told."""
    names = [name for part in told.upper().split("\\") if (name := part.strip())]
    known = all(name in KERNELS or KERNEL_CODE.fullmatch(name) for name in names)
    return "\\".join(names) if known else bucket(_letters(told))


def bucket(letters: str) -> str:
    """One of 256 names for free text: it tells two texts apart and is far too short to find either of them again."""
    return f"unlisted-{zlib.crc32(letters.encode()) & 0xFF:02x}" if letters else ""


@lru_cache(4096)
def listed(told: str, words: frozenset[str]) -> str:
    """The word in capitals, without what stands between its letters, if it is one of the list; else ""."""
    letters = _letters(told)
    return letters if letters in words else ""


def _letters(told: str) -> str:
    return re.sub(r"[^A-Z0-9+]", "", told.upper())


GE = re.compile(r"G\.?E\.?(\W|_|MED|HEALTH|$)")
"""Two letters that begin many other words."""

FAMILIES = {_letters(name): name for name in MODELS}
PATTERNS = [
    r"[^A-Z0-9+]*".join(map(re.escape, re.findall(r"[A-Z0-9+]+", name.upper())))
    for name in sorted(MODELS, key=len, reverse=True)
]
FAMILY = re.compile(rf"(?<![A-Z0-9])(?:{'|'.join(PATTERNS)})(?![A-Z])")
"""Any of the families as words of their own, however they are joined."""
