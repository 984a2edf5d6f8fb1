"""``cosam-bench export``: what it says and writes, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cosam_bench.cli.main import app


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with two short runs."""
    folder = tmp_path_factory.mktemp("results")
    cards = [
        f'[[domain]]\nname = "{name}"\nkind = "synthetic"\ngenerator = "{name}"\nsize = 64\n'
        "split = { kind = 'counts', train = 2, test = 2, seed = 0 }\n"
        for name in ("pill", "polyp")
    ]
    (folder / "stream.toml").write_text('name = "short"\n' + "".join(cards))
    (folder / "short.toml").write_text(
        'name = "short"\nstream = "stream.toml"\nmodel = { name = "tiny" }\nfit = { epochs = 1, batch_size = 2 }\n'
    )
    made = invoke("run", "--method", "average,experts", "--protocol", str(folder / "short.toml"), results=folder / "r")
    assert made == 0
    return folder / "r"


def invoke(*arguments: str, results: Path) -> int:
    return CliRunner().invoke(app, [*arguments, "--results", str(results)]).exit_code


def test_it_writes_a_folder_and_says_what_is_in_it(results: Path, tmp_path: Path) -> None:
    command = ["export", "average", "--format", "peft", "--out", str(tmp_path / "out"), "--results", str(results)]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0
    assert "README.md, adapter_config.json, adapter_model.safetensors" in found.stdout
    assert "largest share of a layer's energy discarded" in found.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("average", "--format", "pefd"), "Did you mean 'peft'"),
        (("experts",), "serves no single update"),
        (("avrage",), "No record"),
        (("average", "--rank", "0"), "at least 1"),
        (("average", "--format", "merged", "--rank", "2"), "Leave it out"),
    ],
)
def test_bad_requests_end_with_code_2(results: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    command = ["export", *arguments, "--out", str(tmp_path / "out"), "--results", str(results)]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 2
    assert message in " ".join(found.stderr.split())
    assert not (tmp_path / "out").exists()
