"""Sweeps: methods, orders, seeds, models and settings as one graph of tasks, of which equal ones are done once.

A task is one of three: the row of frozen SAM, an expert, or a whole run. A run is not divided into its merge steps:
each step begins with the state that the one before it left, so no two of them could run at once, and a run that was
stopped continues after its last complete step by itself.

Modules, bottom to top:

grid: what a sweep varies
task: one task and its key
contents: hashes of what the names in a grid stand for
planning: from a grid to its tasks
task_files: where files of tasks are, and a folder
artifact_store: files of tasks at an address that all workers reach
task_store: descriptions, outcomes and times of tasks as files
estimate: what is left to do, and how long that takes
status: how far a sweep is
engines: the interface of what runs tasks
performing: one task, in the process that was given it
local_engine: processes of this machine
ray_engine: machines that Ray joins
slurm_engine: jobs of Slurm
engine_choice: an engine by its name
exchange: between the folder of results and a store
dispatch: tasks through an engine, each after those that it needs
sweep: a grid planned and run
"""
