"""From two sides to a Comparison: blocks to shifts, shifts to verdicts, verdicts to ratios over all."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_bench.comparison import rule
from lightning_bench.comparison.by_files import by_files
from lightning_bench.comparison.collector import collector_paused
from lightning_bench.comparison.match import Versus, match
from lightning_bench.comparison.noise import Noise, Noises, assumed
from lightning_bench.comparison.overall import Estimated, lines_of, overall_verdicts
from lightning_bench.comparison.remarks import noise_remarks, not_in_turns, partial_sides
from lightning_bench.comparison.result import WORSE, ComparedCell, Comparison, Overall, Verdict, sort_cells
from lightning_bench.comparison.rule import Flags, Floats, Shift
from lightning_bench.comparison.sides import Run, Side, read_side
from lightning_bench.comparison.spread import todays_scale
from lightning_bench.errors import UsageError
from lightning_bench.providers.nicknames import plain_name
from lightning_bench.record.identities import unlike
from lightning_bench.words import choice, counted


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
    base, head, moved = by_files(base, head)
    matched = match(base.runs, head.runs, across_machines=across_machines)
    judged = _Judged(matched.timed, noises or Noises([]), threshold)
    remarks = list(dict.fromkeys([*moved, *base.remarks, *head.remarks, *judged.remarks]))
    if matched.neither:
        counts = ", ".join(f"{n} {status}" for status, n in Counter(matched.neither).items())
        remarks.append(f"{len(matched.neither)} cells have a figure on neither side ({counts})")
    if matched.elsewhere:
        remarks.append(
            f"{matched.elsewhere} cells have rows of another machine too, on one side alone: these are not "
            "compared"
        )
    if matched.copied:
        remarks.append(
            f"{counted(matched.copied, 'cell')} with one row in several files of a side: copies count once"
        )
    rows = {name: [run.record for run in side.runs] for name, side in (("base", base), ("head", head))}
    remarks += [f"not all rows are of one device: {each}" for each in unlike(rows)]
    cells = sort_cells([*judged.cells, *matched.settled])
    return Comparison(
        base=base.name,
        head=head.name,
        threshold=threshold,
        cells=cells,
        overall=judged.overall,
        remarks=[*remarks, *partial_sides(cells)],
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
    return Side(provider, runs if name is None else [renamed(run) for run in runs], [*side.remarks])


def two_providers(path: Path, provider: str, against: str) -> tuple[Side, Side]:
    """Return two providers of one run as sides, `against` first; UsageError if the run lacks one of them.

    Cases that only one of them was measured in are left out, with a remark: nobody asked for the other.
    """
    side = read_side(path)
    present = sorted({run.record.provider for run in side.runs})
    if lacking := [name for name in (provider, against) if name not in present]:
        raise UsageError(
            f"{path} has no rows of {', '.join(lacking)}; {choice(plain_name(lacking[0]), present)}"
        )
    name = f"{provider} against {against}"
    base, head = one_provider(side, against, name), one_provider(side, provider, name)
    of_base, of_head = ({run.record.case_id for run in each.runs} for each in (base, head))
    for left, found in ((base, of_base - of_head), (head, of_head - of_base)):
        if found:
            head.remarks.append(
                f"{counted(len(found), 'case')} left out, of which only {left.name} has a row"
            )
    head.remarks.extend(not_in_turns(base.runs, head.runs))
    return _only(base, of_head), _only(head, of_base)


def _only(side: Side, case_ids: Set[str]) -> Side:
    return replace(side, runs=[run for run in side.runs if run.record.case_id in case_ids])


class _Judged:
    """Timed cells with their verdicts, in the order given, overall verdicts, and remarks on the noise."""

    def __init__(self, timed: Sequence[Versus], noises: Noises, threshold: float) -> None:
        self.cells: list[ComparedCell] = []
        self.overall: list[Overall] = []
        self.remarks: list[str] = []
        if not timed:
            return
        self._noises = [(_noise(noises, versus.base), _noise(noises, versus.head)) for versus in timed]
        self._timed = timed
        self._threshold = threshold
        count = len(timed)
        self._shift = rule.Shift.zeros(count)
        self._pairs: dict[int, dict[str, float]] = {}
        self._sources = [""] * count
        self._tuning = np.array([_may_tune(versus) for versus in timed])
        self._loaded = np.array([_beside_load(versus) for versus in timed])
        self._steps = np.array([_steps(versus) for versus in timed])
        self._estimate()
        disturbed = np.array([not self._is_steady(index) for index in range(count)])
        doubled = self._shift.gross & disturbed
        self._shift = rule.without_gross(self._shift, disturbed)
        self._scale = self._scaled()
        result = rule.judge(self._shift, threshold)
        resolution = self._resolution(result.resolution, disturbed)
        for index, versus in enumerate(timed):
            log_ratio = float(self._shift.log_ratio[index])
            verdict, why = self._verdict(index, result.verdicts[index])
            self.cells.append(
                ComparedCell(
                    metric=versus.record.metric,
                    protocol=versus.record.protocol,
                    case_id=versus.record.case_id,
                    provider=versus.record.provider,
                    family=versus.record.family,
                    direction=versus.record.direction,
                    detail="; ".join(filter(None, (why, versus.detail))),
                    verdict=verdict,
                    base=_geometric(versus.base),
                    head=_geometric(versus.head),
                    unit="ms",
                    ratio=math.exp(log_ratio),
                    low=_exp(float(result.low[index])),
                    high=_exp(float(result.high[index])),
                    p=float(result.p[index]),
                    resolution=_exp(float(resolution[index]), less=1.0),
                    base_blocks=len(versus.base),
                    head_blocks=len(versus.head),
                    paired=index in self._pairs,
                    noise=self._sources[index],
                )
            )
        loaded = self._loaded & (self._scale > 0)
        estimated = Estimated(
            timed,
            self._shift,
            self._pairs,
            self._steps,
            self._scale,
            self._tuning,
            loaded,
            disturbed,
            doubled,
        )
        self.overall = overall_verdicts(estimated, threshold)
        self.remarks = noise_remarks(self.cells, estimated, resolution, threshold)

    def _verdict(self, index: int, verdict: Verdict) -> tuple[Verdict, str]:
        """Return the verdict with what keeps it from the rule's, if anything does.

        An autotuner's choice is no slowdown. Where noise is only assumed, neither is what a CPU takes beside
        foreign load, and another unstable row counts if the rows' own intervals lie apart by more than the
        threshold.
        """
        versus = self._timed[index]
        if verdict == "SLOWER" and self._tuning[index]:
            return "AMBIGUOUS", "its autotuner may choose anew in each process, and one side has one process"
        changed = verdict in ("SLOWER", "FASTER") and self._sources[index] == "assumed"
        if changed and self._loaded[index]:
            return "AMBIGUOUS", "what one process takes beside foreign load shows no change"
        unstable = any(map(_is_unstable, (*versus.base, *versus.head)))
        if unstable and changed:
            slow, fast = (versus.head, versus.base)[:: 1 if verdict == "SLOWER" else -1]
            low, high = _interval(slow[-1])[0], _interval(fast[-1])[1]
            return ("AMBIGUOUS" if low <= high * (1 + self._threshold) else verdict), ""
        return verdict, ""

    def _is_steady(self, index: int) -> bool:
        """Return whether enough passes, or runs of each side, of a cell were undisturbed."""
        versus = self._timed[index]
        sides = versus.base, versus.head
        if index in self._pairs:
            unstable = {run.pair for side in sides for run in side if _is_unstable(run)}
            return len(self._pairs[index].keys() - unstable) >= rule.STEADY
        return all(sum(not _is_unstable(run) for run in side) >= rule.STEADY for side in sides)

    def _resolution(self, resolution: Floats, disturbed: Flags) -> Floats:
        """Return the resolution of the rule, but where processes are too few a time must double.

        Where these were disturbed, too, nothing is found.
        """
        count = len(self._timed)
        few = [
            source == "measured"
            and not rule.enough(
                count, len(self._pairs.get(index, versus.base)), len(versus.head), paired=index in self._pairs
            )
            for index, (versus, source) in enumerate(zip(self._timed, self._sources, strict=True))
        ]
        least = np.where(disturbed, np.inf, rule.GROSS)
        return np.where(few, np.maximum(resolution, least), resolution)

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
        for (paired, base, head), members in groups.items():
            shift = self._paired(members) if paired else self._unpaired(members, alone=min(base, head) == 1)
            for name in rule.FIELDS:
                getattr(self._shift, name)[members] = getattr(shift, name)

    def _paired(self, members: list[int]) -> Shift:
        own = rule.trimmed(np.array([list(self._pairs[i].values()) for i in members]))
        count = len(self._pairs[members[0]])
        known = [_together(*self._noises[i]) for i in members]
        for i, noise in zip(members, known, strict=True):
            self._sources[i] = _source(noise, members)
        variance, whole = (
            np.array([2 * spread(noise) ** 2 / count if noise else 0.0 for noise in known])
            for spread in (_pair, _run)
        )
        pair_df = np.array([noise.pair_df if noise else 0.0 for noise in known])
        pooled = rule.with_prior(own, variance, pair_df)
        known_shift = rule.with_known(pooled, whole, _df(known))
        return rule.no_finer(known_shift, np.hypot(*self._steps[members].T))

    def _unpaired(self, members: list[int], *, alone: bool) -> Shift:
        """Estimate sides that are not in pairs; with `alone` at least one has one process."""
        timed = [self._timed[i] for i in members]
        sides = [[versus.head for versus in timed], [versus.base for versus in timed]]
        head, base = self._side(sides[0], members, 1, alone), self._side(sides[1], members, 0, alone)
        shift = rule.difference(head, base, known=alone)
        if alone:
            return shift
        luck, gross = rule.luck_of_sides(*map(_blocks, sides))
        known = [_together(*self._noises[i]) for i in members]
        counts = sum(1 / len(side[0]) for side in sides)
        variance = np.array([noise.run**2 * counts if noise else 0.0 for noise in known])
        return rule.with_known(replace(shift, luck=luck, gross=gross), variance, _df(known))

    def _side(self, sides: list[list[Run]], members: list[int], place: int, alone: bool) -> Shift:
        own = rule.trimmed(_blocks(sides))
        known = [self._noises[i][place] for i in members]
        count = len(sides[0])
        if alone:
            known = [noise or _assumed(runs) for noise, runs in zip(known, sides, strict=True)]
        for i, noise in zip(members, known, strict=True):
            assumes = noise is not None and noise.source == "assumed"
            source = noise.source if noise and (assumes or count == 1) else _source(noise, members)
            self._sources[i] = max(self._sources[i], source, key=_doubt)
        if count > 1:
            variance = np.array([noise.run**2 / count if noise else 0.0 for noise in known])
            return rule.no_finer(rule.with_prior(own, variance, _df(known)), self._steps[members, place])
        within = np.array([runs[0].variance for runs in sides])
        within_df = np.maximum(1.0, [runs[0].df for runs in sides])
        outside = np.square([noise.run for noise in known if noise])
        total = within + outside
        df = np.square(total) / (np.square(within) / within_df + np.square(outside) / _df(known))
        return Shift(own.log_ratio, np.sqrt(total), df)

    def _scaled(self) -> Floats:
        """Scale assumed noises by how noisy today is; return by how much, 0 where none is assumed."""
        assumes = np.array([source == "assumed" for source in self._sources])
        lines = [
            (key[0], members)
            for key, line in lines_of(self._timed).items()
            if (members := [i for i in line if assumes[i]])
        ]
        scale = todays_scale(self._shift.log_ratio, self._shift.se, lines)
        self._shift.se[assumes] *= scale[assumes]
        return np.where(assumes, scale, 0.0)


def _noise(noises: Noises, runs: Sequence[Run]) -> Noise | None:
    last = runs[-1]
    record = last.record
    return noises.of(record.machine_id, last.calibrated_as or record.case_id, record.gpu_uuid)


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


def _doubt(source: str) -> tuple[bool, int]:
    """Order sources of noise by how little they say."""
    return "assumed" in source, len(source)


def _assumed(runs: Sequence[Run]) -> Noise:
    last = runs[-1]
    return assumed(last.record.device, last.log_ms or 0.0, self_tuning=last.tunes_itself)


def _may_tune(versus: Versus) -> bool:
    """Return whether a change may be an autotuner's choice: one process on a side had one try."""
    return any(
        len(side) == 1 and (side[0].record.processes or 1) == 1 and side[0].tunes_itself
        for side in (versus.base, versus.head)
    )


def _beside_load(versus: Versus) -> bool:
    return any(run.record.beside_load for run in (*versus.base, *versus.head))


def _steps(versus: Versus) -> tuple[float, float]:
    """Return the step of the timer in logs of the figure, of base and of head; 0 if it is not known."""
    step_ms = min((run.step_ms for run in (*versus.base, *versus.head) if run.step_ms), default=0.0)
    return step_ms / math.exp(versus.base[-1].log_ms or 0.0), step_ms / math.exp(
        versus.head[-1].log_ms or 0.0
    )


def _is_unstable(run: Run) -> bool:
    return run.record.status == "unstable"


def _interval(run: Run) -> tuple[float, float]:
    """Return the row's own 95 % interval, ms; its figure where it has none."""
    figure = math.exp(run.log_ms or 0.0)
    return run.record.ci_low_ms or figure, run.record.ci_high_ms or figure


def _blocks(sides: Sequence[Sequence[Run]]) -> Floats:
    return np.array([[run.log_ms for run in runs] for runs in sides], dtype=float)


def _pair(noise: Noise) -> float:
    return noise.pair


def _run(noise: Noise) -> float:
    return noise.run


def _df(noises: Iterable[Noise | None]) -> Floats:
    return np.array([noise.df if noise else 0.0 for noise in noises])


def _geometric(runs: Sequence[Run]) -> float:
    """Return the geometric mean figure, ms, without the highest and lowest fifth, as the rule takes it."""
    logs = [run.log_ms or 0.0 for run in runs]
    return math.exp(logs[0] if len(logs) == 1 else float(rule.trimmed(np.array(logs)).log_ratio))


def _exp(value: float, *, less: float = 0.0) -> float | None:
    """Return e to the `value`, minus `less`; None beyond all bounds, which JSON cannot hold."""
    return math.exp(value) - less if math.isfinite(value) and value < 700 else None
