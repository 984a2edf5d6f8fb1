"""Training one adapter on one domain, and keeping the trained experts.

Modules, bottom to top:

fit_settings: the settings of training
augmentation: flips and jitter
losses: losses of mask logits
training_batch: augmented samples as batches
sampling: which samples each step sees
batch_loss: the protocol's loss of one batch
fit: training one adapter on one domain
expert_store: trained experts as files
given_experts: experts that were trained elsewhere
"""
