"""Metrics of masks, the score matrix, and scoring a model on a split."""
