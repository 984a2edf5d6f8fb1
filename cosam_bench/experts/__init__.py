"""Experts that were trained elsewhere: found, read as updates of the base model, and refused if that is not possible.

Modules, bottom to top:

sources: which file or folder is the expert of which domain
layer_names: what other programs call the model's linear layers
peft_config: what an adapter_config.json says
peft_adapter: a folder of peft as an update
published_modules: RegCL's and SAMCL's checkpoints as updates
reading: the experts of a run or a merge
"""
