"""The page of a comparison: one file, nothing from outside, the numbers of the JSON, harmless whatever a label says."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.evaluate import compare
from medssl.report.comparison import write_comparison

NASTY = "<script>alert(1)</script>|`x`"


def scored(seed, nasty="b", patients=240):
    rng = np.random.default_rng(seed)
    n = np.arange(patients)
    label = (n % 2).astype(float)
    return pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": n.astype(str), "split": np.where(n // 6 % 5 == 4, "val", "test"),
        "label": label, "score": np.clip(0.3 * label + rng.uniform(0, 0.7, patients), 0, 1),
        "race": np.array(["a", nasty, "c"])[n // 2 % 3], "sex": np.array(["F", "unknown"])[n // 7 % 2],
    })  # fmt: skip


@pytest.fixture(scope="module")
def told():
    return compare(scored(0, NASTY), scored(1, NASTY), metric="sensitivity", by=["race", "sex"])


def test_a_page_and_markdown_hold_what_the_json_holds(told, tmp_path):
    path = write_comparison(told, tmp_path)
    page, plain = path.read_text(), (tmp_path / "comparison.md").read_text()
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(json.dumps(told))
    for text in (page, plain):
        assert told["note"] in text
        for row in [*told["results"], *told["gap_changes"]]:
            if row["value"] is not None:
                assert f"{row['value']:+.3f}".replace("-", "−") in text
            if row["adjusted_low"] is not None:
                assert f"{row['adjusted_high']:+.3f}".replace("-", "−") in text
        assert told["thresholds"][0]["provenance"][0] in text
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == page.count('role="img"') == 2
    lines = [line for line in plain.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert cells == {9}
    assert "<script>" not in plain


def test_no_interval_has_its_reason_on_the_page(tmp_path):
    same = scored(0)
    perfect = [same.assign(score=base + 0.4 * same["label"]) for base in (0.1, 0.2)]
    content = compare(*perfect, by=["race"])
    page = write_comparison(content, tmp_path).read_text()
    assert "the difference does not vary between these patients" in page
    assert "cannot conclude" in page


def test_another_json_is_refused(told, tmp_path):
    with pytest.raises(UserError, match="give the JSON that medssl compare wrote"):
        write_comparison({"kind": "comparison", "metric": "auroc"}, tmp_path)
    with pytest.raises(UserError, match="give the JSON that medssl compare wrote"):
        write_comparison({**told, "results": [{**told["results"][0], "verdict": "fair"}]}, tmp_path)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    return ended.value.code


def test_from_tables_to_the_page_by_commands(tmp_path, capsys):
    for name, seed in ("a1", 0), ("a2", 1), ("a3", 2), ("b1", 3), ("b2", 4), ("b3", 5):
        scored(seed).to_csv(tmp_path / f"{name}.csv", index=False)
    first, second = (",".join(str(tmp_path / f"{side}{n}.csv") for n in (1, 2, 3)) for side in "ab")
    assert run("compare", first, second, "--by", "race", "--margin", "0.1", "-o", tmp_path / "paired.json") in (0, None)
    assert "two ways of training by 3 runs" in capsys.readouterr().out
    assert run("report", tmp_path / "paired.json", "-o", tmp_path / "drawn") in (0, None)
    assert run("compare", first, second, "--by", "race", "--margin", "0.1", "-o", tmp_path / "page") in (0, None)
    pages = [(tmp_path / folder / "comparison.html").read_text() for folder in ("drawn", "page")]
    # All but when each was made.
    assert len({re.sub(r"20\d\d-\d\d-\d\dT[\d:]{8}\+00:00", "then", page, count=1) for page in pages}) == 1
    scored(3)[:-20].to_csv(tmp_path / "fewer.csv", index=False)
    assert run("compare", tmp_path / "a1.csv", tmp_path / "fewer.csv") != 0
    assert "--intersect" in capsys.readouterr().err
    assert run("compare", tmp_path / "a1.csv", tmp_path / "fewer.csv", "--intersect") in (0, None)
    assert "left out, only the first model answered" in capsys.readouterr().out


def test_the_command_names_the_models_and_takes_columns_of_another_name(tmp_path, capsys):
    for number, name in enumerate(("scratch", "pretrained")):
        rows = scored(number).rename(columns={"score": "prob", "patient_id": "PID"})
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    paths = [str(tmp_path / f"{name}.csv") for name in ("scratch", "pretrained")]
    told = ["--columns", "score=prob,patient_id=PID", "--by", "race", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as left:
        main(["compare", *paths, *told])
    assert left.value.code in (0, None)
    for file in ("comparison.html", "comparison.md"):
        text = (tmp_path / "out" / file).read_text()
        assert text.index("scratch.csv") < text.index("pretrained.csv")
    made = json.loads((tmp_path / "out" / "comparison.json").read_text())["provenance"]
    assert made["settings"] == {"by": ["race"], "intersect": False, "terms": {}}
    assert made["columns"] == {"score": "prob", "patient_id": "PID"}
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert f"numpy {np.__version__}" in page and made["date"] in page
