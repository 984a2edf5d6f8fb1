"""Which layers an adapter trains, by the protocol's settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.hq import HQLayers, rename_hq
from cosam_bench.sam.adapters.parallel_lora import ParallelLora
from cosam_bench.sam.adapters.side_layers import SideLayers
from cosam_bench.sam.build import read_checkpoint
from cosam_bench.sam.encoder_sections import early_section, encoder_sections
from cosam_bench.sam.models import model_spec
from cosam_bench.sam.sam import Sam

SIDE = "side."  # prefix of the names of side layers
_DECODER = "mask_decoder."
# The hypernetworks of the three masks that single-mask output never reads: they would get no gradient.
_UNUSED_IN_DECODER = re.compile(r"mask_decoder\.output_hypernetworks_mlps\.[123]\.")
_LAST_BLOCKS = 5  # RegCL adapts ViT-B's blocks 7 to 11


def target_layers(sam: Sam, settings: AdapterSettings) -> tuple[str, ...]:
    """The names of the linear layers that the settings adapt, in the model's order.

    They are the layers of ``Update.low_rank``, and those that are merged by their inputs. Only encoder blocks with
    attention are counted; MobileSAM's are numbered across its stages: 0 and 1, 2 to 7, 8 and 9.

    Raises:
        CosamError: no layer is left, or a block does not exist.
    """
    if settings.kind == "lora":
        return _lora_layers(sam, settings)
    if settings.kind == "decoder":
        return tuple(
            name
            for name, module in sam.mask_decoder.named_modules(prefix=_DECODER.rstrip("."))
            if isinstance(module, nn.Linear) and is_tuned(name)
        )
    return tuple(f"{SIDE}{name}" for name in _side(sam).linear)


def _lora_layers(sam: Sam, settings: AdapterSettings) -> tuple[str, ...]:
    blocks = _block_names(sam)
    prefixes = tuple(f"{blocks[number]}." for number in _chosen(sam, settings, blocks))
    pattern = settings.targets or model_spec(sam.name).lora_targets
    linear = [name for name, module in sam.named_modules() if isinstance(module, nn.Linear)]
    names = tuple(
        name
        for name in linear
        if re.fullmatch(pattern, name) and (settings.blocks is None or name.startswith(prefixes))
    )
    if not names:
        where = "" if settings.blocks is None else f" within blocks {list(settings.blocks)}"
        raise CosamError(
            f"No linear layer of {sam.name} matches {pattern!r}{where}. Its layers look like {linear[0]!r}."
        )
    return names


def _block_names(sam: Sam) -> list[str]:
    pattern = model_spec(sam.name).block_names
    return [name for name, _ in sam.named_modules() if re.fullmatch(pattern, name)]


def _chosen(sam: Sam, settings: AdapterSettings, blocks: list[str]) -> list[int]:
    """The numbers of the adapted blocks."""
    if settings.blocks is None:
        first = 0 if settings.kind == "lora" else max(0, len(blocks) - _LAST_BLOCKS)
        return list(range(first, len(blocks)))
    wrong = [number for number in settings.blocks if not 0 <= number < len(blocks)]
    if wrong:
        raise CosamError(
            f"{sam.name} has no block {wrong[0]}; its blocks are 0 to {len(blocks) - 1}. Correct adapter.blocks."
        )
    return list(settings.blocks)


def is_tuned(name: str) -> bool:
    """Whether a tuned decoder has this parameter, or layer, among what it trains."""
    return name.startswith(_DECODER) and not _UNUSED_IN_DECODER.match(name)


def trained_whole(sam: Sam, settings: AdapterSettings) -> tuple[str, ...]:
    """The names of the parameters that are trained as they are, without factors."""
    names: Iterable[str] = (name for name, _ in sam.named_parameters())
    has_decoder = settings.decoder or settings.kind == "decoder"
    has_side = settings.kind not in ("lora", "decoder")
    return tuple(name for name in names if (has_decoder and is_tuned(name)) or (has_side and name.startswith(SIDE)))


def touched_layers(sam: Sam, settings: AdapterSettings) -> tuple[str, ...]:
    """The names of the model's own layers whose output an adapter changes; the decoder's may be left out."""
    if settings.kind == "lora":
        return target_layers(sam, settings)
    if settings.kind in ("hq", "decoder"):
        return ()
    blocks = _block_names(sam)
    return tuple(f"{blocks[number]}.attn" for number in _chosen(sam, settings, blocks))


def check_adapter(settings: AdapterSettings, *, model: str) -> None:
    """Refuse an unsuitable adapter by the model's name alone, before minutes are spent on data and weights.

    Raises:
        CosamError: there is no such model, it cannot take the adapter, or the file of initial weights is not there.
    """
    is_plain_vit = model_spec(model).name != "mobile_sam"
    if settings.kind in ("augmodule", "regcl_lora") and not is_plain_vit:
        raise CosamError(
            f"The adapter {settings.kind!r} is for the attention of a plain ViT, which {model} does not have. "
            "Use lora, hq or decoder, or another model."
        )
    if settings.start and not Path(settings.start).is_file():
        raise CosamError(f"No file {settings.start} of initial weights. Correct adapter.start, or leave it empty.")


def add_side_layers(sam: Sam, settings: AdapterSettings, *, generator: torch.Generator) -> None:
    """Add the side layers that the settings ask for; ``lora`` and ``decoder`` need none.

    Their initial weights belong to the frozen base: an update is the change from them. They are enabled only while an
    adapter is attached or an update of theirs is served; otherwise the model is SAM as it was.

    Args:
        generator: on the CPU, draws the initial weights.

    Raises:
        CosamError: the model's encoder cannot take them, or the file of initial weights does not fit.
    """
    check_adapter(settings, model=sam.name)
    if settings.kind in ("lora", "decoder"):
        return
    if sam.side is not None:
        raise CosamError("This model has side layers already. Build it again to try others.")
    blocks = _block_names(sam)
    modules = {number: sam.get_submodule(blocks[number]) for number in _chosen(sam, settings, blocks)}
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # layers draw weights when they are created
        side = _hq(sam) if settings.kind == "hq" else _beside_attention(sam, settings, modules, seed=seed)
    if settings.start:
        sam.side_digest = _load_start(side, Path(settings.start))
    side.requires_grad_(False)
    sam.side = side.to(sam.device)


def _hq(sam: Sam) -> HQLayers:
    encoder: Any = sam.image_encoder
    # The block that reads the early map has its width.
    block: Any = encoder.get_submodule(encoder_sections(encoder)[early_section(encoder) + 1].parts[0])
    is_vit = isinstance(encoder, ImageEncoderViT)
    width = block.norm1.normalized_shape[0] if is_vit else block.dim
    return HQLayers(width=int(sam.mask_decoder.transformer_dim), early_width=int(width))


def _beside_attention(sam: Sam, settings: AdapterSettings, blocks: dict[int, Any], *, seed: int) -> SideLayers:
    encoder: Any = sam.image_encoder
    generator = torch.Generator().manual_seed(seed)
    if settings.kind == "regcl_lora":
        width = int(encoder.patch_embed.proj.out_channels)
        return ParallelLora(blocks, width=width, rank=settings.rank, generator=generator)
    from cosam_bench.sam.adapters.augmodule import AugModule  # torchvision, which takes seconds

    return AugModule(
        encoder,
        blocks,
        rank=settings.rank,
        generator=generator,
        transposed_heatmap=settings.transposed_heatmap,
        whole_heatmap_in_windows=settings.whole_heatmap_in_windows,
        has_mixing=settings.mixing,
    )


def _load_start(side: SideLayers, path: Path) -> str:
    """Load the initial weights of a file, and return their hash."""
    found, wanted = rename_hq(dict(read_checkpoint(path))), side.state_dict()
    faults = [
        name
        for name, tensor in wanted.items()
        if name not in found or found[name].shape != tensor.shape or not found[name].is_floating_point()
    ]
    if faults:
        name = faults[0]
        has = f"{found[name].dtype} {tuple(found[name].shape)}" if name in found else "nothing"
        raise CosamError(
            f"{path} does not fit HQ-SAM's layers of this model: {len(faults)} of {len(wanted)} tensors are missing "
            f"or of another shape or kind of number, first {name}: wanted {tuple(wanted[name].shape)}, found {has}."
        )
    side.load_state_dict({name: found[name] for name in wanted})
    return digest_tensors(side.state_dict())


def _side(sam: Sam) -> SideLayers:
    if sam.side is None:
        raise CosamError("This adapter needs side layers. Call add_side_layers on the model first.")
    return sam.side
