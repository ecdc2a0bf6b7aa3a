"""ATT&CK Navigator: MITRE's library reads the layer; what it does not know, it says."""
import contextlib
import io
import json
import sys

from mitreattack.navlayers import Layer

with open(sys.argv[1], encoding="utf-8") as file:
    raw = json.load(file)
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    layer = Layer(raw, strict=True)
    again = layer.to_dict()
assert again is not None and not said.getvalue(), said.getvalue()
read = [technique["techniqueID"] for technique in again.get("techniques", [])]
assert read == [technique["techniqueID"] for technique in raw["techniques"]]
print(f"valid: {len(read)} techniques")
