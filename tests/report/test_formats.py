"""Whatever is written beside the page is made of report.json, says the same, and cannot be made to say or do more."""

import copy
import csv
import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt

from medssl.evaluate import evaluate
from medssl.report import crosswalk, write_report
from medssl.report.markdown import as_markdown, model_card
from medssl.report.tables import as_csv, tables
from medssl.report.words import clean, metric, numbers
from tests.evaluate.test_sections import scored

HOSTILE = ["=cmd|'/c calc'!A1", "+1+1", "-2", "@SUM(A1)", "\t=1", "<script>x</script>", "a|b", "[x](http://y)", "# head",
           "`code`", "**bold**", "![i](www.z.com)", "a\nb"]  # fmt: skip


def hostile():
    """Groups whose names a spreadsheet or a renderer would act on."""
    names = np.array(HOSTILE)
    patient = np.arange(13 * 24)
    rng = np.random.default_rng(0)
    label = (patient // 13 % 2).astype(float)
    return pd.DataFrame({
        "sample_id": patient.astype(str), "patient_id": patient.astype(str), "split": "test", "label": label,
        "score": np.clip(0.3 * label + rng.uniform(0, 0.7, len(patient)), 0, 1), "race": names[patient % 13],
    })  # fmt: skip


@pytest.fixture(scope="module")
def report():
    return evaluate({"glaucoma": scored()}, minimum_patients=12)


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_every_estimate_is_a_row_and_every_number_the_same(report, tmp_path):
    write_report(report, tmp_path)
    (analysis,) = report["analyses"]
    for name in ("estimates", "gaps", "power"):
        rows = read_csv((tmp_path / f"{name}.csv").read_text(encoding="utf-8"))
        assert len(rows) == len(analysis[name]) > 0
        for row, told in zip(rows, analysis[name], strict=True):
            assert row.pop("analysis") == "glaucoma"
            assert set(row) == set(told)
            for key, value in told.items():
                if isinstance(value, float):
                    assert float(row[key]) == value
                else:
                    assert row[key] == ("" if value is None else str(value))


def test_a_section_has_a_table_and_the_cohort_one(report, tmp_path):
    write_report(report, tmp_path)
    rows = read_csv((tmp_path / "operating.csv").read_text())
    told = report["analyses"][0]["sections"]["operating"]["rows"]
    assert [row["group"] for row in rows] == [row["group"] for row in told]
    assert float(rows[1]["rates.ppv.low"]) == told[1]["rates"]["ppv"]["low"]
    assert rows[1]["counts.missed"] == str(told[1]["counts"]["missed"])
    (rare,) = [row for row in rows if row["group"] == "rare"]
    assert rare["counts.missed"] == ""
    people = read_csv((tmp_path / "cohort.csv").read_text())
    assert people[0]["group"] == "all"
    assert people[0]["n_patients"] == "225"
    assert sum(int(row["n_patients"]) for row in people if row["attribute"] == "sex") == 225


def test_lists_in_rows_have_tables_of_their_own():
    curve = [{"x": 0.1, "y": 0.2}, {"x": 0.3, "y": 0.4}]
    content = {"rows": [{"attribute": "sex", "group": "F", "curve": curve, "ends": [1, 2]}],
               "overall": {"bins": [{"low": 0}]}, "alone": 3, "nothing": []}  # fmt: skip
    analysis = {"name": "a", "cohort": {"group": "all", "attributes": []}, "sections": {"curves": content}}
    found = tables({"analyses": [analysis]})
    assert found["curves"] == [{"analysis": "a", "attribute": "sex", "group": "F", "ends": [1, 2]}]
    assert found["curves_curve"][1] == {"analysis": "a", "attribute": "sex", "group": "F", "x": 0.3, "y": 0.4}
    assert found["curves_overall_bins"] == [{"analysis": "a", "low": 0}]
    assert set(found) == {"cohort", "curves", "curves_curve", "curves_overall_bins"}
    assert read_csv(as_csv(found["curves"]))[0]["ends"] == "[1, 2]"


def test_no_cell_of_text_is_a_formula_and_numbers_stay_numbers(tmp_path):
    write_report(evaluate({"=1+1": hostile()}), tmp_path)
    negative = 0
    for path in tmp_path.glob("*.csv"):
        for row in read_csv(path.read_text(encoding="utf-8")):
            for value in row.values():
                if value.startswith(("=", "+", "-", "@", "\t", "\r")):
                    negative += float(value) < 0  # only numbers may
    assert negative > 0
    groups = {row["group"] for row in read_csv((tmp_path / "estimates.csv").read_text())}
    assert {"'=cmd|'/c calc'!A1", "'+1+1", "'-2", "'@SUM(A1)"} <= groups


def test_a_value_that_has_parts_in_other_rows_is_told_by_its_parts():
    text = as_csv([{"rate": None, "n": 1}, {"rate": {"low": 0.25, "high": None}, "n": 2}])
    assert text == "n,rate.low,rate.high\n1,,\n2,0.25,\n"


def test_the_text_has_every_number_of_the_page(report, tmp_path):
    page = write_report(report, tmp_path).read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    (analysis,) = report["analyses"]
    for row in (*analysis["estimates"], *analysis["gaps"]):
        if row["value"] is not None:
            assert numbers(row) in text
            assert numbers(row) in page
    for line in (
        *report["findings"],
        *(row["sentence"] for row in analysis["power"] if row["metric"] == "sensitivity"),
    ):
        assert line in text
        assert line in page
    for row in analysis["estimates"]:
        assert metric(row["metric"]) in text


def test_a_name_cannot_become_markdown():
    report = evaluate({"a|b": hostile()}, title="# <b>t</b> [x](y)")
    reader = MarkdownIt("commonmark").enable("table")
    for text in (as_markdown(report), model_card(report).split("---\n", 2)[2]):
        page = reader.render(text)
        plain = ["h1", "h2", "h3", "p", "ol", "ul", "li", "strong", "table", "thead", "tbody", "tr", "th", "td"]
        assert set(re.findall(r"<(\w+)", page)) <= set(plain)
        shown = {html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page)}
        assert {clean(name) for name in HOSTILE} <= shown
        for table in re.findall(r"<table>.*?</table>", page, re.S):
            rows = [len(re.findall(r"<t[hd]>", row)) for row in re.findall(r"<tr>.*?</tr>", table, re.S)]
            assert len(set(rows)) == 1
        assert not re.search(r"https?://|www\.", text)  # what some renderers make a link by itself


def test_the_model_index_is_yaml_with_the_numbers_of_the_report(report):
    _, head, body = model_card(report).split("---\n", 2)
    (model,) = yaml.safe_load(head)["model-index"]
    (result,) = model["results"]
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "glaucoma", "type": "private", "split": "test"}
    told = {row["metric"]: row for row in report["analyses"][0]["estimates"] if not row["attribute"]}
    assert [one["type"] for one in result["metrics"]] == ["roc_auc", "sensitivity", "specificity"]
    for one, name in zip(result["metrics"], ("auroc", "sensitivity", "specificity"), strict=True):
        assert one["value"] == pytest.approx(told[name]["value"], abs=5e-5)
        assert one["name"] == f"{metric(name)} {numbers(told[name])}"
    assert "Do not rely on it for:" in body
    assert report["provenance"]["tables"]["glaucoma"] in body


def test_what_cannot_be_judged_is_in_no_index():
    rows = scored().assign(label=1.0)
    head = model_card(evaluate({"t": rows})).split("---\n", 2)[1]
    assert yaml.safe_load(head)["model-index"][0]["results"] == []


def test_the_same_report_read_back_gives_the_same_files(report, tmp_path):
    for name, one in (("a", report), ("b", json.loads(json.dumps(report)))):
        write_report(one, tmp_path / name)
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files >= {
        "report.html",
        "report.json",
        "report.md",
        "model_card.md",
        "estimates.csv",
        "gaps.csv",
        "operating.csv",
    }
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_text_names_the_files_that_are_written(report, tmp_path):
    write_report(report, tmp_path)
    named = set(re.findall(r"[\w.]+\.csv", (tmp_path / "report.md").read_text().replace("\\_", "_")))
    assert named
    assert named <= {path.name for path in tmp_path.iterdir()}


def test_who_is_hidden_for_another_is_not_said_to_be_few():
    rows = pd.concat([scored(), scored().assign(patient_id=lambda r: "x" + r["patient_id"])], ignore_index=True)
    rows = rows.assign(sample_id=rows.index.astype(str), race=np.where(rows.index < 5, "few", "many"))
    text = as_markdown(evaluate({"t": rows}, by=["race"]))
    assert "not shown (hidden so that another group cannot be computed)" in text
    assert "too few to show" not in text


def test_an_older_report_is_still_drawn(report, tmp_path):
    older = copy.deepcopy(report)
    for key in ("settings", "seed", "splits"):
        del older["provenance"][key]
    del older["analyses"][0]["power"]
    for row in older["analyses"][0]["estimates"]:
        del row["error"]
    assert "glaucoma" in write_report(older, tmp_path).read_text()


def test_no_document_is_said_to_be_complied_with(report):
    documents = {item.document.split(" (")[0] for item in crosswalk.ITEMS}
    assert {"TRIPOD+AI", "CLAIM", "STARD-AI", "EU AI Act"} < documents
    assert any(document.startswith("FDA draft") for document in documents)
    text = as_markdown(report)
    assert "check against the primary text" in text
    words = text.replace("does not certify compliance", "").replace("it does not show that anything complies", "")
    for claim in ("complian", "complies", "certif", "unbiased", "no bias"):
        assert claim not in words.lower()


def test_the_crosswalk_leads_to_parts_that_are_there(report, tmp_path):
    text = write_report(report, tmp_path).read_text()
    table = text[text.index('id="crosswalk"') :]
    for address in {part.split('"')[0] for part in table.split('href="#')[1:]}:
        assert f'id="{address}"' in text
    assert {"calibration", "disparity"} <= set(report["analyses"][0]["sections"])
    there = crosswalk.crosswalk({"screen", "estimates"})
    assert [parts for item, parts in there if item.item == "23"] == [["screen", "estimates"]]
    assert [parts for item, parts in there if item.item == "3c"] == [[]]


def test_where_it_comes_from_is_told_once_for_each_table(report, tmp_path):
    told = copy.deepcopy(report)
    told["provenance"] |= {"date": "2026-01-02T03:04:05+00:00", "deviations": ["Site <east> came late."]}
    text = write_report(told, tmp_path).read_text()
    where = text[text.index('id="provenance"') : text.index('id="crosswalk"')]
    for words in ("2026-01-02T03:04:05+00:00", "Site &lt;east&gt; came late.", report["provenance"]["tables"]["glaucoma"],
                  "test 225, val 75; checked: no patient is in two splits", report["analyses"][0]["threshold"]["provenance"],
                  str(report["provenance"]["seed"]), "margin 0.05; fewest patients 12", "scipy"):  # fmt: skip
        assert words in where
    assert "none was told" not in where
