"""Protocols, and one run of a method on a protocol.

Modules, bottom to top:

protocol_files: the TOML files of protocols
protocol: a protocol and the settings of one run
options: the command line's options as settings
progress: a bar or lines that show how far a run is
reporter: what a run tells whoever shows its progress
fingerprint: hashes of what decides a score
experiment: data, prompts and model of one run
method_faults: a method's faults, told from the harness's
step_result: what one step measured
row_reuse: rows that need no second measurement
running_record: a record while its run continues
row_scorer: one row of the matrix
runner: all domains through a method
"""
