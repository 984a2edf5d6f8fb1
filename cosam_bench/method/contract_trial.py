"""One method's pass over three small domains, which notes each breach of the contract that it sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors, sha256_file
from cosam_bench.core.settings import Settings
from cosam_bench.data.prompt_settings import PromptKind
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Split
from cosam_bench.evaluation.scoring import checked_logits
from cosam_bench.method.card import STATE_SLACK_BYTES, MethodCard
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.interface import Method, State, state_of
from cosam_bench.method.places import Place, assignment_place, first_own_place, innermost_place
from cosam_bench.method.returned import WrongType
from cosam_bench.method.training_domain import ClosedDomainError
from cosam_bench.method.trial import trial_domain, trial_split, trial_workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.inputs import Batch, View, collate

DOMAINS = ("first", "second", "third")
TOLERANCE = 1e-4  # of logits, which the order of additions within a batch may change


def trial_splits() -> list[Split]:
    """The training data of the trial's domains."""
    return [trial_split(name, shift=index) for index, name in enumerate(DOMAINS)]


def trial_prompts(splits: Sequence[Split]) -> list[Prompts]:
    """The prompts of each split's first image."""
    return [draw_prompts(split, points=3, seed=0).take([0]) for split in splits]


def trial_batch(
    splits: Sequence[Split], prompts: Sequence[Prompts], rows: Sequence[int], *, view: View, with_domains: bool
) -> Batch:
    """The first image of each of these domains, with a box."""
    parts = [splits[row] for row in rows]
    chosen = [prompts[row] for row in rows]
    joined = replace(
        chosen[0],
        boxes=torch.cat([prompt.boxes for prompt in chosen]),
        points=torch.cat([prompt.points for prompt in chosen]),
        masks=torch.cat([prompt.masks for prompt in chosen]),
    )
    domains = tuple(split.domain for split in parts) if with_domains else None
    kinds: list[PromptKind] = ["box"] * len(rows)
    batch, _ = collate([split[0] for split in parts], joined, kinds=kinds, view=view, domains=domains)
    return batch


class _Stopped(Exception):
    """The method cannot be tried further."""


class Outcome:
    """The results of one pass over the trial's stream.

    Attributes:
        is_complete: whether the pass came to its end.
        attributes: those of the method's own that a constructor did not make as they are.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.state_bytes: list[int] = []
        self.states: list[str] = []
        self.logits: list[Tensor] = []
        self.attributes: list[str] = []

    def equals(self, other: Outcome) -> bool:
        """Whether both passes gave the same bits."""
        pairs = zip(self.logits, other.logits, strict=False)
        return self.states == other.states and all(torch.equal(one, another) for one, another in pairs)

    def first_other_step(self, other: Outcome) -> int | None:
        """The first domain after which predictions differ by more than rounding; None: none."""
        pairs = zip(self.logits, other.logits, strict=True)
        for step, (one, another) in enumerate(pairs, start=1):
            if not torch.allclose(one, another, atol=TOLERANCE, rtol=TOLERANCE):
                return step
        return None


class Trial:
    """A method and the small stream on which it is tried.

    Attributes:
        faults: by kind, the first of each.
    """

    def __init__(self, method: type[Method], settings: Settings, *, adapter: AdapterSettings) -> None:
        self._method = method
        self._settings = settings
        self._bench = trial_workbench(adapter=adapter, batch_size=2)
        self._base = digest_tensors(self._bench.sam.state_dict())
        self._splits = trial_splits()
        self._prompts = trial_prompts(self._splits)
        self.faults: dict[str, str] = {}

    def report(self, kind: str, text: str, *functions: str, attribute: str = "") -> None:
        """Keep a fault, with the place of the first of these functions that the method's author wrote.

        Args:
            kind: only the first fault of each kind is kept.
            text: without its last full stop.
            functions: names of the method's functions.
            attribute: the attribute at fault; the place is where it is set.
        """
        own = [getattr(self._method, name, None) for name in functions]
        place = assignment_place(self._method, attribute) if attribute else Place()
        place = place if str(place) else first_own_place([*own, self._method])
        self.faults.setdefault(kind, f"{text}{f' ({place})' if str(place) else ''}.")

    @property
    def may_repeat(self) -> bool:
        """Whether another pass could say more than what is known to differ."""
        return not self.faults.keys() & {"random", "base", "rebuilt"}

    def run(self, folder: Path, *, seed: int, lives_on: bool = False) -> Outcome:
        """Learn the stream.

        Args:
            folder: for the states.
            seed: of torch's global generator, which the method must not use.
            lives_on: keep the object, rather than rebuild it from its state after each domain.
        """
        outcome = Outcome()
        torch.manual_seed(seed)
        with suppress(_Stopped):
            method = self._build()
            for step, split in enumerate(self._splits, start=1):
                if step > 1 and self._method.card.all_at_once:
                    break
                self._learn(method, split, step)
                kept = self._logits(method, list(range(len(DOMAINS)))) if lives_on else self._predict(method)
                path = folder / f"{step}.safetensors"
                outcome.state_bytes.append(self._save(method, path))
                outcome.states.append(sha256_file(path))
                outcome.logits.append(kept)
                if not lives_on:
                    method = self._rebuild(path)
                    self._check_rebuilt(method, kept, path)
            outcome.attributes = _own_attributes(method, self._build()) if lives_on else []
            outcome.is_complete = True
        return outcome

    def _build(self) -> Method:
        with self._watch("__init__"):
            return self._method(self._settings, replace(self._bench, meter=Meter()))

    def _learn(self, method: Method, split: Split, step: int) -> None:
        domain = trial_domain(split)
        with self._watch("learn"):
            method.learn(domain, step=step)
        domain.close()

    def _save(self, method: Method, path: Path) -> int:
        with self._watch("state"):
            return state_of(method).save(path)

    def _rebuild(self, path: Path) -> Method:
        method = self._build()
        with self._watch("load"):
            method.load(State.read(path))
        return method

    def _check_rebuilt(self, method: Method, kept: Tensor, path: Path) -> None:
        if not torch.equal(self._logits(method, list(range(len(DOMAINS)))), kept):
            self.report(
                "rebuilt",
                "After load(state()) the method predicts differently. Likely cause: predict() needs an attribute "
                "that state() does not save or load() does not restore, or it draws random numbers",
                "predict",
            )
        again = path.with_suffix(".again")
        self._save(method, again)
        if sha256_file(again) != sha256_file(path):
            self.report(
                "saved again",
                "A state changes when it is loaded and saved again. Likely cause: state() omits something that only "
                "the next learn() needs, such as running sums, or load() changes dtypes",
                "state",
                "load",
            )

    def _predict(self, method: Method) -> Tensor:
        """The logits of one image per domain as one batch, compared with each image's alone."""
        together = self._logits(method, list(range(len(DOMAINS))))
        for row in range(len(DOMAINS)):
            alone = self._logits(method, [row])
            if not torch.allclose(alone[0], together[row], atol=TOLERANCE, rtol=TOLERANCE):
                self.report(
                    "batch",
                    "An image is predicted differently alone and in a batch. Likely cause: statistics over the "
                    "batch, or one choice (of an adapter or a prompt) for all rows",
                    "predict",
                )
        return together

    def _logits(self, method: Method, rows: list[int]) -> Tensor:
        with_domains = method.card.receives_domain
        batch = trial_batch(self._splits, self._prompts, rows, view=self._bench.view, with_domains=with_domains)
        with self._watch("predict"), torch.inference_mode():
            logits = method.predict(batch)
        try:
            return checked_logits(logits, batch, self._bench.view).clone()
        except CosamError as error:
            self.report("logits", str(error).removesuffix("."), "predict")
            raise _Stopped from None

    @contextmanager
    def _watch(self, act: str) -> Iterator[None]:
        """Check that a call raises nothing, draws no global random number and leaves the base model unchanged."""
        before = torch.get_rng_state()
        functions = (act, "merge") if act == "learn" else (act,)
        try:
            yield
        except Exception as error:  # a plugin's code may raise anything
            self._report_raised(act, error)
            raise _Stopped from None
        if not torch.equal(before, torch.get_rng_state()):
            self.report(
                "random",
                f"{act}() drew from torch's global generator, so results depend on what ran before. Use "
                "self.bench.generator('a name') instead, for a layer's initial weights too",
                *functions,
            )
        base = digest_tensors(self._bench.sam.state_dict())
        if base != self._base:
            self._base = base
            self.report(
                "base",
                f"{act}() changed the frozen base model's weights, which is memory outside the state. Keep the "
                "change as an Update and predict with self.bench.predict(update, batch)",
                *functions,
            )

    def _report_raised(self, act: str, error: Exception) -> None:
        text = str(error).removesuffix(".")
        if isinstance(error, ClosedDomainError):
            text = (
                f"{act}() read a domain that is closed. Likely cause: the method keeps the domain and reads it later. "
                f"{text}"
            )
        elif not isinstance(error, WrongType):  # which names its own place
            text = f"{act}() raised {type(error).__name__}: {text}"
        if isinstance(error, WrongType):
            self.faults.setdefault("raised", f"{text}.")
            return
        place = innermost_place(error)
        self.faults.setdefault("raised", f"{text}{f' ({place})' if str(place) else ''}.")

    def check_growth(self, state_bytes: list[int]) -> None:
        """Compare the states' sizes after the domains with what the card says."""
        fault = _growth_fault(self._method.card, state_bytes)
        if fault:
            self.report("growth", fault)


def _own_attributes(method: Method, fresh: Method) -> list[str]:
    """The attributes of a method that the base classes do not have, and that a fresh object lacks or has otherwise."""
    shared = {"settings", "bench", "served", "memory", "values"}
    new = vars(fresh)
    return [name for name, one in vars(method).items() if name not in shared and repr(one) != repr(new.get(name))]


def _growth_fault(card: MethodCard, state_bytes: list[int]) -> str:
    if card.all_at_once:
        return ""
    grows = state_bytes[-1] - state_bytes[1] > STATE_SLACK_BYTES
    if card.state == "none" and state_bytes[0] > STATE_SLACK_BYTES:
        return (
            f"The card says that nothing is kept between domains, but the state has {state_bytes[0]} bytes. "
            "Say state='constant' or state='grows'"
        )
    if card.state != "grows" and grows:
        return (
            f"The card says that the state is {card.state!r}, but it has {state_bytes} bytes after the domains. "
            "Say state='grows', or keep running sums instead of one entry per domain"
        )
    if card.state == "grows" and not grows:
        return (
            f"The card says that the state grows, but it has {state_bytes} bytes after the domains. "
            "Say state='constant', or save what state() leaves out"
        )
    return ""
