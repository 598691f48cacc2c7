"""The list of methods is what the code says, and what it says is so."""

import re
from pathlib import Path

import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.methods import TERMS
from medssl.methods.catalogue import FAMILIES, TRIED, page, recipes_in, terms
from medssl.trunks import TRUNKS

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "pipelines" / "methods"


@pytest.fixture(scope="module")
def recipes():
    return recipes_in(FOLDER)


def test_the_page_in_docs_is_what_the_command_prints(recipes):
    assert page(recipes) == (ROOT / "docs" / "methods.md").read_text(), "medssl methods --markdown > docs/methods.md"


def test_every_recipe_and_every_leaf_of_the_taxonomy_is_there(recipes):
    assert [one.name for one in recipes] == sorted({path.stem for path in FOLDER.glob("*.yaml")} - {"scans"})
    assert {one.family for one in recipes} == set(FAMILIES)
    assert {term for one in recipes for term in one.terms} == set(TERMS)
    for one in recipes:
        assert one.papers and all(re.fullmatch(r"[\w .-]+, [\w ]+, arXiv:\d{4}\.\d{5}", paper) for paper in one.papers)
        assert {trunk.split()[0] for trunk, dims in one.runs.items() if dims == ("2D", "3D")} == set(TRUNKS)
    # These are in the literature what they are here.
    known = {
        "simclr": "contrastive",
        "byol": "distilled",
        "mae": "masked",
        "rotation": "predictive",
        "dinov2": "hybrid",
    }
    assert {name: one.family for name in known for one in recipes if one.name == name} == known


def test_every_term_says_what_it_is():
    for one in terms():
        assert one.family in FAMILIES and one.papers and all(one.relations) and all(one.known), one.name
    assert {section["name"] for section in TRIED.values()} == set(TRUNKS)


def written(folder, header, method, views="{}"):
    (folder / "mine.yaml").write_text(f"# {header}\n# medssl pretrain mine.yaml\nmethod: {method}\nviews: {views}\n")
    (one,) = recipes_in(folder)
    return one


def test_needs_are_those_of_the_settings(tmp_path):
    one = written(
        tmp_path,
        "Mine (arXiv:1911.05722, and arXiv:9999.00001).",
        "{teacher_half_life: 0.1, mask: {ratio: 0.25, kind: plane, fill: another},"
        " contrast: {masked: true, teacher: true, queue: 8, pairs: {positive: [[same patient, not same scan]]}}}",
        "{count: 3}",
    )
    assert one.needs == ("2 views", "mask (25% by planes, another scan in its place)", "teacher", "queue of 8")
    assert one.family == "contrastive" and one.terms == ("contrast",)
    assert one.relations == (
        "same patient and not same scan attracts; same patient or not same scanner is ignored; all else repels",
    )
    assert one.papers == ("He et al., CVPR 2020, arXiv:1911.05722", "arXiv:9999.00001")
    small = written(tmp_path, "Mine.", "{swav: {queue: 0}, rebuild: {}}", "{small: {size: [8, 8], count: 6}}")
    assert small.needs == ("2 views", "mask (60%)", "decoder", "6 small views") and small.family == "hybrid"
    assert small.papers[0].startswith("Caron et al., NeurIPS 2020")


def test_what_a_method_refuses_is_not_said_to_run(tmp_path):
    assert written(tmp_path, "Mine.", "{rotation: {about: cube}}").runs == dict.fromkeys(TRIED, ("3D",))
    with pytest.raises(UserError, match="mine: this method runs on no trunk"):
        written(tmp_path, "Mine.", "{byol: {}}")


def test_a_folder_without_methods_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["methods", str(tmp_path)])
    assert "no recipe with a method there" in capsys.readouterr().err


def test_the_terminal_shows_one_line_a_recipe(recipes, capsys):
    with pytest.raises(SystemExit):
        main(["methods", str(FOLDER)])
    lines = capsys.readouterr().out.splitlines()
    for one in recipes:
        assert sum(line.split(" ")[0] == one.name for line in lines) == 1


def test_the_page_on_adding_one_names_what_there_is():
    text = (ROOT / "docs" / "adding_a_method.md").read_text()
    for path in re.findall(r"(?:medssl|pipelines|tests)/[\w/]+\.(?:py|yaml)", text):
        assert "NAME" in path or (ROOT / path).exists(), path
