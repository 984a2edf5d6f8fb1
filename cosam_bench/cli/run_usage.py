"""What `run` says of a method's name that is given without its option."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperCommand

if TYPE_CHECKING:
    import click


class RunUsage(TyperCommand):
    """The command `run`, which takes options alone; anything else is taken to be a method's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options, and refuse what is left over with a suggestion.

        Raises:
            UsageError: an option is unknown, or something is left over.
        """
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if rest:
            ctx.fail(f"{' '.join(rest)!r} has no option. Did you mean --method {','.join(rest)}?")
        return rest
