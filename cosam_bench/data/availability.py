"""Whether the data of a card is on this machine, and the command that gets it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from cosam_bench.data.cards import Card
from cosam_bench.data.streams import Stream, names_of

NOT_HERE = "its data is not here"


def missing_reason(card: Card) -> str:
    """Why a card's folder is missing and what to do, as half a sentence; empty if it is there."""
    if unset := re.findall(r"\$\{?(\w+)", card.root):
        return f"its root is {card.root}, but the variable {unset[0]} is not set; set it to a folder"
    if card.layout and card.layouts[card.layout].annotations:
        return f"its layout {card.layout!r} must be converted first: {prepare_command(card)} --from FOLDER"
    if card.root and Path(card.root).is_dir():
        return ""
    if not card.layouts:
        source = f" from {card.source}" if card.source else ""
        return f"there is no folder {card.root}; get the data{source} or correct root"
    gone = f"the folder {card.root} no longer exists" if card.root else NOT_HERE
    return f"{gone}: {next_step(card)}"


def fetching_all(stream: Stream, missing: Sequence[Card]) -> str:
    """The one command that fetches the missing data of a stream of the package; empty if there is none."""
    if len(missing) < 2 or stream.name not in names_of("stream") or not all(card.downloads for card in missing):
        return ""
    return f"cosam-bench data fetch {stream.name} --accept-licences"


def next_step(card: Card) -> str:
    """The command that fetches or prepares the data of a card with layouts, and where the data comes from."""
    if card.downloads:
        return f"{fetch_command(card)} (from {card.source})"
    return f"{prepare_command(card)} --from PATH (get it from {card.source})"


def fetch_command(card: Card) -> str:
    """The command that fetches the data of a card with direct addresses."""
    return shlex.join(["cosam-bench", "data", "fetch", card.origin, "--accept-licence"])


def prepare_command(card: Card) -> str:
    """The command that records where the data of a card is, without its ``--from``."""
    return shlex.join(["cosam-bench", "data", "prepare", card.origin])
