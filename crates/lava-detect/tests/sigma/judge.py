"""Matches Sigma rules against records with pySigma and SQLite.

Standard input: {"records": [{"logsource", "read", "text", "fields": [[name, value]...]}...], "files": [text of a file of rules...]}.
Standard output: for each file a list of [place of the rule in the file, its identifier, [numbers of the records that match]].
"""

import itertools
import json
import re
import sqlite3
import sys

from sigma.backends.sqlite import sqliteBackend
from sigma.collection import SigmaCollection

# A field that stands twice in a record gives a row for each of its values.
ROWS = 64
LOOKING = {"discovery", "collection", "reconnaissance"}


def takes(rule, record):
    source = rule.logsource
    auditd = record["logsource"] == "service: auditd"
    if record["read"] and not LOOKING & {tag.name for tag in rule.tags if tag.namespace == "attack"}:
        return False
    if source.service == "auditd":
        return auditd
    if source.category is None:
        return not auditd
    return source.category in re.findall(r"category: (\w+)", record["logsource"])


def rows(record):
    values = {}
    for name, value in record["fields"]:
        values.setdefault(name.lower(), []).append(value)
    values["fulltext"] = [record["text"]]
    for choice in itertools.islice(itertools.product(*values.values()), ROWS):
        yield dict(zip(values, choice))


def main():
    given = json.load(sys.stdin)
    backend = sqliteBackend(fulltext_field="fulltext", collate_nocase=True)
    rules = [list(SigmaCollection.from_yaml(text).rules) for text in given["files"]]
    columns = {name.lower() for file in rules for rule in file for name in backend.required_fields(rule)}
    table = [(number, row) for number, record in enumerate(given["records"]) for row in rows(record)]
    columns |= {name for _, row in table for name in row}
    names = sorted(columns)
    base = sqlite3.connect(":memory:")
    base.create_function("REGEXP", 2, lambda p, t: t is not None and re.search(p, str(t)) is not None, deterministic=True)
    base.execute("create table logs (record integer, %s)" % ", ".join(f'"{name}" text' for name in names))
    marks = ",".join("?" * (len(names) + 1))
    base.executemany(f"insert into logs values ({marks})", [[n] + [row.get(name) for name in names] for n, row in table])
    out = []
    for file in rules:
        told = []
        for place, rule in enumerate(file):
            hits = set()
            for query in backend.convert_rule(rule):
                hits |= {row[0] for row in base.execute(query)}
            hits = sorted(n for n in hits if takes(rule, given["records"][n]))
            told.append([place, str(rule.id or rule.title), hits])
        out.append(told)
    json.dump(out, sys.stdout)


main()
