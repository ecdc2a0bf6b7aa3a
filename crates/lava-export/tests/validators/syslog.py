"""RFC 5424: read by jc's parser."""
import sys

import jc

with open(sys.argv[1], encoding="utf-8") as file:
    lines = file.read().split("\n")[:-1]
for line in lines:
    [entry] = jc.parse("syslog", line, quiet=True)
    assert "unparsable" not in entry, line
    assert entry["appname"] == "lava" and entry["version"] == 1, line
    [data] = entry["structured_data"]
    assert data["identity"] == "lava@32473" and data["parameters"]["session"], line
    assert 128 <= entry["priority"] < 136 and entry["timestamp_epoch_utc"], line
print(f"valid: {len(lines)} lines")
