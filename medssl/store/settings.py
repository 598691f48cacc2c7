"""How volumes are prepared: the `prepare` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.errors import UserError

METHOD = 2
"""Raised whenever a change of the code changes prepared voxels, so that older ones are made again."""

Millimetres = tuple[float, float, float]

MODALITIES = {"CT": "ct", "MR": "mr", "OPT": "oct", "DX": "xray", "CR": "xray", "MG": "xray", "OP": "xray"}
"""DICOM modality codes that can be prepared, and the kind of preparation each gets."""

GROUPS: dict[str, tuple[str, ...]] = {"bpmri": ("t2w", "adc", "hbv")}
"""Roles of a group's channels in their order; the first gives the grid."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What to keep of a cohort and the grid and intensities it gets. Spacings in mm along I, J, K.

    `roles` limits MR to some sequences (t2w, adc, hbv); empty means all. CT and MR are turned to `mr_orientation`; OCT
    and radiographs stay as they are. Flat pictures (K == 1) of any modality are put in a square of `xray_pixels`, their
    longest side filling it. `ct_window` in HU goes to [-1, 1]; `clip_percentiles` bounds MR before the z-score.
    `groups: bpmri` makes one case of three channels of a study's T2w, ADC and high-b, on the T2w's grid, and keeps no
    other MR; empty means that every volume is a case of its own.
    """

    modalities: tuple[str, ...] = tuple(MODALITIES)
    roles: tuple[str, ...] = ()
    ct_spacing: Millimetres = (1.5, 1.5, 1.5)
    mr_spacing: Millimetres = (1.0, 1.0, 1.0)
    oct_spacing: Millimetres = (0.12, 0.12, 0.03)
    xray_pixels: int = 256
    ct_window: tuple[float, float] = (-1000.0, 1000.0)
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    mr_orientation: str = "RAS"
    groups: str = ""

    def __post_init__(self) -> None:
        unknown = [code for code in self.modalities if code not in MODALITIES]
        if unknown or not self.modalities:
            raise UserError(f"prepare.modalities: {unknown or 'empty'}; choose among {', '.join(MODALITIES)}")
        if self.groups and self.groups not in GROUPS:
            raise UserError(f"prepare.groups: {self.groups!r}; give {', '.join(GROUPS)} or leave it out")
        if self.groups and self.roles:
            raise UserError(
                f"prepare.roles: {self.roles} with groups {self.groups}; a group has its own roles: give one"
            )
        for name in ("ct_spacing", "mr_spacing", "oct_spacing"):
            if not all(0 < mm < float("inf") for mm in getattr(self, name)):
                raise UserError(f"prepare.{name}: {getattr(self, name)}; give three positive millimetres")
        if not 8 <= self.xray_pixels <= 16384:
            raise UserError(f"prepare.xray_pixels: {self.xray_pixels}; give 8 to 16384")
        if not self.ct_window[0] < self.ct_window[1]:
            raise UserError(f"prepare.ct_window: {self.ct_window}; give the lower bound first, in HU")
        if not 0 <= self.clip_percentiles[0] < self.clip_percentiles[1] <= 100:
            raise UserError(f"prepare.clip_percentiles: {self.clip_percentiles}; give two of 0..100, the lower first")
        if sorted("RLAPSI".find(code) // 2 for code in self.mr_orientation) != [0, 1, 2]:
            raise UserError(f"prepare.mr_orientation: {self.mr_orientation!r}; give three letters such as RAS or LPS")

    def spacing(self, modality: str) -> Millimetres:
        """Target spacing of a modality's volumes."""
        return {"ct": self.ct_spacing, "mr": self.mr_spacing, "oct": self.oct_spacing}[MODALITIES[modality]]

    def concerning(self, modality: str) -> dict[str, object]:
        """The settings that change how a volume of this modality is prepared."""
        kind = MODALITIES[modality]
        if kind == "xray":
            return {"pixels": self.xray_pixels}
        concerning: dict[str, object] = {"pixels": self.xray_pixels, "spacing": self.spacing(modality)}
        if kind == "oct":
            concerning["maps"] = 1  # raised whenever a change of the code changes prepared maps
        if kind in ("ct", "mr"):
            concerning["orientation"] = self.mr_orientation
        if kind == "ct":
            concerning["window"] = self.ct_window
        if kind == "mr":
            concerning["clip"] = self.clip_percentiles
        return concerning
