"""`compare`: is anything slower, larger or broken? Two results, or two providers of one."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_bench.api.arguments import check_flag, is_number
from lightning_bench.api.html import html_table
from lightning_bench.api.python_names import python_names
from lightning_bench.api.reading import Source, paths_of
from lightning_bench.comparison.formats import verdict_text as text
from lightning_bench.comparison.judge import compare_sides, two_providers
from lightning_bench.comparison.noise import read_noises
from lightning_bench.comparison.result import ComparedCell, Comparison
from lightning_bench.comparison.sides import Side, read_side
from lightning_bench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import pandas as pd


class ComparedResults:
    """The verdicts on two results; ratios are head / base, so above 1 is slower or larger."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        return self.comparison.headline

    @property
    def is_worse(self) -> bool:
        """Whether anything is slower, larger, broken or missing: exit code 1 of `lbench compare`."""
        return self.comparison.exit_code == ExitCode.FOUND

    @property
    def is_decided(self) -> bool:
        """Whether anything could be compared and decided: otherwise exit code 3 of `lbench compare`."""
        return self.comparison.exit_code != ExitCode.UNDECIDED

    @cached_property
    def df(self) -> pd.DataFrame:
        """One line per case: its verdict, both figures, their ratio and its bounds with 99 % confidence."""
        import pandas as pd

        return pd.DataFrame([asdict(cell) for cell in self.comparison.cells])

    def table(self) -> str:
        """Return every case with its verdict, worst first, and the verdicts over all cases, as text."""
        lines = [text.HEADERS, *map(_line, self.comparison.cells)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([text.name_of_sides(self.comparison), *rows, *self._below]) + "\n"

    @property
    def _below(self) -> list[str]:
        overall = text.overall_lines(self.comparison.overall)
        notes = [f"note: {remark}" for remark in self.comparison.remarks]
        return [*overall, *notes, f"{self.headline}."]

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        lines = map(_line, self.comparison.cells)
        return html_table(text.name_of_sides(self.comparison), text.HEADERS, lines, self._below)


def _line(cell: ComparedCell) -> tuple[str, ...]:
    """Return the row of a table; details of a cell with a ratio are in the DataFrame only."""
    return (*text.row(cell)[:-1], text.case_text(cell) if cell.ratio is None else cell.case_id)


@python_names()
def compare(
    base: Source,
    head: Source | None = None,
    *,
    provider: str | None = None,
    against: str | None = None,
    threshold: float = 0.03,
    across_machines: bool = False,
) -> ComparedResults:
    """Give every case of two results a verdict, as `lbench compare` does.

    With `provider` and `against` and without `head`, compare two providers of one result. `threshold` is the
    relative change in time that counts. Calibrations are found as the command finds them. Raise UsageError
    for files that lbench did not write, for a provider that is missing, and for arguments that do not fit.
    """
    check_flag(across_machines, "across_machines")
    if not (is_number(threshold) and 0 < threshold < 1):
        raise UsageError(f"threshold {threshold!r} is no share of a time; allowed: such as 0.03, for 3 %")
    sources = (base,) if head is None else (base, head)
    paths = paths_of(sources)
    sides = _sides(paths, provider, against)
    return ComparedResults(
        compare_sides(
            *sides, threshold=threshold, noises=read_noises(beside=paths), across_machines=across_machines
        )
    )


def _sides(paths: list[Path], provider: str | None, against: str | None) -> tuple[Side, Side]:
    if len(paths) == 2 and (provider, against) == (None, None):
        return read_side(paths[0]), read_side(paths[1])
    if len(paths) == 1 and provider is not None and against is not None:
        return two_providers(paths[0], provider, against)
    raise UsageError(
        "compare takes two results, compare(base, head), or two providers of one, "
        'compare(result, provider="lightning2", against="flash2")'
    )
