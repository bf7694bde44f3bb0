"""segtrain init."""

from pathlib import Path

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, app, say


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="The dataset's folder.")],
    out: Annotated[Path, typer.Option(help="The config to write.")] = Path("config.yaml"),
    debug: Debug = False,
) -> None:
    """Look at a dataset and write a config for it, each value with its reason.

    Example:

        segtrain init mydata --out mydata.yaml
    """
    from segtrain.errors import UserError
    from segtrain.init import propose
    from segtrain.prediction import infer

    if out.exists():
        raise UserError(f"{out} exists: give another --out")
    proposal = propose(data, out)
    taken = next((path for path in proposal.files if path.exists()), None)
    if taken:
        raise UserError(f"{taken} exists: give another --out")
    texts = {**proposal.files, out: proposal.text}
    contents = {path: text.encode() for path, text in texts.items()}  # before any is written
    for path, content in contents.items():
        infer.write(path, content)
    say(*proposal.notes, f"written: {', '.join(map(str, [*proposal.files, out]))}")
    say(f"next: segtrain check {out}    segtrain train {out}")
