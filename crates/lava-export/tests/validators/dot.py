"""DOT: Graphviz itself reads it, and tells how many nodes and edges it saw."""
import json
import subprocess
import sys

run = subprocess.run(["dot", "-Tdot_json", sys.argv[1]], capture_output=True, text=True)
assert run.returncode == 0 and not run.stderr, run.stderr
graph = json.loads(run.stdout)
nodes, edges = graph.get("objects", []), graph.get("edges", [])
lines = open(sys.argv[1], encoding="utf-8").read().split("\n")
assert len(nodes) == sum(", tooltip=" in line for line in lines), "a node was made by an edge or a label"
assert len(edges) == sum('" -> "' in line for line in lines), "an edge is missing"
print(f"valid: {len(nodes)} nodes, {len(edges)} edges")
