"""One side of a comparison: its rows, each with what its samples tell of the process that measured it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from lightning_bench.case import TIMED
from lightning_bench.comparison.collector import collector_paused
from lightning_bench.comparison.rule import Floats
from lightning_bench.errors import UsageError
from lightning_bench.providers.built_in import tunes_itself
from lightning_bench.record import Record, read_records
from lightning_bench.record.discover import result_files
from lightning_bench.record.function_files import of_several_files, told_apart
from lightning_bench.record.row import CaseKey, log_deviation
from lightning_bench.record.samples import SampleLine, read_samples, sidecar_path

_BATCHES = 10
_FEWEST_BATCHES = 5
_MOST_UNEVEN = 3
# How measure/ sizes a turn; for files that do not record how their samples were taken.
_SLOT_MS, _SLOT_SAMPLES = 20.0, 5
_SAME_MEDIAN = 1e-4


@dataclass(frozen=True)
class Run:
    """A row and the block of samples that one process measured for it, or what several agree on.

    `log_ms` is the log of the figure, None if the row has none; `variance` is that of `log_ms` within the
    process, with `df` degrees of freedom; `pair` names the pass in which both sides were measured side by
    side, "" if there was none; `calibrated_as` is the case whose calibration applies, if the record goes by
    another name, else ""; `step_ms` is the smallest step between two samples of the case, which is that of
    the timer where there are many, 0 if it is not known.
    """

    record: Record
    source: Path
    log_ms: float | None = None
    variance: float = 0.0
    df: float = 0.0
    pair: str = ""
    calibrated_as: str = ""
    step_ms: float = 0.0

    @property
    def tunes_itself(self) -> bool:
        """Whether an autotuner may choose another configuration in the next process."""
        name = (self.calibrated_as or self.record.case_id).partition("/")[0]
        return self.record.autotuned or tunes_itself(name)

    def told_apart(self, names: Set[str]) -> Run:
        """Return it under the file of its function too, if that has one of these names."""
        record = told_apart(self.record, names)
        if record is self.record:
            return self
        return replace(self, record=record, calibrated_as=self.calibrated_as or self.record.case_id)


@dataclass(frozen=True)
class Side:
    """All runs of one side in the order of the files, and remarks on how they were read."""

    name: str
    runs: list[Run]
    remarks: list[str]


@dataclass(frozen=True)
class _Block:
    """Samples of one process: median, variance of its log by batches, degrees of freedom, smallest step."""

    median_ms: float
    variance: float
    df: float
    pair: str
    step_ms: float


def read_side(path: Path) -> Side:
    """Return the rows of a CSV, or of every CSV in a folder, each of which then is a run of its own.

    A file without rows is an empty side. Functions of one name from several files are told apart. Raises
    UsageError if the path does not exist, and for a file that is no result file or whose samples cannot be
    read.
    """
    remarks: list[str] = []
    runs: list[Run] = []
    with collector_paused():
        for file in result_files([path]).files:
            if file.is_file() and file.stat().st_size == 0:
                remarks.append(f"{file} is empty")
            else:
                runs += _runs_of(file, remarks)
    several = of_several_files(run.record for run in runs)
    return Side(str(path), [run.told_apart(several) for run in runs], remarks)


def _runs_of(file: Path, remarks: list[str]) -> list[Run]:
    records = read_records(file)
    samples_path = sidecar_path(file)
    blocks = _blocks_by_key(samples_path)
    steps = {
        key: min(filter(None, (block.step_ms for block in its)), default=0.0) for key, its in blocks.items()
    }
    runs = []
    lacking = 0
    for record in records:
        figure = record.median_ms if record.median_ms is not None else record.mean_ms
        if record.metric not in TIMED or not figure or figure <= 0:
            runs.append(Run(record, file))
            continue
        log_ms, step_ms = math.log(figure), steps.get(record.key, 0.0)
        if record.processes and record.processes > 1:
            between = (record.between_percent or 0.0) / 100.0
            variance, df = between**2 / record.processes, float(record.processes - 1)
            runs.append(Run(record, file, log_ms, variance, df, step_ms=step_ms))
            continue
        block = _take_block(blocks.get(record.key, []), figure)
        if block is None:
            lacking += 1
            variance, df = _of_interval(record)
            runs.append(Run(record, file, log_ms, variance, df, step_ms=step_ms))
        else:
            within = (block.variance, block.df)
            if record.status == "unstable":  # a few batches may agree by chance
                within = max(within, _of_interval(record))
            runs.append(Run(record, file, log_ms, *within, block.pair, step_ms=step_ms))
    if lacking:
        remarks.append(
            f"{file}: {lacking} of {len(records)} rows lack their samples in {samples_path.name}: "
            "their intervals are used"
        )
    return runs


def _take_block(blocks: list[_Block], figure: float) -> _Block | None:
    """Remove and return the first block with the row's median: a torn sweep leaves samples without rows."""
    for index, block in enumerate(blocks):
        if abs(block.median_ms - figure) <= _SAME_MEDIAN * figure:
            return blocks.pop(index)
    return None


def _of_interval(record: Record) -> tuple[float, float]:
    """Return the variance of the log figure that its 95 % interval means, and the degrees of freedom."""
    low, high = record.ci_low_ms, record.ci_high_ms
    if not low or not high or low <= 0:
        return 0.0, 0.0
    return log_deviation(low, high) ** 2, float(max(1, (record.samples or 2) - 1))


def _blocks_by_key(path: Path) -> dict[CaseKey, list[_Block]]:
    """Return the blocks of a sidecar by the key of their rows; lines of one layout are computed together."""
    lines = _lines(path)
    layouts: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    samples = [[time for time in line.samples.get("samples_ms", ()) if time > 0] for line in lines]
    for index, (line, times) in enumerate(zip(lines, samples, strict=True)):
        if times:
            layouts[_edges(_turns(line, times))].append(index)
    blocks: dict[int, _Block] = {}
    for edges, members in layouts.items():
        times_ms = np.array([samples[index] for index in members])
        medians = np.median(times_ms, axis=1)
        variances, df = _batch_variance(times_ms, edges)
        columns = medians.tolist(), variances.tolist(), _smallest_steps(times_ms).tolist()
        for index, median, variance, step in zip(members, *columns, strict=True):
            blocks[index] = _Block(median, variance, df, lines[index].pair, step)
    found: defaultdict[CaseKey, list[_Block]] = defaultdict(list)
    for index in sorted(blocks):
        found[lines[index].key].append(blocks[index])
    return found


def _lines(path: Path) -> list[SampleLine]:
    try:
        file = read_samples(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    for fault in file.faults:
        if not fault.torn:
            raise UsageError(
                f"{path}, line {fault.number}: not samples of lbench ({fault.error!r}); "
                "mend or remove that line"
            )
    return file.lines


def _turns(line: SampleLine, times: Sequence[float]) -> tuple[int, ...]:
    """Return the numbers of samples that were taken in one go, as recorded or by the rule of measure/."""
    if line.turns is not None and sum(line.turns) == len(times):
        return tuple(line.turns)
    slot = max(1, min(_SLOT_SAMPLES, int(_SLOT_MS / sorted(times)[len(times) // 2])))
    left = len(times) % slot
    return (slot,) * (len(times) // slot) + ((left,) if left else ())


@lru_cache
def _edges(turns: tuple[int, ...]) -> tuple[int, ...]:
    """Return where batches of consecutive turns begin and end: at most ten, none without a sample.

    Turns that give fewer than five batches, or very uneven ones, tell little of the noise: then the samples
    are cut evenly, whatever their turns.
    """
    ends = [0, *accumulate(turns)]
    edges = _cut(ends, min(_BATCHES, len(turns)))
    sizes = [end - begin for begin, end in pairwise(edges)]
    if len(sizes) < _FEWEST_BATCHES or max(sizes) > _MOST_UNEVEN * min(sizes):
        edges = _cut(range(ends[-1] + 1), min(_BATCHES, ends[-1]))
    return edges


def _cut(places: Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(places[round(part * (len(places) - 1) / count)] for part in range(count + 1))


def _smallest_steps(times_ms: Floats) -> Floats:
    """Return the smallest difference between unequal samples of each row, 0 if all are equal."""
    steps = np.diff(np.sort(times_ms, axis=1), axis=1)
    smallest: Floats = np.where(steps > 0, steps, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isinf(smallest), 0.0, smallest)


def _batch_variance(times_ms: Floats, edges: tuple[int, ...]) -> tuple[Floats, float]:
    """Return the variance of each row's log figure by batch means (Law and Kelton), and degrees of freedom.

    `times_ms` has the shape [lines, samples].
    """
    count = len(edges) - 1
    if count < 2:
        return np.zeros(len(times_ms)), 0.0
    batches = [np.median(times_ms[:, begin:end], axis=1) for begin, end in pairwise(edges)]
    return np.log(np.stack(batches, axis=1)).var(axis=1, ddof=1) / count, count - 1.0
