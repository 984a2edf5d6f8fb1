"""The README.md of an exported folder: what the model is, how to load it, and what it scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from cosam_bench.results.export.served import ServedModel
from cosam_bench.results.protocol_match import difference_suffix, is_another_experiment
from cosam_bench.results.records import Record
from cosam_bench.sam.build import EMBEDDED_WEIGHTS

_LOADING = {
    "peft": """```python
from peft import PeftModel

{imports}

base = {model}
sam = PeftModel.from_pretrained(base, "PATH/OF/THIS/FOLDER").merge_and_unload()
```""",
    "merged": """```python
{imports}

sam = {model}
```""",
    "transformers": """```python
from transformers import SamModel

sam = SamModel.from_pretrained("PATH/OF/THIS/FOLDER")
```""",
    "onnx": """```python
import onnxruntime

encoder = onnxruntime.InferenceSession("encoder.onnx")
decoder = onnxruntime.InferenceSession("decoder.onnx")
```""",
    "safetensors": """```python
from safetensors.torch import load_file

change = load_file("update.safetensors")  # NAME.a and NAME.b: add b @ a to NAME.weight; NAME.dense: add it to NAME
```""",
}


# By the model's name: the package whose registry builds it from a file, and its name there. Others are SAM's own.
_REGISTRIES = {"mobile_sam": ("mobile_sam", "vit_t")}


def write_model_card(
    record: Record,
    folder: Path,
    *,
    format_name: str,
    notes: Sequence[str],
    served: ServedModel | None,
    is_cut: bool = False,
) -> None:
    """Write ``README.md`` with the metadata that model hubs read.

    Args:
        record: of the run.
        folder: where the model was written.
        format_name: a name in ``FORMATS``.
        notes: what a reader should know.
        served: the model; None if only the change was written.
        is_cut: whether the model is not the one that was scored, since its factors were cut to a lower rank.
    """
    from huggingface_hub import EvalResult, ModelCardData

    info = record.info
    base = served.checkpoint.name if served and served.checkpoint else _model_name(record)
    libraries = {"peft": "peft", "transformers": "transformers", "onnx": "onnx"}
    differing = difference_suffix(record.differs)
    last = info.summary.get("iou", {}).get("last", math.nan)
    results = [
        EvalResult(
            task_type="mask-generation",
            dataset_type=f"not-{info.protocol}" if is_another_experiment(record.differs) else info.protocol,
            dataset_name=f"{info.protocol}, version {info.protocol_version}{differing}",
            metric_type="iou",
            metric_name="Last (mean IoU of the final model over the stream)",
            metric_value=round(last, 4),
        )
    ]
    data = ModelCardData(
        model_name=f"{info.method} on {info.protocol}{differing}",
        library_name=libraries.get(format_name, "segment-anything"),
        pipeline_tag="mask-generation",
        base_model=base,
        tags=["segment-anything", "model-merging", "continual-learning", "cosam-bench"],
        eval_results=results if math.isfinite(last) and not is_cut else None,
    )
    text = _text(record, format_name=format_name, notes=notes, served=served, base=base, is_cut=is_cut)
    (folder / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n\n{text}", encoding="utf-8")


def _model_name(record: Record) -> str:
    protocol = record.info.config.get("protocol")
    model = protocol.get("model") if isinstance(protocol, dict) else None
    return str(model.get("name")) if isinstance(model, dict) else "segment-anything"


def _loading(record: Record, *, format_name: str, served: ServedModel | None) -> str:
    if served is None:
        return _LOADING[format_name]
    name, file = _model_name(record), served.checkpoint
    if format_name == "merged":
        imports, model = _building(name, Path("merged.pth"))
    else:
        imports, model = _building(name, file and (file if file == EMBEDDED_WEIGHTS else Path(file.name)))
    return _LOADING[format_name].format(imports=imports, model=model)


def _building(name: str, file: Path | None) -> tuple[str, str]:
    """What to import, and what builds a model from a file of weights, or from random ones, which are in no file."""
    if name != "tiny" and file is not None:
        package, known_as = _REGISTRIES.get(name, ("segment_anything", name))
        return f"from {package} import sam_model_registry", f'sam_model_registry["{known_as}"](checkpoint="{file}")'
    imports = "from cosam_bench.sam.build import build_sam"  # which alone knows tiny and random weights
    if file is None:
        given = ', checkpoint="random"'
    elif file == EMBEDDED_WEIGHTS:
        given = ""
    else:
        imports, given = f"from pathlib import Path\n\n{imports}", f', checkpoint=Path("{file}")'
    return imports, f'build_sam("{name}"{given}, is_attention_lean=False)'


def _text(
    record: Record, *, format_name: str, notes: Sequence[str], served: ServedModel | None, base: str, is_cut: bool
) -> str:
    info, differing = record.info, difference_suffix(record.differs)
    figures = info.summary.get("iou", {})
    rows = [f"| {name} | {value:.4f} |" for name, value in figures.items() if math.isfinite(value)]
    marks = f" Marks: {', '.join(info.marks)}." if info.marks else ""
    lines = [
        f"# {info.method} on {info.protocol}{differing}",
        "",
        f"A Segment Anything Model that learned {len(info.order)} domains one after another "
        f"({', '.join(info.order)}) by the method `{info.method}`, exported by cosam-bench.{marks}",
        "",
        f"- Base weights: `{base}`, sha256 `{info.base_weights_sha256}`",
        f"- Protocol: {info.protocol}, version {info.protocol_version}{differing}; seed {info.seed}",
        *(f"- {note[:1].upper()}{note[1:]}" for note in notes),
        "",
        "## Loading",
        "",
        _loading(record, format_name=format_name, served=served),
        "",
        f"## Scores (IoU){' of the run, before its factors were cut' if is_cut else ''}",
        "",
        "| figure | value |",
        "|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)
