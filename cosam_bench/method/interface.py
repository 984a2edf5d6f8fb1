"""The interface of a method, which learns one domain after another and predicts masks."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeAlias, get_args, get_origin

from torch import Tensor
from typing_extensions import TypeVar  # typing's own has no defaults before Python 3.13

from cosam_bench.core import settings as config
from cosam_bench.core.arithmetic import tf32_on
from cosam_bench.core.tensor_files import CannotRead, read_tensors, write_tensors
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.updates import Update
from cosam_bench.method.card import MethodCard
from cosam_bench.method.places import first_own_place
from cosam_bench.method.returned import WrongType, check_memory, check_state, checked_update, kind_of
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.inputs import Batch
from cosam_bench.training.fit import TrainingHooks

Start: TypeAlias = Literal["base", "served"]
"""Where an expert's training starts: at the frozen base, or at the served update."""

Value: TypeAlias = bool | int | float | str | list["Value"] | dict[str, "Value"] | None


@dataclass(frozen=True)
class State:
    """Everything that a method keeps between two domains.

    Attributes:
        tensors: by name, of any dtype and shape.
        values: by name, anything that JSON can represent.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)

    def save(self, path: Path) -> int:
        """Write the state as one safetensors file and return the file's size in bytes.

        Raises:
            CannotWrite: the folder cannot be written or the disk is full.
            WrongType: what is under ``tensors`` is not a tensor, or JSON cannot represent a value.
        """
        check_state(self.tensors, self.values)
        return write_tensors(path, self.tensors, {"values": json.dumps(self.values, sort_keys=True)})

    @classmethod
    def read(cls, path: Path) -> State:
        """The state that ``save`` wrote.

        Raises:
            CannotRead: the file is missing or damaged.
        """
        tensors, metadata = read_tensors(path, what="The state", advice="Run again with --fresh.")
        try:
            return cls(tensors, json.loads(metadata["values"]))
        except (KeyError, ValueError) as error:
            raise CannotRead(f"The state {path} cannot be read: {error}. Run again with --fresh.") from None


def state_of(method: Method) -> State:
    """What a method's ``state`` returns.

    Raises:
        WrongType: it is not a State.
    """
    returned: object = method.state()
    if isinstance(returned, State):
        return returned
    place = first_own_place([type(method).state, type(method)])
    where = f" ({place})" if str(place) else ""
    raise WrongType(f"state() returned {kind_of(returned)} instead of a cosam_bench.State{where}.")


SettingsT_co = TypeVar("SettingsT_co", bound=config.Settings, covariant=True, default=config.Settings)


class Method(ABC, Generic[SettingsT_co]):
    """A way to learn a stream of domains with one frozen SAM.

    A subclass sets ``card`` and writes ``learn``, ``predict``, ``state`` and ``load``; one with settings names their
    class: ``class Mine(Method[MySettings])``. Between two domains the harness writes ``state()`` to a file, drops
    the object and builds a new one from the file, so whatever is not in the state is gone.

    Attributes:
        Settings: the class of the settings, taken from the brackets unless a subclass sets it itself.
        settings: this method's settings, validated.
        bench: the frozen model, the protocol's training and the cost meter.
    """

    card: ClassVar[MethodCard]
    Settings: ClassVar[type[config.Settings]] = config.NoSettings

    def __init__(self, settings: SettingsT_co, bench: Workbench) -> None:
        self.settings = settings
        self.bench = bench

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take ``Settings`` from the brackets behind the base class, and compare them with the card.

        Raises:
            ValueError: the card names a setting that there is not.
        """
        super().__init_subclass__(**kwargs)
        if "Settings" not in vars(cls):
            for base in vars(cls).get("__orig_bases__", ()):
                origin, arguments = get_origin(base), get_args(base)
                if isinstance(origin, type) and issubclass(origin, Method) and isinstance(arguments[0], type):
                    cls.Settings = arguments[0]
        card = getattr(cls, "card", None)
        if isinstance(card, MethodCard) and card.budget_setting not in ("", *cls.Settings.model_fields):
            raise ValueError(
                f"the card of {cls.__name__} says that the setting {card.budget_setting!r} is K, but "
                "there is no such setting"
            )

    @classmethod
    def needs_training(cls, settings: Any) -> str:
        """Why experts that were trained elsewhere are not enough for this method, as in "trains a router".

        ``run --experts`` and ``merge`` refuse the method if this is not empty.

        Args:
            settings: of the class's own ``Settings``.
        """
        if cls.card.state == "none":
            return "learns nothing"
        return "trains on all domains at once" if cls.card.all_at_once else ""

    @abstractmethod
    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Learn from the current domain's training data, and from nothing else.

        Args:
            domain: closed as soon as this method returns.
            step: 1 for the first domain.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Mask logits, float, ``(B, h, w)`` on the decoder's grid; a pixel is foreground where they exceed 0."""

    @abstractmethod
    def state(self) -> State:
        """Everything to keep until the next domain."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Become the method that wrote ``state``."""


class MergingMethod(Method[SettingsT_co]):
    """A method that trains one expert per domain and merges it into one served update.

    A subclass writes ``merge``. Whatever its rule remembers between domains goes into ``memory`` (tensors) and
    ``values`` (plain data); with the served update, they are the state.

    Attributes:
        start: where an expert's training starts: at the frozen ``base``, or at the ``served`` update.
        from_scratch: freeze the served update beneath a fresh adapter, instead of training it further.
        served: the merged update, which the rule carries; None before the first domain.
    """

    start: Start = "base"
    from_scratch: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse another ``start`` than those that there are.

        Raises:
            ValueError: ``start`` or ``from_scratch`` has a value that means nothing.
        """
        super().__init_subclass__(**kwargs)
        if cls.start not in get_args(Start):
            raise ValueError(f"start of {cls.__name__} is {cls.start!r}; it is 'base' or 'served'")
        if not isinstance(cls.from_scratch, bool):
            raise ValueError(f"from_scratch of {cls.__name__} is {cls.from_scratch!r}; it is True or False")

    def __init__(self, settings: SettingsT_co, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.served: Update | None = None
        self.memory: dict[str, Tensor] = {}
        self.values: dict[str, Value] = {}

    @classmethod
    def needs_training(cls, settings: Any) -> str:
        """As of any method; also if an expert's training starts at the served update, or has steps of this method."""
        if cls.start == "served":
            return "continues training from its served update"
        if cls.hooks is not MergingMethod.hooks:
            return "has steps of its own within the training"
        return super().needs_training(settings)

    @abstractmethod
    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The next served update, computed without TF32 but for what it trains or predicts.

        Args:
            expert: what training on this domain changed, relative to the frozen base.
            domain: the current domain, for rules that need its inputs, labels or gradients.
            step: 1 for the first domain.
        """

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks | None:
        """This method's own steps within an expert's training; None: the protocol's training, shared by all methods."""
        return None

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train this domain's expert and merge it."""
        expert = self.bench.train(
            domain,
            start=self.served if self.start == "served" else None,
            from_scratch=self.from_scratch,
            hooks=self.hooks(domain, step=step),
        )
        with tf32_on(self.bench.view.device, is_tf32=False):  # also where it takes gradients by itself
            merged = self.merge(expert.update, domain, step=step)
        self.served = checked_update(merged, method=type(self))
        check_memory(self.memory, self.values, method=type(self))

    @property
    def deployed(self) -> Update | None:
        """What predicts: the served update, scaled if the settings are a ``ServedScale``."""
        if self.served is None or not isinstance(self.settings, ServedScale):
            return self.served
        return self.served.scaled(self.settings.scale)

    def predict(self, batch: Batch) -> Tensor:
        """The deployed model's mask logits."""
        return self.bench.predict(self.deployed, batch)

    def state(self) -> State:
        """The served update and the rule's memory."""
        served = self.served.tensors("served/") if self.served is not None else {}
        memory = {f"memory/{name}": tensor for name, tensor in self.memory.items()}
        return State(served | memory, {"is_served": self.served is not None, "values": dict(self.values)})

    def load(self, state: State) -> None:
        """Become the method that wrote ``state``."""
        self.served = Update.from_tensors(state.tensors, "served/") if state.values["is_served"] else None
        self.memory = {
            name.removeprefix("memory/"): tensor for name, tensor in state.tensors.items() if name.startswith("memory/")
        }
        values = state.values["values"]
        self.values = values if isinstance(values, dict) else {}


def served_update(method: Method) -> Update | None:
    """The update that alone makes a method's predictions; None if it serves none, or predicts by code of its own."""
    if not isinstance(method, MergingMethod) or predicts_by_own_code(type(method)):
        return None
    return method.deployed


def predicts_by_own_code(method: type[MergingMethod]) -> bool:
    """Whether a merging method does not predict by its served update alone."""
    return method.predict is not MergingMethod.predict
