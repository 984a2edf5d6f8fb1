"""Every argument of a public function that has a wrong type: one error that names it, before anything is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import recorded

import cosam_bench as cb
from cosam_bench.core.tensor_files import write_tensors

GREY = np.full((40, 60, 3), 90, dtype=np.uint8)
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    cb.run,
    cb.sweep,
    cb.tune,
    cb.leaderboard,
    cb.compare,
    cb.report,
    cb.export,
    cb.merge,
    cb.load_record,
    cb.load_predictor,
    cb.check_method,
)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> cb.Record:
    return recorded.record(tmp_path_factory.mktemp("results"), method="regcl")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> cb.Predictor:
    """Of the tiny model, which an empty update leaves as it is."""
    path = tmp_path_factory.mktemp("update") / "update.safetensors"
    write_tensors(path, cb.Update().tensors())
    return cb.load_predictor(path, model="tiny")


def parameters() -> list[Any]:
    """Each parameter of each public function."""
    return [
        pytest.param(function, name, id=f"{function.__name__}-{name}")
        for function in FUNCTIONS
        for name in inspect.signature(function).parameters
        if (function, name) != (cb.check_method, "adapter")  # a class of settings, which mypy knows
    ]


@pytest.mark.parametrize(("function", "name"), parameters())
def test_no_argument_takes_just_anything(function: Callable[..., Any], name: str) -> None:
    needed = [one.name for one in inspect.signature(function).parameters.values() if one.default is one.empty]
    fitting = dict.fromkeys(needed, "x") | {"experts": ["x", "y"], "method": cb.Method}
    with pytest.raises(cb.CosamError, match=rf"^{name} is of type object\. Give "):
        function(**{one: fitting[one] for one in needed} | {name: object()})


def of_run(**given: Any) -> Callable[[cb.Record], object]:
    return lambda record: cb.run("ties", **given)


def of_sweep(**given: Any) -> Callable[[cb.Record], object]:
    return lambda record: cb.sweep(methods="ties", dry_run=True, results=record.folder.parents[2], **given)


def of_tune(**given: Any) -> Callable[[cb.Record], object]:
    return lambda record: cb.tune("ties", results=record.folder.parents[2], **given)


def of_leaderboard(**given: Any) -> Callable[[cb.Record], object]:
    return lambda record: cb.leaderboard(**{"results": record.folder.parents[2]} | given)


def of_compare(**given: Any) -> Callable[[cb.Record], object]:
    return lambda record: cb.compare(record, record, **given)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda record: cb.run(5), "method is 5. Give a method's name, path or class, or a list of these."),
        (lambda record: cb.run(record), "method is of type Record. Give a method's name"),
        (lambda record: cb.run([5]), "method is [5]. Give a method's name"),
        (of_run(isolated="no"), "isolated is 'no'. Give True, False or None."),
        (of_run(scales="x"), "scales is 'x'. Give True or False; lengths of your own are settings={"),
        (of_run(scales=[0.5, 1]), "scales is [0.5, 1]. Give True or False; lengths"),
        (of_run(progress="x"), "progress is 'x'. Give True, False or None."),
        (of_run(fresh=1), "fresh is 1. Give True or False."),
        (of_run(order=5), "order is 5. Give text, a list of texts or None."),
        (of_run(order=[1, 2]), "order is [1, 2]. Give text, a list of texts or None."),
        (of_run(orders=[5]), "orders is [5]. Give how many, such as 3, or a list"),
        (of_run(orders=True), "orders is True. Give how many"),
        (of_run(seed="1"), "seed is '1'. Give a whole number or None."),
        (of_run(seed=True), "seed is True. Give a whole number or None."),
        (of_run(seeds=10**7), "seeds is 10000000. Give a number of at most 1000, or a list."),
        (of_run(limit=1.5), "limit is 1.5. Give a whole number or None."),
        (of_run(also_prompts=3), "also_prompts is 3. Give text, a list of texts or None."),
        (of_run(also_prompts=[3]), "also_prompts is [3]. Give text"),
        (of_run(settings="adapter.rank=4"), "settings is 'adapter.rank=4'. Give settings by their keys, such as {"),
        (of_run(settings=["adapter.rank"]), "settings is ['adapter.rank']. Give settings by their keys"),
        (of_run(settings={3: 4}), "settings is {3: 4}. Give settings by their keys"),
        (
            of_run(settings={"method.density": 0.2, "method": {"density": 0.3}}),
            "The setting 'method.density' is given twice, by its dotted key and in a table. Give it once.",
        ),
        (of_run(results=4), "results is 4. Give text or a path."),
        (of_run(config={}), "config is {}. Give text, a path or None."),
        (of_run(tuned=4), "tuned is 4. Give text, a path or None."),
        (of_run(model=Path("x")), f"model is {Path('x')!r}. Give text or None."),
        (of_sweep(settings={"adapter.rank": 4}), "settings is {'adapter.rank': 4}. Give a list such as ["),
        (of_sweep(settings=[3]), "settings is [3]. Give a list such as ["),
        (of_sweep(workers="x"), "workers is 'x'. Give a whole number or None."),
        (of_sweep(workers=0), "0 workers were asked for. Ask for at least one"),
        (of_sweep(threads=True), "threads is True. Give a whole number or None."),
        (of_sweep(engine_options={"a": 3}), "engine_options is {'a': 3}. Give a dictionary"),
        (of_sweep(seeds=[0, 0]), "The seed 0 is given twice. Name each seed once."),
        (of_sweep(orders=["stream", "stream"]), "The order stream is given twice. Name each order once."),
        (of_sweep(orders=0), "The sweep's arguments: 'orders' is 0: input should be greater than or equal to 1."),
        (of_sweep(models="tinny"), "No model is called 'tinny'. Did you mean 'tiny'?"),
        (of_tune(trials="3"), "trials is '3'. Give a whole number."),
        (of_tune(trials=1.5), "trials is 1.5. Give a whole number."),
        (of_tune(space={"ties": 3}), "space is {'ties': 3}. Give ranges by method and setting, such as {"),
        (of_tune(domains=["pill", "pill"]), "The domain pill is given twice. Name each domain once."),
        (of_leaderboard(results=4), "results is 4. Give text or a path."),
        (of_leaderboard(intervals="no"), "intervals is 'no'. Give True or False."),
        (of_leaderboard(metric=3), "metric is 3. Give text."),
        (of_leaderboard(metric=["iou"]), "metric is ['iou']. Give text."),
        (of_leaderboard(protocol=["quick"]), "protocol is ['quick']. Give text or None."),
        (of_leaderboard(protocol=Path("quick")), f"protocol is {Path('quick')!r}. Give text or None."),
        (of_leaderboard(sort_by=None), "sort_by is None. Give text."),
        (of_leaderboard(level="0.9"), "level is '0.9'. Give a number."),
        (of_leaderboard(domains="pil"), "No domain in the records of 'made' is called 'pil'. Did you mean 'pill'?"),
        (of_leaderboard(domains=["pill", "pill"]), "The domain pill is given twice. Name each domain once."),
        (of_compare(figure=3), "figure is 3. Give text."),
        (of_compare(figure=["last"]), "figure is ['last']. Give text."),
        (of_compare(level=None), "level is None. Give a number."),
        (
            lambda record: cb.compare(3, record),
            "first is 3. Give a method's name, or a record, its folder",
        ),
        (lambda record: cb.report(images="no"), "images is 'no'. Give True or False."),
        (lambda record: cb.report(out=3), "out is 3. Give text, a path or None."),
        (lambda record: cb.load_record(None), "asked is None. Give text or a path."),
        (lambda record: cb.load_record(record), "asked is of type Record. Give text or a path."),
        (lambda record: cb.load_predictor(3), "record is 3. Give a record, text or a path."),
        (lambda record: cb.predict(3, GREY), "record is 3. Give a record, text or a path."),
        (lambda record: cb.predict(record, GREY, domain=3), "domain is 3. Give text or None."),
        (lambda record: cb.export(record, 3), "folder is 3. Give text or a path."),
        (lambda record: cb.export(record, "x", rank="8"), "rank is '8'. Give a whole number or None."),
        (lambda record: cb.export(record, "x", rank=1.5), "rank is 1.5. Give a whole number or None."),
        (lambda record: cb.export(record, "x", rank=True), "rank is True. Give a whole number or None."),
        (lambda record: cb.merge("x", method="average", out="y"), "A merge needs at least two experts; given: 1."),
        (
            lambda record: cb.merge([3, 4], method="average", out="y"),
            "experts is [3, 4]. Give a list of paths.",
        ),
        (lambda record: record.matrix(3), "metric is 3. Give text."),
        (lambda record: record.score_matrix(None), "metric is None. Give text."),
        (lambda record: record.checked_file(3), "name is 3. Give text."),
    ],
)
def test_a_wrong_type_is_one_error_that_names_the_argument(
    call: Callable[[cb.Record], object], said: str, record: cb.Record
) -> None:
    before = sorted(record.folder.parents[2].rglob("*"))
    with pytest.raises(cb.CosamError) as caught:
        call(record)
    assert str(caught.value).startswith(said)
    assert sorted(record.folder.parents[2].rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Give one prompt for the image"),
        ({"image": 3, "box": (1, 2, 3, 4)}, "The image is int. Give a path"),
        ({"box": 3}, "The box should be finite numbers, x0, y0, x1, y1; found 3."),
        ({"box": (False, False, True, True)}, "The box should be finite numbers, x0, y0, x1, y1; found (False,"),
        ({"box": (0.5, 0.5, True, 20)}, "The box should be finite numbers"),
        ({"box": ("1", "2", "3", "4")}, "The box should be finite numbers"),
        ({"box": np.array([1, 2, 3j, 4])}, "The box should be finite numbers"),
        ({"points": 5}, "The points should be finite numbers, x, y each; found 5."),
        ({"points": [(1, 2), (3,)]}, "The points should be finite numbers"),
        ({"points": [(1, 10**400)]}, "The points should be finite numbers"),
        (
            {"points": [(1, 2)], "labels": 1},
            "Labels are one per point, 1 on the object or 0 on the background; found 1.",
        ),
        ({"points": [(1, 2)], "labels": "1"}, "Labels are one per point"),
        ({"points": [(1, 2)], "labels": np.ones((1, 2))}, "Labels are one per point"),
        ({"box": (1, 2, 3, 4), "labels": 1}, "Labels are one per point"),
        ({"mask": np.full((4, 4), np.nan)}, "The mask has values that are not finite. Give 0 outside"),
        ({"mask": np.full((4, 4), "x")}, "The mask is [['x', 'x', 'x', 'x'], ["),
        ({"mask": np.full((4, 4), None)}, "The mask is [[None, None"),
        ({"mask": [[1, 1], [0]]}, "The mask is [[1, 1], [0]]. Give an array (H, W) of numbers or truth values."),
        ({"mask": torch.ones(4, 4, requires_grad=True)}, "The mask is of type Tensor. Give an array"),
        ({"box": (0, 0, 1e39, 2)}, "The box should be finite numbers"),
        ({"mask": "mask.png"}, "The mask is 'mask.png'. Give an array"),
        ({"box": (1, 2, 3, 4), "domain": 3}, "domain is 3. Give text or None."),
    ],
)
def test_a_prompt_of_a_wrong_type_is_one_error(given: dict[str, Any], said: str, predictor: cb.Predictor) -> None:
    with pytest.raises(cb.CosamError) as caught:
        predictor.predict(**{"image": GREY} | given)
    assert str(caught.value).startswith(said)


def test_prompts_may_be_arrays_of_any_kind_of_number(predictor: cb.Predictor) -> None:
    plain = predictor.predict(GREY, points=[(30.5, 20.5), (8, 8)], labels=[1, 0])
    for labels in (np.array([1.0, 0.0]), [True, False]):
        assert (predictor.predict(GREY, points=np.array([(30.5, 20.5), (8, 8)]), labels=labels) == plain).all()
    boxed = predictor.predict(GREY, box=(10, 5, 40, 30))
    assert (predictor.predict(GREY, box=np.array([10, 5, 40, 30], dtype=np.uint8)) == boxed).all()


def test_one_name_is_a_list_of_one(record: cb.Record) -> None:
    def last(domains: Any) -> list[float]:
        return [*cb.leaderboard(record.folder.parents[2], domains=domains, intervals=False)["last"]]

    assert last("pill") == last(["pill"]) != last(["pill", "rim"]) == last(name for name in ("pill", "rim"))
