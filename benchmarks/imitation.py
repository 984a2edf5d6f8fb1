"""A stream of CoSAM's size: eight domains and natural images as files, drawn, of about the originals' sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tomli_w
from PIL import Image

# Assumed: one width and height per domain, close to those of its images. Names as in the stream cosam.
SIZES = {
    "bsdata": (1130, 460),
    "rsdd_i": (160, 1000),
    "rsdd_ii": (55, 1250),
    "mvtec_i": (1024, 1024),
    "mvtec_ii": (800, 800),
    "mvtec_iii": (900, 900),
    "camo": (1024, 768),
    "kvasir": (622, 531),
}
NATURAL = (640, 480)  # COCO's
TEST, RETENTION = 94, 200  # test images per domain, the mean of CoSAM's; natural images


def write_stream(
    folder: Path, *, train: int = 1, test: int = TEST, retention: int = RETENTION, shrunk: int = 1
) -> Path:
    """Write the images and the stream's TOML file, whose path is returned.

    Args:
        train: training images per domain.
        test: test images per domain.
        retention: natural images, which are only tested.
        shrunk: divide all sides by this.
    """
    draw = np.random.default_rng(0)
    tables = []
    for name, (width, height) in (SIZES | {"natural": NATURAL}).items():
        counts = {"train": 0, "test": retention} if name == "natural" else {"train": train, "test": test}
        for number in range(sum(counts.values())):
            _write(folder / name, f"{number:04d}", width=width // shrunk, height=height // shrunk, draw=draw)
        split = {"kind": "counts", **counts}
        tables.append({"name": name, "root": name, "masks": "masks/{stem}.png", "split": split})
    path = folder / "imitation.toml"
    stream = {"name": "imitation", "retention": ["natural"], "domain": tables}
    path.write_text(tomli_w.dumps(stream), encoding="utf-8")
    return path


def _write(folder: Path, stem: str, *, width: int, height: int, draw: np.random.Generator) -> None:
    """Clouds with a bright ellipse, as JPEG; its mask as PNG."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:height, 0:width]
    clouds = Image.fromarray(draw.integers(0, 160, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8))
    picture = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC))
    centre, half = draw.uniform(0.3, 0.7, 2), draw.uniform(0.1, 0.3, 2)
    mask = ((rows / height - centre[0]) / half[0]) ** 2 + ((columns / width - centre[1]) / half[1]) ** 2 < 1
    lit = np.minimum(picture.astype(np.int16) + 90 * mask[..., None], 255).astype(np.uint8)
    Image.fromarray(lit).save(folder / "images" / f"{stem}.jpg", quality=90)
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{stem}.png")
