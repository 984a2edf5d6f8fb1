"""Updates in files of their own."""

from __future__ import annotations

import json
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded
from cosam_bench.core.reading import read_text
from cosam_bench.core.tensor_files import read_tensors
from cosam_bench.merging.updates import Update

UPDATE_FILE = "update.safetensors"
FACTS_FILE = "merge.json"  # beside a merged update

_FACTS_BYTES = 1 << 24
_ENDS = (".a", ".b", ".dense")


def update_named(asked: str | Path) -> Path | None:
    """The update that a path names: a safetensors file, or the one in a folder that ``merge`` wrote; None: neither."""
    path = expanded(asked)
    if path.suffix == ".safetensors":
        return path
    return path / UPDATE_FILE if (path / FACTS_FILE).is_file() else None


def model_beside(path: Path) -> str | None:
    """The base model of an update that ``merge`` wrote, as the facts beside it say; None if nothing says it."""
    try:
        facts = json.loads(read_text(path.parent / FACTS_FILE, limit_bytes=_FACTS_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    model = facts.get("model") if isinstance(facts, dict) else None
    return model if isinstance(model, str) else None


def read_update(path: Path) -> Update:
    """The update that a safetensors file of ``NAME.a``, ``NAME.b`` and ``NAME.dense`` holds; it may change no layer.

    Raises:
        CosamError: the file is missing or damaged, or holds anything but an update.
    """
    tensors = read_tensors(path, what="The update", advice="Write or copy it again.").tensors
    foreign = [name for name in tensors if not name.endswith(_ENDS)]
    if any(".lora_A." in name or ".lora_B." in name for name in foreign):
        raise CosamError(
            f"{path} holds a peft adapter's factors, but not its alpha, which is in adapter_config.json. Give the "
            "folder that holds both files."
        )
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise CosamError(
            f"{path} holds {foreign[0]}{more}, which is no change of a layer: names end in .a, .b or .dense. Give a "
            "record's update.safetensors, or a file that `cosam-bench export --format safetensors` wrote."
        )
    pairs = {name[:-2] for name in tensors if name.endswith((".a", ".b"))}
    for name in sorted(pairs):
        a, b = tensors.get(f"{name}.a"), tensors.get(f"{name}.b")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise CosamError(f"{path} has factors of {name!r} that do not fit each other. Write or copy it again.")
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise CosamError(f"{path} has tensors of whole numbers. Write or copy it again.")
    return Update.from_tensors(tensors)
