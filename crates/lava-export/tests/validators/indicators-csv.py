"""CSV: read by Python's reader, strictly; pandas would take the same. No cell is a formula for a spreadsheet."""
import csv
import sys

with open(sys.argv[1], encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file, strict=True))
assert rows, "there is the task at least"
for row in rows:
    assert None not in row and None not in row.values(), row
    for cell in row.values():
        assert cell.lstrip()[:1] not in {"=", "+", "-", "@", "|", "%", "\t", "\r"}, cell
        assert "\n" not in cell and "\r" not in cell, cell
    assert row["kind"] != "sha256" or len(row["value"]) == 64, row
print(f"valid: {len(rows)} rows, {sum(row['fit_to_block'] == 'yes' for row in rows)} fit to block")
