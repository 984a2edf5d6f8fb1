"""Domains: cards, decoding, splits, prompts and the synthetic domains."""
