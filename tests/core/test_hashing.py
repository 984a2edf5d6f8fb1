"""Hashes of bytes, text, JSON values, files and tensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors, sha256_bytes, sha256_file, sha256_json, sha256_text


def test_parts_text_and_files_have_the_plain_sha256_of_their_bytes(tmp_path: Path) -> None:
    wanted = hashlib.sha256("Größe".encode()).hexdigest()
    (tmp_path / "file").write_text("Größe", encoding="utf-8")
    assert sha256_text("Größe") == sha256_bytes(b"Gr", memoryview("öße".encode())) == wanted
    assert sha256_file(tmp_path / "file") == wanted


def test_a_json_value_is_hashed_with_sorted_keys() -> None:
    value = {"b": [1, 2.5, None], "a": {"y": True, "x": "ü"}}
    assert sha256_json(value) == hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    assert sha256_json({"a": 1}) != sha256_json({"a": 1.0})


def test_blocks_of_a_file_are_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(2**20 + 5))
    blocks: list[int] = []
    sha256_file(tmp_path / "file", on_block=blocks.append)
    assert blocks == [2**20, 5]
    with pytest.raises(CosamError, match="gone cannot be read"):
        sha256_file(tmp_path / "gone")


def test_a_tensors_name_type_shape_and_bytes_count() -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    head = b"x|torch.float32|(2, 3)|"
    assert digest_tensors({"x": tensor.view(2, 3)}) == hashlib.sha256(head + tensor.numpy().tobytes()).hexdigest()
    others = ({"x": tensor}, {"y": tensor.view(2, 3)}, {"x": tensor.double().view(2, 3)}, {"x": tensor.view(2, 3) + 1})
    assert len({digest_tensors(other) for other in others}) == 4
