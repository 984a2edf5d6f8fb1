"""Every command that README and docs show is run, page by page from top to bottom, on a small ``mini``."""

from __future__ import annotations

import importlib
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.shown_commands import ROOT, blocks_of, shown_commands
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.data import protocol_files

PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
WITH_COMMANDS = [page for page in PAGES if shown_commands(page)]
ON_THEIR_OWN = ("docs/first-run.md", "docs/your-data.md", "docs/many-runs.md")  # these make all that they need

DOWNLOAD = "downloads"
EXPERTS = "needs adapters and weights; tests/experiments/test_brought_in.py and test_merging.py cover it"
WEIGHTS = "needs weights that are not in the package"
PUBLISHED = "needs published data"
TRACKER = "needs an extra; tests/results/test_trackers.py covers it"
CLUSTER = "needs a cluster of Ray; tests/sweeps/test_machines.py covers it"
BUCKET = "needs a bucket; tests/sweeps/test_store.py covers it"
HOURS = "needs published data, weights and a GPU"
TRIALS = "takes sixty trials; tests/tuning/test_tune.py covers it"
OWN = "cosam-bench run --method regcl --stream path/to/stream.toml"
FAITHFUL_EXPERTS = (
    "cosam-bench run --protocol regcl --mode faithful --method regcl --experts checkpoint "
    "--set adapter.mixing=false --set method.start=base"
)
NOT_RUN = {
    "cosam-bench models --fetch mobile_sam": DOWNLOAD,
    "cosam-bench data fetch open --accept-licences": DOWNLOAD,
    "cosam-bench run --protocol open --method regcl,opcm,average": PUBLISHED,
    "cosam-bench run --protocol results/reference/open-pairs.toml --method regcl": PUBLISHED,
    "cosam-bench data fetch isic@regcl --accept-licence": DOWNLOAD,
    "cosam-bench data fetch kvasir@cosam --accept-licence": DOWNLOAD,
    "cosam-bench data prepare --all --from path/to/bundle": PUBLISHED,
    "cosam-bench data prepare camo@cosam --from ~/Downloads/CAMO-COCO-V.1.0-CVIU2019.zip": PUBLISHED,
    "cosam-bench run --protocol regcl --method regcl --mode faithful": HOURS,
    "cosam-bench run --protocol cosam --method moda": HOURS,
    "cosam-bench run --protocol cosam --mode faithful --method moda": HOURS,
    "cosam-bench sweep grid.toml --engine ray --engine-option address=auto": CLUSTER,
    "cosam-bench sweep grid.toml --engine ray --engine-option address=auto --store s3://bucket/prefix": CLUSTER,
    "cosam-bench sweep --status s3://bucket/prefix": BUCKET,
    "cosam-bench log regcl --to trackio": TRACKER,
    "cosam-bench log regcl opcm --to wandb --project my-study": TRACKER,
    "cosam-bench run --method regcl,opcm,ties --experts adapters --stream mydata/stream.toml --model vit_b": EXPERTS,
    "cosam-bench merge --method ties adapters/leaves adapters/cells --out merged --set method.density=0.5": EXPERTS,
    "cosam-bench predict photo.jpg --record merged/update.safetensors --model vit_b --box 40,30,110,80": EXPERTS,
    FAITHFUL_EXPERTS: EXPERTS,
    "cosam-bench tune regcl,opcm,ties": TRIALS,
    "cosam-bench tune ties,opcm,regcl --trials 20": TRIALS,
    "cosam-bench run --method ties,opcm,regcl --tuned results/_tune/mini": TRIALS,
    OWN: WEIGHTS,
    f"{OWN} --model vit_b --checkpoint path/to/weights.pth": WEIGHTS,
    "cosam-bench run --method frozen,finetune,average,regcl --stream mydata/stream.toml": WEIGHTS,
}
MINI = """
name = "mini"
stream = "mini-stream.toml"
model = { name = "tiny" }
adapter = { rank = 2, alpha = 2.0 }
fit = { epochs = 1, batch_size = 2 }
"""
CARD = """
[[domain]]
name = "%s"
kind = "synthetic"
generator = "%s"
size = 48
split = { kind = "counts", train = %d, test = 1, seed = 0 }
"""
ENDS_WITH = {  # where the page says that something is missing, and the command says so, too
    "cosam-bench run --protocol regcl --method regcl": (2, "cosam-bench data"),
    "cosam-bench data check": (2, "No data is prepared"),
    "cosam-bench data check regcl": (1, "cosam-bench data fetch isic@regcl"),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small ``mini`` and its records of three methods, as pages that begin with records need it."""
    folder = tmp_path_factory.mktemp("recorded")
    cards = "".join(CARD % (name, name, train) for name, train in (("pitting", 2), ("pill", 2), ("natural", 0)))
    (folder / "mini-stream.toml").write_text('name = "mini"\nretention = ["natural"]\n' + cards)
    (folder / "mini.toml").write_text(MINI)
    with pytest.MonkeyPatch.context() as patch:
        use_small_mini(folder, patch)
        patch.chdir(folder)
        invoke("cosam-bench run --method regcl,opcm,average")
    return folder


def use_small_mini(folder: Path, patch: pytest.MonkeyPatch) -> None:
    importlib.import_module("cosam_bench.results.protocol_match")  # which keeps its reference to the real ones
    built_in = protocol_files.built_in_protocols()
    patch.setattr(protocol_files, "built_in_protocols", lambda: built_in | {"mini": folder / "mini.toml"})
    patch.setenv("HOME", str(folder))
    patch.setenv("COSAM_BENCH_CACHE", str(folder / "cache"))


def invoke(command: str) -> str:
    """Run a command, and return what it said."""
    code, part = ENDS_WITH.get(command, (0, ""))
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == code, f"{command}: {result.output}{result.exception!r}"
    assert part in result.output
    return result.output


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_of_a_page_run(page: str, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    if page in ON_THEIR_OWN:
        shutil.rmtree(tmp_path / "results")
    write_files(tmp_path, page)
    use_small_mini(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    for command in dict.fromkeys(shown_commands(page)):
        if command not in NOT_RUN:
            invoke(command)


def write_files(folder: Path, page: str) -> None:
    """The files that the page speaks of: its own TOML blocks, README's method, a photo, images with masks."""
    for suffix in ("jpg", "png"):
        Image.fromarray(np.full((120, 160, 3), 90, dtype=np.uint8)).save(folder / f"photo.{suffix}")
    for source, name, part in (
        ("README.md", "halfway.py", "def halfway("),
        ("docs/writing-a-method.md", "my_rule.py", "def decaying_step("),
        ("docs/writing-a-method.md", "my_method.py", "class RecentMean("),
    ):
        [method] = [body for body in blocks_of(source, "python") if part in body]
        (folder / name).write_text(method, encoding="utf-8")
    own = folder / "mydata"
    for domain in ("leaves", "cells", "street"):
        write_domain(own / domain)
    for source in ("docs/your-data.md", "docs/data.md"):
        for block in blocks_of(source, "toml"):
            table = tomllib.loads(block)
            name = table["name"] if "domain" in table or source != "docs/data.md" else "workshop-protocol"
            (folder / f"{name}.toml").write_text(block, encoding="utf-8")
    shutil.move(folder / "mydata.toml", own / "stream.toml")
    shutil.copytree(own, folder / "path" / "to")
    write_domain(folder / "gears")
    write_domain(folder / "street")
    write_belts(folder / "data" / "belts")


def write_domain(folder: Path, *, images: str = "images/{}.png", masks: str = "masks/{}.png", level: int = 255) -> None:
    """Ten images with one bright rectangle each, and their masks."""
    shade = 40 + sum(folder.name.encode()) % 100  # so that no two domains share an image
    for index in range(10):
        mask = np.zeros((48, 64), dtype=np.uint8)
        mask[4 + index : 20 + 2 * index, 5 + index : 30 + 2 * index] = level
        pixels = np.full((48, 64, 3), shade + index, dtype=np.uint8)
        pixels[mask > 0] = 200
        for pattern, values in ((images, pixels), (masks, mask)):
            path = folder / pattern.format(f"{folder.name}{index}")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)


def write_belts(folder: Path) -> None:
    """The domain that docs/data.md describes in full."""
    write_domain(folder, images="photos/a/{}.jpg", masks="labels/{}_mask.png", level=2)
    (folder / "train.txt").write_text("".join(f"belts{index}\n" for index in range(7)))
    (folder / "test.txt").write_text("".join(f"belts{index}\n" for index in range(7, 10)))


def test_the_shown_experts_of_the_faithful_mode_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(FAITHFUL_EXPERTS)[1:]
    refused = CliRunner().invoke(app, words[:-2])
    assert "method.start=base" in refused.output
    found = CliRunner().invoke(app, words)
    assert "checkpoint" in found.output
    assert "method.start=base" not in found.output


def test_what_is_not_run_is_shown() -> None:
    shown = {command for page in PAGES for command in shown_commands(page)}
    assert {*NOT_RUN, *ENDS_WITH} - shown == set()


def test_the_matrix_of_the_first_run_is_what_its_record_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(ROOT)
    [shown] = blocks_of("docs/first-run.md", "text")
    printed = invoke("cosam-bench show regcl --results results/reference/records")
    assert [line.rstrip() for line in printed.splitlines()[: len(shown.splitlines())]] == shown.splitlines()


def test_python_is_shown_only_where_it_is_run() -> None:
    """By tests/api/test_python_page.py, by the contract check above, or as a part of the tested example."""
    with_python = {page for page in PAGES if blocks_of(page, "python")}
    assert with_python == {"README.md", "docs/python-api.md", "docs/writing-a-method.md"}
    assert len(blocks_of("docs/writing-a-method.md", "python")) == 6  # the last two: tests/method/test_shown_methods.py
