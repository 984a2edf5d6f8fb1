"""Exports: a record's served model in the formats of other programs.

Modules, bottom to top:
    served: the base model and the update of a record
    peft_folder: an adapter for peft on stock segment-anything
    merged_weights: whole weights in segment-anything's layout
    transformers_folder: a folder for transformers' SamModel
    onnx_models: encoder and decoder as ONNX
    model_card: the README.md of an exported folder
    formats: the formats by name, and writing one
"""
