"""Methods tuned one after another, each with the same number of trials on the same held-out training images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from cosam_bench.core.errors import CosamError, refuse_twice, unknown_name
from cosam_bench.core.files import only_writer
from cosam_bench.core.hashing import sha256_json
from cosam_bench.core.search_ranges import SearchRange
from cosam_bench.experiments.chosen_method import chosen_method, rule_of
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.options import RunOptions, resolve
from cosam_bench.experiments.progress import Reporter
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.experiments.run_data import Validation
from cosam_bench.experiments.run_notes import isolation_notes
from cosam_bench.experiments.tuned_file import TunedFile, read_tuned
from cosam_bench.method.registry import short_name
from cosam_bench.results.records import STATES, TRIALS, TUNED
from cosam_bench.results.tuning import Tuning
from cosam_bench.tuning.space import Ranges, Space, check_methods, space_of, with_settings
from cosam_bench.tuning.study import Sampler, Study, TrialResult, load_optuna
from cosam_bench.tuning.trial import last, last_scores, units

HELD_OUT_SHARE = 0.25
"""Of each domain's training images: enough to choose by, while most are still trained on."""


@dataclass(frozen=True)
class Budget:
    """What every method gets.

    Attributes:
        trials: settings that are tried, those without tuning included.
        sampler: what proposes them.
        domains: the stream's domains that are tuned on; empty: all.
    """

    trials: int
    sampler: str = "tpe"
    domains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tuned:
    """What became of one method.

    Attributes:
        method: its name in records.
        file: its settings, for ``run --tuned``; None if every trial failed.
        trials: that were done, failed ones included; 0 if the method has nothing to tune.
        failures: by the trial's number, why it failed.
        default_score: the objective without tuning; None if that trial failed, or there was none.
        best_score: the highest objective; None if there is none.
        best_trial: its number; 0 is the settings without tuning.
        settings: the best ones, without null.
        changed: those of them that differ from the settings without tuning.
        space: what was searched.
    """

    method: str
    file: Path | None = None
    trials: int = 0
    failures: Mapping[int, str] = field(default_factory=dict)
    default_score: float | None = None
    best_score: float | None = None
    best_trial: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, SearchRange] = field(default_factory=dict)


def resolve_methods(names: Sequence[str], options: RunOptions) -> tuple[list[RunConfig], set[str]]:
    """The configurations of methods that are to be tuned, and the names of the settings that the options fix.

    Raises:
        CosamError: as for ``resolve``; or Optuna is not installed.
    """
    load_optuna()
    keys = [text.partition("=")[0].strip().split(".") for text in options.settings]
    fixed = {rest[0] for table, *rest in keys if table in ("method", "settings") and rest}
    return resolve(names, options), fixed


def tune_methods(
    configs: Sequence[RunConfig],
    budget: Budget,
    *,
    results: Path,
    out: Path | None = None,
    ranges: Ranges | None = None,
    fixed: Collection[str] = (),
    isolated: bool | None = False,
    make_reporter: Callable[[], AbstractContextManager[Reporter]],
) -> Iterator[Tuned]:
    """Tune each method, and yield what became of it; trials that an earlier call has done are not repeated.

    Args:
        configs: alike except for the method and its settings.
        budget: of each method.
        results: the folder of records, whose experts and features are shared.
        out: the folder for the files of settings; None: ``_tune/PROTOCOL`` in ``results``.
        ranges: by method and setting, ranges that replace the declared ones.
        fixed: names of the method's settings that the user has given.
        isolated: whether methods run in processes of their own; None: those that are not built in.
        make_reporter: called once for each method.

    Raises:
        CosamError: anything but a fault of a method in a trial. What does not fit is refused before the first trial.
    """
    _check(configs, budget)
    check_methods(ranges or {}, [short_name(config.method) for config in configs])
    spaces = [space_of(config, isolated=isolated, results=results, ranges=ranges, fixed=fixed) for config in configs]
    folder = results / TUNED / configs[0].protocol.name
    experiments = _Experiments(results, Validation(HELD_OUT_SHARE, budget.domains), isolated)
    paths = [(out or folder) / f"{short_name(config.method)}.toml" for config in configs]
    methods: list[_Method | None] = []
    with make_reporter() as reporter:
        reporter.say("Opening data and model")
        for config, space, path in zip(configs, spaces, paths, strict=True):
            method = _Method(config, space, budget, experiments, folder) if space else None
            _check_replaceable(path, config, search=method.search if method else "", budget=budget)
            methods.append(method)
    for config, method, path in zip(configs, methods, paths, strict=True):
        if method is None:
            _untuned(config).write(path)
            yield Tuned(short_name(config.method), path, settings=config.settings)
            continue
        with make_reporter() as reporter:
            yield method.tune(path, reporter)


def _untuned(config: RunConfig) -> TunedFile:
    """The file of a method with nothing to tune."""
    return TunedFile(method=short_name(config.method), settings=config.settings)


def _check_replaceable(path: Path, config: RunConfig, *, search: str, budget: Budget) -> None:
    """Refuse to replace settings that another search found, this one with more trials, or that were given.

    Args:
        path: of the file to write.
        config: of the method.
        search: as in ``TunedFile``.

    Raises:
        CosamError: it says so, or the file is not one of tuned settings.
    """
    if not path.exists():
        return
    method = short_name(config.method)
    found = read_tuned(path, method)
    if found.search != search or (not search and found.settings != _untuned(config).as_written()["settings"]):
        raise CosamError(
            f"{path} has settings of {method!r} that were tuned under other conditions: other data, settings, ranges, "
            "seed, domains, sampler, isolation or code. Give --out another folder, or delete the file."
        )
    if found.tuning is not None and found.tuning.trials > budget.trials:
        raise CosamError(
            f"{path} has the best of {found.tuning.trials} trials, and {budget.trials} were asked for. Ask for as "
            "many, give --out another folder, or delete the file."
        )


def _check(configs: Sequence[RunConfig], budget: Budget) -> None:
    if budget.trials < 1:
        raise CosamError(f"{budget.trials} trials were asked for. Ask for 1 or more; the first has the settings as is.")
    _sampler(budget.sampler)
    refuse_twice("domain", budget.domains)
    if configs[0].scales:
        raise CosamError("Tuning has its own images held out. Leave out scales.")
    if configs[0].experts is not None:
        raise CosamError(
            "Experts from elsewhere may have been trained on the images that tuning holds out. Leave out experts."
        )
    load_optuna()


def _sampler(name: str) -> Sampler:
    found: Sampler | None = next((one for one in get_args(Sampler) if one == name), None)
    if found is None:
        raise unknown_name("sampler", name, get_args(Sampler))
    return found


class _Experiments:
    """Data, model and experts that all methods share."""

    def __init__(self, results: Path, validation: Validation, isolated: bool | None) -> None:
        self._results, self._validation, self._isolated = results, validation, isolated
        self._opened: Experiment | None = None

    def of(self, config: RunConfig) -> Experiment:
        """The experiment of one trial.

        Raises:
            CosamError: the settings or the data do not fit.
        """
        if self._opened is None:
            self._opened = open_experiment(config, self._results, isolated=self._isolated, validation=self._validation)
            return self._opened
        return self._opened.with_method(config, isolated=self._isolated)

    def rule(self, config: RunConfig) -> str:
        """The hash of the method's code as it is now.

        Raises:
            CosamError: the method cannot be loaded, or does not allow its settings together.
        """
        method, _ = chosen_method(config, self._isolated, results=self._results)
        return rule_of(method)

    def forget(self, experiment: Experiment) -> None:
        """Open all again, if a method that failed may have left the model changed."""
        if not experiment.is_isolated:
            self._opened = None


class _Method:
    """The tuning of one method.

    Attributes:
        search: as in ``TunedFile``.
    """

    def __init__(
        self, config: RunConfig, space: Space, budget: Budget, experiments: _Experiments, folder: Path
    ) -> None:
        self._config, self._space, self._budget, self._experiments = config, space, budget, experiments
        self._name, self._sampler = short_name(config.method), _sampler(budget.sampler)
        opened = experiments.of(config)
        self._rule = opened.rule
        self._domains = tuple(domain.name for domain in opened.domains)
        self._images = sum(len(domain.test) for domain in opened.domains)
        self._units = units(opened)
        self._notes = isolation_notes(opened)
        self._conditions = opened.conditions.tuned_for
        identity = [opened.digest, {name: one.as_table() for name, one in space.items()}, budget.sampler]
        apart = ["isolated"] if opened.is_isolated else []  # from trials in the process that scores them
        self.search = sha256_json([*identity, *apart])[:12]
        self._folder = folder / self._name / self.search

    def tune(self, path: Path, reporter: Reporter) -> Tuned:
        """Do the missing trials, and write the best settings."""
        with self._alone():
            for left in self._folder.glob(f"{STATES}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            study = Study(
                self._folder / TRIALS,
                space=self._space,
                defaults=self._config.settings,
                seed=self._config.seed,
                sampler=self._sampler,
            )
            missing = self._budget.trials - len(study.results)
            for note in self._notes if missing > 0 else ():
                reporter.note(note)
            reporter.begin(max(missing, 0) * self._units)
            for _ in range(missing):
                self._try(study, reporter)
            results = study.results[: self._budget.trials]
        return self._written(results, path)

    def _try(self, study: Study, reporter: Reporter) -> None:
        known = {sha256_json(dict(one.settings)): one for one in study.results if one.score is not None}
        number, settings = study.propose()
        best = max((one.score for one in known.values() if one.score is not None), default=None)
        so_far = "" if best is None else f", best so far {best:.3f}"
        reporter.say(f"{self._name}: trial {number + 1} of {self._budget.trials}{so_far}")
        same = known.get(sha256_json(settings))
        if same is not None and same.score is not None:  # of the same settings
            study.succeed(number, same.score, same.scores)
            reporter.advance(self._units)
            return
        try:
            scores = self._scores(settings, reporter)
        except MethodFailed as failure:
            self._refuse_edited(self._experiments.rule(self._config))
            study.fail(number, str(failure))
            reporter.note(f"{self._name}: trial {number + 1} failed: {failure}")
        else:
            self._refuse_edited(self._experiments.rule(self._config))  # a process of its own may import it later
            study.succeed(number, last(scores), scores)

    def _scores(self, settings: Mapping[str, Any], reporter: Reporter) -> dict[str, float]:
        config = with_settings(self._config, settings)
        try:
            rule = self._experiments.rule(config)
        except CosamError as error:  # settings that do not go together
            raise MethodFailed(str(error)) from error
        self._refuse_edited(rule)
        experiment = self._experiments.of(config)
        try:
            return last_scores(experiment, folder=self._folder, reporter=reporter)
        except MethodFailed:
            self._experiments.forget(experiment)
            raise

    def _refuse_edited(self, rule: str) -> None:
        """Stop before a trial of other code is counted among those of this study."""
        if rule != self._rule:
            raise CosamError(
                f"The code of method {self._name!r} was edited while it was tuned; its trials so far are of the code "
                "as it was. Give the same command again to tune the code as it is now."
            )

    def _written(self, results: Sequence[TrialResult], path: Path) -> Tuned:
        failures = {one.number: one.error for one in results if one.score is None}
        scores = {one.number: one.score for one in results if one.score is not None}
        if not scores:
            return Tuned(self._name, None, len(results), failures, space=self._space)
        best = max(scores, key=lambda number: (scores[number], -number))
        changed = next(one.settings for one in results if one.number == best)
        settings = self._config.settings | dict(changed)
        tuning = Tuning(
            trials=len(results),
            held_out=HELD_OUT_SHARE,
            images=self._images,
            protocol=self._config.protocol.name,
            conditions=self._conditions,
            domains=self._domains,
            seed=self._config.seed,
            sampler=self._sampler,
            optuna=load_optuna().__version__,
        )
        TunedFile(
            method=self._name,
            search=self.search,
            default_score=scores.get(0),
            best_score=scores[best],
            failed=len(failures),
            settings=settings,
            tuning=tuning,
            space={name: one.as_table() for name, one in self._space.items()},
        ).write(path)
        default = self._config.settings
        return Tuned(
            method=self._name,
            file=path,
            trials=len(results),
            failures=failures,
            default_score=scores.get(0),
            best_score=scores[best],
            best_trial=best,
            settings=settings,
            changed={name: value for name, value in settings.items() if value != default.get(name)},
            space=self._space,
        )

    def _alone(self) -> AbstractContextManager[None]:
        busy = CosamError(f"Another process is tuning {self._name!r} in {self._folder}. Wait for it, or stop it.")
        return only_writer(self._folder, busy=busy)
