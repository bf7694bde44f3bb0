"""segtrain pack."""

from pathlib import Path
from typing import List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import ConfigFile, Overrides


@app.command()
def pack(
    config: ConfigFile,
    overrides: Annotated[Optional[List[str]], Overrides(help="Like data.root=mydata")] = None,
    *,
    out: Annotated[Path, typer.Option(help="The new folder.")],
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Pack a dataset of many small files into one RecordIO file per split, and a config to read it.

    Images stay the files they are, masks become class ids: what is trained doesn't change.

    Examples:

        segtrain pack mydata.yaml --out packed

        segtrain train packed/config.yaml
    """
    from segtrain import config as configs
    from segtrain.pack import pack as write_packed

    result = write_packed(configs.load(config, overrides or []), out)
    write_json(json, result)
    for split, found in result["splits"].items():
        say(f"{split}: {found['samples']:,} samples, {found['bytes'] / 2**20:,.1f} MiB")
    say(*(f"left out: {why}" for why in result["missing"].values()))
    say(f"packed: {out}", f"next: segtrain train {result['config']}")
