"""What the commands share: the application, exit codes, and options that several of them have."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from medssl.errors import UserError
from medssl.units import Engine

BAD_INPUT, NOTHING_USABLE, LEAKING, DAMAGED, REQUIREMENT, INCONCLUSIVE, SCANNER, DISK, INTERRUPTED = (
    2, 3, 4, 5, 6, 7, 8, 74, 130
)  # fmt: skip
"""Exit codes; see medssl/cli/__init__.py."""

app = typer.Typer(
    help="From an unlabelled hospital imaging archive to a fair, calibrated clinical model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Where the result goes.")]
Changes = Annotated[
    list[str], typer.Option("--set", help="Change one setting of the recipe: section.key=value. Repeatable.")
]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that read files; 0: none, a file that crashes a decoder ends the run.")
]
Where = Annotated[Engine, typer.Option(help="Processes of this machine, or of a Ray cluster.")]
Address = Annotated[str, typer.Option(help="Of the Ray cluster; without it, a local one is started.")]
MemoryGb = Annotated[float, typer.Option(help="Memory that one process may take.")]
Seconds = Annotated[float, typer.Option(help="How long one file (index) or volume (prepare) may take.")]
MaximumLeftOut = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Share that may be left out; above it, all is done but the exit code is 3."),
]
Shard = Annotated[
    str, typer.Option(help="i/n: only the i-th of n shares, e.g. of a job array; run without it when all are done.")
]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
Recipe = Annotated[Path, typer.Argument(help="A recipe, e.g. pipelines/hippocampus.yaml.")]
StoreOption = Annotated[Path, typer.Option("--store", help="The store made by medssl prepare.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="The run's folder; an unfinished run there goes on.")]


def given(run: Path | None) -> Path:
    """The folder of a run. Raises UserError where none was named: only a training that is tried out needs none."""
    if run is None:
        raise UserError(
            "--run: a training needs a folder; name one, e.g. --run runs/first, or try it out with --dry-run"
        )
    return run


def typed(context: typer.Context) -> str:
    """The command as it was typed, without what was left as it is; of paths the last part alone: folders name people."""
    words = ["medssl", context.info_name or ""]
    for parameter in context.command.params:
        value = context.params[parameter.name or ""]
        values = list(value) if isinstance(value, list | tuple) else [value]
        default = parameter.get_default(context)
        if value == default or values == default or (not values and not default):
            continue
        for one in values:
            words += parameter.opts[:1] if parameter.param_type_name == "option" else []
            words += [] if isinstance(one, bool) else [one.name if isinstance(one, Path) else str(one)]
    return shlex.join(words)


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def say(text: str) -> None:
    """Nothing; the text is on standard output."""
    typer.echo(text)
