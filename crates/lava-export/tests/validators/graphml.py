"""GraphML: read by networkx."""
import sys

import networkx

graph = networkx.read_graphml(sys.argv[1])
assert graph.is_directed() and graph.number_of_nodes() > 0
assert all("label" in data or data["kind"] for _, data in graph.nodes(data=True))
print(f"valid: {graph.number_of_nodes()} nodes, {graph.number_of_edges()} edges")
