"""Synthetic domains, drawn by code from a seed."""
