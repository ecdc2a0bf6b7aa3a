"""JSON: strictly read (no doubled keys, no NaN), with the members that docs/exports.md names."""
import json
import sys


def once(pairs):
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), names
    return dict(pairs)


with open(sys.argv[1], encoding="utf-8") as file:
    raw = json.load(file, object_pairs_hook=once, parse_constant=lambda word: sys.exit(word))
assert raw["format"] == "lava-indicators" and raw["version"] == 1, raw["format"]
for row in raw["indicators"]:
    assert row["value"] is not None and (row["severity"] is not None) == row["confirmed"], row
print(f"valid: {len(raw['indicators'])} indicators")
