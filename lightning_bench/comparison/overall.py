"""One verdict over all cells of a provider and direction, with an error budget of its own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_bench.comparison import rule
from lightning_bench.comparison.match import Versus
from lightning_bench.comparison.noise import ASSUMED, ASSUMED_DF
from lightning_bench.comparison.result import Overall
from lightning_bench.comparison.rule import Floats, Shift
from lightning_bench.comparison.sides import Run
from lightning_bench.model_run import ModelRun
from lightning_bench.variant import Variant


@dataclass(frozen=True)
class Estimated:
    """The timed cells of a comparison with their shifts, and what these are known by.

    `pairs` has the differences by pass of the cells that have passes, `steps` [cells, 2] what the timer's
    step is of the figure of base and of head. `scale` is by how much noisier today
    is than the assumed noise, and 0 where none is assumed; `tuning` marks cells whose change may be an
    autotuner's choice, `loaded` those with an assumed noise and a process beside foreign load, `disturbed`
    those with too few undisturbed processes, and `doubled` those of them
    that doubled or halved in every process.
    """

    timed: Sequence[Versus]
    shift: Shift
    pairs: dict[int, dict[str, float]]
    steps: Floats
    scale: Floats
    tuning: rule.Flags
    loaded: rule.Flags
    disturbed: rule.Flags
    doubled: rule.Flags


def overall_verdicts(cells: Estimated, threshold: float) -> list[Overall]:
    """Judge the geometric mean of the ratios of each provider and direction with at least two cells.

    Cells of one process move together, so the process and not the cell is the unit.
    """
    lines = {key: line for key, line in lines_of(cells.timed).items() if len(line) > 1}
    if not lines:
        return []
    each = [_shift(cells, line) for line in lines.values()]
    shift = Shift(*(np.concatenate([getattr(one, name) for one in each]) for name in rule.FIELDS))
    judged = rule.judge(shift, threshold, rule.OVERALL_ERROR_RATE)
    return [
        Overall(
            provider=cells.timed[line[0]].record.provider,
            family=cells.timed[line[0]].record.family,
            direction=cells.timed[line[0]].record.direction,
            protocol=cells.timed[line[0]].record.protocol,
            verdict=judged.verdicts[index],
            cells=len(line),
            case_ids=tuple(cells.timed[i].record.case_id for i in line),
            ratio=math.exp(float(shift.log_ratio[index])),
            low=_exp(float(judged.low[index])),
            high=_exp(float(judged.high[index])),
            p=float(judged.p[index]),
        )
        for index, line in enumerate(lines.values())
    ]


def lines_of(timed: Sequence[Versus]) -> dict[tuple[str, ...], list[int]]:
    """Return the cells of each provider and direction by one protocol, neighbours in shape side by side."""
    lines: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, versus in enumerate(timed):
        r = versus.record
        lines[r.metric, r.provider, r.family, r.direction, r.protocol].append(index)

    def place(index: int) -> tuple[str, int, int, int, Variant, ModelRun, int, int, int]:
        r, shape = timed[index].record, timed[index].record.shape
        run = shape.model_run, shape.ranks
        return r.dtype, r.head_dim, r.value_dim, r.heads, shape.variant, *run, r.seq_len, r.batch

    return {key: sorted(line, key=place) for key, line in lines.items()}


def _shift(cells: Estimated, line: list[int]) -> Shift:
    mean = np.array([cells.shift.log_ratio[line].mean()])
    nothing = np.zeros(1)
    if (cells.tuning | cells.loaded)[line].any():
        return Shift(mean, np.array([np.inf]), nothing, nothing, nothing > 0)
    disturbed = np.array([cells.disturbed[line].any()])
    steps = cells.steps[line].mean(axis=0)[:, None]  # as if all cells were rounded in one direction
    if (passes := _shared([cells.pairs.get(i, {}) for i in line])) is not None:
        return rule.without_gross(rule.no_finer(rule.trimmed(passes), np.hypot(*steps)), disturbed)
    runs = [_shared([_figures(side(cells.timed[i])) for i in line]) for side in (_head, _base)]
    if runs[0] is not None and runs[1] is not None:
        return rule.without_gross(rule.unpaired(runs[0], runs[1], (steps[1], steps[0])), disturbed)
    if (cells.scale[line] > 0).all():
        return _assumed(cells, line, mean)
    # The bound for cells that move together wholly: that of independent cells would be narrower.
    return Shift(
        mean,
        np.array([cells.shift.se[line].mean()]),
        np.array([cells.shift.df[line].min()]),
        np.array([cells.shift.luck[line].max()]),
        nothing > 0,
    )


def _assumed(cells: Estimated, line: list[int], mean: Floats) -> Shift:
    """Return the mean of cells with an assumed noise: only what is each cell's own averages out."""
    count = len(line)
    own = float(np.square(cells.shift.se[line]).sum()) / count**2
    level = ASSUMED[cells.timed[line[0]].record.device].shared * float(cells.scale[line].max())
    together = 2 * level**2
    total = own + together
    df = total**2 / (own**2 / (2 * ASSUMED_DF * count) + together**2 / (2 * ASSUMED_DF))
    return Shift(mean, np.array([math.sqrt(total)]), np.array([df]), np.zeros(1), np.zeros(1, dtype=bool))


def _base(versus: Versus) -> list[Run]:
    return versus.base


def _head(versus: Versus) -> list[Run]:
    return versus.head


def _figures(runs: Sequence[Run]) -> dict[str, float]:
    """Return the log figure by file, of runs that are each a process of their own."""
    return {} if any(run.pair for run in runs) else {str(run.source): run.log_ms or 0.0 for run in runs}


def _shared(figures: Sequence[dict[str, float]]) -> Floats | None:
    """Return the mean over the cells of each process, [1, processes]; None if they share fewer than two."""
    names = [name for name in figures[0] if all(name in one for one in figures)]
    if len(names) < 2:
        return None
    means: Floats = np.array([[one[name] for name in names] for one in figures]).mean(axis=0)[None]
    return means


def _exp(value: float) -> float | None:
    """Return e to the `value`; None beyond all bounds, which JSON cannot hold."""
    return math.exp(value) if math.isfinite(value) and value < 700 else None
