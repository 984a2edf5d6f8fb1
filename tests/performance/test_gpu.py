"""The script for a GPU, on the CPU with the tiny model; and the stream of CoSAM's size that it scores."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.figures import Figure, read_figures, write_figures
from benchmarks.gpu import Plan, largest
from benchmarks.gpu import attention as gpu_attention
from benchmarks.gpu import figures as gpu_figures
from benchmarks.gpu import main as gpu_main
from benchmarks.imitation import NATURAL, RETENTION, SIZES, TEST, write_stream
from cosam_bench.data.opening import open_stream
from cosam_bench.data.streams import load_stream
from cosam_bench.sam import attention
from cosam_bench.sam.attention import _chunked


def test_the_imitation_has_cosams_size(tmp_path: Path) -> None:
    assert (TEST, RETENTION, len(SIZES)) == (94, 200, 8)
    opened = open_stream(load_stream(str(write_stream(tmp_path, train=1, test=2, retention=3, shrunk=4))))
    assert [len(domain.test) for domain in (*opened.domains, *opened.retention)] == [2] * 8 + [3]
    assert [len(domain.train) for domain in opened.domains] == [1] * 8
    for domain, size in zip((*opened.domains, *opened.retention), (*SIZES.values(), NATURAL), strict=True):
        assert domain.test[0].image.shape == (3, size[1] // 4, size[0] // 4)


def test_the_gpu_script_measures_all_of_it_on_the_tiny_model() -> None:
    plan = Plan(
        torch.device("cpu"),
        models=("tiny",),
        blocks=(3, 4, 5),
        side=64,
        test=1,
        retention=1,
        train=4,
        shrunk=8,
        counts=(2, 1),
    )
    found = list(gpu_figures(plan))
    assert [row.note for row in found[:3]] == ["within 0.0001", "within 0.01", "within 0.0001"]
    by_stage = {row.stage: row for row in found}
    encoder = by_stage["encoder, tiny, bf16 against fp32, one image"]
    assert encoder.share is not None
    assert encoder.note.endswith("2 per pass")
    step = by_stage["training step of 4 images, bf16 against fp32"]
    assert step.note.endswith("features kept")
    assert by_stage["a matrix of 9 rows"].note.startswith("of 9 images")
    assert all(isinstance(row, Figure) and row.ours >= 0 for row in found)


def test_the_gpu_script_sees_positions_that_are_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def exchanged(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, *, scale: float) -> Tensor:
        return _chunked(query, key, value, columns, rows, scale=scale)

    monkeypatch.setattr(attention, "_chunked", exchanged)
    found = list(gpu_attention(Plan(torch.device("cpu"), models=("tiny",))))
    assert ["TOO FAR" in row.note for row in found[:2]] == [True, True]  # the tiny model's gradients are of windows


def test_what_does_not_fit_is_tried_smaller() -> None:
    tried: list[int] = []

    def work(count: int) -> float:
        tried.append(count)
        if count > 3:
            raise torch.OutOfMemoryError
        return count / 2

    assert largest(work, (8, 4, 2, 1)) == (2, 1.0)
    assert tried == [8, 4, 2]
    with pytest.raises(torch.OutOfMemoryError):
        largest(work, (8, 4))


def test_the_gpu_script_ends_with_an_error_where_the_attention_is_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "figures.csv"
    write_figures(path, [Figure("kept", 2.0, 1.0, "s", group="encoder", machine="a CPU")])
    near = Figure("near", None, 1e-5, "relative", "within 0.0001")
    far = Figure("far", None, 0.2, "relative", "TOO FAR: 0.01")
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--csv", str(path)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for found, is_wrong in (([near], False), ([near, far], True)):
        monkeypatch.setattr("benchmarks.gpu.figures", lambda plan, found=found: iter(found))
        with pytest.raises(SystemExit, match="further from segment-anything's") if is_wrong else nullcontext():
            gpu_main()
        assert [(figure.group, figure.stage) for figure in read_figures(path)[1:]] == [
            ("gpu", row.stage) for row in found
        ]
    assert read_figures(path)[0].stage == "kept"
    assert "TOO FAR" in capsys.readouterr().out


def test_the_gpu_script_refuses_a_machine_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_main()
    assert "torch sees no GPU here" in capsys.readouterr().err
