"""Every example of docs/python-api.md and of the README's section runs as it is, on a small ``mini``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.quick_protocol import write_quick_protocol

import cosam_bench
from cosam_bench.data import protocol_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("document", ["docs/python-api.md", "README.md"])
def test_the_examples_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another in one namespace, as a notebook's cells."""
    small = write_quick_protocol(tmp_path).read_text().replace(', checkpoint = "random"', "")
    (tmp_path / "mini.toml").write_text(small.replace('name = "quick"', 'name = "mini"', 1))
    built_in = protocol_files.built_in_protocols()
    monkeypatch.setattr(protocol_files, "built_in_protocols", lambda: built_in | {"mini": tmp_path / "mini.toml"})
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((120, 160, 3), 90, dtype=np.uint8)).save("photo.png")

    examples = re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(encoding="utf-8"), flags=re.M | re.S)
    examples = [example for example in examples if "class " not in example and "def " not in example]
    assert examples
    names: dict[str, Any] = {}
    for number, example in enumerate(examples, start=1):
        exec(compile(example, f"{document}, example {number}", "exec"), names)
    assert names["record"].protocol == "mini"
    assert names["mask"].shape == (120, 160)


def test_the_page_names_every_public_name() -> None:
    text = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    spans = " ".join(re.findall(r"`([^`\n]+)`", text))
    assert [
        name for name in cosam_bench.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", spans)
    ] == []
