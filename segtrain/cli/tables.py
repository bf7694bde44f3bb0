"""The look of the tables that commands print."""

from typing import Any, Optional, Sequence


def table(*texts: str, numbers: Sequence[str] = ()) -> Any:
    """A rich table with the columns of `texts`, then those of `numbers`, which keep to the right."""
    from rich.table import Table

    made = Table(box=None, header_style="bold")
    for column in texts:
        made.add_column(column, overflow="fold")  # a name is never cut
    for column in numbers:
        made.add_column(column, justify="right")
    return made


def figure(value: Optional[float], form: str = ".4f") -> str:
    """A number in that format; a dash where there is none."""
    return "-" if value is None else format(value, form)
