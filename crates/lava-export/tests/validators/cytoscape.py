"""Cytoscape.js JSON: read by networkx."""
import json
import sys

import networkx

with open(sys.argv[1], encoding="utf-8") as file:
    raw = json.load(file)
graph = networkx.cytoscape_graph({**raw, "data": list(raw["data"].items())})
assert graph.number_of_nodes() == len(raw["elements"]["nodes"]), "an edge names a node that is not there"
assert graph.number_of_edges() == len(raw["elements"]["edges"])
print(f"valid: {graph.number_of_nodes()} nodes, {graph.number_of_edges()} edges")
