"""A stateless merge rule, written as one decorated function: it becomes a method whose settings are its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import new_class
from typing import Any, ClassVar, TypeAlias, get_type_hints

import torch
from pydantic import create_model
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import Settings, validate
from cosam_bench.merging.updates import Update, weight_changes
from cosam_bench.method.card import MethodCard
from cosam_bench.method.interface import MergingMethod, Start
from cosam_bench.method.places import place_of
from cosam_bench.method.returned import WrongType, kind_of
from cosam_bench.method.training_domain import TrainingDomain

MergeFunction: TypeAlias = Callable[..., Mapping[str, Tensor]]
"""``(old, new, step, *, setting=default, ...)`` to the next changes by parameter name."""

_WRITTEN = "in def {name}(old, new, step, *, share: float = 0.5)"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class WrongRule(CosamError):
    """A decorated function that cannot be a merge rule."""


class RuleMethod(MergingMethod[Any]):
    """The method that ``merge_rule`` makes of a function.

    Attributes:
        rule: the function.
    """

    rule: ClassVar[MergeFunction]

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """What the function returns for the changes of the served model and of the expert."""
        new = weight_changes(expert)
        served = weight_changes(self.served) if self.served is not None else {}
        old = {name: served[name] if name in served else torch.zeros_like(change) for name, change in new.items()}
        given = {name: getattr(self.settings, name) for name in type(self.settings).model_fields}
        rule = type(self).rule
        return Update(dense=_checked(rule(old, new, step, **given), new, rule=rule))


def merge_rule(
    undecorated: object = None,
    /,
    *,
    title: str = "",
    paper: str = "",
    start: Start = "base",
    order_dependent: bool = True,
    deviations: tuple[str, ...] = (),
) -> Callable[[MergeFunction], type[MergingMethod[Any]]]:
    """Decorate a function so that it becomes a merging method without a memory, the class of that name.

        @merge_rule(title="Halfway")
        def halfway(old, new, step, *, share: float = 0.5):
            return {name: old[name] + share * (new[name] - old[name]) for name in new}

    The function takes three arguments. ``old`` and ``new`` are dicts of float tensors by parameter name, in the
    parameters' shapes: what the served model and this domain's expert differ from the frozen base. They have the same
    names; before the first domain ``old`` is zero. ``step`` is 1 for the first domain. It returns the changes to serve
    from now on, in the same form. Its keyword-only parameters are the method's settings, with types and defaults;
    ``Annotated[float, Field(gt=0)]``, or ``setting(...)`` as the default, adds bounds.

    Args:
        undecorated: nothing; there only to tell that parentheses are missing.
        title: the name as papers print it; must be given.
        paper: where the rule comes from; empty for one of your own.
        start: where an expert's training starts: at the frozen ``base``, or at the ``served`` model.
        order_dependent: whether another order of the domains gives another final model.
        deviations: each difference from the paper or its released code.

    Raises:
        WrongRule: there is no title, or the function has other parameters, or one without a type or a usable default;
            with file and line.
        ValueError: ``start`` is another word.
    """
    if undecorated is not None or not title:
        where = f" ({place})" if str(place := place_of(undecorated)) else ""
        raise WrongRule(f'A merge rule needs a title. Write @merge_rule(title="...") above the function{where}.')

    def decorate(function: MergeFunction) -> type[MergingMethod[Any]]:
        name = function.__name__
        members = {
            "__module__": function.__module__,
            "__doc__": function.__doc__ or f"The rule {name}.",
            "__wrapped__": staticmethod(function),
            "card": MethodCard(title=title, paper=paper, order_dependent=order_dependent, deviations=deviations),
            "start": start,
            "Settings": _settings_of(function),
            "rule": staticmethod(function),
        }
        made: type[MergingMethod[Any]] = new_class(name, (RuleMethod,), exec_body=lambda body: body.update(members))
        return made

    return decorate


def _settings_of(function: MergeFunction) -> type[Settings]:
    """The settings model of the function's keyword-only parameters."""
    place = place_of(function)
    where = f" ({place})" if str(place) else ""
    try:
        hints = get_type_hints(function, include_extras=True)
        fields = dict(_fields(function, hints))
        model = create_model(
            f"{function.__name__.title().replace('_', '')}Settings",
            __base__=Settings,
            __module__=function.__module__,
            __doc__=f"The settings of {function.__name__}.",
            **fields,
        )
        defaults = {name: field.default for name, field in model.model_fields.items() if not field.is_required()}
        validate(model, defaults, source="Defaults")
    except WrongRule as error:
        raise WrongRule(f"{error}{where}.") from None
    except Exception as error:  # a type that nobody knows, or that pydantic cannot check
        fault = str(error).removeprefix("Defaults: ").removesuffix(".")
        raise WrongRule(f"The settings of {function.__name__} cannot be read: {fault}{where}.") from None
    return model


def _fields(function: MergeFunction, hints: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of the settings model: type and default, by name."""
    parameters = list(inspect.signature(function).parameters.values())
    settings = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    positional = [one for one in parameters if one.kind in _POSITIONAL]
    written = _WRITTEN.format(name=function.__name__)
    if len(positional) != 3 or len(positional) + len(settings) != len(parameters):
        listed = ", ".join(str(one).partition(":")[0].partition("=")[0].strip() for one in parameters) or "nothing"
        raise WrongRule(
            f"A merge rule takes old, new and step, then its settings by keyword, as {written}; "
            f"{function.__name__} takes {listed}"
        )
    for one in settings:
        if one.name not in hints or one.default is inspect.Parameter.empty:
            lacking = "type" if one.name not in hints else "default"
            raise WrongRule(f"The setting {one.name!r} of {function.__name__} has no {lacking}. Write it as {written}")
        if one.name.startswith("_"):
            raise WrongRule(f"The setting {one.name!r} of {function.__name__} begins with an underscore. Rename it")
        yield one.name, (hints[one.name], one.default)


def _checked(returned: object, new: Mapping[str, Tensor], *, rule: MergeFunction) -> dict[str, Tensor]:
    """What a rule returned, in the dtypes of ``new``.

    Raises:
        WrongType: it is not a dict of the tensors of ``new``, by name and in their shapes; with file and line.
    """
    place = place_of(rule)
    where = f" ({place})" if str(place) else ""
    advice = f"Return a dict with the change of each parameter, as in {{name: ... for name in new}}{where}."
    if not isinstance(returned, Mapping):
        raise WrongType(f"{rule.__name__}() returned {kind_of(returned)} instead of a dict of tensors. {advice}")
    if odd := next((name for name in [*new, *returned] if name not in new or name not in returned), ""):
        found = "no change" if odd in new else "a change of an unknown parameter,"
        raise WrongType(f"{rule.__name__}() returned {found} {'of ' if odd in new else ''}{odd!r}. {advice}")
    for name, change in new.items():
        one = returned[name]
        if not isinstance(one, Tensor) or one.shape != change.shape:
            found = f"a tensor of shape {tuple(one.shape)}" if isinstance(one, Tensor) else kind_of(one)
            wanted = f"a tensor of shape {tuple(change.shape)}"
            raise WrongType(f"{rule.__name__}() returned {found} instead of {wanted} for {name!r}. {advice}")
    return {name: returned[name].to(change.dtype) for name, change in new.items()}
