"""A table on its side: one column per length, as papers print the training of models."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lightning_bench.report.tables.grid import Grid, GridColumn


@dataclass(frozen=True)
class TurnedGrid(Grid):
    """The cells of `of` with lines for columns; `labels` has the first cells of each, below `label_heads`."""

    of: Grid
    label_heads: list[str]
    labels: list[list[str]]

    @classmethod
    def turn(cls, grid: Grid, label_heads: list[str], labels: list[list[str]]) -> TurnedGrid:
        """Return the grid on its side, with one list of labels per column of it."""
        same = {field.name: getattr(grid, field.name) for field in fields(Grid)}
        same["columns"] = [GridColumn(str(line), "") for line in grid.lines]
        same["cells"] = [list(column) for column in zip(*grid.cells, strict=True)]
        return cls(**same, of=grid, label_heads=label_heads, labels=labels)

    @property
    def heads(self) -> list[str]:
        """The heads of the columns before the lengths."""
        return self.label_heads

    @property
    def texts(self) -> list[list[str]]:
        """What each line has in these columns."""
        return self.labels

    @property
    def upright(self) -> Grid:
        """The same cells with one line per length."""
        return self.of
