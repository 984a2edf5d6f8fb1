"""How many images go at once: as asked, by the memory, and fewer after it ran out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cosam_bench.core.devices import machine_memory_bytes
from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.evaluation.score_settings import ScoreSettings
from cosam_bench.experiments.protocol import RunConfig, resolve_run
from cosam_bench.sam import batch_size as module
from cosam_bench.sam.batch_size import AdaptiveBatchSize, ImageDoesNotFit, largest_fitting_batch, resolve_batch_size
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import FeatureFiles, Kept
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.inputs import View
from cosam_bench.sam.sam import Features

GIB = 1 << 30


def holds(most: int, seen: list[list[int]], *, error: Exception | None = None) -> Callable[[list[int]], int]:
    """Adds the items up, where the memory holds as many."""

    def work(items: list[int]) -> int:
        seen.append(items)
        if len(items) > most:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return sum(items)

    return work


@pytest.mark.parametrize(
    ("most", "sizes", "notes"),
    [
        (8, [8, 8, 4], []),
        (7, [8, 4, 4, 4, 4, 4], [(8, 4)]),
        (3, [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], [(8, 4), (4, 2)]),
    ],
)
def test_a_batch_is_halved_until_it_fits_and_stays_small(
    most: int, sizes: list[int], notes: list[tuple[int, int]]
) -> None:
    said: list[str] = []
    seen: list[list[int]] = []
    size = AdaptiveBatchSize(8, note=said.append)
    results = list(size.map(iter(range(20)), holds(most, seen)))
    assert [len(items) for items in seen] == sizes
    assert sum(results) == sum(range(20))
    fitted = [items for items in seen if len(items) <= most]
    assert [item for items in fitted for item in items] == list(range(20))
    wanted = "The device's memory does not hold {} images at once; continuing with {}."
    assert said == [wanted.format(*pair) for pair in notes]
    again: list[list[int]] = []
    list(size.map(iter(range(4)), holds(most, again)))
    assert len(again[0]) == min(4, size.current)


def test_an_odd_rest_that_does_not_fit_is_halved_too() -> None:
    seen: list[list[int]] = []
    assert list(AdaptiveBatchSize(4).map(iter(range(3)), holds(2, seen))) == [0, 1, 2]
    assert seen == [[0, 1, 2], [0], [1], [2]]


def test_what_does_not_fit_alone_is_one_clear_error() -> None:
    seen: list[list[int]] = []
    with pytest.raises(
        ImageDoesNotFit, match=r"too little memory to predict a single image\. Use a smaller --model"
    ) as caught:
        list(AdaptiveBatchSize(2).map(iter(range(3)), holds(0, seen)))
    assert seen == [[0, 1], [0]]
    assert isinstance(caught.value, CosamError)
    assert caught.value.__cause__ is caught.value.__context__ is None, "the command line explains a cause otherwise"


class FullGpu:
    """An imagined GPU of ten units, of which each image of a pass takes two and each kept feature one."""

    def __init__(self, features: int) -> None:
        self.memory = FeatureMemory(limit_bytes=10)
        self.keep(features)
        self.prefixes: Any = SimpleNamespace(backend=self.memory)
        self.seen: list[int] = []

    def keep(self, features: int) -> None:
        for _ in range(features):
            key = str(len(self.memory._tested.kept))
            self.memory.keep(key, Kept(Features(torch.zeros(1, dtype=torch.uint8)), seconds=1.0))

    def work(self, items: list[int]) -> int:
        self.seen.append(len(items))
        if 2 * len(items) + self.memory.used_bytes > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.keep(len(items))
        return len(items)


@pytest.mark.parametrize(
    ("batch", "features", "seen", "released"),
    [
        (4, 2, [4, 4, 4], []),  # both fit
        (4, 3, [4, 4, 4, 4], [1]),  # the batch fits without the features, of which half as many fit beside it
        (8, 3, [8, 8, 4, 4, 4, 4], [1]),  # it does not fit without them either, but half of it does
        (1, 9, [1, 1, *[1] * 11], [4]),  # a single image, too
    ],
)
def test_cached_features_make_room_before_a_batch_is_halved(
    batch: int, features: int, seen: list[int], released: list[int]
) -> None:
    said: list[str] = []
    gpu = FullGpu(features)
    gpu.memory.limit_bytes = max(2, features)
    size = AdaptiveBatchSize(batch, prefixes=gpu.prefixes, note=said.append)
    assert sum(size.map(iter(range(12)), gpu.work)) == 12
    assert gpu.seen == seen
    assert size.current == min(batch, 4)
    dropped = [text for text in said if "features cached in it were dropped" in text]
    assert len(dropped) == len(released)
    assert len(said) - len(dropped) == (batch > 4)
    if released:
        assert gpu.memory.limit_bytes == released[0]


def test_an_image_that_does_not_fit_without_features_is_one_clear_error() -> None:
    gpu, seen = FullGpu(3), list[list[int]]()
    with pytest.raises(ImageDoesNotFit, match="to predict a single image") as caught:
        list(AdaptiveBatchSize(1, prefixes=gpu.prefixes).map(iter(range(3)), holds(0, seen)))
    assert seen == [[0], [0]]
    assert caught.value.__cause__ is caught.value.__context__ is None, "the command line explains a cause otherwise"


def test_features_in_files_are_no_reason_to_try_again(tmp_path: Path) -> None:
    files: Any = SimpleNamespace(backend=FeatureFiles(tmp_path, limit_bytes=1000))
    files.backend.keep("a", Kept(Features(torch.zeros(1)), seconds=1.0))
    seen: list[list[int]] = []
    assert list(AdaptiveBatchSize(4, prefixes=files).map(iter(range(3)), holds(2, seen))) == [0, 1, 2]
    assert seen == [[0, 1, 2], [0], [1], [2]]
    assert files.backend.read("a") is not None


def test_the_memory_of_a_batch_that_did_not_fit_is_let_go() -> None:
    """The error's traceback holds the frame in which the batch's tensors are, so it must be gone."""
    alive: list[Any] = []

    class Large:
        def __init__(self) -> None:
            alive.append(self)
            alive.pop()

        def __del__(self) -> None:
            gone.append(True)

    gone: list[bool] = []

    def work(items: list[int]) -> int:
        large = Large()
        if len(items) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert gone, "the first try's tensors are still there"
        return len(items) + 0 * id(large)

    assert list(AdaptiveBatchSize(2).map(iter(range(2)), work)) == [1, 1]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("my list can't allocate memory"),
        ValueError("DefaultCPUAllocator: can't allocate memory"),
        NotImplementedError("DefaultCPUAllocator: can't allocate memory"),  # a RuntimeError, but of another kind
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_no_other_error_is_taken_for_a_full_memory(error: Exception) -> None:
    assert not ran_out_of_memory(error)
    seen: list[list[int]] = []
    with pytest.raises(type(error)) as caught:
        list(AdaptiveBatchSize(4).map(iter(range(8)), holds(2, seen, error=error)))
    assert caught.value is error
    assert len(seen) == 1


def test_what_torch_itself_raises_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert ran_out_of_memory(caught.value)
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert ran_out_of_memory(MemoryError("no room"))
    assert ran_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))


@pytest.mark.parametrize(
    ("one", "two", "limit", "wanted"),
    [
        (10, 14, 30, 6),  # 10 + 5 * 4 = 30
        (10, 14, 29, 5),
        (10, 14, 10, 1),
        (10, 14, 3, 1),
        (10, 10, 30, 16),  # where a second image costs nothing
        (1, 2, 1 << 40, 16),
    ],
)
def test_the_largest_batch_that_stays_within_the_limit(one: int, two: int, limit: int, wanted: int) -> None:
    assert largest_fitting_batch({1: one, 2: two}.__getitem__, limit_bytes=limit, most=16) == wanted


def test_a_trial_that_does_not_fit_means_one_image() -> None:
    def full(images: int) -> int:
        if images > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 10

    def broken(images: int) -> int:
        raise RuntimeError("a defect")

    assert largest_fitting_batch(full, limit_bytes=1000, most=16) == 1
    with pytest.raises(RuntimeError, match="a defect"):
        largest_fitting_batch(broken, limit_bytes=1000, most=16)


@pytest.mark.parametrize(
    ("machine", "wanted"), [(1 * GIB, 1), (2 * GIB, 1), (7 * GIB, 3), (16 * GIB, 8), (999 * GIB, 8)]
)
def test_on_the_cpu_auto_goes_by_the_machines_memory(
    monkeypatch: pytest.MonkeyPatch, machine: int, wanted: int
) -> None:
    monkeypatch.setattr(module, "machine_memory_bytes", lambda: machine)
    view = View(128, 64, "pad", torch.device("cpu"))
    assert resolve_batch_size("auto", sam=None, view=view) == wanted  # type: ignore[arg-type]
    assert resolve_batch_size(5, sam=None, view=view) == 5  # type: ignore[arg-type]


def test_the_machines_memory_is_what_the_system_says() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ["MemTotal: 0 kB"]
    told = 1024 * int(lines[0].split()[1])
    assert machine_memory_bytes() == told or not told


def test_on_a_gpu_auto_goes_by_trial_passes_and_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is imagined: 0.4 of 100 bytes, of which the first image takes 10 and each further one 5."""
    view = View(128, 64, "pad", torch.device("cuda:1"))
    asked: list[Any] = []

    def peak(sam: object, its_view: View, images: int) -> int:
        asked.append((sam, its_view, images))
        return 5 + 5 * images

    monkeypatch.setattr(module, "free_memory_bytes", lambda device: {torch.device("cuda:1"): 100}[device])
    monkeypatch.setattr(module, "_peak_bytes_on_cuda", peak)
    assert resolve_batch_size("auto", sam="sam", view=view) == 7  # type: ignore[arg-type]
    assert asked == [("sam", view, 1), ("sam", view, 2)]
    monkeypatch.setattr(module, "free_memory_bytes", lambda device: 1 << 40)
    assert resolve_batch_size("auto", sam="sam", view=view) == 64  # type: ignore[arg-type]


def test_a_gpus_peak_is_what_a_warm_pass_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is imagined: a pass takes 250 bytes an image, and the first one 100 more, which stay taken."""
    taken = {"now": 7, "peak": 7}

    def pass_over(sam: object, view: View, images: int) -> None:
        taken["now"] = 107
        taken["peak"] = max(taken["peak"], taken["now"] + 250 * images)

    monkeypatch.setattr(module, "trial_pass", pass_over)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: taken["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: taken["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: taken.update(peak=taken["now"]))
    view = View(128, 64, "pad", torch.device("cuda"))
    assert [module._peak_bytes_on_cuda("sam", view, images) for images in (2, 1)] == [500, 250]  # type: ignore[arg-type]


def test_a_trial_pass_is_a_prediction_that_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sam = build_sam("tiny", checkpoint="random", device=torch.device("cpu"), seed=0)
    shapes: list[Any] = []
    decode = sam.decode

    def watched(features: Any, prompts: Any) -> Any:
        masks = decode(features, prompts)
        shapes.append((tuple(features.maps.shape[:1]), tuple(masks.logits.shape), torch.is_autocast_enabled("cpu")))
        return masks

    monkeypatch.setattr(sam, "decode", watched)
    view = View(sam.image_size, sam.logits_size, "pad", torch.device("cpu"), precision="bf16")
    module.trial_pass(sam, view, 3)
    grid = sam.logits_size
    assert shapes == [((3,), (3, grid, grid), True)]
    assert sam.encoder_passes == 0


def test_the_setting_takes_a_number_or_auto(tmp_path: Path) -> None:
    run = resolve_run(method="frozen", overrides=("score.batch_size=auto",))
    assert run.protocol.score.batch_size == "auto"
    (tmp_path / "config.toml").write_text(run.to_toml())
    assert resolve_run(config=tmp_path / "config.toml") == run
    assert isinstance(run, RunConfig)
    assert ScoreSettings(batch_size=3).batch_size == 3
    assert ScoreSettings().batch_size == 8
    for wrong in ("0", "-1", "true", "1.5", "many", "''"):
        with pytest.raises(
            CosamError,
            match=r"score\.batch_size' is .*: (give a whole number from 1 to 65536, or auto|true .* not numbers)\.$",
        ):
            resolve_run(method="frozen", overrides=(f"score.batch_size={wrong}",))
