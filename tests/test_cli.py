"""The command line as a user meets it: the whole way once, and every mistake with its message and exit code."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from medssl.cli import app, main

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


def run(*arguments):
    """The exit code of `medssl ARGUMENTS`."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code or 0


def everything_in(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    assert run(command, "--help") == 0
    assert f"Example: medssl {command}" in capsys.readouterr().out


def test_the_whole_way(balls, tmp_path, capsys):
    archive = balls / "archive"
    recipe, out = balls / "recipe.yaml", tmp_path
    assert run("index", archive, "-o", out / "cohort", "--card", archive / "card.yaml") == 0
    assert run("prepare", out / "cohort", "-o", out / "store", "--recipe", recipe) == 0
    assert run("pretrain", recipe, "--store", out / "store", "--run", out / "trunk") == 0
    for name, start in ("scratch", ()), ("tuned", ("--from", out / "trunk")):
        assert run("finetune", recipe, "--store", out / "store", "--run", out / name, *start) == 0
        assert run("predict", out / name, out / "store", "-o", out / f"{name}.csv") == 0
    assert run("evaluate", out / "tuned.csv", "--by", "sex", "--by", "race", "-o", out / "report.json") == 0
    assert json.loads((out / "report.json").read_text())["findings"]
    assert run("report", out / "report.json", "-o", out / "page") == 0
    assert (out / "page" / "report.html").stat().st_size < 2_000_000
    assert run("compare", out / "scratch.csv", out / "tuned.csv", "-o", out / "paired.json") == 0
    assert json.loads((out / "paired.json").read_text())["sentences"]
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    # Again: everything is kept, nothing is written twice.
    before = everything_in(out)
    assert run("index", archive, "-o", out / "cohort", "--card", archive / "card.yaml") == 0
    assert run("prepare", out / "cohort", "-o", out / "store", "--recipe", recipe) == 0
    assert run("pretrain", recipe, "--store", out / "store", "--run", out / "trunk") == 0
    assert everything_in(out) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "{tmp}/none", "-o", "{tmp}/c"], "none"),
        (["index", "{tmp}/empty", "-o", "{tmp}/c"], "empty"),
        (["prepare", "{tmp}/none", "-o", "{tmp}/s"], "none"),
        (["pretrain", "{tmp}/none.yaml", "--store", "{store}", "--run", "{tmp}/r"], "no such file"),
        (["pretrain", "{recipe}", "--store", "{tmp}/none", "--run", "{tmp}/r"], "none"),
        (["pretrain", "{recipe}", "--store", "{store}", "--run", "{tmp}/r", "--set", "pretrain.step=3"], "mean 'steps'"),
        (["pretrain", "{recipe}", "--store", "{store}", "--run", "{tmp}/r", "--set", "trunk.name=unet"], "called 'unet'"),
        (["finetune", "{recipe}", "--store", "{store}", "--run", "{tmp}/r", "--set", "head.label=x"], "'x'"),
        (["finetune", "{recipe}", "--store", "{store}", "--run", "{tmp}/r", "--from", "{tmp}/none"], "none"),
        (["predict", "{tmp}/none", "{store}", "-o", "{tmp}/p.csv"], "no run here"),
        (["evaluate", "{tmp}/none.csv"], "none.csv"),
        (["report", "{tmp}/none.json", "-o", "{tmp}/page"], "no such file"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_end_in_one_line_exit_code_2_and_nothing_written(arguments, message, balls, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {"tmp": tmp_path, "store": balls / "store", "recipe": balls / "recipe.yaml"}
    assert run(*(part.format(**places) for part in arguments)) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("medssl: ")
    assert message in told[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_full_disk_has_its_own_exit_code(balls, tmp_path, capsys, monkeypatch):
    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("medssl.checkpoint.save_file", lambda tensors, path, facts: full(path))
    recipe = balls / "recipe.yaml"
    assert run("pretrain", recipe, "--store", balls / "store", "--run", tmp_path / "run") == 74
    assert "free some space" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert not list((tmp_path / "run").glob("*.part"))


def test_an_interrupted_command_says_how_to_go_on(balls, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("medssl.checkpoint.save", interrupt)
    assert run("pretrain", balls / "recipe.yaml", "--store", balls / "store", "--run", tmp_path / "run") == 130
    assert "to go on" in capsys.readouterr().err


def test_the_console_script_is_installed(tmp_path):
    script = Path(sys.executable).with_name("medssl")
    done = subprocess.run(
        [script, "index", "/definitely/not/here", "-o", tmp_path / "x"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "/definitely/not/here" in done.stderr


def test_tables_of_one_name_are_told_apart_by_their_folders(balls, tmp_path, capsys):
    recipe = balls / "recipe.yaml"
    assert run("finetune", recipe, "--store", balls / "store", "--run", tmp_path / "m") == 0
    for name in "ab":
        assert run("predict", tmp_path / "m", balls / "store", "-o", tmp_path / name / "p.csv") == 0
    assert run("evaluate", tmp_path / "a" / "p.csv", tmp_path / "b" / "p.csv", "-o", tmp_path / "r.json") == 0
    assert [a["name"] for a in json.loads((tmp_path / "r.json").read_text())["analyses"]] == ["a", "b"]
    assert run("evaluate", tmp_path / "a" / "p.csv", tmp_path / "a" / "p.csv", "-o", tmp_path / "r.json") == 2
    assert "rename one of the files" in capsys.readouterr().err
