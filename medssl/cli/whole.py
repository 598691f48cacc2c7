"""The command that goes all the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.options import app, say
from medssl.progress import shown


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("medssl-demo"),
    fast: Annotated[bool, typer.Option(help="A tiny cohort and a few steps: shows the way, not the numbers.")] = False,
) -> None:
    """Write a phantom hospital archive and take it all the way to a report. About 10 minutes on 2 CPU cores.

    Example: medssl demo
    """
    from medssl.demo import run_demo

    for line in run_demo(folder, fast=fast, progress=shown):
        say(line)
