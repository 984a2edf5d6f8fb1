"""How fast this package is, against a plain loop over segment-anything."""
