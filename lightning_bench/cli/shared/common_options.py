"""Options that several commands share, alone and in groups, and the check of a word among those allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lightning_bench.cli.shared.completion import devices, one_of
from lightning_bench.errors import UsageError
from lightning_bench.words import choice

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine import Machine
    from lightning_bench.run.planner import Settings

Word = TypeVar("Word", bound=str)

AXES_PANEL = "Axes (each replaces the suite's)"
KERNEL_PANEL = "Your own kernel"
RUNNING_PANEL = "Running"
OUTPUT_PANEL = "Output"

Results = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RESULTS", help="CSVs of lbench, or folders of them. Default: results."),
]
DEVICE_HELP = "cuda, cuda:N (GPU N of several) or cpu. Default: cuda if it works."
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help=DEVICE_HELP, autocompletion=one_of(devices)),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.", rich_help_panel=OUTPUT_PANEL)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no tables.", rich_help_panel=OUTPUT_PANEL)
]
Retry = Annotated[
    bool,
    typer.Option(
        "--retry", help="Run again what failed or was unstable last time.", rich_help_panel=RUNNING_PANEL
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Start over; an existing file is set aside.", rich_help_panel=RUNNING_PANEL),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        min=1,
        max=30,
        help="Processes that time each case, one after the other. Default: the suite's, "
        "else 3 on a GPU and 1 on a CPU.",
        rich_help_panel=RUNNING_PANEL,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show the plan and what it will take; run nothing. Needs no GPU.",
        rich_help_panel=RUNNING_PANEL,
    ),
]


@dataclass(frozen=True)
class Running:
    """Where cases run and how long each may take; None leaves both to the suite."""

    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="cuda, cuda:N (GPU N of several) or cpu. Default: the suite's, else cuda if it works.",
            autocompletion=one_of(devices),
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Seconds that one case may take before it is killed.",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None

    def settings(self, *, elsewhere: bool = False, machine: Machine | None = None) -> Settings:
        """Return what a plan needs of it. UsageError for an unknown device, or a GPU that is not here.

        With `elsewhere` it need not be here: the plan is only shown. `machine` is that of the slots, if any.
        """
        from lightning_bench.cli.shared.device import parse_device, resolve_device
        from lightning_bench.run.planner import Settings

        device = None
        if self.device is not None:
            device = parse_device(self.device)[0] if elsewhere else resolve_device(self.device)
        return Settings(device=device, machine=machine, time_limit_s=self.time_limit, elsewhere=elsewhere)


@dataclass(frozen=True)
class Output:
    """What a command prints: tables and narration, JSON, or nothing but its data."""

    as_json: Json = False
    quiet: Quiet = False

    def sink(self) -> Sink:
        """Return the sink that prints so."""
        from lightning_bench.cli.shared.sink import Sink

        return Sink(as_json=self.as_json, quiet=self.quiet)


def known(option: str, value: str, allowed: Sequence[Word]) -> Word:
    """Return `value` as one of the words allowed; UsageError names the option, the value and the words."""
    for word in allowed:
        if value == word:
            return word
    raise UsageError(f"{option} {value!r} is not known; {choice(value, allowed)}")


def parse_share(option: str, text: str) -> float:
    """Return `3%`, `3 %` or `0.03` as a share between 0 and 1, exclusive; UsageError for anything else."""
    number = text.strip()
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        meant = f" (did you mean `{number}%`?)" if 1 <= share < 100 and not number.endswith("%") else ""
        raise UsageError(
            f"{option} {text!r} is not between 0 and 100 %{meant}; allowed: a percentage such as 3%, or a "
            "share such as 0.03"
        )
    return share
