"""Check that a method keeps the contract that the harness's figures depend on.

    from cosam_bench import check_method
    check_method(MyMethod)

It runs the method on three small synthetic domains with an untrained tiny SAM: a few seconds on a laptop.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors, sha256_file
from cosam_bench.core.settings import Settings, validate
from cosam_bench.data.prompt_settings import PromptKind
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import Split
from cosam_bench.evaluation.scoring import checked_logits
from cosam_bench.method.card import MethodCard
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.interface import Method, State
from cosam_bench.method.training_domain import ClosedDomainError
from cosam_bench.method.trial import TRIAL_ADAPTER, trial_domain, trial_split, trial_workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.inputs import Batch, View, collate

DOMAINS = ("first", "second", "third")
TOLERANCE = 1e-4  # of logits, which the order of additions within a batch may change


class ContractViolation(CosamError):
    """A method breaks the contract; the message says what was seen and the likely cause."""


def check_method(
    method: type[Method], *, settings: Mapping[str, Any] | None = None, adapter: AdapterSettings | None = None
) -> list[str]:
    """Check a method against the contract, and return one line per check that passed.

    Args:
        method: a concrete subclass of ``Method``.
        settings: the method's, if its defaults are too slow or not sufficient.
        adapter: the one to train; None: a small LoRA.

    Raises:
        ContractViolation: the first check that failed.
        CosamError: the settings are not the method's.
    """
    return list(examine(method, settings=settings, adapter=adapter).passed)


@dataclass(frozen=True)
class Examined:
    """A method that passed.

    Attributes:
        passed: one line per check.
        states: the sha256 of the state's file after each domain.
        logits: the prediction of ``trial_batch`` after each domain.
    """

    passed: tuple[str, ...]
    states: tuple[str, ...]
    logits: tuple[Tensor, ...]


def examine(
    method: type[Method], *, settings: Mapping[str, Any] | None = None, adapter: AdapterSettings | None = None
) -> Examined:
    """As ``check_method``, with what the trial has computed."""
    _check_class(method)
    checked = validate(method.Settings, dict(settings or {}), source=f"Settings of {method.__name__}")
    trial = _Trial(method, checked, adapter=adapter or TRIAL_ADAPTER)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(1)
        first = trial.run(Path(folder) / "first")
        torch.manual_seed(2)
        second = trial.run(Path(folder) / "second")
    _check_same_twice(first, second)
    if adapter is None:  # with other adapters a rank may be full, which keeps a state from growing
        _check_growth(method.card, first.state_bytes)
    passed = (
        "the class has a card, settings and all abstract methods",
        "predict() returns finite float logits of the decoder's size",
        "an image's prediction does not depend on the rest of its batch",
        "a method rebuilt from its state predicts the same, so nothing is remembered outside the state",
        "a state that is read and written again is unchanged",
        "no data is read after learn() has returned",
        "the frozen base model is unchanged",
        "torch's global random state is unchanged, and a second run gives the same state",
        f"the state's growth is as the card says: {method.card.state}",
    )
    return Examined(passed, tuple(first.states), tuple(first.logits))


def _check_class(method: type[Method]) -> None:
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ContractViolation(f"{method!r} is not a subclass of cosam_bench.Method.")
    missing = sorted(getattr(method, "__abstractmethods__", ()))
    if missing:
        raise ContractViolation(f"{method.__name__} does not define {', '.join(missing)}.")
    if not isinstance(getattr(method, "card", None), MethodCard):
        raise ContractViolation(
            f"{method.__name__}.card is not a MethodCard. Write card = MethodCard(title='...', ...) in the class."
        )
    if not issubclass(method.Settings, Settings):
        raise ContractViolation(
            f"{method.__name__}.Settings is not a subclass of cosam_bench.Settings, which refuses unknown keys."
        )


def trial_splits() -> list[Split]:
    """The training data of the trial's domains."""
    return [trial_split(name, shift=index) for index, name in enumerate(DOMAINS)]


def trial_batch(splits: Sequence[Split], rows: Sequence[int], *, view: View, with_domains: bool) -> Batch:
    """The first image of each of these domains, with a box."""
    parts = [splits[row] for row in rows]
    prompts = [draw_prompts(split, points=3, seed=0).take([0]) for split in parts]
    joined = replace(
        prompts[0],
        boxes=torch.cat([prompt.boxes for prompt in prompts]),
        points=torch.cat([prompt.points for prompt in prompts]),
        masks=torch.cat([prompt.masks for prompt in prompts]),
    )
    domains = tuple(split.domain for split in parts) if with_domains else None
    kinds: list[PromptKind] = ["box"] * len(rows)
    batch, _ = collate([split[0] for split in parts], joined, kinds=kinds, view=view, domains=domains)
    return batch


class _Outcome:
    """The results of one pass over the trial's stream."""

    def __init__(self) -> None:
        self.state_bytes: list[int] = []
        self.states: list[str] = []
        self.logits: list[Tensor] = []


class _Trial:
    """A method and the small stream on which it is tried."""

    def __init__(self, method: type[Method], settings: Settings, *, adapter: AdapterSettings) -> None:
        self._method = method
        self._settings = settings
        self._bench = trial_workbench(adapter=adapter, batch_size=2)
        self._base = digest_tensors(self._bench.sam.state_dict())
        self._splits = trial_splits()

    def run(self, folder: Path) -> _Outcome:
        """Learn the stream, rebuilding the method from its state after each domain."""
        outcome = _Outcome()
        method = self._build()
        for step, split in enumerate(self._splits, start=1):
            if step > 1 and self._method.card.all_at_once:
                break
            self._learn(method, split, step)
            kept = self._predict(method)
            path = folder / f"{step}.safetensors"
            outcome.state_bytes.append(self._state(method).save(path))
            method = self._rebuild(path)
            self._check_rebuilt(method, kept, path)
            outcome.states.append(sha256_file(path))
            outcome.logits.append(kept)
        return outcome

    def _build(self) -> Method:
        with self._watch("__init__"):
            return self._method(self._settings, replace(self._bench, meter=Meter()))

    def _learn(self, method: Method, split: Split, step: int) -> None:
        domain = trial_domain(split)
        with self._watch("learn"):
            method.learn(domain, step=step)
        domain.close()

    def _state(self, method: Method) -> State:
        with self._watch("state"):
            state = method.state()
        if not isinstance(state, State):
            raise ContractViolation(f"state() returned {type(state).__name__}, not a cosam_bench.State.")
        return state

    def _rebuild(self, path: Path) -> Method:
        method = self._build()
        with self._watch("load"):
            method.load(State.read(path))
        return method

    def _check_rebuilt(self, method: Method, kept: Tensor, path: Path) -> None:
        if not torch.equal(self._predict(method), kept):
            raise ContractViolation(
                "After load(state()) the method predicts differently. Likely cause: predict() needs an attribute "
                "that state() does not save or load() does not restore, or it draws random numbers."
            )
        again = path.with_suffix(".again")
        self._state(method).save(again)
        if sha256_file(again) != sha256_file(path):
            raise ContractViolation(
                "A state changes when it is loaded and saved again. Likely cause: state() omits something that only "
                "the next learn() needs, such as running sums, or load() changes dtypes."
            )

    def _predict(self, method: Method) -> Tensor:
        """The logits of one image per domain as one batch, compared with each image's alone."""
        together = self._logits(method, list(range(len(DOMAINS))))
        for row in range(len(DOMAINS)):
            alone = self._logits(method, [row])
            if not torch.allclose(alone[0], together[row], atol=TOLERANCE, rtol=TOLERANCE):
                raise ContractViolation(
                    "An image is predicted differently alone and in a batch. Likely cause: statistics over the "
                    "batch, or one choice (of an adapter or a prompt) for all rows."
                )
        return together

    def _logits(self, method: Method, rows: list[int]) -> Tensor:
        batch = trial_batch(self._splits, rows, view=self._bench.view, with_domains=method.card.receives_domain)
        with self._watch("predict"), torch.inference_mode():
            logits = method.predict(batch)
        try:
            return checked_logits(logits, batch, self._bench.view).clone()
        except CosamError as error:
            raise ContractViolation(str(error)) from None

    @contextmanager
    def _watch(self, act: str) -> Iterator[None]:
        """Check that a call raises nothing, draws no global random number and leaves the base model unchanged."""
        before = torch.get_rng_state()
        try:
            yield
        except ClosedDomainError as error:
            raise ContractViolation(
                f"{act}() read a domain that is closed. Likely cause: the method keeps the domain and reads it later. "
                f"{error}"
            ) from error
        except Exception as error:  # a plugin's code may raise anything
            raise ContractViolation(f"{act}() raised {type(error).__name__}: {error}") from error
        if not torch.equal(before, torch.get_rng_state()):
            raise ContractViolation(
                f"{act}() drew from torch's global generator, so results depend on what ran before. Use "
                "self.bench.generator('a name') instead, for a layer's initial weights too."
            )
        if digest_tensors(self._bench.sam.state_dict()) != self._base:
            raise ContractViolation(
                f"{act}() changed the frozen base model's weights, which is memory outside the state. Keep the "
                "change as an Update and predict with self.bench.predict(update, batch)."
            )


def _check_same_twice(first: _Outcome, second: _Outcome) -> None:
    same = all(torch.equal(one, other) for one, other in zip(first.logits, second.logits, strict=True))
    if first.states != second.states or not same:
        raise ContractViolation(
            "Two runs with the same seed differ. Likely cause: random numbers that do not come from "
            "self.bench.generator, iteration over a set, or memory in the class or its module."
        )


def _check_growth(card: MethodCard, state_bytes: list[int]) -> None:
    if card.all_at_once:
        return
    # Names and digits of other lengths change a file's size a little; a tensor changes it by more.
    slack = 64
    grows = state_bytes[-1] - state_bytes[1] > slack
    if card.state == "none" and state_bytes[0] > slack:
        raise ContractViolation(
            f"The card says that nothing is kept between domains, but the state has {state_bytes[0]} bytes. "
            "Say state='constant' or state='grows'."
        )
    if card.state != "grows" and grows:
        raise ContractViolation(
            f"The card says that the state is {card.state!r}, but it has {state_bytes} bytes after the domains. "
            "Say state='grows', or keep running sums instead of one entry per domain."
        )
    if card.state == "grows" and not grows:
        raise ContractViolation(
            f"The card says that the state grows, but it has {state_bytes} bytes after the domains. "
            "Say state='constant', or save what state() leaves out."
        )
