"""The trials of one method: what Optuna proposes, and what came of it, in a file that a later call continues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.core.seeds import derived_seed
from cosam_bench.tuning.space import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

Sampler = Literal["tpe", "random"]

_NAME = "tuning"
_SETTINGS, _SCORES, _ERROR = "settings", "scores", "error"  # attributes of a trial in the file
_SEEDS = 1 << 32  # numpy's
_DIGITS = 3  # significant ones of a number that is tried: trials do not tell more apart, and people read them


@dataclass(frozen=True)
class TrialResult:
    """A trial that has ended.

    Attributes:
        number: from 0, the settings without tuning.
        settings: what it changed of these.
        score: the objective; None if it failed.
        scores: the score of each domain.
        error: why it failed; empty if it did not.
    """

    number: int
    settings: Mapping[str, Any]
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


class Study:
    """The trials of one method; one process at a time may use it."""

    def __init__(self, path: Path, *, space: Space, defaults: Mapping[str, Any], seed: int, sampler: Sampler) -> None:
        """Open the study in a file, or begin one.

        Args:
            path: of the file.
            space: what is searched.
            defaults: the settings without tuning, which the first trial has.
            seed: of the sampler; each trial has a generator of its own, so a study that was stopped proposes what it
                would have proposed otherwise.
            sampler: ``tpe``, the tree-structured Parzen estimator, or ``random``.

        Raises:
            CosamError: Optuna is not installed, or the file cannot be read or written.
        """
        self._optuna = load_optuna()
        self._space, self._seed, self._sampler, self._path = space, seed, sampler, path
        # Defaults that their range does not hold are unknown to the sampler.
        self._defaults = {name: defaults[name] for name in space if defaults.get(name) in space[name]}
        self._proposed: dict[int, Trial] = {}
        with self._readable():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # left by a process that was killed
            _cut_half_line(path)
            storage = self._optuna.storages.JournalStorage(self._optuna.storages.journal.JournalFileBackend(str(path)))
            self._study = self._optuna.create_study(
                storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True
            )
            if not self._study.trials:
                self._study.enqueue_trial(self._defaults)

    @property
    def results(self) -> list[TrialResult]:
        """The trials that have ended, by number."""
        state = self._optuna.trial.TrialState
        with self._readable():
            ended = self._study.get_trials(states=(state.COMPLETE, state.FAIL))
        return [
            TrialResult(
                trial.number,
                trial.user_attrs.get(_SETTINGS, {}),
                trial.value if trial.state == state.COMPLETE else None,
                trial.user_attrs.get(_SCORES, {}),
                trial.user_attrs.get(_ERROR, ""),
            )
            for trial in sorted(ended, key=lambda trial: trial.number)
        ]

    def propose(self) -> tuple[int, dict[str, Any]]:
        """The number of the next trial, and what it changes of the settings; first a trial that was interrupted."""
        state = self._optuna.trial.TrialState
        with self._readable():
            begun = self._study.get_trials(states=(state.RUNNING,))
            number = begun[0].number if begun else len(self.results)
            self._study.sampler = self._seeded(number)
            trial = self._optuna.trial.Trial(self._study, begun[0]._trial_id) if begun else self._study.ask()
            found = {name: self._value(trial, name) for name in (self._space if trial.number else self._defaults)}
            settings = found if trial.number else {}
            trial.set_user_attr(_SETTINGS, settings)
        self._proposed[trial.number] = trial
        return trial.number, settings

    def succeed(self, number: int, score: float, scores: Mapping[str, float]) -> None:
        """Keep the score of a trial that was proposed."""
        trial = self._proposed.pop(number)
        with self._readable():
            trial.set_user_attr(_SCORES, dict(scores))
            self._study.tell(trial, score)

    def fail(self, number: int, error: str) -> None:
        """Keep why a trial that was proposed has failed."""
        trial = self._proposed.pop(number)
        with self._readable():
            trial.set_user_attr(_ERROR, error)
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _seeded(self, number: int) -> BaseSampler:
        seed = derived_seed("tuning", self._seed, number) % _SEEDS
        if self._sampler == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)  # type: ignore[no-any-return]
        return self._optuna.samplers.TPESampler(seed=seed, multivariate=False)  # type: ignore[no-any-return]

    def _value(self, trial: Trial, name: str) -> Any:
        wanted = self._space[name]
        if wanted.choices:
            return trial.suggest_categorical(name, wanted.choices)
        if wanted.is_whole:
            return trial.suggest_int(name, int(wanted.low), int(wanted.high), log=wanted.is_log)
        found = trial.suggest_float(name, wanted.low, wanted.high, log=wanted.is_log)
        return min(max(float(f"{found:.{_DIGITS}g}"), wanted.low), wanted.high)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotWrite(f"{self._path} cannot be written: {error.strerror or error}. Free space.") from error
        except ValueError as error:  # JSON, or a range that is not that of the file
            raise CosamError(f"{self._path} cannot be read: {error}. Delete it to tune again.") from error


def _cut_half_line(path: Path) -> None:
    """Remove what a process that was killed, or a full disk, left of a line at the end of a file of lines."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def load_optuna() -> ModuleType:
    """Optuna, told to be silent.

    Raises:
        CosamError: it is not installed.
    """
    try:
        import optuna
        import optuna.storages.journal
    except ImportError:
        raise CosamError('Tuning needs Optuna. Install it: pip install "cosam-bench[tune]".') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
