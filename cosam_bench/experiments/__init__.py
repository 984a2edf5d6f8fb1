"""Protocols, one run of a method on a protocol, and predictions by its final model.

Modules, bottom to top:

isolated_methods: which methods run in processes of their own
tuned_file: settings that were tuned, as a file
overrides: settings as KEY=VALUE
protocol: a protocol and the settings of one run
recorded_config: the settings of a record
own_protocol: the protocol of a stream of one's own
options: the options of a run as settings
repeats: the same runs with several seeds and orders
progress: a bar or lines that show the progress of a run
fingerprint: hashes of what decides a score
base_model: the frozen model that the settings ask for
method_faults: a method's faults, told from the harness's
method_hosts: where a method's code runs
run_data: the domains of one run
chosen_method: the method that the settings ask for, checked
experiment: data, prompts and model of one run
run_notes: what to know of a run before it starts
step_result: what one step measured
example_masks: predicted masks for a record's example images
row_reuse: rows that need no second measurement
running_record: a record while its run continues
row_scorer: one row of the matrix
prompt_scorer: the first and the last row under further prompts
scale_scorer: one merge at several lengths
shared_parts: the parts of a run that other runs use as well
runner: all domains through a method
run_methods: several methods, one after another
image_prompt: one image and its prompt, checked
predictor: segmenting images with a run's final model
merging: experts merged without data
rescoring: scoring a record's final model again
"""
