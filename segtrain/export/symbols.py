"""Symbols as graphs of nodes that can be read, changed and made symbols again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Sequence, Set, Tuple

import mxnet as mx


@dataclass(eq=False)
class Node:
    """One operator, or a variable (`op` is "null"), and the outputs of others that it takes."""

    op: str
    name: str
    attrs: Dict[str, str] = field(default_factory=dict)
    inputs: List[Output] = field(default_factory=list)
    rest: Dict[str, Any] = field(default_factory=dict)  # such as "subgraphs", kept as it is

    def numbers(self, key: str, default: Sequence[int] = ()) -> List[int]:
        """An attribute like "(2, 2)" or "3" as whole numbers."""
        text = self.attrs.get(key, "").strip("()[], ")
        return [int(float(part)) for part in text.split(",")] if text else list(default)

    def is_true(self, key: str) -> bool:
        return self.attrs.get(key, "False") in ("True", "1", "true")


Output = Tuple[Node, int]
"""A node, and which of its outputs."""


def read(symbol: mx.sym.Symbol) -> List[Output]:
    """The outputs of a symbol, as nodes that lead to all others; each node's name is its own."""
    graph = json.loads(symbol.tojson())
    nodes: List[Node] = []
    taken: Set[str] = set()
    for number, entry in enumerate(graph["nodes"]):
        rest = {k: v for k, v in entry.items() if k not in ("op", "name", "attrs", "inputs")}
        inputs = [(nodes[i], output) for i, output, *_ in entry["inputs"]]
        name = entry["name"] if entry["name"] not in taken else f"{entry['name']}_{number}"
        taken.add(name)
        nodes.append(Node(entry["op"], name, dict(entry.get("attrs", {})), inputs, rest))
    return [(nodes[i], output) for i, output, *_ in graph["heads"]]


def write(heads: Sequence[Output]) -> mx.sym.Symbol:
    """The symbol of these outputs; nodes that don't lead to them are left out."""
    nodes = walk(heads)
    index = {id(node): i for i, node in enumerate(nodes)}
    graph = {
        "nodes": [
            {
                "op": node.op,
                "name": node.name,
                **({"attrs": node.attrs} if node.attrs else {}),
                "inputs": [[index[id(source)], output, 0] for source, output in node.inputs],
                **node.rest,
            }
            for node in nodes
        ],
        "arg_nodes": [i for i, node in enumerate(nodes) if node.op == "null"],
        "node_row_ptr": list(range(len(nodes) + 1)),
        "heads": [[index[id(node)], output, 0] for node, output in heads],
        "attrs": {"mxnet_version": ["int", 10901]},
    }
    return mx.sym.load_json(json.dumps(graph))


def walk(heads: Sequence[Output]) -> List[Node]:
    """The nodes that lead to these outputs, each after those that it takes from."""
    found: List[Node] = []
    seen = set()
    stack = [(node, False) for node, _ in reversed(heads)]
    while stack:
        node, entered = stack.pop()
        if entered:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(source, False) for source, _ in reversed(node.inputs)]
    return found


def consumers(heads: Sequence[Output]) -> Dict[int, List[Node]]:
    """By the id of each node, the nodes that take from it; for a head one more, of the op "head"."""
    found: Dict[int, List[Node]] = {}
    for node in walk(heads):
        for source, _ in node.inputs:
            found.setdefault(id(source), []).append(node)
    for node, _ in heads:
        found.setdefault(id(node), []).append(Node("head", ""))
    return found


def replace(heads: Sequence[Output], old: Node, new: Output) -> List[Output]:
    """The outputs after all that took the node's first output take `new` instead."""

    def instead(output: Output) -> Output:
        return new if output[0] is old and output[1] == 0 else output

    for node in walk(heads):
        if node is not new[0]:
            node.inputs = [instead(output) for output in node.inputs]
    return [instead(output) for output in heads]


def shapes(heads: Sequence[Output], shape: Sequence[int]) -> Dict[int, Tuple[int, ...]]:
    """By the id of each node, the shape of its first output for an input `data` of that shape."""
    internals = write(heads).get_internals()
    sizes = dict(zip(internals.list_outputs(), internals.infer_shape(data=tuple(shape))[1]))
    found = {}
    for node in walk(heads):
        endings = [""] if node.op == "null" else ["_output", "_output0"]
        found[id(node)] = next(sizes[node.name + e] for e in endings if node.name + e in sizes)
    return found
