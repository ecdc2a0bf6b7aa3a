"""ECS: each line's fields, types and allowed values against the field definitions of that version (see ecs-fields.json)."""
import datetime
import ipaddress
import json
import pathlib
import sys

definitions = json.loads((pathlib.Path(__file__).parent / "ecs-fields.json").read_text())
fields = definitions["fields"]
CHECKS = {
    "keyword": lambda value: isinstance(value, str),
    "wildcard": lambda value: isinstance(value, str),
    "match_only_text": lambda value: isinstance(value, str),
    "constant_keyword": lambda value: isinstance(value, str),
    "long": lambda value: type(value) is int and -(2**63) <= value < 2**63,
    "boolean": lambda value: isinstance(value, bool),
    "ip": lambda value: bool(ipaddress.ip_address(value)),
    "date": lambda value: bool(datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))),
}


def leaves(value, name=""):
    if isinstance(value, dict) and fields.get(name, {}).get("type") != "object":
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


lines = 0
with open(sys.argv[1], encoding="utf-8") as file:
    for text in file:
        document = json.loads(text)
        assert document["ecs"]["version"] == definitions["version"], text
        assert "@timestamp" in document, text
        for name, value in leaves(document):
            field = fields.get(name)
            assert field, f"{name} is no field of ECS: {text}"
            if field["type"] == "object":
                assert name == "labels" and all(isinstance(label, str) for label in value.values()), text
                continue
            assert isinstance(value, list) <= ("array" in field["normalize"]), f"{name} is no list: {text}"
            for one in value if isinstance(value, list) else [value]:
                assert CHECKS[field["type"]](one), f"{name} is {one!r}, not {field['type']}"
                allowed = field.get("allowed")
                assert not allowed or one in allowed, f"{name} is {one!r}, none of {list(allowed)}"
        event = document["event"]
        for category in event["category"]:
            expected = fields["event.category"]["allowed"][category]
            assert set(event["type"]) <= set(expected), f"{category} goes not with {event['type']}"
        lines += 1
print(f"valid: {lines} lines")
