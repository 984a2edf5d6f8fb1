"""``cosam-bench methods``, ``check`` and ``new-method``: list methods, check one, write a new one."""

from __future__ import annotations

import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Failed
from cosam_bench.cli.isolation_option import Isolated, prepare_isolation
from cosam_bench.cli.option_values import FOLDER_TO_WRITE
from cosam_bench.core.console import plain_table, results_console

if TYPE_CHECKING:
    from rich.table import Table

    from cosam_bench.method.card import MethodCard

NAMED = "A registered name, package.module:Class, or file.py."


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[METHOD]", help=f"Show this method in full. {NAMED}")] = None,
) -> None:
    """List the methods, or show one with its settings."""
    if name is not None:
        _show(name)
        return
    from cosam_bench.method.registry import method_names
    from cosam_bench.method.source_reading import read_card

    table = plain_table("name", "title", "paper", "needs", "state", "order", "marks", "budget")
    faults = []
    for one in method_names():
        try:
            table.add_row(one, *_facts(read_card(one)))
        except (Exception, SystemExit) as error:  # a plugin may raise anything, and must not hide the other methods
            table.add_row(one, "cannot be read, see below", style="red")
            faults.append(f"{one}: {error}")
    console = results_console()
    console.print(table)
    for fault in faults:
        console.print(f"\n{fault}", style="red")


def _facts(card: MethodCard) -> list[str]:
    order = "matters" if card.order_dependent else "free"
    needs, marks = ", ".join(card.needs) or "-", ", ".join(card.marks)
    return [card.title, card.paper, needs, card.state, order, marks, card.budget]


def _show(name: str) -> None:
    from cosam_bench.cli.settings_listing import print_settings
    from cosam_bench.core.setting_keys import setting_keys
    from cosam_bench.method.source_reading import describe

    method = describe(name)
    card = method.card
    facts = {
        "title": card.title,
        "paper": card.paper,
        "needs": ", ".join(card.needs) or "nothing but the trained expert",
        "state": {"none": "none", "constant": "constant", "grows": "grows with the domains"}[card.state],
        "budget": card.budget + (f", K = method.{card.budget_setting}" if card.budget_setting else ""),
        "order": "changes the final model" if card.order_dependent else "does not matter",
        "marks": ", ".join(card.marks),
        "class": method.place,
    }
    console = results_console()
    console.print(_pairs({key: text for key, text in facts.items() if text}))
    for paragraph in reflowed(method.documentation):
        console.print(f"\n{paragraph}")
    if card.deviations:
        console.print("\nDeviations from the paper or its released code", style="bold")
        for deviation in card.deviations:
            console.print(_pairs({"-": deviation}))
    keys = list(setting_keys(method.settings, prefix="method."))
    if keys:
        print_settings(console, "Settings, given as --set method.KEY=VALUE", keys, shows_search=True)
    else:
        console.print("\nIt has no settings.")


def reflowed(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring, one line each (a list: one per item) for a terminal to wrap; formulas unchanged.

    >>> list(reflowed("One\\ntwo.\\n\\n1. a\\n   b\\n2. c\\n\\n    x = y"))
    ['One two.', '1. a b\\n2. c', 'x = y']
    """
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.splitlines()
        if re.match(r"(\d+\.|[-*]) ", paragraph):
            yield "\n".join(" ".join(item.split()) for item in re.split(r"\n(?=\S)", paragraph))
        elif any(line.startswith(" ") for line in lines):
            yield textwrap.dedent(paragraph)
        else:
            yield " ".join(paragraph.split())


def _pairs(facts: dict[str, str]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for key, text in facts.items():
        table.add_row(key, text)
    return table


def new_method(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The method's name: lower-case letters, digits, underscores.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write; default: cosam-bench-NAME, here."),
        FOLDER_TO_WRITE,
    ] = None,
) -> None:
    """Write a package with a method of your own, which runs and passes the contract check unchanged."""
    from cosam_bench.method.package_template import write_method_package

    place = folder or Path(f"cosam-bench-{name.replace('_', '-')}")
    console = results_console()
    for path in write_method_package(name, place):
        console.print(path, soft_wrap=True)
    quoted = shlex.quote(str(place))
    console.print(
        f"\nNext:  pip install -e {quoted} && cosam-bench check {name} && cosam-bench run --method {name}",
        soft_wrap=True,
    )


Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method: method.ridge=0.1; repeatable."),
]


def check(
    method: Annotated[str, typer.Argument(metavar="METHOD", help=NAMED)],
    *,
    set_: Set = None,
    isolated: Isolated = None,
) -> None:
    """Check that a method keeps the contract, on three small domains, and report all faults; for authors of methods."""
    from cosam_bench.experiments.isolated_methods import runs_isolated
    from cosam_bench.experiments.protocol import method_settings
    from cosam_bench.method.registry import check_offered, load_method

    check_offered(method)
    settings = method_settings(set_ or [])
    is_isolated = runs_isolated(method, isolated)
    if is_isolated:
        prepare_isolation([method], isolated)
    found = None if is_isolated else load_method(method)

    from cosam_bench.isolation.check import check_isolated
    from cosam_bench.method.contract_check import ContractViolation, check_method

    try:
        passed = check_isolated(method, settings=settings) if found is None else check_method(found, settings=settings)
    except ContractViolation as error:
        count = len(error.faults)
        end = f". {error}" if count == 1 else f" in {count} ways:\n{error}"
        raise Failed(f"{method} breaks the contract{end}") from error
    console = results_console()
    for line in passed:
        console.print(f"ok  {line}")
