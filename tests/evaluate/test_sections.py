"""Whatever a section tells: it has a schema and a drawing, names no patient, and tells nothing of small groups."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from medssl import report as reporting
from medssl.evaluate import evaluate
from medssl.evaluate.sections import SECTIONS
from medssl.report import write_report

SCHEMAS = Path(__file__).parents[2] / "data_manifests" / "report_sections"


def scored(patients=300, seed=0):
    """Two eyes a patient, who is of a sex, a race (one of them rare) and a site."""
    rng = np.random.default_rng(seed)
    n = np.repeat(np.arange(patients), 2)
    label = (rng.random(patients) < 0.4).astype(float)[n]
    race = np.where(np.arange(patients) % 50 < 2, "rare", np.array(list("ab"))[np.arange(patients) % 2])[n]
    return pd.DataFrame({
        "sample_id": [f"secret-eye-{k}" for k in range(len(n))], "patient_id": [f"secret-{k}" for k in n],
        "split": np.where(n % 4 == 1, "val", "test"), "label": label,
        "score": 1 / (1 + np.exp(0.6 - 1.4 * label - rng.normal(size=len(n)))), "race": race,
        "sex": np.array(["F", "M", "unknown"])[n // 5 % 3], "site": np.array(["north", "south"])[n // 3 % 2],
    })  # fmt: skip


@pytest.fixture(scope="module")
def report():
    return evaluate({"glaucoma": scored()}, minimum_patients=12)


def test_every_section_has_a_drawing_and_a_schema():
    drawn = {path.stem for path in (Path(reporting.__file__).parent / "sections").glob("*.html")}
    described = {path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.json")}
    assert drawn == described == set(SECTIONS)


def test_sections_are_as_their_schemas_say(report):
    for name, content in report["analyses"][0]["sections"].items():
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        plain = json.loads(json.dumps(content, allow_nan=False))
        jsonschema.validate(plain, schema, cls=jsonschema.Draft202012Validator)


def test_no_section_names_a_patient(report, tmp_path):
    page = write_report(report, tmp_path).read_text()
    assert "secret" not in json.dumps(report) and "secret" not in page


def test_sections_are_the_same_in_any_order_of_rows(report):
    shuffled = scored().sample(frac=1, random_state=1)
    again = evaluate({"glaucoma": shuffled}, minimum_patients=12)
    assert again["analyses"][0]["sections"] == report["analyses"][0]["sections"]
