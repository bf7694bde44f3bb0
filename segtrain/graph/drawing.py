"""A network's graph as an SVG file."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any, Dict, List, Tuple

import networkx as nx

from segtrain.graph.layout import layout

BOX, GAP, LINE, MARGIN, HEADER = (164, 58), (132, 56), 13, 24, 46
_QUIET = {
    "broadcast_sub",
    "relu",
    "BatchNorm",
    "GroupNorm",
    "Dropout",
    "LeakyReLU",
    "prelu",
    "elu",
    "sigmoid",
    "tanh",
}


def svg(described: Dict[str, Any]) -> str:
    """The drawing as an SVG file's text."""
    drawn = layout(described)
    gap = max(GAP[0], (560 - drawn.columns * BOX[0]) // max(1, drawn.columns - 1))
    places = {
        node: (
            MARGIN + data["column"] * (BOX[0] + gap),
            MARGIN + HEADER + data["row"] * (BOX[1] + GAP[1]),
        )
        for node, data in drawn.graph.nodes(data=True)
    }
    lifts = [_lift(drawn.graph, u, v) for u, v in drawn.graph.edges if not drawn.graph.nodes[u]["row"]]
    above = max([0.75 * lift + 4 for lift in lifts if lift], default=0)
    places = {node: (x, y + round(above)) for node, (x, y) in places.items()}
    width = 2 * MARGIN + max(x for x, _ in places.values()) + BOX[0] - MARGIN
    height = 2 * MARGIN + max(y for _, y in places.values()) + BOX[1] - MARGIN
    parts = [_edge(drawn.graph, u, v, places) for u, v in drawn.graph.edges]
    parts += [_node(drawn.graph, node, places[node]) for node in drawn.graph]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif" font-size="11">',
            '<rect width="100%" height="100%" fill="#fff"/>',
            '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#567"/></marker></defs>',
            _header(described),
            *parts,
            "</svg>\n",
        ]
    )


def _header(described: Dict[str, Any]) -> str:
    size = " x ".join(map(str, described["input"][1:]))
    about = (
        f"{described['parameters']:,} parameters, {described['flops'] / 1e9:.2f} GFLOPs "
        f"for an input of {size}; a row is a resolution"
    )
    return (
        f'<text x="{MARGIN}" y="{MARGIN + 6}" font-size="17" font-weight="bold" fill="#123">'
        f"{escape(described['model'])}</text>"
        f'<text x="{MARGIN}" y="{MARGIN + 24}" fill="#456">{escape(about)}</text>'
    )


def _node(graph: nx.DiGraph, node: Any, place: Tuple[int, int]) -> str:
    data, (x, y) = graph.nodes[node], place
    rows_before = {graph.nodes[u]["row"] for u in graph.predecessors(node)}
    upwards = any(row > data["row"] for row in rows_before)
    down = any(graph.nodes[v]["row"] > data["row"] for v in graph.successors(node))
    fill = "#dcefdc" if upwards else "#dbe7f6" if down else "#f2ecdc"
    shape = " x ".join(map(str, data["layers"][-1]["output_shape"][1:]))
    name = ", ".join(dict.fromkeys(data["taps"]))
    lines = [f"{name}   {shape}" if name else shape, *_summary(data["layers"], 27)]
    texts = "".join(
        f'<text x="{x + 8}" y="{y + 16 + i * LINE}" fill="#123"{_bold(i == 0)}>{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    told = escape("\n".join(f"{layer['name']}: {layer['does']}" for layer in data["layers"]))
    return (
        f'<g><title>{told}</title><rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="6" '
        f'fill="{fill}" stroke="#567"/>{texts}</g>'
    )


def _bold(yes: bool) -> str:
    return ' font-weight="bold"' if yes else ""


def _summary(layers: List[Dict[str, Any]], length: int) -> List[str]:
    """What layers do, in at most `length` letters: '2 3x3 conv, concat'; and their parameters."""
    does = [layer["does"] for layer in layers if layer["does"] not in _QUIET]
    if any("conv" in what for what in does):
        does = [what for what in does if what not in ("add", "multiply")]
    counts = Counter(what for what in does if not _plumbing(what))
    text = ", ".join(what if n == 1 else f"{n} {what}" for what, n in counts.items())
    if len(text) > length:
        text = text[: length - 3].rsplit(", ", 1)[0] + ", ..."
    parameters = sum(layer["parameters"] for layer in layers)
    return [line for line in (text, f"{parameters:,} parameters" if parameters else "") if line]


def _plumbing(what: str) -> bool:
    return what.startswith(
        (
            "_",
            "zeros_like",
            "take",
            "broadcast",
            "Cast",
            "slice",
            "BlockGrad",
            "expand",
            "Pad",
            "squeeze",
            "Reshape",
        )
    )


def _lift(graph: nx.DiGraph, u: Any, v: Any) -> int:
    """How far an edge bends upwards to pass over nodes of its own row; 0 where there are none."""
    a, b = graph.nodes[u], graph.nodes[v]
    between = any(
        d["row"] == a["row"] == b["row"] and a["column"] < d["column"] < b["column"]
        for _, d in graph.nodes(data=True)
    )
    return 14 + 7 * (b["column"] - a["column"]) if between else 0


def _edge(graph: nx.DiGraph, u: Any, v: Any, places: Dict[Any, Tuple[int, int]]) -> str:
    (x1, y1), (x2, y2) = places[u], places[v]
    w, h = BOX
    lift = _lift(graph, u, v)
    if lift:
        a, b = x1 + w * 0.75, x2 + w * 0.25
        path = f"M{a} {y1}C{a + 30} {y1 - lift} {b - 30} {y2 - lift} {b} {y2}"
        middle = ((a + b) / 2, y1 - lift * 0.75)
    elif y1 == y2:
        path = f"M{x1 + w} {y1 + h / 2}H{x2 - 1}"
        middle = ((x1 + w + x2) / 2, y1 + h / 2)
    else:
        down = y2 > y1
        start = (x1 + w / 2, y1 + h if down else y1)
        end = (x2 + w / 2, y2 if down else y2 + h)
        bend = (start[1] + end[1]) / 2
        path = f"M{start[0]} {start[1]}C{start[0]} {bend} {end[0]} {bend} {end[0]} {end[1]}"
        middle = ((start[0] + end[0]) / 2, bend)
    skip = y1 == y2 and graph.in_degree(v) > 1
    line = (
        f'<path d="{path}" fill="none" stroke="{"#c60" if skip else "#567"}" '
        f'stroke-width="1.4" marker-end="url(#end)"/>'
    )
    return line + _label(graph.edges[u, v]["layers"], middle)


def _label(layers: List[Dict[str, Any]], middle: Tuple[float, float]) -> str:
    """What lies on an edge, in a small box at its middle."""
    lines = _summary(layers, 21)
    if not lines:
        return ""
    lines = [line.replace(" parameters", "") for line in lines]
    wide = 12 + 5.6 * max(map(len, lines))
    x, y = middle[0] - wide / 2, middle[1] - 7 * len(lines)
    texts = "".join(
        f'<text x="{middle[0]}" y="{y + 11 + 12 * i}" text-anchor="middle" font-size="10" '
        f'fill="#345">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{wide}" height="{4 + 12 * len(lines)}" rx="4" fill="#fff" '
        f'stroke="#9ab"/>{texts}'
    )
