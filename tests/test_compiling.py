"""torch.compile as a key of a recipe: a clear word where it cannot be, and the same names of weights where it can."""

import shutil

import pytest
import torch

from medssl import checkpoint
from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.train import Training, pretrain

# Of the compiler's own: it uses deprecated functions of torch, and looks where torch warns not to look.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")

CHANGES = ["pretrain.steps=2", "pretrain.save_every=1", "views.size=[16, 16, 16]"]


def test_it_is_off_unless_asked_for():
    assert not Training(steps=1).compile


def test_a_machine_without_a_compiler_is_told_what_to_install(balls, tmp_path):
    recipe = read_recipe(balls / "recipe.yaml", [*CHANGES, "pretrain.compile=true"])
    import torch._inductor.config as inductor

    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler"), "compile_threads": 1}),
        pytest.raises(
            UserError,
            match=r"compile: true, but .* on cpu here \(.*No working C\+\+ compiler.*apt install g\+\+ .*leave it out",
        ),
    ):
        pretrain(recipe, balls / "store", tmp_path / "run")
    assert not (tmp_path / "run" / checkpoint.NAME).exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.parametrize("hide", ["token", "sparse"])
def test_a_compiled_training_has_the_same_weights_by_the_same_names(balls, tmp_path, hide):
    plain, compiled = (
        pretrain(
            read_recipe(
                balls / "recipe.yaml",
                [*CHANGES, f"trunk.hide={hide}", f"pretrain.compile={on}", f"pretrain.recompute={on}"],
            ),
            balls / "store",
            tmp_path / on,
        )
        for on in ("false", "true")
    )
    first, second = (checkpoint.read(run / checkpoint.NAME) for run in (plain, compiled))
    assert first.keys() == second.keys()
    for name in first:
        if name.startswith(checkpoint.MODEL):
            # A step of AdamW is at most lr per weight; what rounding makes of a gradient near zero may be a part of it.
            assert torch.allclose(first[name].float(), second[name].float(), atol=2e-3), name
