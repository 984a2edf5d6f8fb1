"""What `run` says of a method's name that is given without its option."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class RunUsage(TyperCommand):
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
        rest: list[str] = super().parse_args(ctx, args)
        if rest:
            ctx.fail(f"{' '.join(rest)!r} has no option. Did you mean --method {','.join(rest)}?")
        return rest
