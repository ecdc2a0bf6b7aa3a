"""CEF: read by jc's parser."""
import sys

import jc

with open(sys.argv[1], encoding="utf-8") as file:
    lines = file.read().split("\n")[:-1]
for line in lines:
    [entry] = jc.parse("cef", line, quiet=True)
    assert entry["CEFVersion"] == 0 and entry["deviceVendor"] == "LAVA", line
    assert entry["session"] and "cs1" in line, line
    assert 0 <= int(entry["agentSeverity"]) <= 10, line
print(f"valid: {len(lines)} lines")
