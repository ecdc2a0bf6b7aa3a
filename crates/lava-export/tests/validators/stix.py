"""STIX 2.1: OASIS' validator (strict), and the OASIS library, which also makes the observables' identifiers anew."""
import json
import sys

import stix2
import stix2validator

path = sys.argv[1]
options = stix2validator.ValidationOptions(version="2.1", strict=True)
results = stix2validator.validate_file(path, options)
for result in results.object_results:
    for problem in list(result.errors or []) + list(result.warnings or []):
        print(problem)
assert results.is_valid, "stix2-validator refuses it"
assert not any(result.warnings for result in results.object_results), "stix2-validator warns"

with open(path, encoding="utf-8") as file:
    raw = json.load(file)
bundle = stix2.parse(raw, allow_custom=False, version="2.1")
ids = [thing["id"] for thing in bundle.objects]
assert len(ids) == len(set(ids)), "an id stands twice"

deterministic = {"file", "directory", "ipv4-addr", "ipv6-addr", "domain-name", "network-traffic", "software", "user-account", "url"}
made_anew = 0
for thing in raw["objects"]:
    for name, value in thing.items():
        for reference in value if name.endswith("_refs") else [value] if name.endswith("_ref") else []:
            assert reference in ids, f"{thing['id']}: {name} names what is not there: {reference}"
    if thing["type"] in deterministic:
        again = stix2.parse({name: value for name, value in thing.items() if name != "id"}, version="2.1")
        assert again.id == thing["id"], f"{thing['id']} should be {again.id}"
        made_anew += 1
print(f"valid: {len(ids)} objects, {made_anew} identifiers made anew")
