"""``saccade launch``: ranks on several machines."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated, Literal

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, require_arguments_of, show
from saccade.errors import ConfigError, UsageError


@app.command(
    epilog=(
        "Example: saccade launch slurm --nodes 2 --ranks 8 --time 24:00:00 resnet50 --data "
        "photos.zip"
    ),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def launch(
    context: typer.Context,
    where: Annotated[
        Literal["slurm"], typer.Argument(help="slurm: write a batch script that calls srun.")
    ],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines.")] = 1,
    ranks_per_node: Annotated[
        int, typer.Option("--ranks", min=1, help="Ranks (and GPUs) per machine.")
    ] = 1,
    gpus: Annotated[
        bool, typer.Option("--gpus/--no-gpus", help="Request one GPU per rank.")
    ] = True,
    cpus: Annotated[
        int, typer.Option("--cpus", min=0, help="CPU cores per rank; 0: the cluster's default.")
    ] = 0,
    time: Annotated[
        str, typer.Option("--time", help="Time limit, as sbatch takes it: 24:00:00.")
    ] = "",
    partition: Annotated[str, typer.Option("--partition", help="Partition.")] = "",
    account: Annotated[str, typer.Option("--account", help="Account.")] = "",
    script: Annotated[Path, typer.Option("--script", help="File to write the script to.")] = Path(
        "saccade.sbatch"
    ),
    submit: Annotated[bool, typer.Option("--submit", help="Submit the script, too.")] = False,
    json_out: options.Json = False,
) -> None:
    """Write (and submit) a batch script that trains on several machines.

    Further arguments are those of train.
    """
    with explained(json_out):
        from saccade import files
        from saccade.distributed.launcher import SlurmJob

        if "--devices" in context.args:
            raise UsageError(
                "SLURM assigns the devices of each rank",
                where="--devices",
                fix="use --ranks and --no-gpus",
            )

        # refused now, and not by the job after hours in the queue
        require_arguments_of("train", context.args)
        arguments = context.args if gpus else [*context.args, "--devices", "cpu"]
        job = SlurmJob(
            nodes=nodes,
            ranks_per_node=ranks_per_node,
            gpus=gpus,
            cpus_per_rank=cpus,
            time=time,
            partition=partition,
            account=account,
        )
        files.write_bytes(script, job.script(arguments).encode())

        answer = _submit(script) if submit else ""
        if json_out:
            print_json({"script": str(script), "submitted": answer})
        else:
            show(answer or f"wrote {script}; submit it with: sbatch {script}")


def _submit(script: Path) -> str:
    try:
        done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(
            "sbatch was not found on this machine",
            where="--submit",
            fix=f"submit {script} on the cluster",
        ) from error
    if done.returncode != 0:
        raise ConfigError(
            f"sbatch refused it: {done.stderr.strip()}",
            where=str(script),
            fix="correct the script, or submit it where sbatch reaches the cluster",
        )
    return done.stdout.strip()
