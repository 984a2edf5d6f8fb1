"""What methods' settings are if none is given."""

from __future__ import annotations

REGCL = {
    "scale": 1.0,
    "space": "factors",
    "start": "base",
    "ridge": 1e-6,
    "ridge_to": "zero",
    "solver": "float64",
}
