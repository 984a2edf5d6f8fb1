"""The frozen base model, and whether a method has left it as it was."""

from __future__ import annotations

from cosam_bench.core.hashing import digest_tensors
from cosam_bench.sam.sam import Sam


class FrozenBase:
    """Remembers a frozen model as it is now."""

    def __init__(self, sam: Sam, *, digest: str | None = None) -> None:
        """Remember ``sam``.

        Args:
            digest: of its weights, if it is known.
        """
        self._sam = sam
        self._digest = digest or digest_tensors(sam.state_dict())
        self._structure = _structure(sam)

    def fault(self, act: str) -> str | None:
        """What was changed, as the rest of a sentence about the method; None if nothing was.

        Args:
            act: the method's function that was called.
        """
        if _structure(self._sam) != self._structure:
            return (
                "left hooks, other modules or parameters that require gradients in the frozen base model in "
                f"{act}(). Undo such changes before it returns."
            )
        if digest_tensors(self._sam.state_dict()) != self._digest:
            return (
                f"changed the frozen base model's weights in {act}(). That is memory outside of its state: keep "
                "changes as an Update."
            )
        return None


def _structure(sam: Sam) -> tuple[object, ...]:
    """All that decides a model's answers beside its weights: modules, their hooks, and which parameters train."""
    modules = tuple(
        (name, id(module), tuple(module._forward_hooks), tuple(module._forward_pre_hooks))
        for name, module in sam.named_modules()
    )
    return modules, tuple(parameter.requires_grad for parameter in sam.parameters())
