"""An epoch of a table whose words are codes, against the same features given dense, for more and more words."""

from __future__ import annotations

from benchmarks import common

NUMBERS, CATEGORIES = 20, 10
VALUES = (20, 100, 1000)


def main(threads: int, only: str) -> None:
    """Measure, print the table, write ``results/tables.json``."""
    measured = []
    print(f"{NUMBERS} numbers and {CATEGORIES} columns of words; 100,000 rows, 10 classes, batches of 256")
    print(f"{'words a column':>14}{'features':>10}{'dense s/epoch':>15}{'codes s/epoch':>15}{'ratio':>7}")
    for values in VALUES:
        if only not in str(values):
            continue
        # the dense rows of a thousand words a column would take 4 GB
        row = common.run(
            "tables_fit",
            threads,
            values=values,
            numbers=NUMBERS,
            categories=CATEGORIES,
            rows=100_000 if values < 1000 else 20_000,
        )
        measured.append({"values": values, **row})
        print(
            f"{values:>14,}{row['features']:>10,}{row['dense']:>15.4f}{row['codes']:>15.4f}"
            f"{row['codes'] / row['dense']:>7.2f}",
            flush=True,
        )
    if not only:
        common.write("tables", {"machine": common.machine(threads), "cases": measured})
