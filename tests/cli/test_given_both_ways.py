"""A setting that is given by its own option or argument and among the settings as well."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import cosam_bench as cb
from cosam_bench.core.errors import CosamError

ALL = {
    "--seed 3": "seed=4",
    "--seeds 0,1": "seed=5",
    "--order reverse": "order=[]",
    "--orders 2": "order=[]",
    "--device cpu": "device=cuda",
    "--limit 2": "limit=5",
    "--scales": "scales=[0.5]",
    "--also-prompts image": "also_prompts=[]",
    "--experts there": "experts=here",
    "--stream mini": "stream=other.toml",
    "--model tiny": "model.name=vit_b",
    "--checkpoint random": "model.checkpoint=b.pth",
}
OF_RUN = [(f"run --method average {option} --set", setting) for option, setting in ALL.items()]
SPELLED = [
    ("run --method average --seed 0 --set", "seed=0"),
    ("run --method average --seed 0 --seed 1 --set", " seed =0"),
    ("run --method average --model tiny --set", "protocol.model.name=tiny"),
    ("run --method average --checkpoint random --set", "model={name='tiny'}"),
    ("tune average --seed 3 --set", "seed=4"),
    ("tune average --stream mini --set", "stream=other.toml"),
]


@pytest.mark.parametrize(("command", "setting"), [*OF_RUN, *SPELLED])
def test_it_is_refused_by_both_names(command: str, setting: str, cli: Callable[..., Result], tmp_path: Path) -> None:
    if command.startswith("tune"):
        pytest.importorskip("optuna")
    result = cli(*command.split(), setting)
    option = next(word for word in reversed(command.split()[:-1]) if word.startswith("--"))
    key = setting.partition("=")[0].strip()
    assert f"Error: {option} and --set {key}=... are both given. Leave one out." in " ".join(result.output.split())
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])


def test_an_option_over_a_config_file_stays(cli: Callable[..., Result], tmp_path: Path) -> None:
    first = cli(
        "run", "--method", "average", "--set", "seed=4", "--scales", "--set", "model.checkpoint=b.pth", "--dry-run"
    )
    (tmp_path / "config.toml").write_text(first.stdout)
    again = cli("run", "--config", "config.toml", "--seed", "5", "--set", "limit=3", "--dry-run")
    config = tomllib.loads(again.stdout)
    assert (config["seed"], config["limit"], len(config["scales"])) == (5, 3, 9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cb.run("average", seed=0, settings={"seed": 1}), "seed and 'seed' in settings"),
        (lambda: cb.run("average", seeds=[1, 2], settings={"seed": 1}), "seeds and 'seed' in settings"),
        (lambda: cb.run("average", orders=2, settings={"order": []}), "orders and 'order' in settings"),
        (lambda: cb.run("average", scales=True, settings={"scales": [2.0]}), "scales and 'scales' in settings"),
        (lambda: cb.run("average", model="tiny", settings={"model": {"name": "tiny"}}), "model and 'model.name' in"),
        (lambda: cb.run("average", also_prompts="image", settings={"also_prompts": []}), "and 'also_prompts' in"),
        (lambda: cb.tune("average", device="cpu", settings={"device": "cuda"}), "device and 'device' in settings"),
        (lambda: cb.sweep(methods="average", settings=[{"protocol": {"model": {"name": "tiny"}}}]), "as 'models'"),
    ],
)
def test_python_names_the_argument_and_the_key(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(CosamError, match=words):
        call()
