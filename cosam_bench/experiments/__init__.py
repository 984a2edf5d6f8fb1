"""Protocols, and one run of a method on a protocol."""
