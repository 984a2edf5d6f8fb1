"""The report: one HTML page about the runs in a folder of results.

Modules, bottom to top:
    charts: curves along the stream and Pareto fronts, as SVG
    boards: comparable runs, with intervals, ranks and costs
    matrices: score and forgetting matrices as coloured tables
    gallery: example images before and after forgetting
    views: the tables, charts and downloads of a board
    page: the page, from ``report.html.jinja``, ``report.css`` and ``report.js``
"""
