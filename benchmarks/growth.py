"""How cost grows with the number of domains: 4, 8 and 16 of `mini`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measuring import Row
from benchmarks.runs import run_each, stream_file

METHODS = ("average", "finetune")
# Of mini's 24 images, for training and for the test each, and of its ten epochs: growth does not depend on them.
IMAGES, EPOCHS = 12, 2


def rows(counts: Sequence[int] = (4, 8, 16), *, images: int = IMAGES, epochs: int = EPOCHS) -> Iterator[Row]:
    """For each number of domains and method: fitting a domain, scoring a cell of the matrix, and the state's size.

    Args:
        images: of a domain, for training and for the test.
        epochs: of the training.
    """
    for method in METHODS:
        for count in counts:
            with tempfile.TemporaryDirectory() as folder:
                stream = stream_file(Path(folder), domains=count, train=images, test=images, retention=images)
                overrides = (f"stream={stream}", f"fit.epochs={epochs}")
                [taken] = run_each([method], results=Path(folder) / "results", overrides=overrides)
            cells = (count + 1) * (count + 1)  # frozen SAM's row; the retention domain's column
            name = f"{method}, {count} domains"
            note = f"{epochs} epochs of {images} images"
            yield Row(f"fitting a domain, {name}", None, taken.learning / count, "s", note)
            yield Row(f"scoring a cell, {name}", None, taken.scoring / cells, "s", f"{images} images, {cells} cells")
            yield Row(f"state, {name}", None, taken.record.info.cost.state_bytes[-1] / 1024, "KiB")
