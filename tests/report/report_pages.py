"""Class names that are hostile, and a report taken apart."""

import re
from html.parser import HTMLParser
from pathlib import Path

HOSTILE = '<img src=x onerror="window.boom=1">'
CLASSES = ["ground", HOSTILE, "</script><script>window.boom=1</script>", '{{ 7 * 7 }} & "triangle"']


class Page(HTMLParser):
    """A report taken apart: its tags with their attributes, the text in each table, the rest."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.tables, self.text, self._skipped = [], [], "", 0
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._skipped += tag in ("script", "style")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self._skipped -= tag in ("script", "style")
        if tag == "table":
            self.tables.append([[]])  # what follows isn't in it

    def handle_data(self, data):
        if self._skipped:
            return
        self.text += data
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data

    def table(self, *header: str):
        """The rows, as stripped text, of the first table whose header begins so."""
        for rows in self.tables:
            cells = [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in rows]
            if cells and [cell for cell in cells[0] if cell][: len(header)] == list(header):
                return [[cell for cell in row if cell] for row in cells[1:]]
        raise AssertionError(f"no table that begins with {header}")
