from dataclasses import dataclass
from typing import Literal

import pytest

from medssl.errors import UserError
from medssl.recipe import Axis, Count, Positive, Share, make, read_recipe, read_yaml


@dataclass(frozen=True, kw_only=True)
class Oven:
    degrees: float
    racks: int = 2
    fan: bool = False
    name: str = ""
    mode: Literal["bake", "grill"] = "bake"
    size: tuple[int, ...] = ()
    door: tuple[float, float] = (1.0, 2.0)
    timer: int | None = None
    dishes: dict[str, int] | None = None
    strides: tuple[tuple[int, ...], ...] = ()


def test_text_becomes_what_the_signature_says(tmp_path):
    path = tmp_path / "oven.yaml"
    path.write_text(
        "degrees: 1e-4\nracks: 1_000\nfan: TRUE\nname: 012\nmode: grill\nsize: [1, 2, 3]\ndoor: [0.5, 1]\n"
        "timer: null\ndishes: {pie: 2}\nstrides: [[1, 1], [2, 2]]\n"
    )
    oven = make(Oven, read_yaml(path), "oven")
    assert oven == Oven(
        degrees=1e-4, racks=1000, fan=True, name="012", mode="grill", size=(1, 2, 3), door=(0.5, 1.0), timer=None,
        dishes={"pie": 2}, strides=((1, 1), (2, 2)),
    )  # fmt: skip


def test_words_that_yaml_likes_to_change_stay_words(tmp_path):
    path = tmp_path / "norway.yaml"
    path.write_text("a: NO\nb: NA\nc: 012\nd: 1:30\n")
    assert read_yaml(path) == {"a": "NO", "b": "NA", "c": "012", "d": "1:30"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"degrees": "hot"}, r"oven\.degrees: cannot read 'hot' as float"),
        ({"degrees": "1", "rack": "3"}, r"oven\.rack: Oven has no such setting; did you mean 'racks'"),
        ({"degrees": "1", "fan": "yes"}, "true or false"),
        ({"degrees": "1", "mode": "boil"}, "'boil' is not one of bake, grill"),
        ({"degrees": "1", "size": "3"}, r"not a list; write \[a, b\]"),
        ({"degrees": "1", "door": ["1"]}, "has 1 entries, 2 are needed"),
        ({"degrees": "1", "dishes": "pie"}, "not a mapping"),
        ({}, "needs 'degrees'"),
    ],
)
def test_mistakes_name_the_thing_the_value_and_the_remedy(section, message):
    with pytest.raises(UserError, match=message):
        make(Oven, section, "oven")


def knobs(*, heat: Positive = 1.0, share: Share = 0.5, turns: tuple[Count, ...] = (1,), axis: Axis = 0):
    return heat, share, turns, axis


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"heat": "0"}, r"knobs\.heat: 0\.0 must be above 0"),
        ({"heat": "nan"}, r"knobs\.heat: nan must be above 0"),
        ({"share": "1.5"}, r"knobs\.share: 1\.5 must be at least 0 and at most 1"),
        ({"turns": ["2", "0"]}, r"knobs\.turns: 0 must be at least 1"),
        ({"axis": "3"}, r"knobs\.axis: 3 must be at least 0 and at most 2"),
    ],
)
def test_numbers_outside_what_the_signature_allows_are_refused(section, message):
    assert make(knobs, {"heat": "2", "share": "1", "turns": ["1", "4"], "axis": "2"}, "knobs") == (2, 1, (1, 4), 2)
    with pytest.raises(UserError, match=message):
        make(knobs, section, "knobs")


def test_changes_from_the_command_line_are_applied_and_checked(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("pretrain: {steps: 10}\n")
    changed = read_recipe(path, ["pretrain.steps=20", "views.size=[8, 8]", "name=x"])
    assert changed == {"pretrain": {"steps": "20"}, "views": {"size": ["8", "8"]}, "name": "x"}
    with pytest.raises(UserError, match=r"section\.key=value"):
        read_recipe(path, ["steps"])
    with pytest.raises(UserError, match="is a value"):
        read_recipe(path, ["pretrain.steps.more=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretrian: {steps: 1}\n", "no section called 'pretrian'; did you mean 'pretrain'"),
        ("- 1\n- 2\n", "holds list"),
        ("a: [1\n", "not readable as YAML"),
    ],
)
def test_a_broken_recipe_says_where(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_recipe(path)


def test_no_recipe_is_said_plainly(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_recipe(tmp_path / "none.yaml")


def test_a_recipe_like_another_says_only_what_differs(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "scans.yaml").write_text(
        "name: scans\nviews: {size: [8, 8], turn: 5}\npretrain: {steps: 10}\ntrunk: {name: a, b: 1}\n"
    )
    (tmp_path / "below" / "long.yaml").write_text("like: ../scans.yaml\nname: long\npretrain: {steps: 20, lr: 1e-3}\n")
    (tmp_path / "below" / "turned.yaml").write_text(
        "like: long.yaml\nname: turned\nviews: {turn: 90}\ntrunk: {name: c}\n"
    )
    recipe = read_recipe(tmp_path / "below" / "turned.yaml", ["pretrain.lr=1"])
    assert recipe == {
        "name": "turned", "views": {"size": ["8", "8"], "turn": "90"}, "pretrain": {"steps": "20", "lr": "1"},
        "trunk": {"name": "c"},
    }  # fmt: skip


def test_a_recipe_that_is_like_itself_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("like: b.yaml\n")
    (tmp_path / "b.yaml").write_text("like: a.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("like: [a.yaml]\n")
    with pytest.raises(UserError, match="not the path of a recipe"):
        read_recipe(tmp_path / "c.yaml")
