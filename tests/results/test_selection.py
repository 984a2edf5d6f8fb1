"""Which runs a table shows: by protocol, model, method, settings, seed and order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.records import run_info

from cosam_bench.core.errors import CosamError
from cosam_bench.data.orders import domain_order
from cosam_bench.results.records import Record
from cosam_bench.results.selection import Selection

DOMAINS = ("rim", "camo", "pill")
RANDOM = tuple(domain_order("random:2", DOMAINS, named={}))


def made(number: int, *, model: str = "tiny", rank: int = 8, given: tuple[str, ...] = (), **facts: Any) -> Record:
    protocol = {"name": "mini", "model": {"name": model}, "adapter": {"rank": rank}}
    config = {"protocol": protocol, "seed": number, "order": list(given)}
    return Record(Path(f"r/mini/m/{number}"), run_info(seed=number, config=config, **({"order": DOMAINS} | facts)))


RECORDS = [
    made(0, method="regcl", settings={"ridge": 1e-6, "space": "factors"}),
    made(1, method="regcl", settings={"ridge": 0.1}, protocol="cosam"),
    made(2, method="opcm", settings={}, model="vit_b"),
    made(3, method="opcm", settings={}, rank=4),
    made(11, method="opcm", settings={}, given=RANDOM, order=RANDOM),
    made(12, method="opcm", settings={}, given=DOMAINS[::-1], order=DOMAINS[::-1]),
]


@pytest.mark.parametrize(
    ("wanted", "seeds"),
    [
        ({}, [0, 1, 2, 3, 11, 12]),
        ({"protocols": ("cosam",)}, [1]),
        ({"models": ("vit_b",)}, [2]),
        ({"methods": ("regcl",)}, [0, 1]),
        ({"methods": ("regcl", "opcm")}, [0, 1, 2, 3, 11, 12]),
        ({"settings": ("ridge=1e-6",)}, [0]),
        ({"settings": ("ridge=0.000001",)}, [0]),
        ({"settings": ("method.ridge=0.1",)}, [1]),
        ({"settings": ("space=factors",)}, [0]),
        ({"settings": ("adapter.rank=4",)}, [3]),
        ({"settings": ("adapter.rank=8", "ridge=0.1")}, [1]),
        ({"seeds": (range(0, 1), range(2, 4))}, [0, 2, 3]),
        ({"seeds": (range(1, 10**12),)}, [1, 2, 3, 11, 12]),
        ({"orders": ("stream",)}, [0, 1, 2, 3]),
        ({"orders": ("random:2",)}, [11]),
        ({"orders": ("reverse",)}, [12]),
        ({"orders": ("rim,camo",)}, [0, 1, 2, 3]),
        ({"orders": ("stream", "random:2"), "methods": ("opcm",)}, [2, 3, 11]),
    ],
)
def test_what_fits_is_kept_in_its_order(wanted: dict[str, Any], seeds: list[int]) -> None:
    assert len({RANDOM, DOMAINS, DOMAINS[::-1]}) == 3
    assert [record.seed for record in Selection(**wanted).of(RECORDS)] == seeds


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"protocols": ("cosma",)}, "No protocol in these records is called 'cosma'. Did you mean 'cosam'"),
        ({"models": ("vit_c",)}, "Did you mean 'vit_b'"),
        ({"methods": ("regcl", "regcm")}, "No method in these records is called 'regcm'"),
        ({"settings": ("ridge",)}, "has no value. Write it as KEY=VALUE"),
        ({"settings": ("=1",)}, "has no value"),
        ({"settings": ("rigde=1",)}, "No record here has the setting 'rigde'"),
        ({"settings": ("ridge=7",)}, "No record here has ridge=7. Found: 0.1, 1e-06."),
        ({"seeds": (range(0, 2), range(5, 9))}, "No record here has the seed 5-8. Found: 0, 1, 2, 3, 11, 12."),
        ({"orders": ("random:5",)}, "No record here has the order 'random:5'"),
        ({"orders": ("camo",)}, "Found: pill,camo,rim; rim,camo,pill; rim,pill,camo"),
        ({"orders": (",",)}, "No record here has the order ','"),
    ],
)
def test_what_nothing_fits_is_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(CosamError, match=message):
        Selection(**wanted).of(RECORDS)
