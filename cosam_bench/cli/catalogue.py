"""``cosam-bench domains`` and ``models``: the data and the weights, and whether they are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.console import plain_table, results_console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cosam_bench.domains.cards import Stream
    from cosam_bench.domains.overview import DomainRow
    from cosam_bench.sam.models import ModelSpec

TO_FETCH = "to be fetched"


def domains(
    stream: Annotated[
        str | None, typer.Argument(metavar="[STREAM]", help="A built-in stream or a stream's TOML file; all if empty.")
    ] = None,
) -> None:
    """List the streams' domains: where they come from, under which terms, and whether their data is here."""
    from cosam_bench.domains.cards import load_stream

    console = results_console()
    for place, name in enumerate([stream] if stream else stream_names()):
        for part in _stream(load_stream(name)):
            console.print("" if place and isinstance(part, str) else part)


def stream_names() -> list[str]:
    """The built-in streams in alphabetical order."""
    from cosam_bench.domains.cards import DATASETS

    return sorted(path.stem for path in (DATASETS / "streams").glob("*.toml"))


def _stream(stream: Stream) -> list[RenderableType]:
    from rich.text import Text

    from cosam_bench.domains.overview import domain_overview

    rows = domain_overview(stream)
    columns = {
        "name": [row.name for row in rows],
        "title": [row.title for row in rows],
        "role": [row.role for row in rows],
        "images": [_images(row) for row in rows],
        "licence": [row.licence for row in rows],
        "source": [row.source for row in rows],
    }
    table = plain_table(*(head for head, texts in columns.items() if any(texts)))
    for texts in zip(*(texts for texts in columns.values() if any(texts)), strict=True):
        table.add_row(*texts)
    faults = [Text.assemble((f"{row.name}: ", "bold red"), row.fault) for row in rows if row.fault]
    head = Text.assemble((stream.name, "bold"), f"  {stream.title}")
    return [head, table, *faults]


def _images(row: DomainRow) -> str:
    if row.fault:
        return "missing"
    if row.kind == "synthetic":
        return f"{row.found} drawn"
    return f"{row.found}" if row.expected in (None, row.found) else f"{row.found} of {row.expected}"


def models(
    *,
    fetch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Fetch this model's published weights, checked by sha256.")
    ] = None,
) -> None:
    """List the base models and where their weights are, or fetch one's weights."""
    console = results_console()
    if fetch is not None:
        from cosam_bench.sam.fetch import fetch_checkpoint

        console.print(f"{fetch}: {fetch_checkpoint(fetch)}", soft_wrap=True)
        return
    from cosam_bench.sam.models import MODELS, cache_folder

    table = plain_table("name", "title", "input", "size", "licence", "weights")
    for spec in MODELS.values():
        side = f"{spec.image_size} px"
        size = f"{spec.size_bytes / 2**20:,.0f} MiB" if spec.size_bytes else ""
        table.add_row(spec.name, spec.title, side, size, spec.licence, weights_state(spec))
    console.print(table)
    console.print(f"\n`cosam-bench models --fetch NAME` puts weights into {cache_folder()}.", soft_wrap=True)


def weights_state(spec: ModelSpec) -> str:
    """Where a model's weights are: in the package, in the cache, or still to be fetched."""
    from cosam_bench.sam.models import cache_folder

    if spec.file_name is None:
        return "in the package"
    return "in the cache" if (cache_folder() / spec.file_name).is_file() else TO_FETCH
