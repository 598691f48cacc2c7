"""probe.json and probe.html: what a probe found, with pictures, in one file that asks nothing of any other place."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medssl.atomic import write_json, write_text
from medssl.pictures import ROWS, tile
from medssl.probe import drawings
from medssl.probe.atlas import plane_by_pca, plane_by_umap
from medssl.probe.features import views_of
from medssl.probe.findings import verdict
from medssl.probe.neighbours import nearest_of
from medssl.probe.online import read_rows
from medssl.probe.probe import Evidence, words
from medssl.probe.questions import ATTRIBUTES
from medssl.probe.rank import spectrum
from medssl.report.page import clean, tame
from medssl.runs import read_log

TEMPLATE = Path(__file__).parent / "page.html"

COLOURED_BY = ("scanner", "sex", "race", "age_band")
"""What the maps are marked by beside labels."""

NEAREST = 5
"""Neighbours shown of each volume."""

LARGEST, MOST_LABELS = 900, 3
"""Pixels of the longer side of the picture of neighbours; labels that have maps."""


def write_page(evidence: Evidence, folder: Path | str) -> Path:
    """The path of probe.html in `folder`, written beside probe.json; the page has no script and asks for nothing."""
    folder = Path(folder)
    write_json(folder / "probe.json", evidence.findings.as_json())
    write_text(folder / "probe.html", render(evidence))
    return folder / "probe.html"


def render(evidence: Evidence) -> str:
    """The page as text. No volume, patient or file is named on it."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    found = evidence.findings
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"tame": tame, "clean": clean, "number": _number}
    picture, near = neighbours_picture(evidence)
    asked = [one for one in found.questions if one.label and len(one.curve) > 1]
    # Markup is safe: the drawings are made here, and their texts are escaped.
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        found=found,
        verdict=verdict(found),
        bars=Markup(drawings.bars(found.questions, found.held_out)) if found.questions else "",
        maps={kind: [(name, Markup(one)) for name, one in panels] for kind, panels in _maps(evidence).items()},
        curves=[Markup(one) for one in _curves(evidence.run)],
        watched=bool(read_rows(evidence.run)),
        few=Markup(drawings.label_curve(asked)) if asked else "",
        spectrum=Markup(drawings.spectra(spectrum(evidence.features), spectrum(evidence.untrained))),
        health=Markup(drawings.health(found)) if found.layers else "",
        picture=picture,
        near=near,
    )


def neighbours_picture(evidence: Evidence) -> tuple[str, list[tuple[str, list[str]]]]:
    """A PNG as a data address: a row for each of a few volumes, first itself and then its nearest of other patients; and
    the answers to a question a row of the same layout, as text.
    """
    patients = evidence.rows["patient_pid"].to_numpy()
    nearest, similarity = nearest_of(evidence.features, patients, NEAREST)
    whole = np.flatnonzero(np.isfinite(similarity).all(1))
    if not len(whole):
        return "", []
    first = [int(np.flatnonzero(patients[whole] == one)[0]) for one in dict.fromkeys(patients[whole])]
    asked = whole[np.array(first)][:: max(len(first) // ROWS, 1)][:ROWS]
    rows = [[int(one), *nearest[one].tolist()] for one in asked]
    views = views_of(evidence.run, evidence.store, evidence.rows)
    columns = [torch.stack([views.view_of(row[place])[0] for row in rows]) for place in range(NEAREST + 1)]
    grey = tile({f"image {place}": values for place, values in enumerate(columns)})
    labels = [*[name for name in _marked_by(evidence) if name not in COLOURED_BY][:1], "scanner"]
    known = {name: words(evidence, name) for name in labels}
    told = [
        (f"row {number}", [", ".join(f"{name} {known[name][one] or 'unknown'}" for name in labels) for one in row])
        for number, row in enumerate(rows, 1)
    ]
    return _png(grey), told


def _maps(evidence: Evidence) -> dict[str, list[tuple[str, str]]]:
    every = max(-(-len(evidence.features) // drawings.MOST_POINTS), 1)
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, plane in (("PCA", plane_by_pca(evidence.features)), ("UMAP", plane_by_umap(evidence.features))):
        if plane is not None:
            found[kind] = [
                (name, drawings.cloud(plane[::every], words(evidence, name)[::every], name, kind))
                for name in _marked_by(evidence)
            ]
    return found


def _marked_by(evidence: Evidence) -> list[str]:
    labels = [one.name for one in evidence.findings.questions if one.name not in ATTRIBUTES][:MOST_LABELS]
    there = [name for name in COLOURED_BY if name in evidence.rows.columns and (words(evidence, name) != "").any()]
    return [*labels, *there]


def _curves(run: Path) -> list[str]:
    """The losses of a training against what they are when stuck, and what its looks found, where it was looked at."""
    looks, log = read_rows(run), read_log(run / "log.csv")
    steps = [row["step"] for row in looks]
    told: dict[str, dict[str, tuple[Any, Any]]] = {"losses": {}, "ranks": {}, "answers": {}}
    for key in looks[0] if looks else ():
        kind, _, name = key.partition("_")
        values = [row[key] for row in looks]
        if any(value != value for value in values):
            continue
        if kind in ("loss", "stuck"):
            told["losses"][name + (" stuck" if kind == "stuck" else "")] = steps, values
        elif kind == "knn":
            told["answers"][tame(name)] = steps, values
        elif kind == "rank":
            told["ranks"][name] = steps, values
    if not looks and log:
        terms = [key for key in log[0] if key not in ("step", "lr", "gradient_norm")]
        for term in terms:
            told["losses"][term] = [float(row["step"]) for row in log], [float(row[term]) for row in log]
    about = {
        "losses": (
            "loss",
            "Loss of each term of held-out patients, against its stuck value" if looks else "Training loss",
        ),
        "ranks": ("directions in use", "Effective rank of the trunk and of each head"),
        "answers": ("balanced accuracy", "What the nearest neighbours said at each look"),
    }
    return [drawings.curves(lines, *about[kind], f"curve-{kind}") for kind, lines in told.items() if lines]


def _png(grey: np.ndarray) -> str:
    from PIL import Image

    times = max(LARGEST // max(grey.shape), 1)
    out = io.BytesIO()
    picture = Image.fromarray(np.kron(grey, np.ones((times, times), np.uint8)))
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "–"
