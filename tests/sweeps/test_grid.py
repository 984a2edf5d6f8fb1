"""What a sweep varies, from a file and from options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.options import RunOptions
from cosam_bench.experiments.repeats import resolve_repeats
from cosam_bench.sweeps.grid import Grid, grid_from_texts, read_grid


def test_a_number_of_orders_begins_with_the_streams_own(quick_protocol: Path) -> None:
    stream = load_stream(str(quick_protocol.parent / "quick-stream.toml"))
    own, *others = Grid(methods=("average",), orders=6).all_orders(stream)
    assert own == ("pitting", "pill", "polyp")
    assert all(sorted(order) == sorted(own) for order in others)
    assert len({own, *others}) == 6  # all that three domains have, though random:N meets some of them again


def test_a_sweep_takes_the_orders_that_run_takes(quick_protocol: Path) -> None:
    grid = Grid(methods=("average",), protocol=str(quick_protocol), orders=4)
    options = RunOptions(protocol=str(quick_protocol))
    repeats = resolve_repeats(["average"], options, orders=4)
    stream = load_stream(str(quick_protocol.parent / "quick-stream.toml"))
    assert list(grid.all_orders(stream)) == [one.configs[0].order or tuple(stream.order) for one in repeats]


def test_more_orders_than_there_are_are_refused(quick_protocol: Path) -> None:
    stream = load_stream(str(quick_protocol.parent / "quick-stream.toml"))
    with pytest.raises(CosamError, match="3 domains have 6"):
        Grid(methods=("average",), orders=7).all_orders(stream)


def test_orders_that_are_alike_appear_once(quick_protocol: Path) -> None:
    stream = load_stream(str(quick_protocol.parent / "quick-stream.toml"))
    grid = Grid(methods=("average",), orders=("stream", "pitting,pill,polyp", "reverse"))
    assert grid.all_orders(stream) == (("pitting", "pill", "polyp"), ("polyp", "pill", "pitting"))


def test_options_and_a_file_describe_the_same_grid(quick_protocol: Path) -> None:
    file = quick_protocol.parent / "grid.toml"
    file.write_text(
        'methods = ["average", "ties"]\nprotocol = "quick.toml"\norders = ["stream", "random:2"]\nseeds = [0, 4]\n'
    )
    options = grid_from_texts(
        methods=["average", "ties"], protocol=str(quick_protocol), orders="stream,random:2", seeds="[0, 4]"
    )
    assert read_grid(file) == options
    assert [one.config.method for one in options.variants()] == ["average", "ties"]


def test_settings_and_models_are_axes_too(quick_protocol: Path) -> None:
    grid = Grid(
        methods=("average", "ties"),
        protocol=str(quick_protocol),
        models=("tiny", "vit_b"),
        settings=({}, {"adapter.rank": 4}),
    )
    found = [(config.protocol.model.name, config.protocol.adapter.rank, config.method) for config, _ in grid.variants()]
    assert found == [
        (model, rank, method) for model in ("tiny", "vit_b") for rank in (2, 4) for method in ("average", "ties")
    ]
    assert [one.label for one in grid.variants()[:4]] == ["", "", "adapter.rank=4", "adapter.rank=4"]
    alone = grid.model_copy(update={"settings": ({"adapter.rank": 4},)})
    assert {one.label for one in alone.variants()} == {""}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": []}, "'methods' is"),
        ({"methods": ["average"], "seed": 3}, "did you mean 'seeds'"),
        ({"methods": ["average"], "seeds": "three"}, "--seeds 'three' is neither a number nor a list"),
        ({"methods": ["average"], "seeds": "-1"}, "'seeds' is -1: input should be greater than or equal to 1."),
        ({"methods": ["average"], "seeds": "[0, -1]"}, "'seeds.1' is -1: input should be greater than or equal to 0."),
        ({"methods": ["average"], "seeds": "[0, 0]"}, "The seed 0 is given twice"),
        ({"methods": ["average"], "orders": "0"}, "'orders' is 0: input should be greater than or equal to 1."),
        ({"methods": ["average"], "orders": "reverse,reverse"}, "The order reverse is given twice"),
        ({"methods": ["average"], "models": ["tiny", "tiny"]}, "The model tiny is given twice"),
        ({"methods": ["average"], "seeds": "[]"}, "'seeds' is an empty list"),
        ({"methods": ["averge"]}, "Did you mean 'average'"),
        ({"methods": ["average"], "protocol": "own"}, "'own' is for a stream that `run --stream` names"),
        ({"methods": ["average", "average"]}, "is given twice"),
        ({"methods": ["average"], "settings": [{"seed": 3}]}, "Give it as 'seeds'"),
        ({"methods": ["average", "ties"], "settings": [{"method.density": 0.5}]}, "is a setting of one method"),
        ({"methods": ["average"], "models": ["vit_x"]}, "vit_x"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(CosamError) as found:
        grid_from_texts(**given).variants()
    assert said in str(found.value)
