"""Measurements of gtcrec: accuracy beside its peers, what each part is worth, speed. `python -m benchmarks` runs them.

README.md beside this file says what each measures, on which data and how long it takes.
"""
