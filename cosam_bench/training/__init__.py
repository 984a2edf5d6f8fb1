"""Training one adapter on one domain, and keeping the trained experts.

Modules, bottom to top:

fit_settings: the settings of training
augmentation: flips and jitter
losses: losses of mask logits
draws: the random choices of batches
prepared_sample: one augmented sample on the CPU
training_batch: augmented samples as batches
sampling: which samples each step sees
step_division: a step's passes of the model in parts
feeding: batches drawn and prepared while the device computes
batch_loss: the protocol's loss of one batch
epoch_losses: the losses of a training by epoch
adam: the optimiser
step_loss: a step's loss and gradient, in parts if memory is short
fit: training one adapter on one domain
expert_store: trained experts as files
given_experts: experts that were trained elsewhere
"""
