"""Orders of the domains by name."""

from __future__ import annotations

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.data.orders import domain_order


def test_orders() -> None:
    names = ("a", "b", "c", "d", "e")
    assert domain_order("e, d,c,b,a", names) == ["e", "d", "c", "b", "a"] == domain_order("reverse", names)
    assert sorted(domain_order("random:1", names)) == sorted(names)
    assert domain_order("random:1", names) == domain_order("random:1", tuple(reversed(names)))
    assert len({tuple(domain_order(f"random:{number}", names)) for number in range(20)}) > 10
    with pytest.raises(CosamError, match="each domain once"):
        domain_order("a,a,b,c,d", names)
