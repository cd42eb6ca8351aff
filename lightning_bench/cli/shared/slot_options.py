"""The options of commands that measure on several GPUs, or a part of a sweep."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.shared.completion import one_of

if TYPE_CHECKING:
    from lightning_bench.run.chosen_slots import Chosen

_PANEL = "Several GPUs"


def _executors() -> tuple[str, ...]:
    from lightning_bench.run.chosen_slots import EXECUTORS

    return EXECUTORS


@dataclass(frozen=True)
class GpuChoice:
    """On which GPUs cases are measured, and who gives them out."""

    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Measure on several at once, a shape on each: all, or 0,1 or UUIDs as `lbench gpus` lists "
            "them; with ray or slurm how many. cpu:N: N slots without a GPU.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who gives out the GPUs: local (this machine, default), ray or slurm (docs/scale.md).",
            autocompletion=one_of(_executors),
            rich_help_panel=_PANEL,
        ),
    ] = None

    def chosen(
        self,
        context: typer.Context,
        device: str | None,
        shard: str | None = None,
        *,
        instead: str | None = None,
    ) -> Chosen:
        """Return the slots, which stay until the command ends; UsageError for slots that there are not.

        `device` is what --device has, which does not go with them; `instead` is what to do on a CPU if the
        command refuses slots of one.
        """
        from lightning_bench.run.chosen_slots import choose_slots

        chosen = choose_slots(self.gpus, self.executor, shard, device=device, instead=instead)
        return context.with_resource(closing(chosen))


@dataclass(frozen=True)
class Slots(GpuChoice):
    """On which GPUs the cases of a sweep are measured, and which part of them."""

    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Measure part I of N only, into a file of its own, for `lbench merge`.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def chosen_part(self, context: typer.Context, device: str | None) -> Chosen:
        """Return the slots and the shard; UsageError if one is wrong."""
        return self.chosen(context, device, self.shard)
