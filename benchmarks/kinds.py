"""The kinds of work that the time goes into."""

from __future__ import annotations

KINDS = ("linear layers", "attention", "convolutions", "elementwise", "the rest")
_ATTENTION = ("bmm", "softmax", "scaled_dot_product")
_LINEAR = ("addmm", "aten::mm", "linear", "aten::dot", "aten::mv")


def kind_of(operation: str) -> str:
    """The kind of work of one of torch's operations, by its name.

    >>> [kind_of(name) for name in ("aten::addmm", "aten::bmm", "aten::upsample_bilinear2d")]
    ['linear layers', 'attention', 'elementwise']
    """
    if "upsample" in operation:  # bilinear, but no linear layer
        return "elementwise"
    if any(part in operation for part in _ATTENTION):
        return "attention"
    if "conv" in operation:
        return "convolutions"
    return "linear layers" if any(part in operation for part in _LINEAR) else "elementwise"
