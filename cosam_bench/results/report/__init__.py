"""The report: one HTML page about the runs in a folder of results.

Modules, bottom to top:
    charts: curves along the stream and Pareto fronts, as SVG
"""
