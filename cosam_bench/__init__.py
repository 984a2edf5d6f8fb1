"""Continual adaptation of the Segment Anything Model by model merging, measured."""

__version__ = "0.1.0"
