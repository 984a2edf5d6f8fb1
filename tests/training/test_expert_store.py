"""The store of experts: what is read is what was trained, once for all processes."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from cosam_bench.core.files import exclusive
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.training.expert_store import ExpertStore
from cosam_bench.training.fit import Fitted


def fitted(value: float = 1.0) -> Fitted:
    factors = LowRank(a=torch.full((2, 3), value), b=torch.ones(4, 2))
    return Fitted(Update(low_rank={"layer": factors}), epoch_losses=(0.5, 0.25), trainable_parameters=14, seconds=1.5)


def refuse() -> Fitted:
    raise AssertionError("this was to be read")


def test_the_second_asker_reads_what_the_first_has_trained(tmp_path: Path) -> None:
    trained, is_new = ExpertStore(tmp_path).read_or_train("a", fitted)
    read, is_newer = ExpertStore(tmp_path).read_or_train("a", refuse)
    assert is_new
    assert not is_newer
    assert read.update.digest() == trained.update.digest()
    assert (read.epoch_losses, read.trainable_parameters, read.seconds) == ((0.5, 0.25), 14, 1.5)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_expert_that_is_read_counts_as_used(tmp_path: Path) -> None:
    ExpertStore(tmp_path).read_or_train("a", fitted)
    os.utime(tmp_path / "a.safetensors", (0, 0))
    ExpertStore(tmp_path).read_or_train("a", refuse)
    assert time.time() - (tmp_path / "a.safetensors").stat().st_mtime < 60


def test_a_trained_expert_has_the_order_and_layout_of_a_read_one(tmp_path: Path) -> None:
    def in_order_of_the_model() -> Fitted:
        factors = {layer: LowRank(a=torch.ones(3, 2).T, b=torch.ones(4, 2)) for layer in ("qkv", "proj")}
        return Fitted(Update(factors), epoch_losses=(), trainable_parameters=28, seconds=1.0)

    trained, read = (ExpertStore(tmp_path).read_or_train("a", train)[0] for train in (in_order_of_the_model, refuse))
    assert list(trained.update.low_rank) == list(read.update.low_rank)
    strides = [[factors.a.stride() for factors in each.update.low_rank.values()] for each in (trained, read)]
    assert strides[0] == strides[1]


@pytest.mark.parametrize("damage", ["bit", "swap", "cut"])
def test_an_expert_that_is_not_the_trained_one_is_trained_again(tmp_path: Path, damage: str) -> None:
    store = ExpertStore(tmp_path)
    store.read_or_train("a", fitted)
    store.read_or_train("b", lambda: fitted(2.0))
    path = tmp_path / "a.safetensors"
    whole = path.read_bytes()
    last = bytes([whole[-2] ^ 1])  # in the mantissa of the last number
    path.write_bytes(
        {
            "bit": whole[:-2] + last + whole[-1:],
            "swap": (tmp_path / "b.safetensors").read_bytes(),
            "cut": whole[:-8],
        }[damage]
    )
    found, is_new = store.read_or_train("a", fitted)
    assert is_new
    assert found.update.digest() == fitted().update.digest()
    assert path.read_bytes() == whole


def test_a_fresh_store_reads_only_what_it_has_trained(tmp_path: Path) -> None:
    ExpertStore(tmp_path).read_or_train("a", fitted)
    fresh = ExpertStore(tmp_path, fresh=True)
    assert fresh.read_or_train("a", fitted)[1]
    assert not fresh.read_or_train("a", refuse)[1]


def train_slowly(folder: str) -> None:
    def slowly() -> Fitted:
        with (Path(folder) / "trained").open("a") as file:
            file.write("once\n")
        time.sleep(0.5)
        return fitted()

    ExpertStore(Path(folder)).read_or_train("a", slowly)


def test_of_three_processes_that_need_an_expert_one_trains_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=train_slowly, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "trained").read_text() == "once\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "trained"]


def hold(path: str) -> None:
    with exclusive(Path(path)):
        Path(path).with_name("held").touch()
        time.sleep(60)


def test_a_killed_process_keeps_nobody_waiting(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(str(tmp_path / "a.lock"),))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert ExpertStore(tmp_path).read_or_train("a", fitted)[1]
    assert not (tmp_path / "a.lock").exists()
