"""Where the parts of a network's graph stand: a row per resolution, a column per step along a row.

So a U-Net is two columns with its skips between them, a GridNet a grid, a UNet++ a triangle.
"""

from __future__ import annotations

from math import log2
from typing import Any, Dict, List, NamedTuple

import networkx as nx

_CUTTING = {"Concat", "slice_axis", "slice_like", "slice", "take", "Crop"}  # no resampling


class Layout(NamedTuple):
    """The drawn graph: nodes have row, column and the layers within, edges the layers on the way."""

    graph: nx.DiGraph
    rows: int
    columns: int


def layout(described: Dict[str, Any]) -> Layout:
    """The nodes and edges to draw, from `graph.describe`.

    What lies between two taps, merges or resolutions is one node; what lies on the way into a
    merge alone is part of an edge.
    """
    graph = _operators(described)
    _collapse(graph)
    _simplify(graph)
    rows = sorted({data["row"] for _, data in graph.nodes(data=True)})
    for node in nx.topological_sort(graph):
        data = graph.nodes[node]
        data["row"] = rows.index(data["row"])
        steps = [
            graph.nodes[u]["column"] + (graph.nodes[u]["row"] == data["row"])
            for u in graph.predecessors(node)
        ]
        data["column"] = max(steps, default=0)
    _spread(graph)
    columns = 1 + max(data["column"] for _, data in graph.nodes(data=True))
    return Layout(graph, len(rows), columns)


def _operators(described: Dict[str, Any]) -> nx.DiGraph:
    """One node per operator that works on the images' plane, with its row: log2 of its stride."""
    data = {"name": "data", "does": "Cast", "output_shape": described["input"], "parameters": 0}
    graph = nx.DiGraph()
    graph.add_node("data", row=0, layers=[data], taps=["input"], order=0)
    for layer in described["layers"]:
        shape = layer["output_shape"]
        if len(shape) < 3:
            continue
        sources = [name for name in layer["inputs"] if name in graph]
        row = graph.nodes[sources[0]]["row"] if sources else 0
        if sources and layer["type"] not in _CUTTING:
            before = graph.nodes[sources[0]]["layers"][0]["output_shape"]
            row += round(log2(before[-1] / shape[-1]))
        graph.add_node(layer["name"], row=row, layers=[layer], taps=layer["taps"], order=len(graph))
        graph.add_edges_from(((source, layer["name"]) for source in sources), layers=[])
    outputs = [output for output in described["outputs"] if output in graph]
    used = set(outputs).union(*[nx.ancestors(graph, output) for output in outputs])
    graph.remove_nodes_from(set(graph) - (used & nx.descendants(graph, "data")) - {"data"})
    return graph


def _collapse(graph: nx.DiGraph) -> None:
    """Make one node of what belongs together: residual and dense blocks, then runs of operators.

    A merge takes in all that lies between it and the node that everything before it passes
    through, where that has one resolution and leads nowhere else. A run ends at a tap.
    """
    dominator = nx.immediate_dominators(graph, next(iter(graph)))
    for node in [node for node in nx.topological_sort(graph) if graph.in_degree(node) > 1]:
        start = dominator[node]
        while start not in graph:  # taken in by a merge before
            start = dominator[start]
        inside = _between(graph, start, node)
        if inside:
            _merge(graph, inside, node)
            graph.add_edge(start, node, layers=[])
    for node in list(nx.topological_sort(graph)):
        before = list(graph.predecessors(node))
        if len(before) == 1 and _runs_on(graph, before[0], node):
            sources = list(graph.predecessors(before[0]))
            _merge(graph, before, node)
            graph.add_edges_from(((source, node) for source in sources), layers=[])


def _runs_on(graph: nx.DiGraph, node: Any, after: Any) -> bool:
    same_row = graph.nodes[node]["row"] == graph.nodes[after]["row"]
    return same_row and graph.out_degree(node) == 1 and not graph.nodes[node]["taps"]


def _between(graph: nx.DiGraph, start: Any, end: Any) -> List[Any]:
    """The nodes between the two, in order; none where one has a tap, another row or another way out."""
    inside, waiting = {end}, [end]
    while waiting:
        for node in graph.predecessors(waiting.pop()):
            if node not in inside and node != start:
                inside.add(node)
                waiting.append(node)
    rows = {graph.nodes[node]["row"] for node in (*inside, start)}
    inner = inside - {end}
    leaves = any(not inside.issuperset(graph.successors(node)) for node in inner)
    if len(rows) > 1 or leaves or any(graph.nodes[node]["taps"] for node in inner):
        return []
    return sorted(inner, key=lambda node: graph.nodes[node]["order"])


def _merge(graph: nx.DiGraph, nodes: List[Any], into: Any) -> None:
    """Let `into` take in the nodes, which come before it."""
    layers = [layer for node in nodes for layer in graph.nodes[node]["layers"]]
    graph.nodes[into]["layers"] = layers + graph.nodes[into]["layers"]
    graph.remove_nodes_from(nodes)


def _simplify(graph: nx.DiGraph) -> None:
    """Make edges of what only leads into a merge, and one node of the merges of one row."""
    for node in reversed(list(nx.topological_sort(graph))):
        if graph.nodes[node]["taps"] or graph.out_degree(node) != 1 or not graph.in_degree(node):
            continue
        (after,), before = graph.successors(node), list(graph.predecessors(node))
        if len(before) > 1:
            if graph.nodes[after]["row"] == graph.nodes[node]["row"]:
                _absorb(graph, node, after)
        elif graph.in_degree(after) > 1:
            _fold(graph, before[0], node, after)
        elif graph.nodes[before[0]]["row"] == graph.nodes[node]["row"]:
            _absorb(graph, node, after)


def _absorb(graph: nx.DiGraph, node: Any, after: Any) -> None:
    """Let the next node take in this one."""
    edges = [(u, after, graph.edges[u, node]["layers"]) for u in graph.predecessors(node)]
    _merge(graph, [node], after)
    for u, v, layers in edges:
        _add_edge(graph, u, v, layers)


def _fold(graph: nx.DiGraph, before: Any, node: Any, after: Any) -> None:
    """Make the node part of the edge from `before` to `after`, unless it is a way of its own."""
    rows = [graph.nodes[each]["row"] for each in (before, node, after)]
    beside = graph.has_edge(before, after) and rows[0] == rows[2] != rows[1]
    layers = graph.nodes[node]["layers"]
    if rows[1] not in (rows[0], rows[2]) and any(layer["parameters"] for layer in layers):
        return
    if beside and any(layer["parameters"] for layer in layers):
        return
    way = graph.edges[before, node]["layers"] + layers + graph.edges[node, after]["layers"]
    graph.remove_node(node)
    _add_edge(graph, before, after, way)


def _add_edge(graph: nx.DiGraph, u: Any, v: Any, layers: List[Dict[str, Any]]) -> None:
    known = graph.edges[u, v]["layers"] if graph.has_edge(u, v) else []
    graph.add_edge(u, v, layers=known + layers)


def _spread(graph: nx.DiGraph) -> None:
    """Move nodes that share a place to the right, and what comes after them along."""
    taken: set = set()
    for node in nx.topological_sort(graph):
        data = graph.nodes[node]
        steps = [
            graph.nodes[u]["column"] + (graph.nodes[u]["row"] == data["row"])
            for u in graph.predecessors(node)
        ]
        data["column"] = max([data["column"], *steps])
        while (data["row"], data["column"]) in taken:
            data["column"] += 1
        taken.add((data["row"], data["column"]))
