"""`lbench train`: train whole models with attention plugged in, one row per model, attention and length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.commands.sweep import measure
from lightning_bench.cli.shared.axis_options import lengths, replacing_and_joining, split, words
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
from lightning_bench.cli.shared.completion import joining_list_of, list_of, models, provider_names, suites
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.cli.shared.slot_options import Slots

if TYPE_CHECKING:
    from lightning_bench.suite import Overrides


@dataclass(frozen=True)
class TrainAxes:
    """The axes as typed, or None where the suite's values stay; one that is given twice has both values."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAMES",
            autocompletion=list_of(models),
            help="tnl-0.4b,llama-0.4b, the same with 1b and 3b, and for a CPU with tiny.",
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
    seq_len: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LENGTHS", help="Sequence lengths: 1k,2k; 1k..64k doubles.", rich_help_panel=AXES_PANEL
        ),
    ] = None
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COUNTS",
            help="Tokens of a step: as many sequences as they hold, at least one.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    dtype: Annotated[
        list[str] | None,
        typer.Option("--dtype", metavar="DTYPES", help="fp32,bf16.", rich_help_panel=AXES_PANEL),
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
    recompute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            autocompletion=list_of(("none", "layers")),
            help="none, or layers: activation checkpointing.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None

    def overrides(self) -> Overrides:
        """Return the axes parsed. UsageError names the option that is wrong."""
        from lightning_bench.models.model_sizes import MODELS
        from lightning_bench.run.planner import check_providers
        from lightning_bench.suite import Overrides, parse_providers
        from lightning_bench.suite.training_groups import COMPILE_WORDS, RECOMPUTE_WORDS, TRAINED_DTYPES

        names = split(self.provider)
        check_providers((), (), names)
        replacing, joining = replacing_and_joining(names)
        return Overrides(
            providers=parse_providers(",".join(replacing)) if replacing else None,
            added=parse_providers(",".join(joining)) if joining else None,
            model=words(self.model, tuple(MODELS), "--model"),
            seq_len=lengths(self.seq_len, "--seq-len"),
            tokens=lengths(self.tokens, "--tokens"),
            dtype=words(self.dtype, TRAINED_DTYPES, "--dtype"),
            compile=words(self.compile, COMPILE_WORDS, "--compile"),
            recompute=words(self.recompute, RECOMPUTE_WORDS, "--recompute"),
        )


@dataclass(frozen=True)
class TrainOptions:
    """How the cases are measured, and which of them are left to do."""

    retry: Retry = False
    fresh: Fresh = False
    processes: Processes = None
    dry_run: DryRun = False


@grouped
def train(
    *,
    suite: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SUITE",
            autocompletion=suites,
            help="Suites with models, or paths ending in .toml. Default: table1 on a GPU, quick on a CPU.",
        ),
    ] = None,
    axes: TrainAxes,
    running: Running,
    slots: Slots,
    how: TrainOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV to append to. Default: results/DEVICE/SUITE-train.csv.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    output: Output,
) -> None:
    """Train every model of the suites with each attention, one row each."""
    from lightning_bench.cli.commands.sweep_plan import show_plans
    from lightning_bench.cli.shared.busy import warn_if_busy
    from lightning_bench.run.planner import Planner, measuring_limits

    chosen = slots.chosen(running.device)
    settings = replace(
        running.settings(elsewhere=how.dry_run, device=chosen.device),
        protocol="lbench",
        limits=measuring_limits(quick=False, processes=how.processes),
    )
    planner = Planner("train", axes.overrides(), settings)
    plans = [chosen.part(planner.plan(planner.load(name))) for name in suite or (None,)]
    sink = output.sink()
    if how.dry_run:
        show_plans(sink, plans, chosen.count)
        return
    warn_if_busy(sink, plans[0].device, chosen.gpus)
    measure(sink, plans, chosen, out, fresh=how.fresh, retry=how.retry)
