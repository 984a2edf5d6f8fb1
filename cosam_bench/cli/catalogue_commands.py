"""``cosam-bench domains`` and ``models``: the known data and weights, and whether they are on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.core.console import plain_table, results_console, say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cosam_bench.data.overview import DomainRow
    from cosam_bench.data.streams import Stream
    from cosam_bench.sam.models import ModelSpec

TO_FETCH = "to be fetched"


def domains(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A stream, a card, or the TOML file of either; by default all."),
    ] = None,
) -> None:
    """List streams and domains: the source and licence of their data, and whether it is on this machine."""
    console = results_console()
    for part in _all() if name is None else _one(name):
        console.print(part)


def stream_names() -> list[str]:
    """The built-in streams in alphabetical order."""
    from cosam_bench.data.streams import names_of

    return names_of("stream")


def _all() -> Iterator[RenderableType]:
    """The streams with the names of their domains, then the cards that come with the package."""
    from rich.padding import Padding
    from rich.text import Text

    from cosam_bench.data.overview import domain_row
    from cosam_bench.data.streams import load_card, load_stream, names_of

    yield Text("Streams", style="bold")
    for stream in map(load_stream, stream_names()):
        yield Text.assemble("  ", (stream.name, "bold"), f"  {stream.title}")
        names = f"{', '.join(stream.order)}; retention: {', '.join(stream.retention) or 'none'}"
        yield Padding(Text(names), (0, 0, 0, 4))
    rows = [domain_row(load_card(name)) for name in names_of("card")]
    if rows:
        yield Text("\nDomains of published data", style="bold")
        yield from _listing(rows)
        yield from _notes(rows)
        if any(row.is_missing for row in rows):
            yield Text("\nRun `cosam-bench domains NAME` to see one in full and how to get its data.")


def _one(name: str) -> Iterator[RenderableType]:
    from cosam_bench.core.errors import CosamError, unknown_name
    from cosam_bench.core.files import expanded
    from cosam_bench.data.streams import is_card_file, load_card, load_stream, names_of, refuse_folder

    if name.endswith(".toml"):
        is_card = is_card_file(expanded(name))
    else:
        is_card = name in names_of("card")
        known = [*names_of("stream"), *names_of("card")]
        if name not in known:
            refuse_folder(name)
            raise CosamError(
                f"{unknown_name('stream or card', name, known)} Or give the path of a file that ends in .toml."
            )
    if is_card:
        from cosam_bench.cli.domain_sheet import domain_sheet

        yield from domain_sheet(load_card(name))
    else:
        yield from _stream(load_stream(name))


def _stream(stream: Stream) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    from cosam_bench.cli.data_check_table import legible
    from cosam_bench.data.availability import fetching_all
    from cosam_bench.data.overview import domain_overview

    rows = domain_overview(stream)
    yield Text.assemble((stream.name, "bold"), f"  {stream.title}")
    yield from _listing(rows)
    if stream.orders:
        yield Text(f"\nOther orders, as `--order NAME`: {', '.join(stream.orders)}.")
    yield from _notes(rows)
    for row in rows:
        if row.fault and not row.is_missing:
            yield Text.assemble(("\nfault: ", "bold red"), legible(row.fault))
    missing = [row for row in rows if row.is_missing]
    if missing:
        yield Text("\nMissing (run `cosam-bench domains NAME` for details):", style="bold")
    for row in missing:
        yield Padding(Text.assemble((f"{row.name}: ", "bold"), row.step or row.fault), (0, 0, 0, 2))
    if command := fetching_all(stream, [stream.card(row.name) for row in missing]):
        yield Text(f"All of them: {command}")


def _listing(rows: Sequence[DomainRow]) -> Iterator[RenderableType]:
    """A table, or three lines per domain if there are addresses, which would not fit."""
    if not any(row.source for row in rows):
        yield _table(rows)
        return
    from rich.padding import Padding
    from rich.text import Text

    width = max(len(row.name) for row in rows)
    for row in rows:
        licence = row.licence + (" ?" if row.licence and not row.licence_is_checked else "")
        role = f"{row.role:11}" if row.role else ""
        yield Text.assemble((row.name.ljust(width), "bold"), f"  {role}{_images(row)}")
        for text in (row.title, ", ".join(text for text in (licence, row.source) if text)):
            yield Padding(Text(text, overflow="fold"), (0, 0, 0, 4))


def _table(rows: Sequence[DomainRow]) -> RenderableType:
    columns = {
        "name": [row.name for row in rows],
        "title": [row.title for row in rows],
        "role": [row.role for row in rows],
        "images": [_images(row) for row in rows],
        "licence": [row.licence for row in rows],
    }
    table = plain_table(*(head for head, texts in columns.items() if any(texts)))
    for texts in zip(*(texts for texts in columns.values() if any(texts)), strict=True):
        table.add_row(*texts)
    return table


def _notes(rows: Sequence[DomainRow]) -> Iterator[RenderableType]:
    if any(row.source and row.licence and not row.licence_is_checked for row in rows):
        yield "\n?  this licence has not been checked at the source."


def _images(row: DomainRow) -> str:
    if row.fault:
        return "missing" if row.is_missing else "fault"
    if row.kind == "synthetic":
        return f"{row.found} drawn"
    return f"{row.found}" if row.expected in (None, row.found) else f"{row.found} of {row.expected}"


def models(
    *,
    fetch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Fetch this model's published weights and check their sha256.")
    ] = None,
) -> None:
    """List the base models and where their weights are, or fetch the weights of one."""
    console = results_console()
    if fetch is not None:
        from cosam_bench.sam.checkpoints import fetch_checkpoint

        path = fetch_checkpoint(fetch, say=lambda text: say("Note", text, style="bold yellow"))
        console.print(f"{fetch}: {path}", soft_wrap=True)
        return
    from cosam_bench.sam.models import MODELS, cache_folder

    table = plain_table("name", "title", "input", "size", "licence", "weights")
    for spec in MODELS.values():
        side = f"{spec.image_size} px"
        size = f"{spec.size_bytes / 2**20:,.0f} MiB" if spec.size_bytes else ""
        table.add_row(spec.name, spec.title, side, size, spec.licence, weights_state(spec))
    console.print(table)
    console.print(f"\nRun `cosam-bench models --fetch NAME` to fetch weights to {cache_folder()}.", soft_wrap=True)


def weights_state(spec: ModelSpec) -> str:
    """Where a model's weights are: in the package, in the cache, or not fetched yet."""
    from cosam_bench.sam.models import cache_folder

    if spec.file_name is None:
        return "in the package"
    return "in the cache" if (cache_folder() / spec.file_name).is_file() else TO_FETCH
