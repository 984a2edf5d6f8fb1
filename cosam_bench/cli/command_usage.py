"""What commands say of their arguments before an option is read."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from cosam_bench.cli.error_handling import explain
from cosam_bench.core.errors import CosamError


class CommandUsage(TyperCommand):
    """A command that takes no empty value: it would be the current folder, or the same as no option at all."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options, unless one has an empty value.

        Args:
            ctx: click's context, whose class depends on typer's version.
            args: what follows the command's name.

        Raises:
            Exit: a value is empty; the message has been shown.
        """
        for before, value in zip(("", *args), args, strict=False):
            if not value:
                raise typer.Exit(explain(_empty(before if before.startswith("-") else "An argument")))
            if value.startswith("--") and value.find("=") == len(value) - 1:  # not --set=KEY=
                raise typer.Exit(explain(_empty(value[:-1])))
        return list(super().parse_args(ctx, args))


class RunUsage(CommandUsage):
    """The command `run`, which takes options alone; anything else is taken to be a method's name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options, and refuse what is left over with a suggestion.

        Args:
            ctx: click's context, whose class depends on typer's version.
            args: what follows ``run``.

        Raises:
            UsageError: an option is unknown, or something is left over.
        """
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if rest:
            ctx.fail(f"{' '.join(rest)!r} has no option. Did you mean --method {','.join(rest)}?")
        return rest


def _empty(option: str) -> CosamError:
    return CosamError(
        f"{option}: the value is empty. Give one; if it comes from a variable of the shell, set that first."
    )
