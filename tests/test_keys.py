"""The page of keys is what the constructors say, and every key that a shipped recipe has is on it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medssl.cli import app
from medssl.errors import UserError
from medssl.keys import chosen, page, parts
from medssl.recipe import SECTIONS, read_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "pipelines").rglob("*.yaml"))


def test_the_page_is_what_the_code_says():
    assert page(parts()) == (ROOT / "docs" / "recipes.md").read_text(), "medssl keys --markdown > docs/recipes.md"


def told(section, name=""):
    """The names of a section's keys, of one choice of it or of all of them."""
    return {key.name for one in chosen(section) if one.name in (section, f"{section} ({name})") for key in one.keys}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_key_of_a_recipe_is_listed(path):
    recipe = {name: section for name, section in read_recipe(path).items() if name not in ("name", "evaluate")}
    inner = {("views", "small"), ("views", "intensity"), *(("method", name) for name in recipe.get("method", {}))}
    for name, section in recipe.items():
        own = {key for key in section if (name, key) not in inner and key != "name"}
        more = {key.name for key in chosen("views, further")[0].keys} if name == "views" else set()
        assert own <= told(name, section.get("name", "resenc")) | more, name
        for key in section:
            if (name, key) in inner and isinstance(section[key], dict):
                assert {one for one in section[key] if one != "pairs"} <= told(f"{name}.{key}"), f"{name}.{key}"


def test_all_sections_are_told_of_and_another_is_refused():
    names = {one.name.split(" (")[0].split(".")[0].split(",")[0] for one in parts()}
    assert names == set(SECTIONS) - {"name", "evaluate"}
    with pytest.raises(UserError, match="did you mean 'views'"):
        chosen("veiws")
    assert [one.name for one in chosen("views")] == ["views", "views, further", "views.small", "views.intensity"]


def test_the_command_prints_a_section():
    said = CliRunner().invoke(app, ["keys", "method.order"])
    assert said.exit_code == 0
    assert "method.order.along" in said.output and "whole number from 0 to 2" in said.output
    assert "method.local" not in said.output
