"""A protocol whose run takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

QUICK_DOMAINS = ("pitting", "pill", "polyp")


def _card(name: str, *, train: int) -> str:
    return f"""
[[domain]]
name = "{name}"
kind = "synthetic"
generator = "{name}"
size = 64
split = {{ kind = "counts", train = {train}, test = 3, seed = 0 }}
"""


def write_quick_protocol(folder: Path, *, domains: Sequence[str] = QUICK_DOMAINS) -> Path:
    """Write the protocol's file and its stream's: untrained tiny SAM, three small domains, one epoch."""
    stream = folder / "quick-stream.toml"
    cards = [_card(name, train=4) for name in domains] + [_card("natural", train=0)]
    stream.write_text('name = "quick"\nretention = ["natural"]\n' + "".join(cards))
    protocol = folder / "quick.toml"
    protocol.write_text(
        """
name = "quick"
stream = "quick-stream.toml"
model = { name = "tiny", checkpoint = "random" }
adapter = { rank = 2, alpha = 2.0 }
fit = { epochs = 1, batch_size = 4 }
"""
    )
    return protocol
