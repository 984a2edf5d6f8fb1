"""Metrics of masks, the score matrix, and scoring a model on a split.

Modules, bottom to top:

score_settings: the settings of scoring
erosion: masks eroded by a square
metrics: numbers of one mask
loader: test images, decoded ahead and kept
scoring: a model's masks against the true ones
score_matrix: scores by step and domain
prompt_scores: scores under other prompts
false_positives: what is found in images without foreground
scales: scores of one merge at several lengths
figures: what sums up a matrix
contributions: what each image adds to a figure
intervals: intervals of a figure or of paired differences
ranks: Holm's correction and rank intervals
bootstrap: intervals of figures that are not linear
"""
