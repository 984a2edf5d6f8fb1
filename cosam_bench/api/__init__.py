"""The benchmark as functions, which raise ``CosamError`` for all that a caller can act on; see ``docs/python-api.md``.

They never end the interpreter, and torch is loaded by the first call that needs it.

Modules, bottom to top:

arguments: a method, an order or a path as the text that the command line takes
runs: one method or several on a stream of domains
sweeps: many runs, and the settings with which a method does best
results: the leaderboard, comparisons and the report of a folder of records
models: merged models as files, and masks from them
"""
