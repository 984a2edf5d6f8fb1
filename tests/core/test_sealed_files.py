"""Sealed files: any change of content, facts or name is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cosam_bench.core.sealed_files import read_sealed, write_sealed
from cosam_bench.core.tensor_files import CannotRead

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}
FACTS = {"seconds": 0.1, "losses": [1.5, 0.25]}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    size = write_sealed(tmp_path / "one.safetensors", TENSORS, FACTS)
    tensors, facts = read_sealed(tmp_path / "one.safetensors")
    assert facts == FACTS
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert size == (tmp_path / "one.safetensors").stat().st_size


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    write_sealed(path, TENSORS, FACTS)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            tensors, facts = read_sealed(path)
        except CannotRead:
            continue
        # Spaces that pad the header carry nothing.
        assert whole[position : position + 1] == b" "
        assert facts == FACTS
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_content_of_another_name_is_refused(tmp_path: Path) -> None:
    write_sealed(tmp_path / "one.safetensors", TENSORS, FACTS)
    (tmp_path / "one.safetensors").rename(tmp_path / "two.safetensors")
    with pytest.raises(CannotRead, match="was changed, or has the content of another one"):
        read_sealed(tmp_path / "two.safetensors")


@pytest.mark.parametrize("metadata", [None, {"content": "{}"}, {"content": "[" * 100_000}, {"content": "3"}])
def test_a_file_without_a_seal_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(TENSORS, tmp_path / "one.safetensors", metadata)
    with pytest.raises(CannotRead, match="was changed"):
        read_sealed(tmp_path / "one.safetensors")
