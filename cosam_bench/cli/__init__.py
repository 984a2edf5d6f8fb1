"""The command line.

Modules, bottom to top:

data_check_table: what `data check` found
domain_sheet: one card in full
option_values: what every option's value goes through: paths written out, and checks
signals: signals that end the program as Ctrl-C does
error_handling: from an exception to a message and an exit code
command_usage: empty values, and a method's name without its option
isolation_option: where a method's code runs
matrix_table: one run's matrix
leaderboard_table: the leaderboard
scale_tables: merges at other lengths
settings_listing: a settings model's keys
catalogue_commands: `domains` and `models`
data_commands: `data`
records_commands: `show` and `records`
record_filters: options that say which of the recorded runs to show
leaderboard_command: `leaderboard`
compare_command: `compare`
doctor: `doctor`
clean_command: `clean`
export_command: `export`
merge_command: `merge`
log_command: `log`, records for an experiment tracker
verify_command: `verify`
report_command: `report`
run_session: runs one after another, shown and compared
run_command: `run`
sweep_view: how far a sweep is
sweep_command: `sweep`, many runs as one graph of tasks
tune_command: `tune`, the best settings on held-out training images
predict_command: `predict`, one image by a run's final model
settings_command: `settings`
methods_commands: `methods`, `check` and `new-method`
main: all commands
"""
