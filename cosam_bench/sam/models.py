"""The models that can be named on the command line, as plain data: nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cosam_bench.core.errors import unknown_name
from cosam_bench.core.files import expanded


@dataclass(frozen=True)
class ModelSpec:
    """A model: where its weights come from and which layers an adapter changes.

    Attributes:
        name: as on the command line.
        title: for people.
        image_size: side of the square input in pixels.
        url: official address of the weights; None if they are part of the package.
        sha256: of the file at ``url``; None with it.
        size_bytes: of the file at ``url``; 0 without it.
        licence: of the weights, SPDX.
        mask_logit: the logit of a cell that a mask prompt covers wholly; a cell it does not cover has the opposite.
        lora_targets: regular expression that the whole name of an adapted linear layer matches.
        block_names: regular expression that the whole name of an encoder block with attention matches;
            blocks are numbered from 0 in the order of the model.
    """

    name: str
    title: str
    image_size: int
    url: str | None
    sha256: str | None
    size_bytes: int
    licence: str
    mask_logit: float
    lora_targets: str
    block_names: str

    @property
    def file_name(self) -> str | None:
        """The weights' name in the cache folder; None if they are part of the package."""
        return self.url.rsplit("/", 1)[-1] if self.url else None


_VIT_BLOCKS = r"image_encoder\.blocks\.\d+"
_VIT_TARGETS = _VIT_BLOCKS + r"\.attn\.(qkv|proj)"
_TINY_VIT_BLOCKS = r"image_encoder\.stages\.[123]\.blocks\.\d+"
_TINY_VIT_TARGETS = r"image_encoder\.stages\.[23]\.blocks\.\d+\.attn\.(qkv|proj)"
# Given only a clean mask, MobileSAM reproduced it best at this size: a mean IoU of .73 over 24 of this project's
# real trial images, against .50 at 10 and .70 at 20; it is flat from 25 to 40. All SAMs share that prompt encoder.
_SAM_MASK_LOGIT = 30.0
_META = "https://dl.fbaipublicfiles.com/segment_anything/"


def _vit(name: str, *, title: str, file: str, sha256: str, size_bytes: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=title,
        image_size=1024,
        url=_META + file,
        sha256=sha256,
        size_bytes=size_bytes,
        licence="Apache-2.0",
        mask_logit=_SAM_MASK_LOGIT,
        lora_targets=_VIT_TARGETS,
        block_names=_VIT_BLOCKS,
    )


# Addresses: README of facebookresearch/segment-anything and of ChaoningZhang/MobileSAM. The six digits in the
# names of SAM's files are not part of their sha256; several independent public projects record the same hashes
# (micro_sam's registry and 3D Slicer's extensions among them).
MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        "tiny": ModelSpec(
            name="tiny",
            title="Tiny SAM, trained by this project on synthetic scenes",
            image_size=128,
            url=None,
            sha256=None,
            size_bytes=0,
            licence="Apache-2.0",
            mask_logit=10.0,  # as in its training
            lora_targets=_VIT_TARGETS,
            block_names=_VIT_BLOCKS,
        ),
        "mobile_sam": ModelSpec(
            name="mobile_sam",
            title="MobileSAM: TinyViT-5M encoder",
            image_size=1024,
            url="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            size_bytes=40_728_226,
            licence="Apache-2.0",
            mask_logit=_SAM_MASK_LOGIT,
            lora_targets=_TINY_VIT_TARGETS,
            block_names=_TINY_VIT_BLOCKS,
        ),
        "vit_b": _vit(
            "vit_b",
            title="SAM, ViT-B encoder",
            file="sam_vit_b_01ec64.pth",
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            size_bytes=375_042_383,
        ),
        "vit_l": _vit(
            "vit_l",
            title="SAM, ViT-L encoder",
            file="sam_vit_l_0b3195.pth",
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            size_bytes=1_249_524_607,
        ),
        "vit_h": _vit(
            "vit_h",
            title="SAM, ViT-H encoder",
            file="sam_vit_h_4b8939.pth",
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            size_bytes=2_564_550_879,
        ),
    }
)


def model_spec(name: str) -> ModelSpec:
    """The model called ``name``.

    Raises:
        CosamError: there is none; the nearest name is suggested.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]


def cache_folder() -> Path:
    """The folder of fetched weights: ``COSAM_BENCH_CACHE``, by default ``~/.cache/cosam-bench``."""
    return expanded(os.environ.get("COSAM_BENCH_CACHE") or "~/.cache/cosam-bench")
