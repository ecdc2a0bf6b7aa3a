"""Judges a remediation pack: Sigma by pySigma, YARA by yara-x (over the artifacts of the session), osquery's SQL by SQLite, Velociraptor's
artifact by its form. Prints `valid: ...`, and a line `match RULE FILE` for each file that a YARA rule matches.

pack.py PACK [FOLDER...]: the folders' files are scanned."""

import json
import pathlib
import re
import sqlite3
import sys

import yaml
import yara_x
from sigma.collection import SigmaCollection
from sigma.validation import SigmaValidator
from sigma.validators.core import validators

pack = pathlib.Path(sys.argv[1])
judged = []

for file in sorted(pack.glob("sigma/*.yml")):
    rules = SigmaCollection.from_yaml(file.read_text())
    assert not rules.errors and len(rules.rules) == 1, (file, rules.errors)
    # Two checks of tags fetch MITRE's data from the network; ours are held against ATT&CK by the Navigator layer's judge.
    known = {check for name, check in validators.items() if name not in ("attacktag", "d3_fendtag")}
    issues = SigmaValidator(known).validate_rules(rules)
    serious = [issue for issue in issues if issue.severity.name in ("MEDIUM", "HIGH")]
    assert not serious, serious
    judged.append(file.name)

# osquery's own schema (osquery.io/schema), the columns that are asked for.
TABLES = """
create table file (path text, size bigint, uid bigint, mtime bigint);
create table hash (path text, sha256 text);
create table processes (pid bigint, parent bigint, uid bigint, path text, cmdline text);
create table process_open_sockets (pid bigint, remote_address text, remote_port integer);
create table kernel_modules (name text, size text, status text, address text);
"""
for file in pack.glob("osquery/*.json"):
    base = sqlite3.connect(":memory:")
    base.executescript(TABLES)
    queries = json.loads(file.read_text())["queries"]
    for name, about in queries.items():
        assert re.fullmatch(r"\w+", name) and about["interval"] > 0 and about["platform"] == "linux"
        base.execute(about["query"]).fetchall()
    judged.append(f"{len(queries)} queries")

for file in pack.glob("velociraptor/*.yaml"):
    artifact = yaml.safe_load(file.read_text())
    assert re.fullmatch(r"Custom(\.\w+)+", artifact["name"]) and artifact["type"] == "CLIENT"
    for source in artifact["sources"]:
        query = source["query"]
        assert query.count("(") == query.count(")") and query.count('"') % 2 == 0 and "SELECT" in query, query
    judged.append(f"{len(artifact['sources'])} sources")

for file in pack.glob("yara/*.yar"):
    compiler = yara_x.Compiler()
    compiler.add_source(file.read_text())
    assert not compiler.warnings(), compiler.warnings()
    rules = compiler.build()
    judged.append(file.name)
    scanner = yara_x.Scanner(rules)
    for folder in sys.argv[2:]:
        for target in sorted(pathlib.Path(folder).rglob("*")):
            if target.is_file() and not target.is_symlink():
                for rule in scanner.scan(target.read_bytes()).matching_rules:
                    print("match", rule.identifier, target)

print("valid:", ", ".join(judged) or "nothing in it")
