"""Building a SAM by name, with weights from a file, the cache, the package or a seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.core.hashing import digest_tensors, sha256_file
from cosam_bench.core.tensor_files import read_tensors
from cosam_bench.sam.attention import use_lean_attention
from cosam_bench.sam.mobile_names import rename_published
from cosam_bench.sam.models import ModelSpec, cache_folder, model_spec
from cosam_bench.sam.prompt_encoder import use_static_points
from cosam_bench.sam.sam import Sam

_TORCH_STARTS = (
    b"PK\x03\x04",
    b"\x80",
)  # an archive; before torch 1.6, pickles
EMBEDDED_WEIGHTS = Path(__file__).parent / "weights" / "tiny.safetensors"

_Parts = tuple[nn.Module, nn.Module, nn.Module]


def build_sam(
    name: str,
    *,
    checkpoint: Path | Literal["random"] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    global_attention: bool = False,
    is_attention_lean: bool = True,
) -> Sam:
    """The SAM called ``name``: float32, in evaluation mode, no parameter requires a gradient.

    Args:
        name: one of ``MODELS``.
        checkpoint: a file of the official layout, ``.safetensors`` or torch's own; ``"random"`` for fresh
            weights; None for the package's own (``tiny``) or the fetched ones in the cache.
        device: where to put it.
        seed: of random weights; torch's global generators are left as they were.
        global_attention: let every block of a ViT attend to the whole image, at four times the cost, as CoSAM's
            released code does: the windows' tables of relative positions are stretched to the image.
        is_attention_lean: attend without the matrix of all scores, see ``attention``; if false, as
            segment-anything does.

    Raises:
        CosamError: no such model; the file is missing, damaged or another model's.
    """
    spec = model_spec(name)
    path = None if checkpoint == "random" else _weights_file(spec, checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every device's
        image_encoder, prompt_encoder, mask_decoder = _parts(name)()
    sam = Sam(
        name=name,
        image_size=spec.image_size,
        mask_logit=spec.mask_logit,
        image_encoder=image_encoder,
        prompt_encoder=prompt_encoder,
        mask_decoder=mask_decoder,
    )
    if path is None:
        sam.checkpoint_digest = digest_tensors(sam.state_dict())
    else:
        sam.checkpoint_digest = sha256_file(path)
        if checkpoint is None and spec.sha256 not in (None, sam.checkpoint_digest):
            raise CosamError(f"{path} is damaged: its sha256 is not {spec.sha256}. {_fetch_hint(spec)}")
        _load(sam, path)
    if global_attention:
        _attend_globally(sam)
    if is_attention_lean:
        use_lean_attention(sam.image_encoder)
    use_static_points(sam.prompt_encoder)
    return sam.to(device)


def _attend_globally(sam: Sam) -> None:
    if not isinstance(sam.image_encoder, ImageEncoderViT):
        raise CosamError(f"model.global_attention works only with plain ViTs, and {sam.name} is not one. Turn it off.")
    blocks: list[Any] = list(sam.image_encoder.blocks)
    for block in blocks:
        block.window_size = 0  # segment-anything stretches the tables to the size it finds
    sam.global_attention = True


def _parts(name: str) -> Callable[[], _Parts]:
    if name == "tiny":
        from cosam_bench.sam.tiny_sam import tiny_parts

        return tiny_parts
    if name == "mobile_sam":
        from cosam_bench.sam.mobile_sam import mobile_parts

        return mobile_parts
    return lambda: _vit_parts(name)


def _vit_parts(name: str) -> _Parts:
    from segment_anything import sam_model_registry

    stock = sam_model_registry[name]()
    return stock.image_encoder, stock.prompt_encoder, stock.mask_decoder


def _weights_file(spec: ModelSpec, checkpoint: Path | None) -> Path:
    if checkpoint is not None:
        if not checkpoint.is_file():
            raise CosamError(f"No checkpoint file {checkpoint}. Give a file of {spec.name}, or leave it out.")
        return checkpoint
    if spec.file_name is None:
        return EMBEDDED_WEIGHTS
    path = cache_folder() / spec.file_name
    if not path.is_file():
        raise CosamError(f"The weights of {spec.name} are not at {path}. {_fetch_hint(spec)}")
    return path


def weights_file(name: str, checkpoint: Path | None = None) -> Path:
    """The file that ``build_sam`` reads the weights of a model from.

    Raises:
        CosamError: no such model or file.
    """
    return _weights_file(model_spec(name), checkpoint)


def _fetch_hint(spec: ModelSpec) -> str:
    return f"Run `cosam-bench models --fetch {spec.name}`, or give a checkpoint file."


def _load(sam: Sam, path: Path) -> None:
    wanted = sam.state_dict()
    state = read_checkpoint(path)
    if sam.name == "mobile_sam":
        state = rename_published(state, wanted)
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    whole = [name for name in wanted if name in state and _is_whole(state[name]) != _is_whole(wanted[name])]
    misshapen = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    faults = [
        f"{len(names)} {kind} (first {names[0]})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
            ("of another kind of number", whole),
        )
        if names
    ]
    if faults:
        raise CosamError(
            f"{path} is not a checkpoint of {sam.name}: among its tensors {', '.join(faults)}. "
            "Name the model that it belongs to, or give another file."
        )
    sam.load_state_dict(state)


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point()


def read_checkpoint(
    path: Path, *, what: str = "The checkpoint", advice: str = "Fetch or copy it again."
) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint file; nothing in it is executed.

    Args:
        path: the file.
        what: what the file is, the first words of an error.
        advice: what the user can do, the last sentence of an error.

    Raises:
        CosamError: the file is missing or damaged, or holds anything but tensors.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path, what=what, advice=advice).tensors
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader may raise anything for a foreign file, even KeyError
        raise CosamError(f"{what} {path} cannot be read: {_why_unread(path, error)}. {advice}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CosamError(f"{path} does not hold a mapping of names to tensors. Give an official checkpoint file.")
    return state


def _why_unread(path: Path, error: Exception) -> str:
    """What is wrong with a file, in a line; without torch's advice to execute what a file holds beside tensors."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    start = _start_of(path)
    if not start:
        return "it is empty"
    if not start.startswith(_TORCH_STARTS):
        return f"torch.save did not write it; it begins with {start!r}"
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds something else than tensors ({found[1][:80]}), of which nothing was executed"
    if ran_out_of_memory(error):
        return "the memory does not hold it"
    return "it is damaged or cut short, or holds something else than tensors, of which nothing was executed"


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(24)
