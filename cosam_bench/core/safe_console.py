"""A console of rich that writes nothing but legible text, in what its stream can encode."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cosam_bench.core.terminal_text import terminal_text


class SafeConsole(Console):
    """All output of the command line passes through here; rich's own control codes alone are left as they are."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, their texts made safe."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(terminal_text(segment.text, self.encoding), segment.style)
