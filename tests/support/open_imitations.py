"""Small imitations of the data of ``open``, each with a card like the package's and a manifest of its own files."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tomli_w
from support.imitated_scenes import Scene, grey_rgb, save, scene
from support.imitations import labelme
from support.web import Site

from cosam_bench.data.cards import DATASETS
from cosam_bench.data.split_manifests import manifest_text
from cosam_bench.data.streams import load_card, load_stream
from tools.write_manifests import listed

PICTURES, TRAIN, TEST = 8, 4, 2
OPEN = tuple(card.name for card in load_stream("open").cards)


def _pictures(kind: str) -> list[tuple[int, Scene]]:
    return [(number, scene(f"open {kind}", number)) for number in range(1, PICTURES + 1)]


def bsdata(root: Path) -> None:
    """Two places with three images each, others with one; the last image shows no pitting."""
    for number, picture in _pictures("bsdata"):
        name = f"01_2009021{number}093536_{(5, 5, 5, 7, 7, 7, 8, 9)[number - 1]}85000_090_crop_2"
        save(root / f"data/{name}.jpg", picture.pixels)
        text = labelme(picture, f"{name}.jpg", (root / f"data/{name}.jpg").read_bytes())
        (root / "label").mkdir(exist_ok=True)
        (root / f"label/{name}.json").write_text(text)
    save(root / "data/01_20090219093536_985000_090_crop_1.jpg", picture.pixels)
    (root / "image_data.json").write_text(json.dumps({"images": []}))


def magnetic_tile(root: Path) -> None:
    kinds = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
    for number, picture in _pictures("tile"):
        stem = root / f"MT_{kinds[number % 5]}/Imgs/exp1_num_{number}"
        save(stem.with_suffix(".jpg"), picture.pixels)
        save(stem.with_suffix(".png"), np.where(picture.mask > 0, 250, 3).astype(np.uint8))
    save(root / "MT_Free/Imgs/exp1_num_9.jpg", picture.pixels)
    save(root / "MT_Free/Imgs/exp1_num_9.png", np.zeros_like(picture.mask))
    save(root / "MT_Uneven/Imgs/exp4_num_10.jpg", picture.pixels)
    save(root / "MT_Uneven/Imgs/exp4_num_10.png", np.zeros_like(picture.mask))


def neu_steel(root: Path) -> None:
    for number, picture in _pictures("steel"):
        part = "training" if number % 2 else "test"
        save(root / f"images/{part}/{number:06d}.jpg", picture.pixels)
        save(root / f"annotations/{part}/{number:06d}.png", (picture.mask > 0) * np.uint8(1 + number % 3))


def masonry_crack(root: Path) -> None:
    for number, picture in _pictures("masonry"):
        name = f"a_{number // 2}_{number}.png"
        save(root / f"dataset/crack_detection_224_images/{name}", picture.pixels)
        save(root / f"dataset/crack_detection_224_masks/{name}", picture.mask)


def crop_weed(root: Path) -> None:
    for number, picture in _pictures("crop"):
        save(root / f"images/{number:03d}_image.png", picture.pixels)
        save(root / f"masks/{number:03d}_mask.png", picture.mask == 0)
        save(root / f"annotations/{number:03d}_annotation.png", picture.pixels // 2)


def camvid_road(root: Path) -> None:
    for number, picture in _pictures("road"):
        part, video = ("train", "0001TP") if number % 2 else ("test", "Seq05VD")
        save(root / f"CamVid/{part}/{video}_{number:06d}.png", picture.pixels)
        save(root / f"CamVid/{part}annot/{video}_{number:06d}.png", np.where(picture.mask > 0, 3, 4).astype(np.uint8))
    save(root / "CamVid/val/0016E5_08159.png", picture.pixels)


def lung_xray(root: Path) -> None:
    for number, picture in _pictures("lungs"):
        name = f"CHNCXR_{number:04d}_0.png"
        save(root / f"data/cxr/{name}", picture.pixels[..., 0])
        save(root / f"data/masks/{name}", np.where(picture.mask > 0, 253, 2).astype(np.uint8))
    save(root / "data/test/CHNCXR_0494_1.png", picture.pixels[..., 0])


def kvasir(root: Path) -> None:
    for number, picture in _pictures("polyp"):
        name = f"cju0qkwl35piu0993l0dewe{number:02d}.jpg"
        save(root / f"Kvasir-SEG/images/{name}", picture.pixels)
        save(root / f"Kvasir-SEG/masks/{name}", grey_rgb(picture.mask))


def pets(root: Path) -> None:
    for number, picture in _pictures("pets"):
        inner = picture.mask > 0
        border = inner ^ np.roll(inner, 1, axis=0)
        save(root / f"images/Abyssinian_{number}.jpg", picture.pixels)
        trimap = np.where(border & inner, 3, np.where(inner, 1, 2)).astype(np.uint8)
        save(root / f"annotations/trimaps/Abyssinian_{number}.png", trimap)
    (root / "images/Abyssinian_1.mat").write_bytes(b"MATLAB")


BUILDERS: dict[str, Callable[[Path], None]] = {
    f"{builder.__name__}@open": builder
    for builder in (
        bsdata,
        magnetic_tile,
        neu_steel,
        masonry_crack,
        crop_weed,
        camvid_road,
        lung_xray,
        kvasir,
        pets,
    )
}


def offered(name: str, site: Site, folder: Path) -> Path:
    """A card file like the package's, whose archives hold the imitation and are on the test's server."""
    card = tomllib.loads((DATASETS / f"cards/{name}.toml").read_text(encoding="utf-8"))
    source = folder / f"{name}-source"
    BUILDERS[name](source)
    card["split"] |= {"file": f"{name}.csv", "train": min(TRAIN, card["split"]["train"]), "test": TEST}
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(card), encoding="utf-8")
    lines = listed(load_card(str(path)), source)
    (folder / f"{name}.csv").write_text(manifest_text(lines), encoding="utf-8")
    for download in card["downloads"]:
        site.add(download["file"], packed(source, download["file"], folder))
        download |= {"url": f"{site.url}/{download['file']}", "sha256": "", "size_bytes": 0}
    path.write_text(tomli_w.dumps(card), encoding="utf-8")
    return path


def packed(source: Path, file: str, folder: Path) -> bytes:
    """The archive of that name: GitHub's has all below one folder, the pets' two have a folder each."""
    stage = folder / f"{file}-stage"
    if file.startswith("oxford-pets-"):
        part = file.removeprefix("oxford-pets-").removesuffix(".tar.gz")
        shutil.copytree(source / part, stage / part)
    else:
        shutil.copytree(source, stage if file == "kvasir-seg.zip" else stage / f"{source.name}-0123abc")
    kind = "gztar" if file.endswith(".tar.gz") else "zip"
    return Path(shutil.make_archive(str(folder / f"{file}-packed"), kind, stage)).read_bytes()
