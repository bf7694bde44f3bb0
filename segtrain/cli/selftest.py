"""segtrain selftest."""

from pathlib import Path
from typing import Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import Devices

selftest = typer.Typer(no_args_is_help=True, help="Prove on this machine what segtrain promises.")
app.add_typer(selftest, name="selftest")


@selftest.command()
def resume(
    config: Annotated[
        Optional[Path], typer.Argument(help="A config to train; a small built-in one without it.")
    ] = None,
    kills: Annotated[int, typer.Option(min=1, help="Runs to kill and resume.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the moments of the kills.")] = 0,
    devices: Devices = "auto",
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Kill runs (kill -9) at random moments, resume them, and compare with a run never killed.

    Exit code 1 where a resumed run ends at other bits.

    Examples:

        segtrain selftest resume

        segtrain selftest resume configs/camvid-unet.yaml --kills 1
    """
    import tempfile

    from segtrain.training import selftest as tests

    with tempfile.TemporaryDirectory(prefix="segtrain-selftest-") as home:
        if config is None:
            config = Path(home) / "small.yaml"
            config.write_text(tests.CONFIG)
        result = tests.resume(config, Path(home), kills, seed, devices, say)
    write_json(json, result)
    say(f"{result['equal']} of {kills} resumed runs ended at the same bits as the one never killed")
    if not result["passed"]:
        raise typer.Exit(1)


@selftest.command()
def ranks(
    config: Annotated[
        Optional[Path], typer.Argument(help="A config to train; a small built-in one without it.")
    ] = None,
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill, one in each run.")] = 3,
    count: Annotated[int, typer.Option("-n", min=2, help="Ranks of each run.")] = 2,
    engine: Annotated[str, typer.Option(help="ps or horovod, as in `segtrain launch`.")] = "ps",
    seed: Annotated[int, typer.Option(help="Of the moments, and of who is killed.")] = 0,
    devices: Devices = "auto",
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Kill (kill -9) a random process of launched runs, resume them, and compare.

    Right is: all of the run ends within 30 s, with the rank and its last line, no process left and
    the last checkpoint whole; the command it prints finishes it, with the parameters of a run never
    killed (to 1e-5). Exit code 1 where one of that isn't so.

    Examples:

        segtrain selftest ranks --kills 10

        segtrain selftest ranks --engine horovod
    """
    import tempfile

    from segtrain.machines import faults

    with tempfile.TemporaryDirectory(prefix="segtrain-selftest-") as home:
        if config is None:
            config = Path(home) / "small.yaml"
            config.write_text(faults.CONFIG)
        job = faults.Job(config, count, engine, devices)
        result = faults.kill(job, Path(home), kills, seed, say)
    write_json(json, result)
    say(f"{result['right']} of {kills} runs ended as they should when a process was killed")
    if not result["passed"]:
        raise typer.Exit(1)
