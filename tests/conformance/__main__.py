"""Writes ``docs/conformance.csv``: ``python -m tests.conformance``, at the top of the repository.

A layer has passed what it passes in each of several runs.  The environment of 4.3.0 is made if
need be, as for the benchmarks.
"""

from tests.conformance.table import COLUMNS, CSV, TESTS, Table, runs, written

table: Table = {}
for column in COLUMNS:
    measured = list(runs(column))
    table[column] = {name: all(passed[name] for passed in measured) for name in TESTS}
CSV.write_text(written(table))
print(f"Wrote {CSV}.")
