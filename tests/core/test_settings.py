from __future__ import annotations

import errno
import os
from collections.abc import MutableSet
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, field_validator

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import CannotWrite, write_atomically
from cosam_bench.core.seeds import derived_seed, torch_generator
from cosam_bench.core.settings import Settings, read_toml, validate
from cosam_bench.method.card import MethodCard


class Leaf(Settings):
    rank: int = Field(default=4, ge=1)
    word: str = ""

    @field_validator("word")
    @classmethod
    def _is_lower(cls, value: str) -> str:
        if value != value.lower():
            raise ValueError("Not in lower case")
        return value


class Tree(Settings):
    seed: int
    leaf: Leaf = Leaf()
    perhaps: Leaf | None = None
    many: tuple[Leaf, ...] = Field(default=(), alias="leaves")
    count: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...] | None = None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "'seed' is missing"),
        ({"seed": 1, "sead": 2}, "no setting is called 'sead', did you mean 'seed'? (known here: seed, leaf, perhaps"),
        ({"seed": 1, "leaf": {"rnk": 2}}, "'leaf.rnk', did you mean 'rank'? (known here: rank, word)"),
        ({"seed": 1, "perhaps": {"rnk": 2}}, "'perhaps.rnk', did you mean 'rank'?"),
        ({"seed": 1, "leaves": [{}, {"rnk": 2}]}, "'leaves.1.rnk', did you mean 'rank'?"),
        ({"seed": 1, "zzz": 2}, "'zzz' (known here"),
        ({"seed": 1, "rank": 2}, "'rank', did you mean 'leaf.rank'? (known here"),
        ({"seed": 1, "Leaf": {}}, "'Leaf', did you mean 'leaf'? (known here"),
        ({"seed": 1, "leaf": 3}, "'leaf' is 3: write a table of settings with the keys rank, word"),
        ({"seed": 1, "leaf": {"rank": 0}}, "'leaf.rank' is 0: input should be greater than or equal to 1"),
        ({"seed": 1, "leaf": {"word": "A"}}, "'leaf.word' is 'A': not in lower case"),
        ({"seed": "x", "leaf": {"rank": "y"}}, "; 'leaf.rank' is 'y': input should be a valid integer"),
        ({"seed": 1, "count": 0}, "tree.toml: 'count' is 0: input should be greater than or equal to 1."),
        ({"seed": 1, "count": [0, -1]}, "tree.toml: 'count.1' is -1: input should be greater than or equal to 0."),
        (
            {"seed": 1, "count": [-1, "x"]},
            "equal to 0; 'count.1' is 'x'",
        ),
        (
            {"seed": 1, "count": {}},
            "'count' is {}: input should be a valid integer, or write a list in square brackets.",
        ),
        ("text", "it is 'text': write a table of settings with the keys seed, leaf, perhaps"),
    ],
)
def test_a_fault_names_the_key_what_was_found_and_what_is_allowed(data: object, message: str) -> None:
    with pytest.raises(CosamError) as caught:
        validate(Tree, data, source="tree.toml")
    assert str(caught.value).startswith("tree.toml: ")
    assert message in str(caught.value)


def test_a_long_value_is_cut_short_in_messages() -> None:
    with pytest.raises(CosamError) as caught:
        validate(Tree, {"seed": list(range(10_000))}, source="x")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "kind", [set[str], frozenset[int], dict[str, set[str]], "set[str] | None", AbstractSet[str], MutableSet[int]]
)
def test_a_set_is_no_setting(kind: object) -> None:
    with pytest.raises(CosamError, match=r"The setting 'names' of Sets is a set, .* Declare a tuple"):
        type("Sets", (Settings,), {"__annotations__": {"names": kind}, "__module__": __name__})


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Leaf().rank = 5  # type: ignore[misc]


def test_files_that_are_not_toml_are_refused_by_name(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    for content in (b"a = ", b"a = '\xff'"):
        bad.write_bytes(content)
        with pytest.raises(CosamError, match=r"bad\.toml cannot be read as TOML"):
            read_toml(bad)
    with pytest.raises(CosamError, match="No file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(CosamError, match="cannot be read"):
        read_toml(tmp_path)


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    assert "Did you mean 'regcl'?" in str(unknown_name("method", "regcll", ["moda", "regcl"]))
    assert str(unknown_name("method", "x", [])) == "No method is called 'x'. Offered: none."


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"needs": "inputs"}, "'inputs' is not a tuple"),
        ({"needs": ("input",)}, "cannot need 'input'; it may need inputs, labels, gradients, replay"),
        ({"state": "growing"}, "the state cannot be 'growing'"),
        ({"budget": "two"}, "the budget cannot be 'two'; it is one of none, one adapter, K adapters, growing"),
        ({"budget": "growing"}, "the budget cannot be 'growing' if the state is 'constant'"),
        ({"state": "grows", "budget": "one adapter"}, "cannot be 'one adapter' if the state is 'grows'"),
        ({"state": "grows", "budget": "K adapters"}, "budget_setting names the setting that is K"),
        ({"budget_setting": "slots"}, "budget_setting names the setting that is K"),
    ],
)
def test_a_card_with_a_word_nobody_knows_is_refused(facts: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MethodCard(title="x", **facts)  # type: ignore[arg-type]


def test_methods_that_keep_images_are_marked() -> None:
    assert MethodCard(title="x", needs=("inputs", "replay")).marks == ("keeps images",)
    assert MethodCard(title="x", needs=("inputs",)).marks == ()


def test_the_old_name_of_receives_domain_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="called receives_domain"):
        card = MethodCard(title="x", told_domain=True)
    assert card.receives_domain
    assert card.marks == ("told the domain",)
    assert card == MethodCard(title="x", receives_domain=True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, "ä\n")
    assert path.read_bytes() == b"\xc3\xa4\n"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def stopped(handle: int) -> None:
        raise KeyboardInterrupt

    for fault, error in ((full, CannotWrite), (stopped, KeyboardInterrupt)):
        monkeypatch.setattr(os, "fsync", fault)
        with pytest.raises(error):
            write_atomically(path, "new")
        assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
        assert path.read_text(encoding="utf-8") == "ä\n"


def test_a_new_file_has_the_rights_that_the_user_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"file/inner cannot be written"):
        write_atomically(tmp_path / "file" / "inner", b"x")


def test_seeds_depend_on_all_their_parts_and_on_nothing_else() -> None:
    # The first eight bytes of sha256("0\x1ffit\x1fpolyp"), without the lowest bit.
    assert derived_seed(0, "fit", "polyp") == 0xD20DD85D6773992B >> 1
    parts: list[tuple[str | int, ...]] = [(0,), (1,), (0, "a"), ("0", "a", ""), ("0a",), (0, "a", "b"), (0, "ab")]
    assert len({derived_seed(*part) for part in parts}) == len(parts)
    first, again = (torch_generator(3, "x").initial_seed() for _ in range(2))
    assert first == again == derived_seed(3, "x")
