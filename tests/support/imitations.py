"""Small imitations of the published data: the same folders, file kinds and names, other pictures.

``build("kvasir@cosam", folder)`` lays out what the set's own archives unpack to; ``layout="cosam_bundle"`` or
``"samcl_bundle"`` what the two papers' bundles hold of it. ``BUILDERS`` lists what exists. Images are about 96 pixels,
with one or two bright ellipses each, so that a small SAM can learn them. Cards of one pool share their images.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support.imitated_scenes import Scene, grey_rgb, points, save, scene

from cosam_bench.data.layouts import recognise
from cosam_bench.data.locations import Location, write_location
from cosam_bench.data.streams import load_card

TRAIN, TEST = 7, 3  # images of each part where the layout divides them; together where it does not
GROUPS = {
    "i": ("carpet", "leather", "tile"),
    "ii": ("capsule", "pill", "screw"),
    "iii": ("bottle", "metal_nut", "transistor", "zipper"),
}
SAMCL = {"kvasir@regcl": "Kvasir", "camo@regcl": "CAMO", "istd@regcl": "ISTD", "isic@regcl": "ISIC", "cod@regcl": "COD"}


def parts() -> list[tuple[str, int]]:
    """Train or test for each image's number."""
    return [("train" if number < TRAIN else "test", number) for number in range(TRAIN + TEST)]


def labelme(picture: Scene, name: str, image: bytes) -> str:
    """The labelme file of a picture, with the image embedded as labelme 4 does."""
    shapes = [
        {"label": "Pitting", "points": outline, "group_id": None, "shape_type": "polygon", "flags": {}}
        for outline in picture.outlines
    ]
    size = {"imageHeight": picture.pixels.shape[0], "imageWidth": picture.pixels.shape[1]}
    data = {"imagePath": name, "imageData": base64.b64encode(image).decode()}
    return json.dumps({"version": "4.5.6", "flags": {}, "shapes": shapes} | data | size)


def bsdata(folder: Path) -> None:
    root = folder / "BSData-main"
    for number in range(TRAIN + TEST + 2):  # the last two show no pitting
        stem = f"01_20090{number:02d}53521_585000_090_crop_{1 + (number < TRAIN + TEST)}"
        picture = scene("bsdata", number, ellipses=1 + number % 2)
        save(root / f"data/{stem}.jpg", picture.pixels)
        if number < TRAIN + TEST:
            text = labelme(picture, f"{stem}.jpg", (root / f"data/{stem}.jpg").read_bytes())
            (root / "label").mkdir(exist_ok=True)
            (root / f"label/{stem}.json").write_text(text)
    (root / "image_data.json").write_text('{"images": []}')


def rsdds(kind: str) -> Callable[[Path], None]:
    def lay_out(folder: Path) -> None:
        root = folder / f"RSDDs dataset/Type-{kind} RSDDs dataset"
        for number in range(1, TRAIN + TEST + 1):
            picture = scene(f"rail {kind}", number, width=120, height=64, ellipses=1 + number % 2)
            save(root / f"Rail surface images/rail_{number}.jpg", picture.pixels)
            save(root / f"GroundTruth/rail_{number}.jpg", picture.mask)

    return lay_out


def mvtec(members: tuple[str, ...]) -> Callable[[Path], None]:
    def lay_out(folder: Path) -> None:
        root = folder / "mvtec_anomaly_detection"
        for member in members:
            for number in range(4):
                picture = scene(member, number, ellipses=1 + number % 2)
                defect = ("cut", "glue")[number % 2]
                save(root / f"{member}/test/{defect}/{number:03d}.png", picture.pixels)
                save(root / f"{member}/ground_truth/{defect}/{number:03d}_mask.png", picture.mask)
            for place in ("train", "test"):
                save(root / f"{member}/{place}/good/000.png", scene(member, 9 + len(place), ellipses=0).pixels)

    return lay_out


def side_by_side(folder: Path, kind: str, *, train: str, test: str) -> None:
    """One mask a sample beside its image, as CoSAM's industrial folders have it."""
    for part, number in parts():
        picture = scene(kind, number, ellipses=2)
        place = folder / (train if part == "train" else test)
        save(place / f"{number:03d}.jpg", picture.pixels)
        save(place / f"{number:03d}.png", picture.one(number % 2).mask)


def camo(folder: Path) -> None:
    root = folder / "CAMO-COCO-V.1.0-CVIU2019"
    for part, number in parts():
        picture = scene("camo", number)
        stem = f"camourflage_{number + 1:05d}"
        save(root / f"Camouflage/Images/{part.title()}/{stem}.jpg", picture.pixels)
        save(root / f"Camouflage/GT/{stem}.png", picture.mask)
        save(root / f"NonCamouflage/Images/{part.title()}/COCO_{number:012d}.jpg", picture.pixels[::-1])


def kvasir_pair(folder: Path, number: int, *, images: str = "images") -> None:
    picture = scene("kvasir", number)
    stem = f"cju0qkwl35piu0993l0dewe{number:02d}"
    save(folder / f"{images}/{stem}.jpg", picture.pixels)
    save(folder / f"masks/{stem}.jpg", grey_rgb(picture.mask))


def kvasir_seg(folder: Path) -> None:
    for _, number in parts():
        kvasir_pair(folder / "Kvasir-SEG", number)
    (folder / "Kvasir-SEG/kavsir_bboxes.json").write_text("{}")


def kvasir_sessile(folder: Path) -> None:
    kvasir_seg(folder)
    for part, number in parts():
        if part == "test":
            kvasir_pair(folder / "sessile-main-Kvasir-SEG", number)
    (folder / "sessile-main-Kvasir-SEG/train.txt").write_text("")


def kvasir_samcl(folder: Path) -> None:
    """The published lists divide otherwise than the sessile folder does, as in truth."""
    kvasir_seg(folder)
    (folder / "samcl").mkdir()
    for part, numbers in (("train", range(2, TRAIN + TEST)), ("test", range(2))):
        named = {f"cju0qkwl35piu0993l0dewe{number:02d}.jpg": scene("kvasir", number) for number in numbers}
        (folder / f"samcl/{part}-points.json").write_text(points({name: s.mask for name, s in named.items()}))


def istd(folder: Path) -> None:
    for part, number in parts():
        picture = scene("istd", number)
        root = folder / f"ISTD_Dataset/{part}"
        save(root / f"{part}_A/{number}-1.png", picture.pixels)
        save(root / f"{part}_B/{number}-1.png", picture.mask)
        save(root / f"{part}_C/{number}-1.png", picture.pixels // 2)


def isic(folder: Path) -> None:
    for part, number in parts():
        picture = scene("isic", number)
        name = "Training" if part == "train" else "Test"
        save(folder / f"ISBI2016_ISIC_Part1_{name}_Data/ISIC_{number:07d}.jpg", picture.pixels)
        masks = folder / f"ISBI2016_ISIC_Part1_{name}_GroundTruth"
        save(masks / f"ISIC_{number:07d}_Segmentation.png", picture.mask)


def cod(folder: Path) -> None:
    for part, number in parts():
        picture = scene("cod", number)
        root = folder / f"COD10K-v2/{part.title()}"
        stem = f"COD10K-CAM-1-Aquatic-1-BatFish-{number}"
        save(root / f"Image/{stem}.jpg", picture.pixels)
        save(root / f"GT_Object/{stem}.png", picture.mask)
        save(root / f"Image/COD10K-NonCAM-2-Terrestrial-20-Ant-{number}.jpg", picture.pixels[::-1])


def coco_name(number: int) -> str:
    return f"{139 + 73 * number:012d}"


def coco(folder: Path) -> None:
    """Images with one or two polygons each, one with a crowd alone and one without anything."""
    annotations: list[dict[str, Any]] = []
    images = []
    for number in range(TRAIN + TEST + 2):
        picture = scene("coco", number, ellipses=1 + number % 2)
        height, width = picture.pixels.shape[:2]
        ident = int(coco_name(number))
        save(folder / f"val2017/{coco_name(number)}.jpg", picture.pixels)
        images.append({"id": ident, "file_name": f"{coco_name(number)}.jpg", "height": height, "width": width})
        outlines = picture.outlines if number < TRAIN + TEST else ()
        for outline in outlines:
            xy = np.array(outline)
            box = [*xy.min(axis=0).tolist(), *np.ptp(xy, axis=0).tolist()]
            area = float((picture.mask > 0).sum() / len(outlines))
            shape = {"segmentation": [xy.flatten().tolist()], "iscrowd": 0, "bbox": box, "area": area}
            annotations.append({"id": len(annotations) + 1, "image_id": ident, "category_id": 1} | shape)
    crowd = {"segmentation": {"counts": [0, 96 * 80], "size": [80, 96]}, "iscrowd": 1, "bbox": [0, 0, 96, 80]}
    annotations.append({"id": 900, "image_id": images[-1]["id"], "category_id": 1, "area": 96.0 * 80} | crowd)
    (folder / "annotations").mkdir(parents=True)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(content))


def cosam_kvasir(folder: Path) -> None:
    root = folder / "SAM_Adapter数据集/kvasir_polyp分割"
    for part, number in parts():
        kvasir_pair(root / ("train" if part == "train" else "sessile-main-Kvasir-SEG"), number)
    kvasir_pair(root / "train", 0, images="images_membank")


def cosam_coco(folder: Path) -> None:
    for number in range(TEST):
        picture = scene("coco", number)
        save(folder / f"evaluateSAM_COCO/{coco_name(number)}.jpg", picture.pixels)
        save(folder / f"evaluateSAM_COCO/{coco_name(number)}.png", picture.mask)


def samcl_names(card: str, part: str, number: int) -> tuple[str, str]:
    """The file names of an image and its mask in SAMCL's bundle."""
    stem, image, mask = {
        "kvasir@regcl": (f"cju0qkwl35piu0993l0dewe{number:02d}", "jpg", "jpg"),
        "camo@regcl": (f"camourflage_{number + 1:05d}", "jpg", "jpg"),
        "istd@regcl": (f"{number}-1", "png", "png"),
        "isic@regcl": (f"ISIC_{number:07d}", "jpg", "jpg"),
        "cod@regcl": (f"COD10K-CAM-1-Aquatic-1-BatFish-{number}", "jpg", "jpg" if part == "train" else "png"),
        "coco100@samcl": (coco_name(number), "jpg", "jpg"),
    }[card]
    return f"{stem}.{image}", f"{stem}.{mask}"


def samcl(card: str) -> Callable[[Path], None]:
    def lay_out(folder: Path) -> None:
        kind = card.partition("@")[0].rstrip("0123456789")
        for part in ("train", "test"):
            root = folder / f"data/{SAMCL.get(card, 'COCO')}/{part}"
            masks = {}
            for number in (number for place, number in parts() if place == part):
                image, mask = samcl_names(card, part, number)
                picture = scene(kind, number)
                save(root / f"images/{image}", picture.pixels)
                save(root / f"masks/{mask}", picture.mask)
                masks[mask] = picture.mask
            (root / "masks/points.json").write_text(points(masks))

    return lay_out


def industrial(kind: str, root: str, stem: str) -> Callable[[Path], None]:
    return lambda folder: side_by_side(folder / root, kind, train=f"{stem}_train", test=f"{stem}_test")


BUILDERS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("bsdata@cosam", "source"): bsdata,
    ("rsdd_i@cosam", "source"): rsdds("I"),
    ("rsdd_ii@cosam", "source"): rsdds("II"),
    **{(f"mvtec_{group}@cosam", "source"): mvtec(members) for group, members in GROUPS.items()},
    ("camo@cosam", "source"): camo,
    ("kvasir@cosam", "source"): kvasir_sessile,
    ("kvasir@regcl", "source"): kvasir_samcl,
    ("camo@regcl", "source"): camo,
    ("istd@regcl", "source"): istd,
    ("isic@regcl", "source"): isic,
    ("cod@regcl", "source"): cod,
    ("coco200@cosam", "source"): coco,
    ("coco100@samcl", "source"): coco,
    ("bsdata@cosam", "cosam_bundle"): industrial("bsdata", "BSData-main", "my"),
    ("rsdd_i@cosam", "cosam_bundle"): industrial("rail I", "RSDDs 数据集/Type-I RSDDs dataset", "my"),
    ("rsdd_ii@cosam", "cosam_bundle"): industrial("rail II", "RSDDs 数据集/Type-II RSDDs dataset", "my"),
    ("mvtec_i@cosam", "cosam_bundle"): industrial("carpet", "mvtec_groups/group1", "new"),
    ("mvtec_ii@cosam", "cosam_bundle"): industrial("pill", "mvtec_groups/group2", "new"),
    ("mvtec_iii@cosam", "cosam_bundle"): industrial("bottle", "mvtec_groups/group3", "new"),
    # CAMO lies in the bundle as published, so it is recognised as "source" there.
    ("camo@cosam", "cosam_bundle"): lambda folder: camo(folder / "SAM_Adapter数据集/CAMO迷彩动物分割"),
    ("kvasir@cosam", "cosam_bundle"): cosam_kvasir,
    ("coco200@cosam", "cosam_bundle"): cosam_coco,
    **{(card, "samcl_bundle"): samcl(card) for card in (*SAMCL, "coco100@samcl")},
}


def build(card_name: str, folder: Path, layout: str = "source") -> Path:
    """Lay out a card's data under ``folder`` and return it; several bundles' parts may share a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    BUILDERS[card_name, layout](folder)
    return folder


def prepare(card_name: str, folder: Path, *, layout: str = "source") -> Location:
    """Lay out a card's data below ``folder`` and record its location, as ``cosam-bench data prepare`` does."""
    found, root = recognise(load_card(card_name), build(card_name, folder / card_name, layout))
    location = Location(layout=found, root=root)
    write_location(card_name, location)
    return location
