"""Commands that take weights out and in: `medssl weights export`, `medssl weights import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medssl.cli.options import Output, app, say

Form = Literal["medssl"]

weights = typer.Typer(
    help="Weights of trunks, in the forms of other tools and from theirs.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(weights, name="weights")


@weights.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run, or a folder of weights.")],
    output: Output,
    form: Annotated[Form, typer.Option("--as", help="medssl: trunk.safetensors with spec.json.")] = "medssl",
) -> None:
    """Write a trunk, without its heads, for others to use.

    Example: medssl weights export runs/trunk -o weights/hippocampus
    """
    from medssl.weights import weights_of, write_weights

    say(f"weights in {write_weights(output, weights_of(source))}; fill in licence and notes in its spec.json")
