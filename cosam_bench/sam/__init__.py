"""The Segment Anything Model: building, batched decoding, adapters.

Modules, bottom to top:

frame_choices: the ways to resize images and logits
frames: between an image's own pixels and the model's input
point_grid: the masks of a grid of points, pooled
frame_prompts: prompts in the model's frame
mutation_check: whether tensors were changed in place
inputs: batches of images and prompts
mobile_names: the names of MobileSAM's tensors
mobile_sam: MobileSAM's image encoder
encoder_sections: the encoder as sections that can be run apart
attention: attention without the matrix of all scores
adapters.side_layers: layers beside SAM's own
adapters.hq: HQ-SAM's decoder layers
sam: the model: encode and decode
models: the models' names, sizes and downloads
prompt_encoder: point prompts without waiting for a GPU
tiny_sam: the embedded model's shape
adapters.adapter_settings: which adapter a protocol trains
build: a model by name
adapters.parallel_lora: RegCL's adapter
adapters.augmodule: RegCL's AugModule
adapters.targets: which layers an adapter changes
serving: the model with an update in place
adapters.lora_linear: a linear layer with low-rank factors
adapters.attachment: an adapter attached and read back as an update
cache_backends: features in files
feature_memory: features in a GPU's and the host's memory
feature_cache: features of the frozen blocks, computed once
batch_size: how many images fit in one pass
checkpoints: published weights, downloaded and checked
update_files: updates in files of their own
"""

from cosam_bench.core.deferred import defer

defer("segment_anything")  # whose __init__ imports torchvision and torch's compiler, for parts that are not used here
