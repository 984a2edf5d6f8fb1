"""Metrics of masks, the score matrix, and scoring a model on a split.

Modules, bottom to top:

score_settings: the settings of scoring
metrics: numbers of one mask
loader: test images, decoded ahead and kept
scoring: a model's masks against the true ones
score_matrix: the matrix and its figures
"""
