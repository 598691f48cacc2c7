"""What a benchmark prints always has beside it what it is to be better than."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "benchmarks" / "ssl_phantom.py"


@pytest.fixture
def ssl_phantom():
    spec = importlib.util.spec_from_file_location("ssl_phantom", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("only", "chance"),
    [
        (["simclr"], ["random init"]),
        (["mae", "default"], ["random init", "random init, ViT"]),
        (["cswin", "random init"], ["random init", "random init, CSWin"]),
    ],
)
def test_chance_and_all_labels_are_printed_whatever_was_asked_for(
    ssl_phantom, tmp_path, monkeypatch, capsys, only, chance
):
    names = ssl_phantom.measured(only)
    assert names == list(dict.fromkeys([*chance, "supervised, all labels", *only]))
    monkeypatch.setattr(ssl_phantom, "cohort", lambda *_: None)
    known = {name: {"0": {"lin-64": 0.5}} for name in ssl_phantom.measured(None)}
    (tmp_path / "known.json").write_text(json.dumps(known))
    asked = [part for name in only for part in ("--only", name)]
    monkeypatch.setattr(
        sys, "argv", ["ssl_phantom.py", *asked, "--seeds", "0", "--results", str(tmp_path / "known.json")]
    )
    ssl_phantom.main()
    rows = [line.split(" | ")[0].strip("| ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert sorted(rows) == sorted(names)


def test_without_a_choice_every_recipe_is_measured(ssl_phantom):
    there = {path.stem for path in ssl_phantom.RECIPES.glob("*.yaml")} - {"scans"}
    assert set(ssl_phantom.measured(None)) == there | set(ssl_phantom.RANDOM) | {ssl_phantom.LABELS}
