"""Adapters in and out of a frozen SAM: training one, serving an update, watching a layer's inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn

from cosam_bench.config import Settings
from cosam_bench.errors import CosamError
from cosam_bench.sam.models import model_spec
from cosam_bench.sam.sam import Sam
from cosam_bench.updates import LowRank, Update, add

# The hypernetworks of the three masks that single-mask output never reads: they would get no gradient.
_UNUSED_IN_DECODER = re.compile(r"mask_decoder\.output_hypernetworks_mlps\.[123]\.")
_ADAPTER = "adapter"


class AdapterSettings(Settings):
    """Which layers are trained, and how many factors each has."""

    kind: Literal["lora"] = Field("lora", description="how a layer is adapted")
    rank: PositiveInt = Field(8, description="factors a layer")
    alpha: PositiveFloat = Field(8.0, description="the change is alpha / rank times B A")
    targets: str | None = Field(
        None, description="regular expression of whole layer names; none: the model's own attention layers"
    )
    blocks: tuple[int, ...] | None = Field(
        None, description="encoder blocks that are adapted, from 0; none: all that the targets name"
    )
    decoder: bool = Field(False, description="train the mask decoder's parameters too, as dense changes")

    @field_validator("targets")
    @classmethod
    def _is_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression, {error}") from None
        return value


def target_layers(sam: Sam, settings: AdapterSettings) -> tuple[str, ...]:
    """The names of the linear layers that the settings adapt, in the model's order.

    Blocks are counted over the encoder's blocks with attention; MobileSAM's are numbered on through its
    stages: 0 and 1, 2 to 7, 8 and 9.

    Raises:
        CosamError: no layer is left, or a block does not exist.
    """
    spec = model_spec(sam.name)
    blocks = [name for name, _ in sam.named_modules() if re.fullmatch(spec.block_names, name)]
    chosen = range(len(blocks)) if settings.blocks is None else settings.blocks
    wrong = [number for number in chosen if not 0 <= number < len(blocks)]
    if wrong:
        raise CosamError(f"Block {wrong[0]} is asked of {sam.name}, whose blocks are 0 to {len(blocks) - 1}.")
    prefixes = tuple(f"{blocks[number]}." for number in chosen)
    pattern = settings.targets or spec.lora_targets
    names = tuple(
        name
        for name, module in sam.named_modules()
        if isinstance(module, nn.Linear)
        and re.fullmatch(pattern, name)
        and (settings.blocks is None or name.startswith(prefixes))
    )
    if not names:
        linear = [name for name, module in sam.named_modules() if isinstance(module, nn.Linear)]
        where = "" if settings.blocks is None else f" within blocks {list(settings.blocks)}"
        raise CosamError(
            f"No linear layer of {sam.name} matches {pattern!r}{where}. Its layers look like {linear[0]!r}."
        )
    return names


@dataclass(frozen=True)
class Adapter:
    """A trainable change of a SAM, while it is attached.

    Attributes:
        factors: by layer, ``(A, B, scale)``: A ``(rank, in)``, B ``(out, rank)``; the change is scale B A.
        dense: by name, ``(parameter, its value at the start, its change from the base at the start)``.
        beneath: what lies in the base's weights for the time and is not trained.
    """

    factors: Mapping[str, tuple[nn.Parameter, nn.Parameter, float]]
    dense: Mapping[str, tuple[nn.Parameter, Tensor, Tensor | None]]
    beneath: Update

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained: each layer's A and B, then the decoder's parameters."""
        pairs = [parameter for a, b, _ in self.factors.values() for parameter in (a, b)]
        return pairs + [parameter for parameter, _, _ in self.dense.values()]

    def update(self) -> Update:
        """The change from the base as it is now, float32 on the CPU, alpha / rank folded into b.

        A dense change is the plain difference from the value at the start, plus the start's own change: no
        rounding of base plus change enters where nothing was trained.
        """
        low_rank = {name: LowRank(_detached(a), _detached(b) * scale) for name, (a, b, scale) in self.factors.items()}
        dense = {
            name: _detached(parameter.detach() - first) + (0 if change is None else _detached(change))
            for name, (parameter, first, change) in self.dense.items()
        }
        return add(self.beneath, Update(low_rank, dense))


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


@contextmanager
def attach(
    sam: Sam,
    settings: AdapterSettings,
    *,
    generator: torch.Generator,
    start: Update | None = None,
    continue_start: bool = True,
) -> Iterator[Adapter]:
    """An adapter in the model for the time; afterwards the model is bit for bit as it was.

    A fresh layer has A drawn as in Kaiming's uniform rule with slope sqrt 5 (peft's default) and B zero, so
    that nothing changes before training. A layer of ``start`` with at most ``rank`` factors is continued in
    its own: they fill the first rows of A and columns of B, exactly where alpha / rank is a power of two and
    to one rounding elsewhere. One with more, or of a layer that is not adapted,
    goes into the weights beneath and a fresh adapter learns on top; the update is then the sum of both.

    Args:
        sam: a model without an adapter.
        settings: layers, rank, scale, and whether the decoder is trained.
        generator: on the CPU; the only source of random numbers.
        start: what the training starts from; none: the base itself.
        continue_start: continue its factors where they fit; otherwise all of them go beneath.

    Raises:
        CosamError: the settings name no layer, ``start`` does not fit the model, or it has an adapter already.
    """
    if hasattr(sam, "peft_config"):
        raise CosamError("This model has an adapter already. Leave that one before attaching another.")
    start = start or Update()
    _check_fits(sam, start)
    names = target_layers(sam, settings)
    continued = {
        name: factors
        for name, factors in start.low_rank.items()
        if continue_start and name in names and factors.rank <= settings.rank
    }
    beneath = {name: factors for name, factors in start.low_rank.items() if name not in continued}
    tuned = [name for name, _ in sam.named_parameters() if settings.decoder and _is_tuned(name)]
    fixed = {name: change for name, change in start.dense.items() if name not in tuned}
    with (
        serving(sam, Update(beneath, start.dense)),
        _lora(sam, names, settings) as layers,
        _trainable(sam, tuned) as parameters,  # after peft, which freezes all but its own
    ):
        factors = {
            name: _initialise(layer, settings, generator=generator, start=continued.get(name))
            for name, layer in layers.items()
        }
        dense = {
            name: (parameter, parameter.detach().clone(), start.dense.get(name))
            for name, parameter in parameters.items()
        }
        yield Adapter(factors, dense, Update(beneath, fixed))


def _is_tuned(name: str) -> bool:
    return name.startswith("mask_decoder.") and not _UNUSED_IN_DECODER.match(name)


@contextmanager
def _trainable(sam: Sam, names: Iterable[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Trainable copies in place of these parameters, for the time."""
    copies = {name: nn.Parameter(sam.get_parameter(name).detach().clone()) for name in names}
    with _swapped(sam, copies):
        yield copies


@contextmanager
def _lora(sam: Sam, names: tuple[str, ...], settings: AdapterSettings) -> Iterator[dict[str, nn.Module]]:
    """peft's LoRA around these layers, for the time."""
    plain = {name: sam.get_submodule(name) for name in names}
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it as it is
        target_modules="|".join(re.escape(name) for name in names),
        lora_dropout=0.0,
        bias="none",
    )
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws factors of its own, which are overwritten
            inject_adapter_in_model(config, sam, adapter_name=_ADAPTER)
        yield {name: sam.get_submodule(name) for name in names}
    finally:
        for name, module in plain.items():
            parent, _, leaf = name.rpartition(".")
            setattr(sam.get_submodule(parent), leaf, module)
        if hasattr(sam, "peft_config"):
            del sam.peft_config


def _initialise(
    layer: nn.Module, settings: AdapterSettings, *, generator: torch.Generator, start: LowRank | None
) -> tuple[nn.Parameter, nn.Parameter, float]:
    a: nn.Parameter = layer.lora_A[_ADAPTER].weight  # type: ignore[union-attr, index]
    b: nn.Parameter = layer.lora_B[_ADAPTER].weight  # type: ignore[union-attr, index]
    scale = settings.alpha / settings.rank
    first = torch.empty(a.shape)
    nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
    second = torch.zeros(b.shape)
    if start is not None:
        first[: start.rank] = start.a
        second[:, : start.rank] = start.b / scale
    with torch.no_grad():
        a.copy_(first)
        b.copy_(second)
    return a, b, scale


@contextmanager
def serving(sam: Sam, update: Update | None) -> Iterator[None]:
    """The model with base plus update as its weights, for the time; afterwards it is bit for bit as it was.

    The sum is formed in float64 and rounded once to the weight's dtype.

    Args:
        sam: the model.
        update: what to serve; none: the base as it is.

    Raises:
        CosamError: the update names a weight that the model has not, or in another shape.
    """
    update = update or Update()
    _check_fits(sam, update)
    changed = {}
    for name, factors in update.low_rank.items():
        weight = _linear(sam, name).weight
        change = factors.b.to(weight.device, torch.float64) @ factors.a.to(weight.device, torch.float64)
        changed[f"{name}.weight"] = _sum(weight, change)
    for name, difference in update.dense.items():
        # A layer may carry a change of both kinds.
        changed[name] = _sum(changed.get(name, sam.get_parameter(name)), difference)
    with _swapped(sam, changed):
        yield


def _sum(weight: Tensor, change: Tensor) -> nn.Parameter:
    total = weight.detach().double() + change.to(weight.device, torch.float64)
    return nn.Parameter(total.to(weight.dtype), requires_grad=False)


def _linear(sam: Sam, name: str) -> nn.Linear:
    """The plain linear layer of that name, also inside peft's wrapper."""
    module = sam.get_submodule(name)
    inner = getattr(module, "base_layer", module)
    assert isinstance(inner, nn.Linear)
    return inner


def _check_fits(sam: Sam, update: Update) -> None:
    modules = dict(sam.named_modules())
    parameters = dict(sam.named_parameters())
    wanted = {name: (f.b.shape[0], f.a.shape[1]) for name, f in update.low_rank.items()}
    found = {
        name: (module.out_features, module.in_features)
        for name in wanted
        if isinstance(module := getattr(modules.get(name), "base_layer", modules.get(name)), nn.Linear)
    }
    wanted |= {name: tuple(change.shape) for name, change in update.dense.items()}  # type: ignore[misc]
    found |= {name: tuple(parameters[name].shape) for name in update.dense if name in parameters}  # type: ignore[misc]
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise CosamError(
                f"The update does not fit {sam.name}: it changes {name!r} of shape {shape}, "
                f"the model has {found.get(name, 'no such weight')}. Serve an update made on this model."
            )


@contextmanager
def _swapped(sam: Sam, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """These parameters in place of the model's own, whose objects come back untouched."""
    places = []
    for name, parameter in parameters.items():
        parent, _, leaf = name.rpartition(".")
        module = sam.get_submodule(parent)
        holder = getattr(module, "base_layer", module)
        places.append((holder, leaf, getattr(holder, leaf), parameter))
    try:
        for holder, leaf, _, parameter in places:
            setattr(holder, leaf, parameter)
        yield
    finally:
        for holder, leaf, own, _ in places:
            setattr(holder, leaf, own)


@contextmanager
def layer_inputs(sam: Sam, names: Iterable[str], callback: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show the inputs of some linear layers to ``callback`` on each forward pass, for the time.

    Args:
        sam: the model, bare, with an adapter or serving an update.
        names: of linear layers, as in ``Update.low_rank``.
        callback: is given the layer's name and its input rows ``(n, in)``, detached, in the dtype in which
            they arrive. Rows that windows were padded with are among them, as the layer sees them.

    Raises:
        CosamError: the model has no linear layer of such a name.
    """
    modules = dict(sam.named_modules())
    handles = []
    try:
        for name in names:
            if not isinstance(getattr(modules.get(name), "base_layer", modules.get(name)), nn.Linear):
                raise CosamError(f"{sam.name} has no linear layer called {name!r}.")
            handles.append(modules[name].register_forward_pre_hook(_watcher(name, callback)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watcher(name: str, callback: Callable[[str, Tensor], None]) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def watch(_: nn.Module, inputs: tuple[Tensor]) -> None:
        callback(name, inputs[0].detach().flatten(0, -2))

    return watch
