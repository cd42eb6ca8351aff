"""The axes of a sweep as options; each replaces the suite's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from lightning_bench.case import DIRECTIONS, DTYPES, FAMILIES, Layout
from lightning_bench.cli.shared.common_options import AXES_PANEL, KERNEL_PANEL, Word
from lightning_bench.cli.shared.completion import joining_list_of, list_of, one_of, provider_names
from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning_bench.suite import Overrides

_LENGTHS = "512,4k; 512..32k doubles; 1k..4k:512 goes by steps"


@dataclass(frozen=True)
class Axes:
    """The axes as typed: comma-separated lists, ranges, or None where the suite's values stay.

    An axis that is given twice has the values of both.
    """

    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            metavar="NAMES",
            autocompletion=joining_list_of(provider_names),
            help="Names from `lbench providers`, file.py:NAME or hub:ORG/NAME@REVISION:FUNCTION. "
            "With + before each, they join the suite's.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            metavar="FAMILY",
            autocompletion=one_of(FAMILIES),
            help="What a plain function of a file or the Hub computes, as softmax; or file.py:NAME@FAMILY.",
            rich_help_panel=KERNEL_PANEL,
        ),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            metavar="LAYOUT",
            autocompletion=one_of(get_args(Layout)),
            help="Axes of what a plain function takes: bhnd (batch, heads, seq_len, dim; default) or bnhd.",
            rich_help_panel=KERNEL_PANEL,
        ),
    ] = None
    seq_len: Annotated[
        list[str] | None,
        typer.Option(metavar="LENGTHS", help=f"Sequence lengths: {_LENGTHS}.", rich_help_panel=AXES_PANEL),
    ] = None
    head_dim: Annotated[
        list[str] | None,
        typer.Option(metavar="LENGTHS", help="Columns of q and k.", rich_help_panel=AXES_PANEL),
    ] = None
    value_dim: Annotated[
        list[str] | None,
        typer.Option(metavar="LENGTHS", help="Columns of v and o.", rich_help_panel=AXES_PANEL),
    ] = None
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            metavar="DTYPES",
            help="fp32,fp16,bf16.",
            autocompletion=list_of(DTYPES),
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    batch: Annotated[
        list[str] | None, typer.Option(metavar="SIZES", help="Batch sizes.", rich_help_panel=AXES_PANEL)
    ] = None
    heads: Annotated[
        list[str] | None, typer.Option(metavar="SIZES", help="Numbers of heads.", rich_help_panel=AXES_PANEL)
    ] = None
    direction: Annotated[
        list[str] | None,
        typer.Option(
            "--direction",
            metavar="DIRECTIONS",
            help="fwd,bwd,fwd_bwd.",
            autocompletion=list_of(DIRECTIONS),
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    kv_heads: Annotated[
        list[str] | None, typer.Option(metavar="SIZES", help="Heads of k and v.", rich_help_panel=AXES_PANEL)
    ] = None
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PARTS",
            help="Layers whose slopes are taken, from 0: '0 of 80, 79 of 80'.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    rank: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PARTS",
            help="Tensor-parallel ranks whose heads are taken, from 0: '7 of 8'.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    packing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LENGTHS",
            help="Documents packed into one sequence, in place of --seq-len: '96k + 31 x 1k, 8 x 16k'.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None
    ranks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZES",
            help="Processes with a device each, on which the tokens of a sequence lie: 1,2,4.",
            rich_help_panel=AXES_PANEL,
        ),
    ] = None

    @property
    def provider_names(self) -> list[str]:
        """The providers as typed, one per entry, not looked up."""
        return split(self.provider)

    def overrides(self, kernel: Sequence[str] = (), against: Sequence[str] = ()) -> Overrides:
        """Return the axes parsed; `kernel` and `against` are what is typed after the options of these names.

        UsageError names the option that is wrong.
        """
        from lightning_bench.providers.registry.specs import is_code_spec, refuse_other_marks
        from lightning_bench.run.planner import check_providers
        from lightning_bench.suite import Overrides

        names = self.provider_names
        check_providers(kernel, against, names)
        if self.layout is not None and self.family is None:
            raise UsageError("--layout goes only with --family")
        if self.family is not None and not any(map(is_code_spec, (*kernel, *names))):
            given = f"; `{kernel[0]}` names neither a .py file nor the Hub" if kernel else ""
            raise UsageError(
                "--family says what a plain function of a file or of the Hub computes: give --kernel "
                f"file.py:NAME{given}"
            )
        replacing, joining = replacing_and_joining(names)
        specs = (*kernel, *against, *replacing, *joining)
        refuse_other_marks(specs, dashes="--", family=self.family, layout=self.layout)
        return Overrides(
            providers=self._specs("--against", against) if kernel else self._specs("--provider", replacing),
            added=self._specs("--provider", joining),
            kernels=self._specs("--kernel", kernel),
            seq_len=lengths(self.seq_len, "--seq-len"),
            head_dim=lengths(self.head_dim, "--head-dim"),
            value_dim=lengths(self.value_dim, "--value-dim"),
            batch=lengths(self.batch, "--batch"),
            heads=lengths(self.heads, "--heads"),
            kv_heads=lengths(self.kv_heads, "--kv-heads"),
            layer=_texts(self.layer),
            rank=_texts(self.rank),
            packing=_texts(self.packing),
            ranks=lengths(self.ranks, "--ranks"),
            dtype=words(self.dtype, DTYPES, "--dtype"),
            direction=words(self.direction, DIRECTIONS, "--direction"),
        )

    def _specs(self, option: str, names: Sequence[str]) -> tuple[str, ...] | None:
        from lightning_bench.suite import parse_providers

        if not names:
            return None
        return parse_providers(",".join(names), option, family=self.family, layout=self.layout)


def _texts(texts: list[str] | None) -> tuple[str, ...] | None:
    return None if texts is None else tuple(split(texts))


def replacing_and_joining(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the providers that replace the suite's, and those that join them, without their +."""
    joining = [name[1:] for name in names if name.startswith("+")]
    return [] if joining else list(names), joining


def lengths(texts: list[str] | None, option: str) -> tuple[int, ...] | None:
    """Return the whole numbers of an option, None if it is not given. UsageError names the option."""
    from lightning_bench.suite import parse_ints

    return None if texts is None else parse_ints(",".join(texts), option)


def words(texts: list[str] | None, allowed: Sequence[Word], option: str) -> tuple[Word, ...] | None:
    """Return the words of an option, None if it is not given. UsageError names the option."""
    from lightning_bench.suite import parse_words

    return None if texts is None else parse_words(",".join(texts), allowed, option)


def split(texts: Sequence[str] | None) -> list[str]:
    """Return what stands between the commas of the texts, an option's values."""
    return [part.strip() for text in texts or () for part in text.split(",")]
