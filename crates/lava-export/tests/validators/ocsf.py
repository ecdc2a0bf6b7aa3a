"""OCSF: each line against the JSON schema of its class, made by ocsf-json-schema from the published schema of that version."""
import json
import sys

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

schemas, embedded, lines = {}, None, 0
with open(sys.argv[1], encoding="utf-8") as file:
    for text in file:
        event = json.loads(text)
        embedded = embedded or OcsfJsonSchemaEmbedded(get_ocsf_schema(event["metadata"]["version"]))
        uid, profiles = event["class_uid"], event["metadata"]["profiles"]
        assert profiles == ["host"], profiles
        if uid not in schemas:
            schema = embedded.get_class_schema(embedded.lookup_class_name_from_uid(uid), profiles)
            schemas[uid] = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        problems = list(schemas[uid].iter_errors(event))
        assert not problems, (problems[0].message, list(problems[0].path), text)
        assert event["type_uid"] == uid * 100 + event["activity_id"], text
        lines += 1
print(f"valid: {lines} lines of classes {sorted(schemas)}")
