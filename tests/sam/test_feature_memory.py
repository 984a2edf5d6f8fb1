"""Which features a memory keeps, evicts and moves to the host while rows are scored and domains are learned."""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import suppress

import pytest
import torch

from cosam_bench.sam.cache_backends import Kept
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.sam import Features


def kept(*, value: float = 0.0, early: bool = False) -> Kept:
    maps = torch.full((1, 2, 2, 4), value)
    return Kept(Features(maps, torch.ones(1, 2, 2, 1) if early else None), seconds=2.0)


ENTRY = 64  # bytes of the above without an early map


def passed(memory: FeatureMemory, keys: Iterable[str]) -> int:
    """How many of the features were found; the others are kept, as the cache does it."""
    hits = 0
    for key in keys:
        found = memory.read(key)
        hits += found is not None
        memory.keep(key, found or kept())
    return hits


def names(what: str, count: int) -> list[str]:
    return [f"{what} {number}" for number in range(count)]


def held(memory: FeatureMemory, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if memory.read(key) is not None]


def test_a_training_split_is_found_again_though_the_test_images_fill_the_memory() -> None:
    """RegCL's protocol on ViT-B at depth 7: 8 GiB hold 682 of 3,395 test images, a domain trains on 96."""
    memory = FeatureMemory(limit_bytes=682 * ENTRY)
    test = names("test", 3395)
    assert passed(memory, test) == 0
    assert passed(memory, test) == 682  # a second row without training between
    for domain in range(3):
        train, order = names(f"domain {domain}", 96), random.Random(domain)
        with memory.open_domain():
            for epoch in range(4):
                assert passed(memory, order.sample(train, 96)) == (96 if epoch else 0)
        assert passed(memory, test) == 682 - 96  # their room is given back to test images
        assert len(held(memory, test)) == 682
        assert not held(memory, train)


def test_mirrored_images_have_room_too_and_those_of_a_closed_domain_are_evicted_first() -> None:
    memory = FeatureMemory(limit_bytes=10 * ENTRY)
    passed(memory, names("test", 8))
    with memory.open_domain():
        passed(memory, names("first", 4))
    assert held(memory, names("test", 8)) == names("test", 6)
    with memory.open_domain():
        passed(memory, names("second", 6))
        assert held(memory, names("first", 4)) == []
        assert held(memory, names("test", 8)) == names("test", 4)
        assert passed(memory, names("second", 6)) == 6


def test_a_domain_larger_than_the_memory_keeps_what_comes_first() -> None:
    memory = FeatureMemory(limit_bytes=3 * ENTRY)
    passed(memory, names("test", 3))
    with memory.open_domain():
        for epoch in range(3):
            assert passed(memory, names("train", 5)) == (3 if epoch else 0)
    assert passed(memory, names("test", 3)) == 0
    assert passed(memory, names("test", 3)) == 3


def test_a_domain_that_is_opened_again_finds_its_features_and_protects_them() -> None:
    """As when several methods run in one process, and the memory holds everything."""
    memory = FeatureMemory(limit_bytes=4 * ENTRY)
    with memory.open_domain():
        passed(memory, ["a", "b"])
    passed(memory, ["test 0", "test 1"])
    with memory.open_domain():
        assert passed(memory, ["a", "b", "c", "d"]) == 2
        assert held(memory, ["a", "b", "c", "d"]) == ["a", "b", "c", "d"]


def test_what_an_error_leaves_is_closed_too() -> None:
    memory = FeatureMemory(limit_bytes=2 * ENTRY)
    with suppress(KeyboardInterrupt), memory.open_domain():
        passed(memory, ["a", "b"])
        raise KeyboardInterrupt
    passed(memory, ["test 0", "test 1"])
    assert held(memory, ["test 0", "test 1"]) == ["test 0", "test 1"]


def test_the_hosts_memory_takes_what_does_not_fit_and_what_makes_room() -> None:
    host = FeatureMemory(limit_bytes=5 * ENTRY, is_pinned=True)
    memory = FeatureMemory(limit_bytes=4 * ENTRY, beyond=host)
    test = names("test", 12)
    passed(memory, test)
    assert held(host, test) == test[4:9]
    with memory.open_domain():
        for epoch in range(2):
            assert passed(memory, names("train", 3)) == (3 if epoch else 0)
        assert held(memory, test) == [test[0], *test[4:9]]  # the host is full, so what makes room is lost
        assert not held(host, names("train", 3))
    assert passed(memory, test) == 6
    assert held(memory, test) == test[:9]
    with memory.open_domain():
        passed(memory, names("large", 7))
        assert held(host, names("large", 7)) == names("large", 7)[4:]
        assert held(memory, test) == test[4:6]
    found = memory.read("large 6")
    assert found is not None
    assert torch.equal(found.features.maps, kept().features.maps)


def test_test_images_that_make_room_move_to_the_host() -> None:
    host = FeatureMemory(limit_bytes=5 * ENTRY, is_pinned=True)
    memory = FeatureMemory(limit_bytes=2 * ENTRY, beyond=host)
    passed(memory, ["test 0", "test 1"])
    with memory.open_domain():
        passed(memory, ["train 0"])
        assert held(host, ["test 0", "test 1"]) == ["test 1"]
        assert passed(memory, ["test 0", "test 1", "train 0"]) == 3


def test_pinned_memory_is_counted_in_powers_of_two() -> None:
    host = FeatureMemory(limit_bytes=3 * ENTRY - 1, is_pinned=True)
    host.keep("with early", kept(early=True))  # 64 and 16 bytes
    host.keep("a", kept())
    assert held(host, ["with early", "a"]) == ["with early", "a"]
    large = Kept(Features(torch.zeros(1, 2, 2, 5)), seconds=1.0)  # 80 bytes take 128
    host = FeatureMemory(limit_bytes=127, is_pinned=True)
    host.keep("large", large)
    assert host.read("large") is None


def test_memory_keeps_what_comes_first_and_throws_nothing_out() -> None:
    memory = FeatureMemory(limit_bytes=2 * 64 + 16)
    for number, name in enumerate("abcd"):
        memory.keep(name, kept(value=float(number)))
    found = {name: memory.read(name) for name in "abcd"}
    assert [name for name, one in found.items() if one is not None] == ["a", "b"]
    assert found["b"] is not None
    assert torch.equal(found["b"].features.maps, torch.ones(1, 2, 2, 4))
    assert found["b"].seconds == 2.0
    memory.keep("with early", kept(early=True))  # 80 bytes where 16 are left
    assert memory.read("with early") is None


def test_memory_counts_the_early_map_and_no_key_twice() -> None:
    memory = FeatureMemory(limit_bytes=80 + 64 + 64 + 63)
    memory.keep("a", kept(early=True))
    memory.keep("a", kept(value=5.0, early=True))
    for name in "bcd":
        memory.keep(name, kept())
    assert [memory.read(name) is not None for name in "abcd"] == [True, True, True, False]
    first = memory.read("a")
    assert first is not None
    assert first.features.early is not None
    assert first.features.maps.sum() == 0


def test_memory_that_finds_no_room_takes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = FeatureMemory(limit_bytes=1000)
    memory.keep("a", kept())

    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", full)
        memory.keep("b", kept())
    memory.keep("c", kept())
    assert [memory.read(name) is not None for name in "abc"] == [True, False, False]


def test_memory_holds_no_more_than_it_counts() -> None:
    memory = FeatureMemory(limit_bytes=1000)
    together = torch.zeros(50, 2, 2, 4)
    memory.keep("a", Kept(Features(together[:1]), seconds=1.0))
    together += 1
    found = memory.read("a")
    assert found is not None
    assert found.features.maps.untyped_storage().nbytes() == 64
    assert found.features.maps.sum() == 0


def test_a_device_that_is_full_gives_its_features_back_and_the_host_keeps_its_own() -> None:
    host = FeatureMemory(limit_bytes=2 * ENTRY, is_pinned=True)
    memory = FeatureMemory(limit_bytes=4 * ENTRY, beyond=host)
    test = names("test", 8)
    with memory.open_domain():
        passed(memory, ["train"])
        passed(memory, test)
        assert memory.release()
        assert memory.used_bytes == 0
        assert held(memory, ["train", *test]) == test[3:5]
        assert not memory.release()
        assert passed(memory, ["train", *test]) == 2
    assert memory.limit_bytes == 4 * ENTRY


def test_a_device_that_was_full_keeps_half_of_what_it_gave_back() -> None:
    memory = FeatureMemory(limit_bytes=100 * ENTRY)
    passed(memory, names("test", 4))
    assert memory.release()
    memory.keep_fewer()
    passed(memory, names("test", 4))
    assert held(memory, names("test", 4)) == names("test", 2)


def test_a_memory_that_shrinks_moves_test_images_to_the_host() -> None:
    host = FeatureMemory(limit_bytes=1 * ENTRY, is_pinned=True)
    memory = FeatureMemory(limit_bytes=6 * ENTRY, beyond=host)
    with memory.open_domain():
        passed(memory, ["train"])
    passed(memory, names("test", 4))
    memory.shrink(2 * ENTRY)
    assert not held(memory, ["train"])
    assert held(memory, names("test", 4)) == ["test 0", "test 1", "test 3"]
    assert held(host, names("test", 4)) == ["test 3"]
    memory.shrink(9 * ENTRY)
    assert memory.limit_bytes == 2 * ENTRY
    with memory.open_domain():
        passed(memory, names("train", 2))
        memory.shrink(ENTRY)
        assert held(memory, names("train", 2)) == ["train 0", "train 1"]
        assert held(host, names("train", 2)) == ["train 1"]
