from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.method_settings import REGCL

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.base_model import choose_device
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import RunConfig, protocol_names, resolve_run

METHOD = """
from cosam_bench.method.card import MethodCard
from cosam_bench.methods.frozen import Frozen


class Mine(Frozen):
    card = MethodCard(title="Mine", state="none")
"""


def test_the_default_is_mini_and_every_default_is_written_out() -> None:
    assert "mini" in protocol_names()
    run = resolve_run(method="regcl")
    assert (run.protocol.name, run.protocol.model.name, run.seed, run.order) == ("mini", "tiny", 0, ())
    assert run.settings == REGCL
    for key in ("ridge", "weight_decay", "precision", "rank", "seed"):
        assert f"{key} =" in run.to_toml()


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("adapter.rank=4", "protocol.adapter.rank", 4),
        ("protocol.adapter.rank=4", "protocol.adapter.rank", 4),
        ("adapter.blocks=[1, 2]", "protocol.adapter.blocks", (1, 2)),
        ("fit.flip = false", "protocol.fit.flip", False),
        ("fit.learning_rate=1e-2", "protocol.fit.learning_rate", 0.01),
        ("fit.optimiser=adamw", "protocol.fit.optimiser", "adamw"),
        ('fit.optimiser="adamw"', "protocol.fit.optimiser", "adamw"),
        ("adapter.targets=a=b", "protocol.adapter.targets", "a=b"),
        ("method.ridge=0.5", "settings.ridge", 0.5),
        ("settings.ridge=0.5", "settings.ridge", 0.5),
        ("seed=3", "seed", 3),
        ("device=cpu", "device", "cpu"),
        ('order=["b", "a"]', "order", ("b", "a")),
    ],
)
def test_an_override_is_typed_and_put_in_its_place(override: str, place: str, value: object) -> None:
    found: Any = resolve_run(method="regcl", overrides=(override,))
    for part in place.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("adapter.rnk=4", r"'protocol\.adapter\.rnk', did you mean 'rank'\? \(known here: kind, rank"),
        ("adaptr.rank=4", r"'protocol\.adaptr', did you mean 'adapter'\?"),
        ("method.rigde=1", r"settings of method 'regcl': no setting is called 'rigde', did you mean 'ridge'\?"),
        ("method.ridge=-1", r"'ridge' is -1: input should be greater than or equal to 0"),
        ("method.ridge=inf", r"'ridge' is inf: input should be a finite number"),
        ("adapter.rank=0", r"'protocol\.adapter\.rank' is 0: input should be greater than 0"),
        ("adapter.rank=many", r"'protocol\.adapter\.rank' is 'many': input should be a valid integer"),
        ("seed=-1", r"'seed' is -1"),
        (
            "prompts.test=mix",
            r"'protocol\.prompts\.test' is 'mix': input should be 'box', 'points', 'mask', 'image' or 'grid'",
        ),
        ("device=gpu", r"'device' is 'gpu'"),
        ("adapter.rank", r"is not KEY=VALUE\. Write, for example, --set adapter\.rank=4"),
        ("adapter..rank=1", "is not KEY=VALUE"),
        ("seed.x=1", r"'seed' is a value|no setting is called|'seed' is \{"),
        ("stream.x=1", r"'stream' is a value, not a table"),
        ("method=moda", r"cannot choose the method\. Give --method NAME"),
    ],
)
def test_a_wrong_override_says_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(CosamError, match=message):
        resolve_run(method="regcl", overrides=(override,))


def test_names_nobody_offers(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"No protocol is called 'minni'. Did you mean 'mini'\?"):
        resolve_run(method="regcl", protocol="minni")
    with pytest.raises(CosamError, match=r"No method is called 'regcll'"):
        resolve_run(method="regcll")
    with pytest.raises(CosamError, match=r"No method was given\. Give --method NAME"):
        resolve_run()
    with pytest.raises(CosamError, match=r"No file .*none\.toml"):
        resolve_run(method="regcl", protocol=str(tmp_path / "none.toml"))


def written(run: RunConfig, folder: Path) -> Path:
    path = folder / "config.toml"
    path.write_text(run.to_toml(), encoding="utf-8")
    return path


@pytest.mark.parametrize("method", ["regcl", "frozen", "mine.py", "mine.py:Mine"])
def test_a_written_config_is_the_same_run_from_anywhere(
    method: str, quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "weights.pth").touch()
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    run = resolve_run(
        method=method,
        protocol="quick.toml",
        overrides=("seed=2", 'order=["polyp", "pill", "pitting"]', "model.checkpoint=weights.pth"),
    )
    assert run.protocol.stream == str(tmp_path / "quick-stream.toml")
    assert run.protocol.model.checkpoint == str(tmp_path / "weights.pth")
    monkeypatch.chdir(other)
    assert resolve_run(config=written(run, other)) == run
    again = resolve_run(config=other / "config.toml", overrides=("seed=3",))
    assert again == run.model_copy(update={"seed": 3})


def test_paths_in_a_file_start_at_the_file_and_overridden_ones_at_the_current_folder(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/somebody")
    text = quick_protocol.read_text().replace('checkpoint = "random"', 'checkpoint = "w.pth"')
    quick_protocol.write_text(text)
    run = resolve_run(method="frozen", protocol="../quick.toml")
    assert Path(run.protocol.model.checkpoint).resolve() == tmp_path / "w.pth"
    assert Path(run.protocol.stream).resolve() == tmp_path / "quick-stream.toml"
    moved = resolve_run(
        method="frozen", protocol="../quick.toml", overrides=("stream=mine.toml", "model.checkpoint=~/w.pth")
    )
    assert moved.protocol.stream == str(here / "mine.toml")
    assert moved.protocol.model.checkpoint == "/home/somebody/w.pth"
    assert resolve_run(method="frozen", overrides=("stream=mini",)).protocol.stream == "mini"


def test_another_method_leaves_the_settings_of_the_first_behind(tmp_path: Path) -> None:
    path = written(resolve_run(method="regcl", overrides=("method.ridge=0.5", "adapter.rank=2")), tmp_path)
    expected = REGCL | {"ridge": 0.5}
    assert resolve_run(config=path).settings == expected
    assert resolve_run(config=path, method="regcl").settings == expected
    other = resolve_run(config=path, method="frozen")
    assert other.settings == {}
    assert other.protocol.adapter.rank == 2


def test_a_run_is_the_same_run_as_long_as_nothing_that_decides_a_score_changes(
    quick_protocol: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(METHOD)

    def digest(method: str = "regcl", *overrides: str) -> str:
        return open_experiment(
            resolve_run(method=method, protocol=str(quick_protocol), overrides=overrides), tmp_path
        ).digest

    same = {
        digest(),
        digest("regcl", "title=other"),
        digest("regcl", "device=cpu"),
        digest("regcl", "method.ridge=1e-6"),
    }
    assert len(same) == 1
    reverse = 'order=["polyp", "pill", "pitting"]'
    changes = ("seed=1", reverse, "adapter.rank=3", "method.ridge=1e-3", "prompts.test=points")
    mine = f"{tmp_path / 'mine.py'}"
    digests = [digest("regcl", change) for change in changes] + [digest("frozen"), digest(mine)]
    (tmp_path / "mine.py").write_text(METHOD + "# a comment\n")
    assert digest(mine) == digests[-1]
    (tmp_path / "mine.py").write_text(METHOD + "EDITED = True\n")
    assert len({*same, *digests, digest(mine)}) == len(digests) + 2


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ('["polyp"]', "Name each domain once"),
        ('["polyp", "polyp", "pill", "pitting"]', "Name each domain once"),
        ('["polip", "pill", "pitting"]', "Did you mean 'polyp'"),
    ],
)
def test_an_order_names_each_domain_once(order: str, message: str, quick_protocol: Path, tmp_path: Path) -> None:
    run = resolve_run(method="frozen", protocol=str(quick_protocol), overrides=(f"order={order}",))
    with pytest.raises(CosamError, match=message):
        open_experiment(run, tmp_path)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(CosamError, match=r"'cuda:99' was asked for, but torch sees \d+ GPUs"):
        choose_device("cuda:99")
