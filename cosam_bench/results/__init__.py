"""Records of runs, and what is derived from them.

Modules, bottom to top:

tuning: how a run's settings were tuned
run_info: what run.json holds
protocol_defaults: what a setting is that nobody gave
protocol_match: in what a run differs from its protocol
records: a run's folder
learning_note: whether anything was learned
cell_text: cells of tables
costs: the table of costs
published: numbers from papers
conditions: which records are comparable
image_scores: scores of single images
score_cache: the same from a faster file
row_intervals: intervals and ranks of rows
selection: which runs to show
prompt_gaps: what marking the object is worth
leaderboard_notes: what to know about its rows
leaderboard: one row per method and settings
scale_table: each method at other lengths of its merge
leaderboard_view: the leaderboard as people read it
leaderboard_formats: the leaderboard as CSV, JSON, Markdown and LaTeX
record_list: records side by side
results_folder: a folder of records: all, one, or as a leaderboard
comparison: two methods on the same images
comparing: which runs a comparison is about
score_lines: scores.csv line by line, each checked
verification: whether a record is what was computed
cleaning: what killed processes left, and caches, removed
trackers: a record as a run of an experiment tracker
examples: a record's example images
overlays: these images as pictures
export: a record's model in other programs' formats
report: one page about several runs
"""
