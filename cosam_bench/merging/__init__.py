"""Merge rules that several methods share: functions of tensors, without a model or data.

Modules, bottom to top:

updates: changes of weights, dense or as thin factors
scale: the factor of a merged change, as a setting
gram_matrices: sums of products of a layer's inputs
spectral: singular values and truncation of thin factors
factoring: updates as low-rank factors of linear layers
order_statistics: exact quantiles and thresholds of large tensors
elementwise: sums and means, entry by entry
competition: PCB-Merging's weights
fisher_average: averages weighted by Fisher information
interpolation: steps from the served update towards a new one
osrm: first factors that are orthogonal to other domains' inputs
regression: RegMean's least squares
sign_election: TIES
trajectory: search in the subspace that a training run spanned
"""
