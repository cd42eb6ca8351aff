"""The axes of a sweep as options; each replaces the suite's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.case import DIRECTIONS, DTYPES
from lightning_bench.cli.shared.common_options import AXES_PANEL

if TYPE_CHECKING:
    from lightning_bench.suite import Overrides

_LENGTHS = "a list like 512,4096 or a doubling range like 512..32768"


@dataclass(frozen=True)
class Axes:
    """The axes as typed: comma-separated lists, ranges, or None where the suite's values stay."""

    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider", help="Names from `lbench providers`, or file.py:NAME.", rich_help_panel=AXES_PANEL
        ),
    ] = None
    seq_len: Annotated[
        str | None, typer.Option(help=f"Sequence lengths: {_LENGTHS}.", rich_help_panel=AXES_PANEL)
    ] = None
    head_dim: Annotated[str | None, typer.Option(help="Columns of q and k.", rich_help_panel=AXES_PANEL)] = (
        None
    )
    value_dim: Annotated[str | None, typer.Option(help="Columns of v and o.", rich_help_panel=AXES_PANEL)] = (
        None
    )
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="fp32,fp16,bf16.", rich_help_panel=AXES_PANEL)
    ] = None
    batch: Annotated[str | None, typer.Option(help="Batch sizes.", rich_help_panel=AXES_PANEL)] = None
    heads: Annotated[str | None, typer.Option(help="Numbers of heads.", rich_help_panel=AXES_PANEL)] = None
    direction: Annotated[
        str | None, typer.Option("--direction", help="fwd,bwd,fwd_bwd.", rich_help_panel=AXES_PANEL)
    ] = None

    @property
    def provider_names(self) -> list[str]:
        """The providers as typed, one per entry, not looked up."""
        return [name.strip() for text in self.provider or () for name in text.split(",")]

    def overrides(self) -> Overrides:
        """Return the axes parsed. UsageError names the option that is wrong."""
        from lightning_bench.suite import Overrides, parse_ints, parse_providers, parse_words

        def lengths(text: str | None, option: str) -> tuple[int, ...] | None:
            return None if text is None else parse_ints(text, option)

        return Overrides(
            providers=None if not self.provider else parse_providers(",".join(self.provider)),
            seq_len=lengths(self.seq_len, "--seq-len"),
            head_dim=lengths(self.head_dim, "--head-dim"),
            value_dim=lengths(self.value_dim, "--value-dim"),
            batch=lengths(self.batch, "--batch"),
            heads=lengths(self.heads, "--heads"),
            dtype=None if self.dtype is None else parse_words(self.dtype, DTYPES, "--dtype"),
            direction=None
            if self.direction is None
            else parse_words(self.direction, DIRECTIONS, "--direction"),
        )
