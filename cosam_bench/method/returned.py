"""Whether what a method's functions return and keep has the right type, with the line of the author's code.

A wrong type would otherwise be found far from its cause, or never: a served update of None predicts as frozen SAM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import Update
from cosam_bench.method.places import Place, assignment_place, first_own_place


class WrongType(CosamError):
    """A method returned or kept something of another type than the harness needs."""


def checked_update(returned: object, *, method: type) -> Update:
    """What ``merge`` returned.

    Args:
        returned: by ``merge``.
        method: the method's class.

    Raises:
        WrongType: it is not an Update.
    """
    if isinstance(returned, Update):
        return returned
    where = _at(_merge_place(method))
    if returned is None:
        raise WrongType(
            f"merge() returned None, as a function without a return does{where}. "
            "Return the Update to serve from now on."
        )
    how = "Return Update(dense=...)" if isinstance(returned, Mapping) else "Return the Update to serve from now on"
    raise WrongType(f"merge() returned {kind_of(returned)} instead of an Update{where}. {how}.")


def check_memory(memory: object, values: object, *, method: type) -> None:
    """Check that a merging method's ``memory`` has only tensors, and its ``values`` only plain data.

    Args:
        memory: the attribute.
        values: the attribute.
        method: the method's class.

    Raises:
        WrongType: an entry has another type.
    """
    for attribute, kept in (("memory", memory), ("values", values)):
        if not isinstance(kept, dict):
            where = _at(_assignment(method, attribute))
            raise WrongType(f"self.{attribute} is {kind_of(kept)} instead of a dict{where}. Set entries of it by name.")
        for name, one in kept.items():
            if not isinstance(name, str):
                where = _at(_assignment(method, attribute))
                raise WrongType(
                    f"self.{attribute} has the key {name!r}, {kind_of(name)}{where}. Name entries by text, such as "
                    f'self.{attribute}[f"{{step}}"].'
                )
            advice = _tensor_advice(one) if attribute == "memory" else _plain_advice(one)
            if advice:
                where = _at(_assignment(method, attribute, str(name)))
                raise WrongType(f"self.{attribute}[{name!r}] is {kind_of(one)}{where}. {advice}")


def check_state(tensors: Mapping[str, object], values: Mapping[str, object]) -> None:
    """Check that a state has only tensors as its tensors, and only plain data as its values.

    Raises:
        WrongType: an entry has another type.
    """
    for name, one in tensors.items():
        if not isinstance(one, Tensor):
            raise WrongType(f"The state's tensor {name!r} is {kind_of(one)}. Give State(tensors=...) tensors by name.")
    for name, one in values.items():
        if _plain_advice(one):
            raise WrongType(f"The state's value {name!r} is {kind_of(one)}, which JSON cannot represent.")


def kind_of(one: object) -> str:
    """The class of an object, with its article.

    >>> kind_of({}), kind_of(1), kind_of(None)
    ('a dict', 'an int', 'None')
    """
    name = type(one).__name__
    return "None" if one is None else f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _tensor_advice(one: object) -> str:
    if isinstance(one, Tensor):
        return ""
    if isinstance(one, Update):
        return (
            "Memory takes tensors: add update.tensors('expert/') to it, and read them back by "
            "Update.from_tensors(self.memory, 'expert/')."
        )
    return "Memory takes tensors; put numbers, texts and lists into self.values."


def _plain_advice(one: object) -> str:
    try:
        json.dumps(one)
    except (TypeError, ValueError):
        return "Values take what JSON can represent: numbers, texts, lists and dicts; put tensors into self.memory."
    return ""


def _at(place: Place) -> str:
    return f" ({place})" if str(place) else ""


def _merge_place(method: Any) -> Place:
    return first_own_place([method.merge, method])


def _assignment(method: type, attribute: str, name: str = "") -> Place:
    place = assignment_place(method, attribute, name)
    return place if str(place) else _merge_place(method)
