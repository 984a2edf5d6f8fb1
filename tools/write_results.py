"""Puts the tables of results/reference/*.csv into README.md and the pages of docs.

Usage: python -m tools.write_results
       python -m tools.write_results --records DIR   (first keeps the records of DIR that belong to open-pairs)
       python -m tools.write_results --mini DIR      (first writes mini.csv from the records of DIR)

What is between ``<!-- results: NAME -->`` and ``<!-- end -->`` is replaced; ``TABLES`` has the names.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from statistics import stdev

from scipy.stats import rankdata, spearmanr

from benchmarks import ablations, pages
from benchmarks.pages import DASH, NO_BREAK, markdown, with_deviation
from cosam_bench.core.files import write_atomically
from cosam_bench.data.orders import REVERSE_ORDER, STREAM_ORDER
from cosam_bench.evaluation.contributions import contributions
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.intervals import Interval, interval
from cosam_bench.method.registry import load_method
from cosam_bench.results.image_scores import read_image_scores
from cosam_bench.results.leaderboard_formats import csv_text
from cosam_bench.results.records import Record, record_folder
from cosam_bench.results.results_folder import find_records, read_leaderboard
from cosam_bench.results.selection import Selection
from cosam_bench.results.verification import REQUIRED
from tools.independent_images import independent_last

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
RECORDS = REFERENCE / "open"
VARIANTS = REFERENCE / "variants"
PAIRS = "open-pairs"
PAGES = ("README.md", "docs/results.md", "docs/open-results.md", "docs/methods.md", "docs/trm.md")
# Beside each method's defaults, the settings that have a row of their own.
FURTHER_ROWS: Mapping[str, Mapping[str, object]] = {"regcl": {"space": "product"}, "dop": {"solver": "closed"}}
Row = Mapping[str, str]
Runs = Mapping[str, Mapping[str, Record]]
FIRST = Selection(seeds=(range(1),), orders=(STREAM_ORDER,))

_SHOWN = {"last": "Last", "avg": "Avg", "ff": "FF", "plasticity": "plasticity lost", "retention": "retention"}


def main() -> None:
    """Keep new records if there are any, write ``open.csv``, and fill the tables of each page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--records", type=Path, metavar="DIR", help="keep its complete records of the pairs")
    parser.add_argument("--mini", type=Path, metavar="DIR", help="write mini.csv from its records")
    given = parser.parse_args()
    if given.records is not None:
        keep_records(given.records)
    if given.mini is not None:
        write_atomically(REFERENCE / "mini.csv", mini_board(given.mini))
    write_atomically(REFERENCE / "open.csv", open_board())
    for name in PAGES:
        page = ROOT / name
        write_atomically(page, filled(page.read_text(encoding="utf-8")))


def keep_records(folder: Path) -> None:
    """Copy the files of each complete record of the pairs into the repository; other settings' records stand apart."""
    for record in find_records(folder)[0]:
        if record.info.protocol != PAIRS or record.status != "complete":
            continue
        place = RECORDS if is_shown(record.method, json.dumps(record.settings)) else VARIANTS
        kept = record_folder(place, protocol=PAIRS, method=record.info.method, digest=record.folder.name)
        kept.mkdir(parents=True, exist_ok=True)
        for name in (*REQUIRED, "run.json"):
            shutil.copyfile(record.folder / name, kept / name)


def open_board() -> str:
    """``open.csv``: the leaderboard of the pairs, with an interval of Last, from the run that every method has.

    Some methods were measured with further seeds and orders. Their means would not be comparable with the others' one
    run, so these stand in a table of their own.
    """
    return csv_text(read_leaderboard(RECORDS, selection=FIRST, intervals=("last",)))


def mini_board(folder: Path) -> str:
    """``mini.csv``: the leaderboard of ``mini`` itself, without rows of settings that were tried for other tables."""
    board = read_leaderboard(folder, selection=Selection(protocols=("mini",)))
    columns = zip(board["method"], board["settings"], board["differs"], strict=True)
    return csv_text(board[[not differs and is_shown(method, settings) for method, settings, differs in columns]])


def is_shown(method: str, settings: str) -> bool:
    """Whether a run has its method's defaults or the settings of ``FURTHER_ROWS``."""
    wanted = [{}, *([FURTHER_ROWS[method]] if method in FURTHER_ROWS else [])]
    return any(_is_set(method, json.loads(settings), each) for each in wanted)


def filled(page: str) -> str:
    """The page with each of its tables written anew."""
    return pages.filled(page, "results", lambda name: TABLES[name]())


def rows_of(name: str) -> list[Row]:
    """The rows of a file of results, best first."""
    with (REFERENCE / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def label(row: Row) -> str:
    """The name of a row: a method's second row has the setting in which it differs."""
    name, settings = f"`{row['method']}`", json.loads(row["settings"])
    further = FURTHER_ROWS.get(row["method"], {})
    differs = bool(further) and all(settings.get(key) == value for key, value in further.items())
    return f"{name} ({', '.join(map(str, further.values()))})" if differs else name


def cell(row: Row, name: str) -> str:
    """A figure and its deviation over runs, if there are several."""
    if not row[name]:
        return DASH
    deviation = row[f"{name}_std"]
    return with_deviation(float(row[name]), float(deviation) if deviation else None)


def state(row: Row) -> str:
    """What the method keeps, in KiB; an arrow if that grows with the domains."""
    return f"{float(row['state_kib']):,.0f}{NO_BREAK + '↑' if row['state_grows'] == 'yes' else ''}"


def figures_table(name: str) -> str:
    """Every row, with what was kept and the seconds of training."""
    lines = [[label(row), *(cell(row, key) for key in _SHOWN), state(row), _seconds(row)] for row in rows_of(name)]
    return markdown([["method", *_SHOWN.values(), "state", "training"], *lines])


def interval_table(name: str) -> str:
    """Every row with the interval of Last; without seconds, which are of a machine that did other work as well."""
    rest = {key: head for key, head in _SHOWN.items() if key != "last"}
    lines = [
        [label(row), cell(row, "last"), _interval(row), _ranks(row), *(cell(row, key) for key in rest), state(row)]
        for row in rows_of(name)
    ]
    return markdown([["method", "Last", "low to high", "rank", *rest.values(), "state"], *lines])


def readme_table() -> str:
    """Every row of ``open``, with what a user pays for the model."""
    lines = [
        [
            label(row),
            _ranks(row),
            *(cell(row, key) for key in _SHOWN),
            state(row),
            f"{float(row['encoder_passes']):.0f}",
        ]
        for row in rows_of("open")
    ]
    return markdown([["method", "rank", *_SHOWN.values(), "state, KiB", "encoder passes"], *lines])


def ablation_table(name: str) -> str:
    """The variants of a method, as ``python -m benchmarks.ablations`` measures them."""
    return ablations.table(ablations.read(REFERENCE / f"{name}.csv"))


def trm_runs() -> dict[str, Record]:
    """The runs of ``open-pairs`` that show what TRM's search is worth there, by their names in the ablation."""
    records = [one for folder in (RECORDS, VARIANTS) for one in FIRST.of(find_records(folder)[0])]
    wanted = {name: ablations.TRM[name] for name in ("default", "midpoint", "`coma`")}
    return {
        name: next(one for one in records if one.method == method and _is_set(method, one.settings, settings))
        for name, (method, settings) in wanted.items()
    }


def trm_table() -> str:
    """TRM's default and its midpoint beside ``coma`` on real pairs."""
    return ablations.table([ablations.row(name, ablations.TRM[name], [one]) for name, one in trm_runs().items()])


def scale_table(name: str) -> str:
    """Last of each merge at several lengths, the best in bold, and at the lengths that held-out images chose."""
    rows = rows_of(name)
    lengths = [name for name in rows[0] if name.startswith("last_at_")]
    chosen = ("last_current", "last_seen")
    lines = []
    for row in rows:
        best = max(lengths, key=lambda name: float(row[name]))
        figures = [f"**{_short(row[name])}**" if name == best else _short(row[name]) for name in lengths]
        lines.append([label(row), *figures, *(_short(row[name]) for name in chosen)])
    heads = [name.replace("last_at_", "x") for name in lengths]
    return markdown([["method", *heads, "current", "seen"], *lines])


def seeds() -> Runs:
    """The kept runs in the stream's order of methods that have several: by seed and method."""
    kept = sorted(_default_runs(Selection(orders=(STREAM_ORDER,))), key=lambda one: one.seed)
    return _repeated((f"seed {one.seed}", one) for one in kept)


def orders() -> Runs:
    """The kept runs with the first seed of methods that have both orders: by order and method."""
    names = {STREAM_ORDER: "stream's order", REVERSE_ORDER: "reversed"}
    return _repeated(
        (name, one)
        for order, name in names.items()
        for one in _default_runs(Selection(seeds=(range(1),), orders=(order,)))
    )


def _repeated(named: Iterable[tuple[str, Record]]) -> Runs:
    """Each run's records by method, without methods that have one run."""
    found: dict[str, dict[str, Record]] = {}
    for name, one in named:
        found.setdefault(name, {})[one.method] = one
    times = Counter(method for by_method in found.values() for method in by_method)
    return {run: {name: one for name, one in rows.items() if times[name] > 1} for run, rows in found.items()}


def repeats_table(runs: Runs, *figures: str) -> str:
    """Figures of each method in each of its runs, by Last in the first."""
    first = next(iter(runs.values()))
    lines = []
    for name in sorted(first, key=lambda name: -iou(first[name], "last")):
        records = [rows.get(name) for rows in runs.values()]
        pairs = [(record, key) for key in figures for record in records]
        lines.append([f"`{name}`", *(DASH if record is None else f"{iou(record, key):.3f}" for record, key in pairs)])
    return markdown([["method", *(f"{_SHOWN[key]}, {run}" for key in figures for run in runs)], *lines])


def over_seeds_table() -> str:
    """Last of each method over its seeds, best first: the mean, its interval, and the deviation between seeds."""
    runs = seeds()
    by_method = {name: [rows[name] for rows in runs.values() if name in rows] for name in next(iter(runs.values()))}
    found = {name: last_over(records) for name, records in by_method.items()}
    lines = []
    for name in sorted(found, key=lambda name: -found[name].estimate):
        whole, deviation = found[name], stdev(iou(one, "last") for one in by_method[name])
        between = f"{whole.low:.3f} to {whole.high:.3f}"
        lines.append([f"`{name}`", str(whole.runs), f"{whole.estimate:.3f}", between, f"{deviation:.3f}"])
    return markdown([["method", "seeds", "Last", "low to high", "deviation between seeds"], *lines])


def last_over(records: Iterable[Record]) -> Interval:
    """Last of some runs of a method, with its interval over images and runs."""
    return interval([contributions(read_image_scores(one), FIGURES["last"]) for one in records])


def iou(record: Record, figure: str) -> float:
    """A figure of a run's mean IoU."""
    return record.summary["iou"][figure]


def first_runs() -> dict[str, Record]:
    """The records behind ``open.csv``, by their rows' labels without quotes, in the file's order."""
    found = {(one.method, json.dumps(one.settings, sort_keys=True)): one for one in FIRST.of(find_records(RECORDS)[0])}
    return {
        label(row).replace("`", ""): found[row["method"], json.dumps(json.loads(row["settings"]), sort_keys=True)]
        for row in rows_of("open")
    }


def independent_table() -> str:
    """Last of each method over all test images, and over those that share nothing with a training image."""
    lines = []
    for row, record in zip(rows_of("open"), first_runs().values(), strict=True):
        lines.append([label(row), cell(row, "last"), f"{independent_last(record):.3f}"])
    return markdown([["method", "Last", "without shared places"], *lines])


def agreement_table() -> str:
    """Last on both protocols, by its value on ``open``, and Spearman's rank correlation."""
    pairs = _common_rows()
    ranks = [rankdata([-float(pair[side]["last"]) for pair in pairs], method="min") for side in (0, 1)]
    lines = [
        [label(real), cell(real, "last"), cell(drawn, "last"), f"{first:.0f}", f"{second:.0f}"]
        for (real, drawn), first, second in zip(pairs, *ranks, strict=True)
    ]
    table = markdown([["method", "`open-pairs`", "`mini`", "rank on `open-pairs`", "on `mini`"], *lines])
    return f"{table}\n\nSpearman's rank correlation over these {len(pairs)} rows is {correlation():.2f}."


def correlation(*, without: Collection[str] = ()) -> float:
    """Spearman's rank correlation of Last on ``open`` and ``mini`` over the rows that both have, but some methods'."""
    kept = [pair for pair in _common_rows() if pair[0]["method"] not in without]
    return float(spearmanr([[float(row["last"]) for row in pair] for pair in kept]).statistic)


def _common_rows() -> list[tuple[Row, Row]]:
    """The rows of ``open`` that ``mini`` has, too, each with that of ``mini``."""
    drawn = {label(row): row for row in rows_of("mini")}
    return [(row, drawn[label(row)]) for row in rows_of("open") if label(row) in drawn]


def _default_runs(selection: Selection) -> list[Record]:
    """The kept records that are chosen and have their method's default settings."""
    return [one for one in selection.of(find_records(RECORDS)[0]) if _is_set(one.method, one.settings, {})]


def _is_set(method: str, settings: Mapping[str, object], changed: Mapping[str, object]) -> bool:
    """Whether settings are the method's defaults but for those that are named."""
    kind = load_method(method).Settings
    return kind.model_validate(settings) == kind.model_validate(changed)


def _seconds(row: Row) -> str:
    return f"{float(row['train_seconds']):.0f}"


def _ranks(row: Row) -> str:
    """The ranks that the paired intervals of Last leave a method; bounds have none."""
    best, worst = row["rank_best"], row["rank_worst"]
    if not best:
        return DASH
    return best if best == worst else f"{best} to {worst}"


def _short(text: str) -> str:
    return f"{float(text):.3f}".removeprefix("0")


def _interval(row: Row) -> str:
    low, high = row["last_low"], row["last_high"]
    return f"{float(low):.3f} to {float(high):.3f}" if low and high else DASH


TABLES: dict[str, Callable[[], str]] = {
    "mini": lambda: figures_table("mini"),
    "open": lambda: interval_table("open"),
    "seeds": lambda: repeats_table(seeds(), "last", "retention"),
    "over-seeds": over_seeds_table,
    "orders": lambda: repeats_table(orders(), "last", "ff"),
    "independent": independent_table,
    "readme": readme_table,
    "agreement": agreement_table,
    "ridge": lambda: ablation_table("ridge-mini"),
    "ridge-open": lambda: ablation_table("ridge-open"),
    "scales": lambda: scale_table("scales-mini"),
    "scales-open": lambda: scale_table("scales-open"),
    "trm": lambda: ablation_table("trm-ablation"),
    "trm-open": trm_table,
}


if __name__ == "__main__":
    main()
