"""segtrain launch."""

import os
import shlex
from pathlib import Path
from typing import List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, app


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def launch(
    command: Annotated[List[str], typer.Argument(metavar="-- train CONFIG ...", help="What to run.")],
    ranks: Annotated[int, typer.Option("-n", min=1, help="Processes that train together.")] = 2,
    hosts: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Lines like `node1 slots=2`, which ssh reaches."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="ps: MXNet's parameter server; horovod: where it is installed.")
    ] = "ps",
    servers: Annotated[int, typer.Option(min=0, help="Of --engine ps; 0: one per host.")] = 0,
    address: Annotated[
        str, typer.Option(metavar="IP", help="Of this machine, for the others; found without it.")
    ] = "",
    ssh: Annotated[str, typer.Option(help="The command that reaches a host.")] = (
        "ssh -o BatchMode=yes -o ConnectTimeout=10"
    ),
    timeout: Annotated[
        float, typer.Option(min=3, help="Seconds of silence, or without a step, that end the job.")
    ] = 20,
    debug: Debug = False,
) -> None:
    """Train in several processes, on this machine or on many; one that fails ends them all.

    The batch of the config is shared out, so the result is that of one process, but for batch norm.

    Examples:

        segtrain launch -n 2 -- train mydata.yaml

        segtrain launch -n 8 --hosts hosts.txt -- train mydata.yaml train.batch=64 --out runs/large

        segtrain launch -n 4 --engine horovod -- train mydata.yaml
    """
    from segtrain.errors import UserError, nearest
    from segtrain.machines.launch import launch as run
    from segtrain.machines.places import Settings, read_hosts

    if engine not in ("ps", "horovod"):
        raise UserError(f"--engine {engine}: {nearest(engine, ['ps', 'horovod'])}")
    if hosts and not hosts.is_file():
        raise UserError(f"--hosts {hosts}: there is no such file")
    found = read_hosts(hosts) if hosts else []
    said = ["segtrain", "launch", "-n", str(ranks), *(["--hosts", str(hosts)] if hosts else [])]
    said += ["--engine", engine] if engine != "ps" else []
    settings = Settings(ranks, found, engine, servers, address, ssh, timeout)
    # A script that runs this command says here how it was started itself.
    run(command, settings, os.environ.get("SEGTRAIN_SCRIPT") or shlex.join([*said, "--"]))
