"""Serving an update, and observing the inputs of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import Update
from cosam_bench.sam.adapters.targets import SIDE
from cosam_bench.sam.mutation_check import MutationCheck
from cosam_bench.sam.sam import Sam


class KeptParameters:
    """The weights that serving an update has given a model last, for as long as model, update and they are unchanged.

    One row of the matrix serves the same update to all batches, and need not compute and copy it for each.
    """

    def __init__(self) -> None:
        self._facts: tuple[Sam, tuple[str, ...]] | None = None
        self._parameters: dict[str, nn.Parameter] = {}
        self._check: MutationCheck | None = None

    def of(self, sam: Sam, update: Update) -> dict[str, nn.Parameter]:
        """As ``served_parameters``, computed again only if anything differs."""
        facts = sam, (*update.low_rank, *update.dense)
        if self._facts != facts or self._check is None or not self._check.passes(self._watched(sam, update)):
            self._facts, self._check = None, None
            self._parameters = {}  # frees the memory for those to come
            with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode cannot be checked
                self._parameters = served_parameters(sam, update)
            self._facts, self._check = facts, MutationCheck(self._watched(sam, update))
        return self._parameters

    def _watched(self, sam: Sam, update: Update) -> list[Tensor]:
        factors = [part for factors in update.low_rank.values() for part in (factors.a, factors.b)]
        own = [_own_parameter(sam, name) for name in self._parameters]
        return [*factors, *update.dense.values(), *own, *self._parameters.values()]


def _own_parameter(sam: Sam, name: str) -> Tensor:
    """The model's own weight of that name, also inside an adapted layer."""
    parent, _, leaf = name.rpartition(".")
    module = sam.get_submodule(parent)
    own: Tensor = getattr(getattr(module, "base_layer", module), leaf)
    return own


@contextmanager
def serving(sam: Sam, update: Update | None, *, kept: KeptParameters | None = None) -> Iterator[None]:
    """Within the context, the model's weights are base plus update; afterwards it is bit for bit as it was.

    The sum is computed in float64 and rounded once to the weight's dtype. Side layers are enabled if the update
    changes one of them; otherwise the model is plain SAM.

    Args:
        sam: the model.
        update: what to serve; None: the base as it is.
        kept: weights of an earlier call, used if nothing has changed, and replaced otherwise.

    Raises:
        CosamError: the update names a weight that the model does not have, or one of another shape.
    """
    update = update or Update()
    changed = served_parameters(sam, update) if kept is None else kept.of(sam, update)
    with replaced_parameters(sam, changed), side_layers_enabled(sam, any(name.startswith(SIDE) for name in changed)):
        yield


def served_parameters(sam: Sam, update: Update) -> dict[str, nn.Parameter]:
    """By name, the weights that an update changes: base plus update, in float64, rounded once.

    Raises:
        CosamError: as for ``serving``.
    """
    check_fits(sam, update)
    changed: dict[str, nn.Parameter] = {}
    for name, factors in update.low_rank.items():
        weight = _linear(sam, name).weight
        change = factors.b.to(weight.device, torch.float64) @ factors.a.to(weight.device, torch.float64)
        changed[f"{name}.weight"] = _sum(weight, change)
    for name, difference in update.dense.items():
        # A layer may carry a change of both kinds.
        changed[name] = _sum(changed.get(name, sam.get_parameter(name)), difference)
    return changed


def side_layers_enabled(sam: Sam, is_enabled: bool) -> AbstractContextManager[None]:
    """Enable or disable the side layers within the context."""
    return nullcontext() if sam.side is None else sam.side.enabled(is_enabled)


def _sum(weight: Tensor, change: Tensor) -> nn.Parameter:
    total = weight.detach().double() + change.to(weight.device, torch.float64)
    return nn.Parameter(total.to(weight.dtype), requires_grad=False)


def _linear(sam: Sam, name: str) -> nn.Linear:
    """The plain linear layer of that name, also inside an adapted layer."""
    module = sam.get_submodule(name)
    inner = getattr(module, "base_layer", module)
    assert isinstance(inner, nn.Linear)
    return inner


def check_fits(sam: Sam, update: Update) -> None:
    """Refuse an update that names a weight that the model does not have, or one of another shape.

    Raises:
        CosamError: the update does not fit; the first such weight is named.
    """
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
                f"the model has {found.get(name, 'no such weight')}. Name the model that it was made on."
            )


@contextmanager
def replaced_parameters(sam: Sam, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Replace parameters of the model within the context; afterwards its own objects are back, untouched."""
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
    """Within the context, call ``callback`` with the inputs of some linear layers on each forward pass.

    Args:
        sam: the model: plain, with an adapter, or serving an update.
        names: of linear layers, as in ``Update.low_rank``.
        callback: receives the layer's name and its input rows ``(n, in)``, detached, in the dtype in which
            they arrive, including the rows that windows are padded with.

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
