"""Attaching a trainable adapter to a frozen SAM, for as long as it is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank, Update, add, as_factors, weight_changes
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.lora_linear import LoraLinear
from cosam_bench.sam.adapters.targets import target_layers, trained_whole
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import check_fits, replaced_parameters, serving, side_layers_enabled

Factors = tuple[nn.Parameter, nn.Parameter, float]
"""A ``(rank, in)``, B ``(out, rank)`` and the scale of their product."""


@dataclass(frozen=True)
class Adapter:
    """A trainable change of a SAM, while it is attached.

    Attributes:
        factors: by layer, A, B and scale; the change is scale B A.
        dense: by name, ``(parameter, its value at the start, its change from the base at the start)``: what is
            trained without factors.
        beneath: what is added to the base's weights meanwhile and not trained.
        linear: those layers trained without factors whose weights are merged as linear layers.
    """

    factors: Mapping[str, Factors]
    dense: Mapping[str, tuple[nn.Parameter, Tensor, Tensor | None]]
    beneath: Update
    linear: tuple[str, ...] = ()

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained: each layer's A and B, then what is trained without factors."""
        pairs = [parameter for a, b, _ in self.factors.values() for parameter in (a, b)]
        return pairs + [parameter for parameter, _, _ in self.dense.values()]

    def update(self) -> Update:
        """The change from the base as it is now, float32 on the CPU, alpha / rank folded into b.

        A dense change is the difference from the value at the start, plus the start's own change, so that nothing
        is rounded if nothing was trained. Those of linear layers are returned among the low-rank ones, as the change
        times an identity, so that each rule treats them as the layers they are.
        """
        low_rank = {name: LowRank(_detached(a), _detached(b) * scale) for name, (a, b, scale) in self.factors.items()}
        dense = {
            name: _detached(parameter.detach() - first) + (0 if change is None else _detached(change))
            for name, (parameter, first, change) in self.dense.items()
        }
        low_rank |= {layer: as_factors(dense.pop(f"{layer}.weight")) for layer in self.linear}
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
    """Within the context, the model has an adapter; afterwards it is bit for bit as it was.

    A fresh layer draws A by Kaiming's uniform rule with slope sqrt 5 (as peft does) and has B = 0, so that nothing
    changes before training. A layer of ``start`` with at most ``rank`` factors continues with them: they fill the
    first rows of A and columns of B, exactly if alpha / rank is a power of two and to one rounding otherwise. A layer
    with more, or one that is not adapted, is added to the weights beneath and a fresh adapter learns on top; the update
    is then the sum of both. What is trained without factors, the layers of the other kinds of adapter, always
    continues from ``start``.

    Args:
        sam: a model without an adapter.
        settings: layers, rank, scale, and whether the decoder is trained.
        generator: on the CPU; the only source of random numbers.
        start: where training starts; None: at the base itself.
        continue_start: continue its factors if they fit; otherwise all of them go beneath.

    Raises:
        CosamError: the settings name no layer, ``start`` does not fit the model, or it has an adapter already.
    """
    if any(isinstance(module, LoraLinear) for module in sam.modules()):
        raise CosamError("This model has an adapter already. Leave its context before attaching another.")
    start = start or Update()
    check_fits(sam, start)
    names = target_layers(sam, settings)
    tuned = trained_whole(sam, settings)
    linear = () if settings.kind == "lora" else names
    began = {name: change for name, change in weight_changes(start).items() if name in tuned}
    others = {name: factors for name, factors in start.low_rank.items() if name not in linear}
    continued = {
        name: factors
        for name, factors in others.items()
        if continue_start and name in names and factors.rank <= settings.rank
    }
    beneath = {name: factors for name, factors in others.items() if name not in continued}
    fixed = {name: change for name, change in start.dense.items() if name not in tuned}
    with (
        serving(sam, Update(beneath, fixed | began)),
        side_layers_enabled(sam, True),
        _lora(sam, () if linear else names, settings, generator=generator, start=continued) as factors,
        _trainable(sam, tuned) as parameters,
    ):
        dense = {
            name: (parameter, parameter.detach().clone(), began.get(name)) for name, parameter in parameters.items()
        }
        yield Adapter(factors, dense, Update(beneath, fixed), linear)


@contextmanager
def _trainable(sam: Sam, names: Iterable[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Within the context, these parameters are replaced by trainable copies."""
    copies = {name: nn.Parameter(sam.get_parameter(name).detach().clone()) for name in names}
    with replaced_parameters(sam, copies):
        yield copies


@contextmanager
def _lora(
    sam: Sam,
    names: Iterable[str],
    settings: AdapterSettings,
    *,
    generator: torch.Generator,
    start: Mapping[str, LowRank],
) -> Iterator[dict[str, Factors]]:
    """Within the context, these layers have factors beside them."""
    plain = {name: sam.get_submodule(name) for name in names}
    factors = {}
    try:
        for name, layer in plain.items():
            assert isinstance(layer, nn.Linear)
            wrapped = _fresh(layer, settings, generator=generator, start=start.get(name))
            sam.set_submodule(name, wrapped)
            factors[name] = (wrapped.a, wrapped.b, wrapped.scale)
        yield factors
    finally:
        for name, layer in plain.items():
            sam.set_submodule(name, layer)


def _fresh(
    layer: nn.Linear, settings: AdapterSettings, *, generator: torch.Generator, start: LowRank | None
) -> LoraLinear:
    a, b = torch.empty(settings.rank, layer.in_features), torch.zeros(layer.out_features, settings.rank)
    scale = settings.alpha / settings.rank
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
    if start is not None:
        a[: start.rank] = start.a
        b[:, : start.rank] = start.b / scale
    device = layer.weight.device
    return LoraLinear(layer, a=a.to(device), b=b.to(device), scale=scale)
