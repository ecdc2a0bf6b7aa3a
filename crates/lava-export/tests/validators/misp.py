"""MISP: the project's own library loads it, and every attribute is of a type and category that MISP knows."""
import copy
import json
import sys

import pymisp

with open(sys.argv[1], encoding="utf-8") as file:
    raw = json.load(file)
event = pymisp.MISPEvent(strict_validation=True)
event.load(copy.deepcopy(raw))
types = event.describe_types["category_type_mappings"]


def check(attribute):
    assert attribute.type in types[attribute.category], f"{attribute.type} is none of {attribute.category}"
    assert attribute.value != "", attribute.uuid


uuids = [event.uuid]
for attribute in event.attributes:
    check(attribute)
    uuids.append(attribute.uuid)
for thing in event.objects:
    template = pymisp.MISPObject(thing.name, strict=True)
    assert template.template_uuid == thing.template_uuid, "the template is another one"
    template.from_dict(**thing.to_dict())
    uuids.append(thing.uuid)
    for attribute in thing.attributes:
        check(attribute)
        uuids.append(attribute.uuid)
assert len(uuids) == len(set(uuids)), "a uuid stands twice"
assert json.loads(event.to_json())["info"] == raw["Event"]["info"]
print(f"valid: {len(event.attributes)} attributes, {len(event.objects)} objects")
