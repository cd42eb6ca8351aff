"""`lbench train`: train whole models with attention plugged in, one row per model, attention and length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.commands.model_sweep import ModelAxes, ModelOptions, Where, sweep_models
from lightning_bench.cli.shared.axis_options import lengths, words
from lightning_bench.cli.shared.common_options import AXES_PANEL, Output, Running
from lightning_bench.cli.shared.completion import list_of, suites
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.cli.shared.slot_options import Slots

if TYPE_CHECKING:
    from lightning_bench.suite import Overrides


@dataclass(frozen=True)
class TrainAxes(ModelAxes):
    """Those of training besides."""

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
    recompute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            autocompletion=list_of(("none", "layers")),
            help="none, or layers: activation checkpointing.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None

    parallel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOW",
            autocompletion=list_of(("none", "ddp", "fsdp2")),
            help="none; or ddp or fsdp2, where --ranks GPUs take a step together.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    ranks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COUNTS",
            help="GPUs that take a step together with --parallel ddp or fsdp2, from 2. Default: the "
            "suite's, else 2.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None

    def overrides(self) -> Overrides:
        """Return the axes parsed. UsageError names the option that is wrong."""
        from lightning_bench.model_run import PARALLEL_WORDS, RECOMPUTE_WORDS
        from lightning_bench.suite.model_groups import TRAINED_DTYPES

        return self.parsed(
            TRAINED_DTYPES,
            seq_len=lengths(self.seq_len, "--seq-len"),
            tokens=lengths(self.tokens, "--tokens"),
            recompute=words(self.recompute, RECOMPUTE_WORDS, "--recompute"),
            parallel=words(self.parallel, PARALLEL_WORDS, "--parallel"),
            ranks=lengths(self.ranks, "--ranks"),
        )


@grouped
def train(
    *,
    context: typer.Context,
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
    how: ModelOptions,
    output: Output,
) -> None:
    """Train every model of the suites with each attention, one row each."""
    sweep_models("train", suite, axes.overrides(), Where(context, running, slots), how, output)
