"""``cosam-bench predict``: a mask file, or one clear error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.quick_protocol import write_quick_protocol
from typer.testing import CliRunner, Result

import cosam_bench as cb
from cosam_bench.cli.main import app


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and an image."""
    folder = tmp_path_factory.mktemp("home")
    path = write_quick_protocol(folder)
    path.write_text(path.read_text().replace(', checkpoint = "random"', ""))
    cb.run("average", protocol=path, results=folder / "results")
    pixels = np.full((40, 60, 3), 60, dtype=np.uint8)
    pixels[10:30, 20:40] = 220
    Image.fromarray(pixels).save(folder / "image.png")
    (folder / "text.png").write_text("no image")
    return folder


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "120")
    Path("image-mask.png").unlink(missing_ok=True)
    return lambda arguments: CliRunner().invoke(app, ["predict", "--record", "average", *arguments.split()])


def test_neither_the_image_nor_another_file_is_replaced_unasked(cli: Callable[[str], Result]) -> None:
    before = Path("image.png").read_bytes()
    Path("image-mask.png").write_bytes(b"drawn by hand")
    for out, said in (
        ("--out image.png --force", "image.png is the image itself. Give --out another file"),
        (f"--out ../{Path.cwd().name}/image.png", "is the image itself"),
        ("", "image-mask.png exists. Give --force to replace it, or --out another file."),
    ):
        result = cli(f"image.png --box 20,10,40,30 {out}")
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in " ".join(result.stderr.split())
    assert Path("image.png").read_bytes() == before
    assert Path("image-mask.png").read_bytes() == b"drawn by hand"


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        ("--box 20,10,40,30", {"box": (20, 10, 40, 30)}),
        ("--points 30,20", {"points": [(30, 20)]}),
        ("--points 30,20 --points 5.5,5 --labels 1,0", {"points": [(30, 20), (5.5, 5)], "labels": [1, 0]}),
    ],
)
def test_the_mask_is_written_and_counted(
    arguments: str, prompt: dict[str, list[float]], cli: Callable[[str], Result]
) -> None:
    result = cli(f"image.png {arguments} --out made/mask.png --force --device cpu")
    assert result.exit_code == 0, result.output
    expected = cb.predict(cb.load_record("average"), "image.png", **prompt)  # type: ignore[arg-type]
    with Image.open("made/mask.png") as file:
        assert (file.mode, file.size) == ("L", (60, 40))
        assert (np.array(file) == np.where(expected, 255, 0)).all()
    assert f"Foreground: {expected.sum():,} of 2,400 pixels" in result.stdout
    assert "Mask: made/mask.png" in result.stdout
    assert result.stderr == ""


def test_the_mask_is_called_after_the_image(cli: Callable[[str], Result]) -> None:
    assert cli("image.png --box 20,10,40,30").exit_code == 0
    assert Path("image-mask.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("image.png", "Give one prompt for the image"),
        (
            "image.png --box 1,2,3",
            "--box '1,2,3' is not 4 numbers. Write them with commas, without blanks: 10,20.5,90,80.",
        ),
        ("image.png --box a,b,c,d", "--box 'a,b,c,d' is not 4 numbers"),
        ("image.png --box 20,10,90,30", "The box 20,10,90,30 is not inside the image, which is 60 pixels wide"),
        ("image.png --points 30", "--points '30' is not 2 numbers"),
        ("image.png --points 30,20 --labels 2", "--labels has '2'"),
        ("image.png --points 30,20 --labels 1,0", "Labels are one per point"),
        ("image.png --box 20,10,40,30 --domain pill", "is not told an image's domain"),
        ("image.png --box 20,10,40,30 --out mask.jpg", "does not end in .png"),
        ("image.png --box 20,10,40,30 --out text.png/mask.png", "text.png/mask.png cannot be written"),
        ("image.png --box 20,10,40,30 --device cuda:99", "torch sees"),
        ("image.png --box 20,10,40,30 --checkpoint none.pth", "No checkpoint file none.pth"),
        ("none.png --box 20,10,40,30", "none.png cannot be read"),
        ("text.png --box 20,10,40,30", "text.png"),
        ("image.png --box 20,10,40,30 --results nowhere", "No folder nowhere. Give another folder of results"),
        ("--box 20,10,40,30", "Missing argument 'IMAGE'"),
    ],
)
def test_bad_input_gets_one_clear_error(cli: Callable[[str], Result], arguments: str, said: str) -> None:
    result = cli(arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_damaged_record_and_a_failing_method_are_told_apart(
    cli: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(cb.load_record("average").folder, "copy"))
    (copy / "state.safetensors").write_bytes(b"junk")
    damaged = cli("image.png --box 20,10,40,30 --record copy")
    assert (damaged.exit_code, damaged.stdout) == (2, "")
    assert "state.safetensors was changed since the run" in damaged.stderr

    def fails(*_: object, **__: object) -> object:
        raise KeyError("lost")

    monkeypatch.setattr("cosam_bench.method.interface.MergingMethod.predict", fails)
    failed = cli("image.png --box 20,10,40,30")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "raised KeyError in predict()" in failed.stderr

    def diverged(method: cb.MergingMethod, batch: cb.Batch) -> torch.Tensor:
        grid = method.bench.view.grid
        return torch.full((len(batch), grid, grid), torch.nan)

    monkeypatch.setattr("cosam_bench.method.interface.MergingMethod.predict", diverged)
    failed = cli("image.png --box 20,10,40,30")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "failed in predict(): predict() returned logits that are not finite" in " ".join(failed.stderr.split())
