"""Merge rules that several methods share: functions of tensors, without a model or data.

Modules, bottom to top:

updates: changes of weights, dense or as thin factors
scale: factors of a merged change, as settings
ridge: least squares, as settings
gram_matrices: sums of products of a layer's inputs
spectral: singular values and norms of thin factors
factoring: updates as low-rank factors of linear layers
order_statistics: exact order statistics over all entries of several tensors
elementwise: scaled sums and means, entry by entry
fisher_average: averages weighted by Fisher information
interpolation: between the served update and a new one
osrm: initial factors that are orthogonal to other domains' inputs
regression: RegMean's least squares
sign_election: TIES
consistency: how far mask predictions moved, and which pixels count
trajectory: search within the subspace that a training run spans
"""
