"""What `lbench train` and `lbench generate` share: axes of whole models, options, and the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightning_bench.case import Dtype, Metric
from lightning_bench.cli.commands.sweep import measure
from lightning_bench.cli.shared.axis_options import replacing_and_joining, split, words
from lightning_bench.cli.shared.common_options import (
    AXES_PANEL,
    OUTPUT_PANEL,
    DryRun,
    Fresh,
    Output,
    Processes,
    Retry,
    Running,
)
from lightning_bench.cli.shared.completion import joining_list_of, list_of, models, provider_names
from lightning_bench.cli.shared.slot_options import Slots

if TYPE_CHECKING:
    from lightning_bench.suite import Overrides

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSV to append to. Default: results/DEVICE/SUITE-METRIC.csv.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


@dataclass(frozen=True)
class ModelAxes:
    """The axes as typed, or None where the suite's values stay; one that is given twice has both values."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAMES",
            autocompletion=list_of(models),
            help="tnl-0.4b,llama-0.4b, the same with 1b, 3b and 7b, and for a CPU with tiny.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            metavar="NAMES",
            autocompletion=joining_list_of(provider_names),
            help="Attention, as `lbench providers` names it. With + before each, they join the suite's.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype", metavar="DTYPES", help="fp32,bf16; to generate fp16 too.", rich_help_panel=AXES_PANEL
        ),
    ] = None
    compile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            autocompletion=list_of(("none", "parts")),
            help="none, or parts: torch.compile on all but the attention. Default: the suite's, else parts "
            "on a GPU.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None

    def parsed(self, dtypes: Sequence[Dtype], **others: Any) -> Overrides:
        """Return these axes parsed, and `others`. UsageError names the option that is wrong."""
        from lightning_bench.model_run import COMPILE_WORDS
        from lightning_bench.models.model_sizes import MODELS
        from lightning_bench.run.planner import check_providers
        from lightning_bench.suite import Overrides, parse_providers

        names = split(self.provider)
        check_providers((), (), names)
        replacing, joining = replacing_and_joining(names)
        return Overrides(
            providers=parse_providers(",".join(replacing)) if replacing else None,
            added=parse_providers(",".join(joining)) if joining else None,
            model=words(self.model, tuple(MODELS), "--model"),
            dtype=words(self.dtype, dtypes, "--dtype"),
            compile=words(self.compile, COMPILE_WORDS, "--compile"),
            **others,
        )


@dataclass(frozen=True)
class ModelOptions:
    """How the cases are measured, and which of them are left to do."""

    retry: Retry = False
    fresh: Fresh = False
    processes: Processes = None
    dry_run: DryRun = False
    out: Out = None


@dataclass(frozen=True)
class Where:
    """On which devices the cases run; slots stay until the command of `context` ends."""

    context: typer.Context
    running: Running
    slots: Slots


def sweep_models(
    metric: Metric,
    suites: Sequence[str] | None,
    overrides: Overrides,
    where: Where,
    how: ModelOptions,
    output: Output,
) -> None:
    """Measure the models of the suites, or of the default one, one row per case."""
    from lightning_bench.cli.commands.sweep_plan import show_plans
    from lightning_bench.cli.shared.busy import warn_if_busy
    from lightning_bench.run.planner import Planner, measuring_limits

    chosen = where.slots.chosen_part(where.context, where.running.device)
    settings = replace(
        where.running.settings(elsewhere=how.dry_run, machine=chosen.machine),
        protocol="lbench",
        limits=measuring_limits(quick=False, processes=how.processes),
    )
    planner = Planner(metric, overrides, settings)
    plans = [chosen.part(planner.plan(planner.load(name))) for name in suites or (None,)]
    sink = output.sink()
    if how.dry_run:
        show_plans(sink, plans, chosen.count)
        return
    warn_if_busy(sink, plans[0].device, chosen.gpus)
    measure(sink, plans, chosen, how.out, fresh=how.fresh, retry=how.retry)
