"""Archives of torch.save: tensors come out as torch reads them, and nothing that a file names is run or imported."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from cosam_bench.core.tensor_files import CannotRead
from cosam_bench.core.torch_archives import read_archive

MODULE = "somebodys_research_code"


@pytest.fixture
def their_module() -> Iterator[type[nn.Module]]:
    """A module class whose own module can be imported while a file is written, and not while it is read."""

    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnt = 3
            self.layer, self.norm = nn.Linear(4, 3), nn.LayerNorm(3)
            self.register_buffer("counts", torch.arange(5))

        def __setstate__(self, state: Any) -> None:
            raise AssertionError("their code ran")

    Extra.__module__, Extra.__qualname__ = MODULE, "Extra"
    sys.modules[MODULE] = module = ModuleType(MODULE)
    module.Extra = Extra  # type: ignore[attr-defined]
    yield Extra
    sys.modules.pop(MODULE, None)


def test_modules_of_unknown_classes_give_their_tensors(their_module: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    extra, path = their_module(), tmp_path / "module.pth"
    torch.save({"extra": extra, "A": nn.Linear(2, 2), "blocks": [7, 8], "half": torch.ones(2).half()}, path)
    del sys.modules[MODULE]
    tensors, values = read_archive(path)
    wanted = {f"extra.{name}": tensor for name, tensor in extra.state_dict().items()}
    assert set(tensors) == {*wanted, "A.weight", "A.bias", "half"}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in wanted.items())
    assert tensors["half"].dtype == torch.float16
    assert values == {"blocks": [7, 8]}
    assert MODULE not in sys.modules


def test_a_state_dict_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    state = OrderedDict(whole=base, turned=base.T, part=base[1:3, ::2], none=torch.empty(0, 3), one=torch.tensor(3))
    torch.save(state, tmp_path / "state.pt")
    found = read_archive(tmp_path / "state.pt").tensors
    theirs = torch.load(tmp_path / "state.pt", weights_only=True)
    assert list(found) == list(theirs)
    for name, tensor in theirs.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def archive(path: Path, data: bytes, *, records: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression=compression) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in (records or {}).items():
            file.writestr(f"archive/{name}", content)
    return path


def call(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a function with one text."""
    text = argument.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."


HOSTILE = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("__builtin__", "__import__"),
    ("importlib", "import_module"),
    ("runpy", "run_path"),
    ("torch.hub", "load"),
    ("collections", "OrderedDict"),
    ("torch", "load"),
]


@pytest.mark.parametrize(("module", "name"), HOSTILE)
def test_what_a_file_names_is_not_called(module: str, name: str, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = f"open({str(seen)!r}, 'w')"
    argument = {"system": f"touch {seen}", "import_module": "antigravity", "__import__": "antigravity"}.get(name, code)
    path = archive(tmp_path / "hostile.pth", call(module, name, argument))
    try:
        found = read_archive(path)
    except CannotRead:
        pass
    else:
        assert not found.tensors
    assert not seen.exists()
    assert "antigravity" not in sys.modules


def test_a_stand_in_cannot_be_made_to_act(tmp_path: Path) -> None:
    """State with slots sets attributes; on a stand-in's class, on a function that is known, and on a tensor."""
    set_name = b"N}X\x05\x00\x00\x00stateX\x01\x00\x00\x00xs\x86b."
    for target in (b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n"):
        path = archive(tmp_path / "hostile.pth", b"\x80\x02" + target + set_name)
        with suppress(CannotRead):
            assert not read_archive(path).tensors
    assert torch._utils._rebuild_tensor_v2.__module__ == "torch._utils"


class _Saved:
    """Pickles as torch does, but for what a test changes of one tensor."""

    def __init__(self, **changes: object) -> None:
        self.changes = changes

    def write(self, path: Path, *, records: dict[str, bytes] | None = None) -> Path:
        facts = {"key": "0", "offset": 0, "size": (2, 2), "stride": (2, 1)} | self.changes
        stream = io.BytesIO()
        storage = object()

        class Pickler(pickle.Pickler):
            def persistent_id(self, one: Any) -> Any:
                return ("storage", torch.FloatStorage, facts["key"], "cpu", 4) if one is storage else None

        class View:
            def __reduce__(self) -> tuple[Any, ...]:
                shape = (facts["offset"], facts["size"], facts["stride"])
                return torch._utils._rebuild_tensor_v2, (storage, *shape, False, OrderedDict())

        Pickler(stream, protocol=2).dump({"A": View()})
        return archive(path, stream.getvalue(), records=records or {"data/0": b"\0" * 16})


def test_a_well_formed_imitation_is_read(tmp_path: Path) -> None:
    assert torch.equal(read_archive(_Saved().write(tmp_path / "a.pth")).tensors["A"], torch.zeros(2, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (2, 3)},
        {"offset": 1},
        {"offset": -1},
        {"stride": (1 << 40, 1)},
        {"size": (1 << 62, 1 << 62)},
        {"size": (5,), "stride": (0,)},
        {"size": (2, -2)},
        {"size": (1,) * 9, "stride": (1,) * 9},
        {"size": (2.0, 2.0)},
        {"key": "1"},
        {"key": "../../../etc/passwd"},
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(CannotRead, match="cannot be read"):
        read_archive(_Saved(**changes).write(tmp_path / "a.pth"))


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(60):
        deep = {"a": deep}
    wide: Any = {"a": 1}
    for _ in range(20):
        wide = {"a": wide, "b": wide}
    cases = {
        "no archive": (tmp_path / "text.pth", "not an archive"),
        "compressed": (
            archive(tmp_path / "c.pth", b"\0" * 9000, compression=zipfile.ZIP_DEFLATED),
            "larger|compressed",
        ),
        "damaged": (archive(tmp_path / "d.pth", b"\x80\x02}"), "cannot be read"),
        "missing": (tmp_path / "missing.pth", "No such file"),
        "memo": (archive(tmp_path / "m.pth", b"\x80\x02Nr\xff\xff\xff\x7f."), None),
        "deep": (archive(tmp_path / "deep.pth", pickle.dumps(deep, 2)), "nested too deeply"),
        "wide": (archive(tmp_path / "wide.pth", pickle.dumps(wide, 2)), "too many"),
        "key": (archive(tmp_path / "key.pth", pickle.dumps({1: 2}, 2)), "not a name"),
    }
    (tmp_path / "text.pth").write_text("text")
    for path, expected in cases.values():
        if expected is None:
            assert read_archive(path) == ({}, {"": None})
            continue
        with pytest.raises(CannotRead, match=expected):
            read_archive(path)


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "expert.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CannotRead, match="it is a pointer of Git LFS, and no archive yet; fetch it by git lfs pull"):
        read_archive(path, what="The expert")
