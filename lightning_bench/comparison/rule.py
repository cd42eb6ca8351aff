"""The rule behind a verdict: from blocks of samples to a ratio of times. Pure functions of arrays.

A block is what one process measured of one case in one go; its figure is the log of the median of its
samples. Samples within a process share its memory layout, its clocks and its neighbours, so the block and
not the sample is the unit (Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013).
docs/compare.md states the whole rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit  # scipy.stats takes half a second to import

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
TimeVerdict = Literal["FASTER", "SLOWER", "SAME", "AMBIGUOUS"]

ERROR_RATE = 0.01
"""Chance that a comparison in which nothing changed calls any cell SLOWER or FASTER, halved for each."""
OVERALL_ERROR_RATE = 0.002
"""The same for the overall verdicts, which have a budget of their own."""
CONFIDENCE = 1 - ERROR_RATE
TRIM = 0.2
"""Share of blocks left out at either end: what Wilcox (Introduction to Robust Estimation) recommends."""
_TAIL = 0.9
"""Share of h - 1 degrees of freedom that a trimmed mean gets: far out, where the correction for many cells
looks, its t has heavier tails than Student's with h - 1 (by simulation, tests/lightning_bench/comparison)."""
KNOWN = 1e9
"""Degrees of freedom of a noise that is taken as given."""
_POWER = 0.95
_SHIFTED = 0.25
"""Largest share of passes in which two sides of equal code differ by the distance of two configurations, if
each process takes one of two: p (1 - p) for one direction."""
GROSS = float(np.log(2.0))
"""A shift beyond this in every pass is called, however few they are, if some of them were undisturbed."""
STEADY = 2
"""As many passes without an unstable block, or blocks of each side, let a gross shift count. On a busy
machine times double by themselves."""
_STEPS_PER_DEVIATION = float(np.sqrt(12.0))
"""What is rounded to a step is off by anything up to half of it: a uniform distribution."""
_MIXTURES = np.linspace(0.0, 1.0, 101)[1:-1]


def _nothing() -> Floats:
    return np.zeros(())


def _never() -> Flags:
    return np.zeros((), dtype=bool)


_NO_STEPS = _nothing(), _nothing()


@dataclass(frozen=True)
class Shift:
    """Estimates of log(head / base), one per entry: the value, its standard error, degrees of freedom.

    `luck` bounds the chance that processes of equal code, each of which takes one of two configurations,
    show as much in as many passes; 0 where it does not apply. `gross` marks entries that every pass shows
    to have at least doubled or halved.
    """

    log_ratio: Floats
    se: Floats
    df: Floats
    luck: Floats = field(default_factory=_nothing)
    gross: Flags = field(default_factory=_never)

    @classmethod
    def zeros(cls, count: int) -> Shift:
        """Return as many entries, to be filled."""
        flags = np.zeros(count, dtype=bool)
        return cls(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count), flags)


FIELDS = ("log_ratio", "se", "df", "luck", "gross")
"""The fields of `Shift`, each an array of the same shape."""


@dataclass(frozen=True)
class Judged:
    """The verdict of each entry of a Shift.

    `low` and `high` bound the log ratio with 99 % confidence, each cell by itself; `p` is adjusted for the
    number of cells (Holm); `resolution` is the log ratio that would be found in 95 % of comparisons.
    """

    verdicts: list[TimeVerdict]
    low: Floats
    high: Floats
    p: Floats
    resolution: Floats


def trimmed(blocks: Floats) -> Shift:
    """Return the mean along the last axis without the highest and lowest fifth.

    The standard error is from the winsorised variance: Tukey and McLaughlin, Less Vulnerable Confidence and
    Significance Procedures for Location Based on a Single Sample, Sankhya A 25 (1963). One block gives an
    infinite standard error and no degrees of freedom.
    """
    count = blocks.shape[-1]
    cut = int(TRIM * count)
    ordered = np.sort(blocks, axis=-1)
    mean = ordered[..., cut : count - cut].mean(axis=-1)
    if count < 2:
        return Shift(mean, np.full(mean.shape, np.inf), np.zeros(mean.shape))
    winsorised = np.clip(ordered, ordered[..., cut, None], ordered[..., count - cut - 1, None])
    variance = winsorised.var(axis=-1, ddof=1)
    kept = count - 2 * cut
    se = np.sqrt(variance * count * (count - 1) / (kept * (kept - 1))) / np.sqrt(count)
    df = np.full(mean.shape, (kept - 1.0) * (_TAIL if cut else 1.0))
    beyond = (blocks * np.sign(mean)[..., None] > np.abs(mean)[..., None] / 2).sum(axis=-1)
    gross = (ordered[..., 0] > GROSS) | (ordered[..., -1] < -GROSS)
    return Shift(mean, se, df, _at_least(beyond, count, _SHIFTED), gross)


def no_finer(own: Shift, step: Floats) -> Shift:
    """Return the shift with a standard error of at least that of times rounded to steps of a timer.

    `step` is that of the timer, in logs of the figure, 0 if it is not known. Equal times are rounded equally
    in each process, so that more of them do not make the error smaller.
    """
    return replace(own, se=np.maximum(own.se, step / _STEPS_PER_DEVIATION))


def without_gross(own: Shift, disturbed: Flags) -> Shift:
    """Return the shift with `gross` only of entries that are not `disturbed`: see `STEADY`."""
    return replace(own, gross=own.gross & ~disturbed)


def luck_of_sides(head: Floats, base: Floats) -> tuple[Floats, Flags]:
    """Return `luck` and `gross` of sides that are not in pairs; the last axis holds each side's blocks.

    A block shows the shift if it is on its side's half of the way between both estimates. The bound is the
    largest over all shares in which two configurations may mix.
    """
    ours, theirs = trimmed(head).log_ratio[..., None], trimmed(base).log_ratio[..., None]
    middle, up = (ours + theirs) / 2, np.sign(ours - theirs)
    there, here = ((head - middle) * up > 0).sum(axis=-1), ((base - middle) * up < 0).sum(axis=-1)
    luck = _luck_table(head.shape[-1], base.shape[-1])[there, here]
    up_by, down_by = head.min(axis=-1) - base.max(axis=-1), base.min(axis=-1) - head.max(axis=-1)
    gross: Flags = np.maximum(up_by, down_by) > GROSS
    return luck, gross


def enough(cells: int, base: int, head: int, *, paired: bool) -> bool:
    """Return whether so many processes can show a change that is no luck among so many cells."""
    least = _SHIFTED**base if paired else float(_luck_table(head, base)[head, base])
    return 2 * cells * least < ERROR_RATE


@lru_cache
def _luck_table(head: int, base: int) -> Floats:
    """Return `luck` by the numbers of blocks of head and of base that show the shift."""
    there, here = np.arange(head + 1)[:, None, None], np.arange(base + 1)[:, None]
    both: Floats = _at_least(there, head, _MIXTURES) * _at_least(here, base, 1 - _MIXTURES)
    most: Floats = both.max(axis=-1)
    return most


def _at_least(found: NDArray[np.int_], count: int, share: float | Floats) -> Floats:
    """Return the chance of at least `found` of `count`, each with the chance `share`."""
    chance: Floats = np.where(found > 0, 1.0 - bdtr(np.maximum(found - 1, 0), count, share), 1.0)
    return chance


def with_known(own: Shift, variance: Floats, df: Floats) -> Shift:
    """Return the shift with `luck` no larger than what a known noise of processes makes of it.

    `variance` is that of the estimate by noise that was measured before, over many processes, disturbed
    ones included; `df` are its degrees of freedom, 0 if it is not known.
    """
    known = (df > 0) & (variance > 0)
    t = np.abs(own.log_ratio) / np.sqrt(np.where(known, variance, 1.0))
    tail = np.where(known, stdtr(np.where(known, df, 1.0), -t), 1.0)
    return replace(own, luck=np.minimum(own.luck, tail))


def with_prior(own: Shift, prior_variance: Floats, prior_df: Floats) -> Shift:
    """Pool own noise with the calibrated one; the result is never below the own noise.

    Variances of the estimate are pooled, weighted by their degrees of freedom, as a moderated t statistic
    does (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004). The calibration is scaled up by how much noisier
    the other cells of the last axis are today, and counts for no more degrees of freedom than these have
    to tell that; a cell whose own noise is still larger keeps its own, and so does one without others. So a
    calibration from a quiet day does not make a noisy day's differences clear. `prior_df` 0 means no
    calibration. A cell without noise of its own takes the calibration as it is.
    """
    has_own = own.df > 0
    own_variance = np.where(has_own, np.square(own.se), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(has_own & (prior_df > 0) & (prior_variance > 0), own_variance / prior_variance, 1.0)
        # The median of a variance's estimates lies below the variance (Wilson and Hilferty 1931).
        expected = np.where(has_own, np.power(1 - 2 / (9 * np.where(has_own, own.df, 1.0)), 3), 1.0)
        others = own.df * (own.df.shape[-1] - 1)
        prior = prior_variance * np.maximum(1.0, _median_of_others(ratio / expected))
        prior_df = np.where(has_own, np.minimum(prior_df, others), prior_df)
        total = own.df + prior_df
        pooled = (own.df * own_variance + prior_df * prior) / total
    take = (prior_df > 0) & (pooled >= own_variance)
    return replace(
        own,
        se=np.sqrt(np.where(take, pooled, np.where(has_own, own_variance, np.inf))),
        df=np.where(take, total, own.df),
    )


def _median_of_others(values: Floats) -> Floats:
    """Return for each entry the median of all others along the last axis; 1 if there are none."""
    left = values.shape[-1] - 1
    if not left:
        return np.ones_like(values)
    order = np.argsort(values, axis=-1)
    ordered = np.take_along_axis(values, order, axis=-1)
    rank = np.argsort(order, axis=-1)
    low, high = (left - 1) // 2, left // 2
    lower = np.where(rank <= low, ordered[..., low + 1, None], ordered[..., low, None])
    upper = np.where(rank <= high, ordered[..., high + 1, None], ordered[..., high, None])
    medians: Floats = (lower + upper) / 2
    return medians


def difference(head: Shift, base: Shift, *, known: bool = False) -> Shift:
    """Return the shift of two independent sides; `luck_of_sides` gives what is not of the estimates.

    Degrees of freedom by Welch and Satterthwaite (Yuen for trimmed means), and no more than the smaller
    side's: where two processes agree by chance, the formula would take the larger side's for both. Not so
    where the noise is `known`, and not from the blocks.
    """
    ours, theirs = np.square(head.se), np.square(base.se)
    variance = ours + theirs
    with np.errstate(invalid="ignore", divide="ignore"):
        df = np.square(variance) / (np.square(ours) / head.df + np.square(theirs) / base.df)
    if not known:
        df = np.minimum(df, np.minimum(head.df, base.df))
    return Shift(head.log_ratio - base.log_ratio, np.sqrt(variance), np.nan_to_num(df, nan=0.0))


def unpaired(head: Floats, base: Floats, steps: tuple[Floats, Floats] = _NO_STEPS) -> Shift:
    """Return the shift of sides whose blocks, along the last axis, are not in pairs: two or more each.

    `steps` are those of the timer on both sides, as `no_finer` takes them.
    """
    luck, gross = luck_of_sides(head, base)
    ours, theirs = no_finer(trimmed(head), steps[0]), no_finer(trimmed(base), steps[1])
    return replace(difference(ours, theirs), luck=luck, gross=gross)


def holm(p: Floats) -> Floats:
    """Adjust p-values so that the chance of any false one is kept (Holm, Scand. J. Stat. 6, 1979)."""
    order = np.argsort(p, axis=-1)
    count = p.shape[-1]
    sorted_p = np.take_along_axis(p, order, axis=-1) * np.arange(count, 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(sorted_p, axis=-1), 1.0)
    out = np.empty_like(adjusted)
    np.put_along_axis(out, order, adjusted, axis=-1)
    return out


def judge(shift: Shift, threshold: float, error_rate: float = ERROR_RATE) -> Judged:
    """Return the verdict of every cell of one comparison; the last axis holds its cells.

    A change is called if it is clear after correction for the number of cells, and if the cell's own
    interval does not lie wholly within the threshold. The estimate of such a cell is beyond half of it.
    """
    clear, within, interval = decide(shift, threshold, error_rate)
    cells = max(1, shift.log_ratio.shape[-1])
    slower = shift.log_ratio > 0
    names = np.where(within, "SAME", np.where(clear.p < error_rate, np.where(slower, "S", "F"), "A"))
    full: dict[str, TimeVerdict] = {"SAME": "SAME", "S": "SLOWER", "F": "FASTER", "A": "AMBIGUOUS"}
    critical = _quantile(shift.df, 1 - error_rate / 2 / cells) + _quantile(shift.df, _POWER)
    return Judged(
        verdicts=[full[str(name)] for name in names.ravel()],
        low=interval[0],
        high=interval[1],
        p=clear.p,
        resolution=_times(critical, shift.se),
    )


@dataclass(frozen=True)
class Clear:
    """Adjusted p-values of the cells, and which of them are called SLOWER."""

    p: Floats
    slower: Flags


def decide(
    shift: Shift, threshold: float, error_rate: float = ERROR_RATE
) -> tuple[Clear, Flags, tuple[Floats, Floats]]:
    """Return p-values and SLOWER, which cells are SAME, and their intervals.

    A p-value is the larger of that of the t statistic (Holm) and that of `luck` (Bonferroni). The last axis
    holds the cells of a comparison, the first axes hold comparisons.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(shift.se > 0, shift.log_ratio / shift.se, np.sign(shift.log_ratio) * np.inf)
    t = np.where(np.isnan(t), 0.0, t)
    usable = shift.df > 0
    raw = np.where(usable, 2 * stdtr(np.where(usable, shift.df, 1.0), -np.abs(t)), 1.0)
    cells = max(1, shift.log_ratio.shape[-1])
    p = np.maximum(holm(raw), np.minimum(1.0, 2 * cells * shift.luck))
    p = np.where(shift.gross, 0.0, p)
    width = _times(np.where(usable, _quantile(shift.df, 1 - ERROR_RATE / 2), np.inf), shift.se)
    low, high = shift.log_ratio - width, shift.log_ratio + width
    limit = np.log1p(threshold)
    within = (low > -limit) & (high < limit)
    return Clear(p, (p < error_rate) & ~within & (shift.log_ratio > 0)), within, (low, high)


def _quantile(df: Floats, share: float) -> Floats:
    safe = np.where(df > 0, df, 1.0)
    return np.where(df > 0, stdtrit(safe, share), np.inf)


def _times(quantile: Floats, se: Floats) -> Floats:
    """Return the half width of an interval: infinite if the quantile is, even where no run differs."""
    with np.errstate(invalid="ignore"):
        width = quantile * se
    return np.where(np.isnan(width), np.inf, width)
