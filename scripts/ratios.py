"""Print the ratios of the benchmarks' JSON files, and whether each reaches what is wanted of it.

python scripts/ratios.py bench/*.json
"""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from turns import judged


def main():
    table = Table(box=None, header_style="bold")
    for column in ("benchmark", "ratio", ""):
        table.add_column(column, justify="left" if column == "benchmark" else "right")
    lines = []
    for path in map(Path, sys.argv[1:]):
        made = json.loads(path.read_text())
        if "ratios" not in made:
            lines.append(f"{path}: not in the form of turns.py, see there")
            continue
        for name, value in made["ratios"].items():
            table.add_row(f"{made['name']}: {name}", f"{value:.3f}")
        lines += [f"{made['name']}: {line}" for line in judged(made)]
    Console().print(table)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
