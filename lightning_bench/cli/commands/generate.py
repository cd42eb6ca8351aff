"""`lbench generate`: have whole models continue prompts, one row per model, attention, length and batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.case import DTYPES
from lightning_bench.cli.commands.model_sweep import ModelAxes, ModelOptions, Where, sweep_models
from lightning_bench.cli.shared.axis_options import lengths
from lightning_bench.cli.shared.common_options import AXES_PANEL, Output, Running
from lightning_bench.cli.shared.completion import suites
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.cli.shared.slot_options import Slots

if TYPE_CHECKING:
    from lightning_bench.suite import Overrides


@dataclass(frozen=True)
class GenerateAxes(ModelAxes):
    """Those of generation besides."""

    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LENGTHS",
            help="Tokens of a prompt, from 2: 512,2k; 512..8k doubles.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    new_tokens: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COUNTS", help="Tokens that continue a prompt, from 2.", rich_help_panel=AXES_PANEL
        ),
    ] = None
    batch: Annotated[
        list[str] | None, typer.Option(metavar="SIZES", help="Batch sizes.", rich_help_panel=AXES_PANEL)
    ] = None

    def overrides(self) -> Overrides:
        """Return the axes parsed. UsageError names the option that is wrong."""
        return self.parsed(
            DTYPES,
            prompt=lengths(self.prompt, "--prompt"),
            new_tokens=lengths(self.new_tokens, "--new-tokens"),
            batch=lengths(self.batch, "--batch"),
        )


@grouped
def generate(
    *,
    context: typer.Context,
    suite: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SUITE",
            autocompletion=suites,
            help="Suites with prompts, or paths ending in .toml. Default: generate on a GPU, quick on a CPU.",
        ),
    ] = None,
    axes: GenerateAxes,
    running: Running,
    slots: Slots,
    how: ModelOptions,
    output: Output,
) -> None:
    """Generate with every model of the suites on each attention, one row each."""
    sweep_models("generate", suite, axes.overrides(), Where(context, running, slots), how, output)
