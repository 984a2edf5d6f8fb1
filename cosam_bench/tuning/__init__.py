"""Tuning a method's settings on held-out training images, with the same number of trials for every method.

Modules, bottom to top:

space: what is searched of a method's settings
trial: one merge of all domains, scored on the images held out
study: the trials of one method, kept in a file by Optuna
tune: the budget, and methods tuned one after another
"""
