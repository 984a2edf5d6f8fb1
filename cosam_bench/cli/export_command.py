"""``cosam-bench export``: a record's served model in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosam_bench.cli.option_values import NEW_FOLDER
from cosam_bench.cli.records_commands import Results
from cosam_bench.core.console import results_console
from cosam_bench.results.export.formats import FORMATS

_FORMATS = f"{', '.join([*FORMATS][:-1])} or {[*FORMATS][-1]}."


def export(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="Its folder, or part of protocol/method/hash.")],
    *,
    format_name: Annotated[str, typer.Option("--format", "-f", metavar="NAME", help=_FORMATS)] = "peft",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="A new folder; default: METHOD-FORMAT."),
        NEW_FOLDER,
    ] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="N", help="peft: at most N factors per layer; default: all that a change has.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Write the merged model of one record for use elsewhere.

    peft: an adapter folder for PeftModel on stock segment-anything. transformers: a folder for SamModel. merged: whole
    weights in the base checkpoint's layout. onnx: encoder and decoder (needs the extra onnx). safetensors: the change
    of the weights as it is. Each folder has a README.md that says how to load it.
    """
    from cosam_bench.results.export.formats import export_record
    from cosam_bench.results.results_folder import load_record

    found = load_record(record, results=results)
    folder = out or Path(f"{found.info.method.rpartition(':')[2].rpartition('/')[2]}-{format_name}")
    exported = export_record(found, folder, format_name=format_name, rank=rank)
    console = results_console()
    console.print(f"Written: {exported.folder} ({', '.join(exported.files)})", soft_wrap=True)
    for note in exported.notes:
        console.print(f"  {note}", soft_wrap=True)
