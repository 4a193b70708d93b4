"""Writes ``docs/conformance.csv``: ``python -m tests.conformance``, at the top of the repository.

The environment of 4.3.0 is made if need be, as for the benchmarks.
"""

from tests.conformance.table import CSV, measured, written

CSV.write_text(written(measured()))
print(f"Wrote {CSV}.")
