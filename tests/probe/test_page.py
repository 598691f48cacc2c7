"""The page of a probe: one file that asks nothing of any other place, says who is near whom, and names nobody."""

import importlib.machinery
import json
import re
import sys
import types
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.probe import examine
from medssl.probe.atlas import plane_by_umap
from medssl.probe.drawings import cloud
from medssl.probe.page import neighbours_picture, render, write_page
from medssl.recipe import read_recipe
from medssl.train import pretrain


@pytest.fixture(scope="module")
def evidence(balls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    recipe = read_recipe(balls / "recipe.yaml", ["probe={every: 2, volumes: 12}"])
    run = pretrain(recipe, balls / "store", folder / "run")
    return examine(run, balls / "store", split="test", few=(4, 12), hold_out="scanner")


def test_the_page_asks_nothing_of_any_other_place(evidence, tmp_path):
    page = write_page(evidence, tmp_path / "out").read_text()
    assert "<script" not in page and "default-src 'none'" in page
    addresses = set(re.findall(r'(?:src|href)="([^"]*)"', page))
    assert all(one.startswith(("data:image/png;base64,", "#")) for one in addresses)
    assert "@import" not in page and not re.findall(r"url\((?!#)", page)
    assert len(page.encode()) < 2_000_000
    assert page.count("<svg") == page.count('role="img"') == page.count("<desc") >= 8
    assert all('alt="' in tag for tag in re.findall(r"<img[^>]*>", page))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_the_page_and_the_json_say_the_same(evidence, tmp_path):
    page = write_page(evidence, tmp_path / "out").read_text()
    told = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert {q["name"] for q in told["questions"]} >= {"big", "sex", "race"}
    for question in told["questions"]:
        assert f"{question['neighbours']:.2f} ({question['neighbours_untrained']:.2f})" in page
    (big,) = (q for q in told["questions"] if q["name"] == "big")
    assert [line["few"] for line in big["curve"]] == [4, 12]
    assert [line["lots"] for line in big["curve"]] == [5, 5]
    assert "big: " in page and "Atlas" in page
    assert len(told["layers"]) == 12


@pytest.mark.parametrize(
    ("told", "most", "code"), [(0.62, "0.1", 8), (0.58, "0.1", 0), (0.62, "", 0), (0.3, "0", 0), (None, "0.1", 7)]
)
def test_the_command_leaves_with_a_code_where_the_scanner_leaks(evidence, monkeypatch, capsys, told, most, code):
    """The scanner is one of two, which chance tells by half."""
    asked = [question for question in evidence.findings.questions if question.name != "scanner"]
    if told is not None:
        scanner = next(question for question in evidence.findings.questions if question.name == "scanner")
        asked.append(replace(scanner, chance=0.5, neighbours=told))
    found = replace(evidence, findings=replace(evidence.findings, questions=tuple(asked)))
    monkeypatch.setattr("medssl.probe.examine", lambda *_, **__: found)
    with pytest.raises(SystemExit) as left:
        main(["probe", "run", "--store", "store", *(["--max-leak", most] if most else [])])
    said = capsys.readouterr().out
    assert (left.value.code, "--max-leak" in said) == (code, bool(most))
    assert code != 8 or "told 0.12 better than by chance; --max-leak allows 0.1" in said


def test_nobody_is_named(evidence):
    page = render(evidence)
    for column in ("volume_id", "patient_pid"):
        assert not any(str(value) in page for value in evidence.rows[column])
    assert str(evidence.run) not in page


@pytest.fixture
def umap(monkeypatch):
    """A stand-in for umap-learn that lays all on a circle, and what it was asked."""
    asked = {}

    class UMAP:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, features):
            asked["features"] = features
            turn = np.linspace(0, 6, len(features))
            return np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)

    module = types.ModuleType("umap")
    module.UMAP, module.__spec__ = UMAP, importlib.machinery.ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", module)
    return asked


HINT, DRAWN = 'pip install "medssl[atlas]"', "<h3>UMAP</h3>"


def test_with_umap_its_map_is_drawn_beside_that_of_pca(evidence, umap):
    page = render(evidence)
    assert umap["features"] is evidence.features
    assert (umap["n_neighbors"], umap["metric"], umap["random_state"]) == (len(evidence.rows) - 1, "cosine", 0)
    pca, drawn = page.split("<h3>PCA</h3>")[1].split(DRAWN)
    drawn = drawn.split("</section>")[0]
    assert drawn.count("<svg") == pca.count("<svg") > 1
    assert HINT not in page


def test_without_umap_the_page_says_how_to_have_it(evidence, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    page = render(evidence)
    assert HINT in page and DRAWN not in page


def test_of_many_volumes_fifteen_are_neighbours(umap):
    places = plane_by_umap(np.random.default_rng(0).normal(size=(40, 3)))
    assert (places.shape, umap["n_neighbors"]) == ((40, 2), 15)
    assert plane_by_umap(np.ones((4, 3))) is None, "too few for a map"


def test_labels_with_markup_in_them_are_text(evidence):
    words = np.array(['<b onload="x">$a_b$', "ok"] * 4)
    drawn = cloud(np.random.default_rng(0).normal(size=(8, 2)), words, "<i>&", "PCA")
    assert "<b" not in drawn and "<i>" not in drawn and "&lt;b" in drawn


def test_the_neighbours_shown_are_the_nearest_of_other_patients(evidence):
    address, rows = neighbours_picture(evidence)
    assert address.startswith("data:image/png;base64,")
    unit = evidence.features / np.linalg.norm(evidence.features, axis=1, keepdims=True)
    patients = evidence.rows["patient_pid"].to_numpy()
    labels = evidence.store.labels
    big = evidence.rows["volume_id"].map(labels[labels["name"] == "big"].set_index("volume_id")["value"])
    told = {}
    for row in range(len(unit)):
        others = [n for n in np.argsort(-(unit @ unit[row]), kind="stable") if patients[n] != patients[row]][:5]
        told[tuple(f"big {big[n]:g}" for n in [row, *others])] = row
    for _, cells in rows:
        assert tuple(cell.split(",")[0] for cell in cells) in told
    assert len(pd.unique(patients)) >= len(rows) >= 2


def test_the_command_writes_both(evidence, balls, tmp_path):
    from typer.testing import CliRunner

    from medssl.cli import app

    asked = ["probe", str(evidence.run), "--store", str(balls / "store"), "--split", "test", "--few", "4", "--few", "8"]
    done = CliRunner().invoke(app, [*asked, "--hold-out", "site", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "line of 4 labelled patients" in done.output and "probe.html" in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["probe.html", "probe.json"]
    with pytest.raises(UserError, match="hold-out colour: the store has no such column"):
        examine(evidence.run, balls / "store", split="test", hold_out="colour")
