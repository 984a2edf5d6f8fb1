"""Records of runs, and what is derived from them.

Modules, bottom to top:

run_info: what run.json holds
records: a run's folder
published: numbers from papers
conditions: which records are comparable
leaderboard: one row per method and settings
"""
