"""``cosam-bench predict``: one image, segmented by the final model of a recorded run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Failed
from cosam_bench.cli.option_values import FILE_TO_WRITE
from cosam_bench.cli.records_commands import Results
from cosam_bench.core.console import results_console
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import check_is_file_name, write_atomically

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="The image file.")]
RecordName = Annotated[
    str,
    typer.Option(
        "--record",
        metavar="DIR",
        help="The run: its folder, or part of protocol/method/hash; or what merge wrote, or an update.safetensors.",
    ),
]
Box = Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="A box around the object, in pixels.")]
Points = Annotated[
    list[str] | None,
    typer.Option(metavar="X,Y", help="A point on the object, in pixels; repeatable, or several as 'X,Y X,Y'."),
]
Labels = Annotated[
    str | None, typer.Option(metavar="N,N", help="For each point, 1 on the object or 0 on the background; default: 1.")
]
Domain = Annotated[
    str | None, typer.Option(metavar="NAME", help="The image's domain, only for methods that must be told it.")
]
Levels = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=65535, help="The level of a 16 bit image that is white, as its card says."),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The mask's PNG file; default: IMAGE-mask.png, here."),
    FILE_TO_WRITE,
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The base model, only of an update.safetensors; default: what the merge.json beside it says.",
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The base model's weights, if they have moved since the run.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the mask's file if there is one.")]


def predict(
    image: Image,
    *,
    record: RecordName,
    box: Box = None,
    points: Points = None,
    labels: Labels = None,
    domain: Domain = None,
    levels: Levels = None,
    out: Out = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    force: Force = False,
    results: Results = Path("results"),
) -> None:
    """Segment one object in an image with the model of a recorded run, or with an update of a base model.

    Mark the object by a box or by points, unless the run was tested with the prompt image or grid. The mask is a
    PNG of the image's size: 255 on the object, 0 elsewhere.
    """
    path = out or Path(f"{image.stem}-mask.png")
    if path.suffix.lower() != ".png":
        raise CosamError(f"The mask is written as PNG, and {path} does not end in .png. Give --out another name.")
    _check_replaceable(path, image, force=force)
    corners = None if box is None else _numbers(box, "--box", count=4)
    places = None if not points else [_point(text) for given in points for text in given.split()]
    marks = None if labels is None else [_label(text) for text in labels.replace(",", " ").split()]

    from cosam_bench.api.models import predict as predict_mask
    from cosam_bench.experiments.method_faults import MethodFailed
    from cosam_bench.sam.batch_size import ImageDoesNotFit

    try:
        mask = predict_mask(
            record,
            image,
            box=corners,
            points=places,
            labels=marks,
            domain=domain,
            levels=levels,
            model=model,
            checkpoint=checkpoint,
            device=device,
            results=results,
        )
    except (MethodFailed, ImageDoesNotFit) as error:
        raise Failed(str(error)) from error.__cause__
    _write_png(mask, path)
    console = results_console()
    console.print(f"Foreground: {mask.sum():,} of {mask.size:,} pixels ({mask.mean():.1%})")
    console.print(f"Mask: {path}", soft_wrap=True)


def _check_replaceable(path: Path, image: Path, *, force: bool) -> None:
    """Refuse to write over the image, and over another file unless that is wanted."""
    if not path.exists():
        return
    check_is_file_name(path)
    if image.exists() and path.samefile(image):
        raise CosamError(f"{path} is the image itself. Give --out another file for the mask.")
    if not force:
        raise CosamError(f"{path} exists. Give --force to replace it, or --out another file.")


def _numbers(text: str, option: str, *, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        example = ",".join(["10", "20.5", "90", "80"][:count])
        raise CosamError(
            f"{option} {text!r} is not {count} numbers. Write them with commas, without blanks: {example}."
        )
    return numbers


def _point(text: str) -> tuple[float, float]:
    x, y = _numbers(text, "--points", count=2)
    return x, y


def _label(text: str) -> int:
    if text not in ("0", "1"):
        raise CosamError(f"--labels has {text!r}. Write 1 for each point on the object, 0 for one on the background.")
    return int(text)


def _write_png(mask: NDArray[np.bool_], path: Path) -> None:
    from PIL import Image as PillowImage

    data = io.BytesIO()
    PillowImage.fromarray(mask.astype("uint8") * 255).save(data, format="PNG")
    write_atomically(path, data.getvalue())
