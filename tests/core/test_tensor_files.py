"""A file of tensors: whole or not at all, the same bytes as the library's own, and no copy of what needs none."""

from __future__ import annotations

import ast
import json
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

import cosam_bench
from cosam_bench.core.files import CannotWrite, replacing, write_atomically
from cosam_bench.core.tensor_files import CannotRead, _separate, read_tensors, write_tensors
from cosam_bench.method.interface import State


def tensors() -> dict[str, Tensor]:
    """Of many kinds, some of which share memory."""
    one = torch.arange(20.0).reshape(5, 4)
    return {
        "one": one,
        "same": one,
        "turned": one.T,
        "part": one[1:],
        "none": torch.zeros(0, 3),
        "nothing": torch.zeros(0, 3),
        "double": torch.ones(3, dtype=torch.float64),
        "count": torch.arange(4, dtype=torch.int16),
        "number": torch.tensor(3.0),
        "trained": torch.ones(2, requires_grad=True),
    }


def test_the_file_is_the_librarys_own_and_is_read_back_and_written_again(tmp_path: Path) -> None:
    path, values = tmp_path / "state.safetensors", {"b": [1, 2], "a": None}
    size = State(tensors(), values).save(path)
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors().items()}
    assert path.read_bytes() == save(copies, metadata={"values": json.dumps(values, sort_keys=True)})
    assert size == path.stat().st_size
    back = State.read(path)
    assert back.values == values
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in tensors().items())
    content = path.read_bytes()
    back.save(path)  # the file that its tensors are mapped from
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_only_what_shares_memory_or_lies_apart_is_copied() -> None:
    given = tensors()
    ready = _separate(given)
    kept = {name for name in given if ready[name].data_ptr() == given[name].data_ptr() and given[name].numel()}
    assert kept == {"one", "double", "count", "number", "trained"}
    apart = [tensor.untyped_storage().data_ptr() for tensor in ready.values() if tensor.numel()]
    assert len(set(apart)) == len(apart)


def test_a_disk_that_is_full_is_named_and_the_file_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    State({"x": torch.ones(4)}).save(path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(CannotWrite, match=r"state\.safetensors cannot be written: .*large.* Free space"):
            State({"x": torch.ones(100_000)}).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert State.read(path).tensors["x"].tolist() == [1.0] * 4


def test_a_state_has_the_rights_that_the_user_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        State({"x": torch.ones(4)}).save(tmp_path / "state")
    finally:
        os.umask(before)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o640


def test_what_is_stopped_within_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def stopped() -> None:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


def test_where_rights_cannot_be_changed_a_file_that_has_them_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, mode: int) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "chmod", refused)
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
def test_a_file_that_is_missing_or_damaged_is_named_with_the_callers_advice(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CannotRead, match=r"^The atlas .*file cannot be read: .+\. Draw it again\.$"):
        read_tensors(path, what="The atlas", advice="Draw it again.")


@pytest.mark.parametrize("metadata", [{}, {"values": "{"}])
def test_a_file_of_tensors_that_holds_no_state_is_refused_as_a_damaged_one(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    write_tensors(tmp_path / "file", {"x": torch.ones(2)}, metadata)
    with pytest.raises(CannotRead, match=r"The state .* cannot be read: .* Run again with --fresh\."):
        State.read(tmp_path / "file")


def test_no_other_module_reads_or_writes_safetensors() -> None:
    package = Path(cosam_bench.__file__).parent
    importers = {
        path.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "safetensors"
    }
    assert importers == {"tensor_files.py"}


def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "update.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(
        CannotRead, match=r"safetensors is a pointer of Git LFS, and no tensors yet\. Fetch it: git lfs"
    ):
        read_tensors(path)
    path.write_text("version 2")
    with pytest.raises(CannotRead, match="cannot be read"):
        read_tensors(path)
