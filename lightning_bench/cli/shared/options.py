"""Options that commands share, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_AXES = "Axes (each replaces the suite's)"
_RUN = "Running"
_OUTPUT = "Output"

_LENGTHS = "a list like 512,4096 or a doubling range like 512..32768"

Suites = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SUITE",
        help="Names from `lbench suites`, or paths ending in .toml. Default: paper on a GPU, quick on a CPU.",
    ),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option("--provider", help="Names from `lbench providers`, or file.py:NAME.", rich_help_panel=_AXES),
]
SeqLen = Annotated[str | None, typer.Option(help=f"Sequence lengths: {_LENGTHS}.", rich_help_panel=_AXES)]
HeadDim = Annotated[str | None, typer.Option(help="Columns of q and k.", rich_help_panel=_AXES)]
ValueDim = Annotated[str | None, typer.Option(help="Columns of v and o.", rich_help_panel=_AXES)]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help="fp32,fp16,bf16.", rich_help_panel=_AXES)]
Batch = Annotated[str | None, typer.Option(help="Batch sizes.", rich_help_panel=_AXES)]
Heads = Annotated[str | None, typer.Option(help="Numbers of heads.", rich_help_panel=_AXES)]
DirectionOption = Annotated[
    str | None, typer.Option("--direction", help="fwd,bwd,fwd_bwd.", rich_help_panel=_AXES)
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cuda or cpu. Default: cuda where it works.", rich_help_panel=_AXES),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(min=0.1, help="Seconds that one case may take before it is killed.", rich_help_panel=_RUN),
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="lbench (trusted) or paper (what the papers' scripts measured).",
        rich_help_panel=_RUN,
    ),
]
Graph = Annotated[
    bool, typer.Option("--graph", help="Also time CUDA-graph replay (speed only).", rich_help_panel=_RUN)
]
Retry = Annotated[
    bool,
    typer.Option("--retry", help="Run again what failed or was unstable last time.", rich_help_panel=_RUN),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Start over; the file that is there is set aside.", rich_help_panel=_RUN),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and run nothing.", rich_help_panel=_RUN)
]
Out = Annotated[
    Path | None,
    typer.Option(help="CSV to append to. Default: results/DEVICE/SUITE-METRIC.csv.", rich_help_panel=_OUTPUT),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.", rich_help_panel=_OUTPUT)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no tables.", rich_help_panel=_OUTPUT)
]
