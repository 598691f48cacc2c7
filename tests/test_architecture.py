"""The architecture as a test: imports point upstream, and Reading and Judging never touch torch or monai."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import medssl

PACKAGE = Path(medssl.__file__).parent

# From upstream to downstream. A file may import what stands on its own line or above; the two doors are data on disk.
ORDER = [
    ["errors", "atomic", "lock", "progress", "units", "volume", "resample", "recipe", "shipped"],
    ["archive"],
    ["manifest"],
    ["store"],
    ["phantom"],
    ["delivery"],
    ["evaluate"],
    ["report"],
    # --- below this line torch may be imported
    ["processes", "sharding", "views"],
    ["trunks"],
    ["methods"],
    ["adaptations"],
    ["heads"],
    [
        "checkpoint",
        "place",
        "schedule",
        "asked",
        "feed",
        "compiling",
        "divergence",
        "idle",
        "runs",
        "pictures",
        "mistakes",
    ],
    ["weights"],
    ["learners"],
    ["probe"],
    ["domain"],
    ["train"],
    ["adapt"],
    ["rehearsal", "find_rate", "keys"],
    ["answers"],
    ["arrivals"],
    ["predict"],
    ["explain", "crossvalidate", "protocol"],
    ["demo"],
    ["cli", "__main__"],
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
LEARNING = LEVEL["views"]
READING, JUDGING = {"archive", "manifest", "store", "phantom"}, {"evaluate", "report"}
FORBIDDEN = {"utils", "common", "base", "helper", "helpers", "manager", "handler", "engine", "wrapper", "factory"}
LONGEST_FILE = 350


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "medssl":
                yield from (f"medssl.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upstream(path):
    own = LEVEL[room(path)]
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "medssl" and rest and rest[0] in LEVEL:
            assert LEVEL[rest[0]] <= own, f"{room(path)} may not import {name}"
            assert not (room(path) in JUDGING and rest[0] in READING), f"judging may not import {name}: it reads tables"
        if own < LEARNING:
            assert first not in {"torch", "monai", "lightning_fabric", "numba"}, f"{path.name} may not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_names_and_sizes(path):
    assert not FORBIDDEN & set(path.relative_to(PACKAGE).with_suffix("").parts)
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


def test_every_room_has_a_place_in_the_order():
    assert {room(path) for path in modules()} == set(LEVEL)


def test_no_class_of_ours_is_subclassed_by_ours():
    trees = [ast.parse(path.read_text()) for path in modules()]
    classes = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert not {ast.unparse(b).split("[")[0] for b in node.bases} & classes, node.name


def loaded_by(code):
    heavy = ("torch", "monai", "lightning_fabric", "numba")
    script = f"import sys\n{code}\nprint(' '.join(m for m in {heavy} if m in sys.modules))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("rooms", [sorted(READING), sorted(JUDGING)], ids=["reading", "judging"])
def test_reading_and_judging_load_no_torch(rooms):
    names = [".".join(p.with_suffix("").relative_to(PACKAGE.parent).parts) for p in modules() if room(p) in rooms]
    code = "\n".join(f"import {name.removesuffix('.__init__')}" for name in names)
    assert loaded_by(code) == []


def test_index_help_answers_at_once():
    """Half a second of computing: the clock on the wall also counts what else a machine has to do."""
    command = [str(Path(sys.executable).with_name("medssl")), "index", "--help"]
    times = []
    for _ in range(5):
        before = os.times()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert "Example: medssl index" in done.stdout
    assert min(times) < 0.5
