"""Commands that take weights out and in: `medssl weights export`, `medssl weights import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medssl.cli.options import Changes, Output, app, say

Form = Literal["medssl", "onnx", "monai", "nnunet"]

weights = typer.Typer(
    help="Weights of trunks, in the forms of other tools and from theirs.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(weights, name="weights")


@weights.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run, or a folder of weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder; a file .onnx or .pth for onnx and nnunet.")],
    form: Annotated[
        Form,
        typer.Option(
            "--as",
            help="medssl: trunk.safetensors and spec.json; onnx: one file; monai: a Bundle; nnunet: an encoder for "
            "nnUNetv2_train_pretrained.",
        ),
    ] = "medssl",
    part: Annotated[
        Literal["trunk", "teacher"],
        typer.Option("--of", help="teacher: the running average that DINO, iBOT, BYOL and MoCo keep of the trunk."),
    ] = "trunk",
) -> None:
    """Write a trunk, without its heads, for others to use.

    Example: medssl weights export runs/trunk -o weights/hippocampus
    """
    from medssl.weights import weights_of, write_bundle, write_nnunet, write_onnx, write_weights

    writers = {"medssl": write_weights, "onnx": write_onnx, "monai": write_bundle, "nnunet": write_nnunet}
    written = writers[form](output, weights_of(source, part))
    say(f"weights in {written}")
    if form in ("medssl", "monai"):
        say("who may use them is left to you: fill in licence and notes in spec.json")


@weights.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .safetensors, .pt or .pth file of another tool.")],
    output: Output,
    recipe: Annotated[Path, typer.Option(help="A recipe; its trunk and views.size are to be the file's network.")],
    part: Annotated[str, typer.Option(help="How the names begin, where the file holds several networks.")] = "",
    axes: Annotated[
        Literal["reversed", "same"],
        typer.Option(help="reversed: theirs are (rows, columns) or (z, y, x), ours (I, J, K)."),
    ] = "reversed",
    channels: Annotated[
        Literal["same", "sum"], typer.Option(help="sum: theirs added up and shared out where the numbers differ.")
    ] = "same",
    inflate: Annotated[
        Literal["none", "even", "centre"], typer.Option(help="3D patches of 2D ones: along all of K, or in its middle.")
    ] = "none",
    set_: Changes = [],  # noqa: B006
) -> None:
    """Turn the encoder in a file of another tool into a folder of weights, and print what became of each tensor.

    ViTs of timm, DINOv2 and Hugging Face (RAD-DINO), residual encoders of nnU-Net and nnssl. No code in the file is run.

    Example: medssl weights import dinov2_vits14.pth --recipe my_vit.yaml --channels sum -o weights/dinov2
    """
    from medssl.recipe import read_recipe
    from medssl.weights import Adapting, take_in, write_weights

    adapting = Adapting(axes=axes, channels=channels, inflate=inflate)
    intake = take_in(file, read_recipe(recipe, set_), adapting=adapting, part=part)
    for line in intake.lines:
        say(line)
    say(f"weights in {write_weights(output, intake.weights)}; fill in licence and notes in its spec.json")
