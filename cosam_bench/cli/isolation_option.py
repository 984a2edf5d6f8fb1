"""The option that chooses where a method's code runs, and the early start of the process that isolates it."""

from __future__ import annotations

from typing import Annotated

import typer

Isolated = Annotated[
    bool | None,
    typer.Option(
        "--isolated/--in-process",
        help="Run methods in processes of their own, or in this one; default: isolated unless built in.",
        show_default=False,
    ),
]


def prepare_isolation(methods: list[str], isolated: bool | None) -> None:
    """Start the process that runs methods isolated, if any of them does.

    This process has read no data and imported no method yet, so that it may be copied.
    """
    from cosam_bench.experiments.isolated_methods import runs_isolated

    if isolated or any(runs_isolated(name, isolated) for name in methods):
        from cosam_bench.isolation.server_handle import prepare

        prepare(fork=True)
