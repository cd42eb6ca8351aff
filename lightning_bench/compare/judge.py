"""From two sides to a Comparison: blocks to shifts, shifts to verdicts, verdicts to ratios over all."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from lightning_bench.compare import rule
from lightning_bench.compare.collector import collector_paused
from lightning_bench.compare.match import Versus, match
from lightning_bench.compare.noise import Noise, Noises, assumed
from lightning_bench.compare.result import WORSE, ComparedCell, Comparison, Overall, Verdict, sort_cells
from lightning_bench.compare.rule import Floats, Shift
from lightning_bench.compare.sides import Run, Side
from lightning_bench.record.identities import unlike


@collector_paused()
def compare_sides(
    base: Side,
    head: Side,
    *,
    threshold: float,
    noises: Noises | None = None,
    across_machines: bool = False,
    fail_on: frozenset[Verdict] = WORSE,
) -> Comparison:
    """Judge every cell of both sides.

    `threshold` is the relative change that counts, 0.03 for 3 %. Without `noises`, the noise between
    processes is assumed where one process per side leaves it unknown.
    """
    matched = match(base.runs, head.runs, across_machines=across_machines)
    judged = _Judged(matched.timed, noises or Noises([]), threshold)
    remarks = list(dict.fromkeys([*base.remarks, *head.remarks, *judged.remarks]))
    if matched.neither:
        counts = ", ".join(f"{n} {status}" for status, n in Counter(matched.neither).items())
        remarks.append(f"{len(matched.neither)} cells have a figure on neither side ({counts})")
    if matched.elsewhere:
        remarks.append(
            f"{matched.elsewhere} cells have rows of another machine too, on one side alone: these are not "
            "compared"
        )
    rows = {name: [run.record for run in side.runs] for name, side in (("base", base), ("head", head))}
    remarks += [f"not all rows are of one device: {each}" for each in unlike(rows)]
    return Comparison(
        base=base.name,
        head=head.name,
        threshold=threshold,
        cells=sort_cells([*judged.cells, *matched.settled]),
        overall=judged.overall,
        remarks=remarks,
        fail_on=fail_on,
    )


def one_provider(side: Side, provider: str, name: str | None = None) -> Side:
    """Return the runs of one provider; with `name` under that name, so that two providers' cells match."""

    def renamed(run: Run) -> Run:
        r = run.record
        case_id = f"{name}/{r.case_id.partition('/')[2]}"
        return replace(
            run, record=replace(r, provider=name or provider, case_id=case_id), calibrated_as=r.case_id
        )

    runs = [run for run in side.runs if run.record.provider == provider]
    return Side(provider, runs if name is None else [renamed(run) for run in runs], side.remarks)


class _Judged:
    """Timed cells with their verdicts, in the order given, ratios over all, and remarks on the noise."""

    def __init__(self, timed: Sequence[Versus], noises: Noises, threshold: float) -> None:
        self.cells: list[ComparedCell] = []
        self.overall: list[Overall] = []
        self.remarks: list[str] = []
        if not timed:
            return
        self._noises = [(_noise(noises, versus.base), _noise(noises, versus.head)) for versus in timed]
        self._timed = timed
        count = len(timed)
        self._shift = Shift(np.zeros(count), np.zeros(count), np.zeros(count))
        self._pairs: dict[int, dict[str, float]] = {}
        self._sources = [""] * count
        self._estimate()
        result = rule.judge(self._shift, threshold)
        for index, versus in enumerate(timed):
            log_ratio = float(self._shift.log_ratio[index])
            self.cells.append(
                ComparedCell(
                    metric=versus.record.metric,
                    protocol=versus.record.protocol,
                    case_id=versus.record.case_id,
                    provider=versus.record.provider,
                    family=versus.record.family,
                    direction=versus.record.direction,
                    detail=versus.detail,
                    verdict=self._verdict(index, result.verdicts[index]),
                    base=_geometric(versus.base),
                    head=_geometric(versus.head),
                    unit="ms",
                    ratio=math.exp(log_ratio),
                    low=_exp(float(result.low[index])),
                    high=_exp(float(result.high[index])),
                    p=float(result.p[index]),
                    resolution=_exp(float(result.resolution[index]), less=1.0),
                    base_blocks=len(versus.base),
                    head_blocks=len(versus.head),
                    paired=index in self._pairs,
                    noise=self._sources[index],
                )
            )
        self._average()
        self._remark(threshold, result.resolution)

    def _verdict(self, index: int, verdict: Verdict) -> Verdict:
        """Return the rule's verdict, but AMBIGUOUS for an unstable row whose noise is only assumed."""
        versus = self._timed[index]
        unstable = any(run.record.status == "unstable" for run in (*versus.base, *versus.head))
        return "AMBIGUOUS" if unstable and self._sources[index] == "assumed" else verdict

    def _estimate(self) -> None:
        """Estimate the shift of every cell; cells with equal numbers of blocks are computed together."""
        groups: defaultdict[tuple[bool, int, int], list[int]] = defaultdict(list)
        for index, versus in enumerate(self._timed):
            ours = {run.pair: run.log_ms for run in versus.base if run.pair and run.log_ms is not None}
            pairs = {
                run.pair: run.log_ms - ours[run.pair]
                for run in versus.head
                if run.pair in ours and run.log_ms is not None
            }
            if len(pairs) > 1:
                self._pairs[index] = pairs
                groups[True, len(pairs), len(pairs)].append(index)
            else:
                groups[False, len(versus.base), len(versus.head)].append(index)
        for (paired, _, _), members in groups.items():
            if paired:
                shift = self._paired(members)
            else:
                head = self._side([self._timed[i].head for i in members], members, 1)
                base = self._side([self._timed[i].base for i in members], members, 0)
                shift = rule.difference(head, base)
            for name in ("log_ratio", "se", "df"):
                getattr(self._shift, name)[members] = getattr(shift, name)

    def _paired(self, members: list[int]) -> Shift:
        own = rule.trimmed(np.array([list(self._pairs[i].values()) for i in members]))
        count = len(self._pairs[members[0]])
        known = [_together(*self._noises[i]) for i in members]
        for i, noise in zip(members, known, strict=True):
            self._sources[i] = _source(noise, members)
        variance = np.array([2 * noise.pair**2 / count if noise else 0.0 for noise in known])
        return rule.with_prior(own, variance, np.array([noise.pair_df if noise else 0.0 for noise in known]))

    def _side(self, sides: list[list[Run]], members: list[int], place: int) -> Shift:
        own = rule.trimmed(np.array([[run.log_ms for run in runs] for runs in sides], dtype=float))
        known = [self._noises[i][place] for i in members]
        count = len(sides[0])
        if count > 1:
            for i, noise in zip(members, known, strict=True):
                self._sources[i] = self._sources[i] or _source(noise, members)
            variance = np.array([noise.run**2 / count if noise else 0.0 for noise in known])
            return rule.with_prior(own, variance, _df(known))
        between = [noise or assumed(runs[0].record.device) for noise, runs in zip(known, sides, strict=True)]
        for i, noise in zip(members, between, strict=True):
            self._sources[i] = noise.source
        within = np.array([runs[0].variance for runs in sides])
        within_df = np.maximum(1.0, [runs[0].df for runs in sides])
        outside = np.square([noise.run for noise in between])
        total = within + outside
        df = np.square(total) / (np.square(within) / within_df + np.square(outside) / _df(between))
        return Shift(own.log_ratio, np.sqrt(total), df)

    def _average(self) -> None:
        """Take geometric means; cells of one pass move together, so the pass and not the cell is the unit."""
        groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for index, cell in enumerate(self.cells):
            groups[cell.family, cell.direction].append(index)
        for (family, direction), members in groups.items():
            mean = float(self._shift.log_ratio[members].mean())
            shared = self._shared_pairs(members)
            if shared is None:
                # The bound for cells that move together wholly: that of independent cells would be narrower.
                own = Shift(
                    np.array([mean]),
                    np.array([self._shift.se[members].mean()]),
                    np.array([self._shift.df[members].min()]),
                )
            else:
                own = rule.trimmed(shared[None, :])
            _, _, (low, high) = rule.decide(own, 0.0)
            self.overall.append(
                Overall(
                    family,
                    direction,
                    len(members),
                    math.exp(float(own.log_ratio[0])),
                    _exp(float(low[0])) or 0.0,
                    _exp(float(high[0])) or math.inf,
                )
            )

    def _shared_pairs(self, members: list[int]) -> Floats | None:
        """Return the mean over the cells of each pass, None unless all cells have the same passes."""
        if any(i not in self._pairs for i in members):
            return None
        names = list(self._pairs[members[0]])
        if any(list(self._pairs[i]) != names for i in members):
            return None
        means: Floats = np.array([list(self._pairs[i].values()) for i in members]).mean(axis=0)
        return means

    def _remark(self, threshold: float, resolution: Floats) -> None:
        kinds = Counter(source.rpartition(", ")[2] for source in self._sources)
        if kinds["assumed"]:
            levels = {versus.base[-1].record.device for versus in self._timed}
            stated = ", ".join(f"{100 * assumed(device).run:g} % on {device}" for device in sorted(levels))
            self.remarks.append(
                f"{kinds['assumed']} cells have one process a side, and the noise between processes is "
                f"assumed ({stated}): `lbench calibrate` measures it, and `lbench compare --ref` takes many"
            )
        if kinds["calibrated on other cases"]:
            self.remarks.append(
                f"{kinds['calibrated on other cases']} cells are not calibrated: the noise of this machine's "
                "noisiest calibrated case stands in"
            )
        limit = math.log1p(threshold)
        coarse = int(np.sum(resolution > limit))
        if coarse:
            usual = _exp(float(np.median(resolution[resolution > limit])), less=1.0)
            finest = "100 %" if usual is None or usual > 1 else f"{100 * usual:.1f} %"
            self.remarks.append(
                f"the threshold of {100 * threshold:g} % is finer than {coarse} of {len(self.cells)} cells "
                f"can resolve: half of these find nothing below {finest} in 95 % of runs; "
                "take more --pairs, a quieter machine or a wider --threshold"
            )


def _noise(noises: Noises, runs: Sequence[Run]) -> Noise | None:
    last = runs[-1]
    return noises.of(last.record.machine_id, last.calibrated_as or last.record.case_id)


def _together(base: Noise | None, head: Noise | None) -> Noise | None:
    """Return the noise of one process, averaged over both sides; None unless both are known."""
    if base is None or head is None or base == head:
        return head if base == head else None
    pair, run = (math.hypot(*both) / math.sqrt(2) for both in ((base.pair, head.pair), (base.run, head.run)))
    df, pair_df = min(base.df, head.df), min(base.pair_df, head.pair_df)
    return Noise(pair, run, df, pair_df, max(base.source, head.source, key=len))


def _source(noise: Noise | None, members: Sequence[int]) -> str:
    """Name the source of the noise: without other cells a calibration is not used (see `with_prior`)."""
    return f"measured, {noise.source}" if noise and len(members) > 1 else "measured"


def _df(noises: Iterable[Noise | None]) -> Floats:
    return np.array([noise.df if noise else 0.0 for noise in noises])


def _geometric(runs: Sequence[Run]) -> float:
    """Return the geometric mean figure, ms, without the highest and lowest fifth, as the rule takes it."""
    logs = [run.log_ms or 0.0 for run in runs]
    return math.exp(logs[0] if len(logs) == 1 else float(rule.trimmed(np.array(logs)).log_ratio))


def _exp(value: float, *, less: float = 0.0) -> float | None:
    """Return e to the `value`, minus `less`; None beyond all bounds, which JSON cannot hold."""
    return math.exp(value) - less if math.isfinite(value) and value < 700 else None
