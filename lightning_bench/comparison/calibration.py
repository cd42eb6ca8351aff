"""From a kernel compared with itself to the noise floor of a machine. Pure functions of two sides."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from lightning_bench.comparison import rule
from lightning_bench.comparison.noise import Calibration
from lightning_bench.comparison.rule import Floats, Shift
from lightning_bench.comparison.sides import Run, Side
from lightning_bench.errors import LbenchError

_DRAWS = 4000
FEWEST_PAIRS = 6


@dataclass(frozen=True)
class _Case:
    runs: list[Run]
    differences: Floats
    both: Floats


def noise_floors(base: Side, head: Side, *, threshold: float, pairs: int) -> list[Calibration]:
    """Return the noise floor of each GPU that has measured the sides; see `noise_floor`."""
    gpus = dict.fromkeys(run.record.gpu_uuid for run in base.runs) or [""]
    return [
        row
        for gpu in gpus
        for row in noise_floor(_on(base, gpu), _on(head, gpu), threshold=threshold, pairs=pairs)
    ]


def _on(side: Side, gpu: str) -> Side:
    return replace(side, runs=[run for run in side.runs if run.record.gpu_uuid == gpu])


def noise_floor(base: Side, head: Side, *, threshold: float, pairs: int) -> list[Calibration]:
    """Return the noise of every case that was measured in all passes, and how often the rule is wrong on it.

    The false-alarm rates are those of comparisons of `pairs` passes drawn at random from these, with the
    sides of each pass exchanged at random, since they are equal: 4,000 draws of whole sweeps. `threshold` is
    the relative change whose false alarms are counted. Raises LbenchError if no case has enough passes.
    """
    cases = {name: case for name, runs in _by_case(base, head).items() if (case := _case(*runs)) is not None}
    if not cases:
        raise LbenchError(
            f"no case was measured in at least {FEWEST_PAIRS} passes: nothing is calibrated; "
            "`lbench check` says what is wrong, and --pairs may be too few"
        )
    most = max(len(case.differences) for case in cases.values())
    whole = {name: case for name, case in cases.items() if len(case.differences) == most}
    drawn = min(pairs, most)
    stacked = np.stack([case.differences for case in whole.values()])
    of_case, any_case = _false_alarms(stacked, threshold, drawn)
    trimmed = rule.trimmed(stacked)
    pair_noise, pair_df = trimmed.se * math.sqrt(most / 2), float(trimmed.df[0])
    # With one process per side a disturbed process cannot be told from others, so all count here.
    run_noise = np.maximum(
        np.sqrt(stacked.var(axis=1, ddof=1) / 2), [case.both.std(ddof=1) for case in whole.values()]
    )
    df = float(most - 1)
    with_others = min(pair_df, (drawn - 1) * (len(whole) - 1.0))  # as rule.with_prior
    resolution = _resolution(np.sqrt(2 / drawn) * pair_noise, drawn - 1 + with_others)
    two_runs = _resolution(np.sqrt(2) * run_noise, df)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = []
    for index, (name, case) in enumerate(whole.items()):
        record = case.runs[-1].record
        rows.append(
            Calibration(
                case_id=name,
                machine_id=record.machine_id,
                gpu_uuid=record.gpu_uuid,
                device=record.device,
                pairs=most,
                df=df,
                pair_df=pair_df,
                pair_noise_percent=100 * float(pair_noise[index]),
                run_noise_percent=100 * float(run_noise[index]),
                resolution_pairs=drawn,
                resolution_percent=100 * math.expm1(float(resolution[index])),
                resolution_two_runs_percent=100 * math.expm1(min(20.0, float(two_runs[index]))),
                threshold_percent=100 * threshold,
                false_alarm_rate=float(of_case[index]),
                sweep_false_alarm_rate=any_case,
                provider_version=record.provider_version,
                device_name=record.device_name,
                harness_commit=record.harness_commit,
                time_utc=now,
            )
        )
    return rows


def _by_case(base: Side, head: Side) -> dict[str, tuple[list[Run], list[Run]]]:
    cases: dict[str, tuple[list[Run], list[Run]]] = {}
    for index, side in enumerate((base, head)):
        for run in side.runs:
            if run.log_ms is not None and run.pair:
                cases.setdefault(run.record.case_id, ([], []))[index].append(run)
    return cases


def _case(base: list[Run], head: list[Run]) -> _Case | None:
    ours = {run.pair: run.log_ms for run in base if run.log_ms is not None}
    shared = {run.pair: run.log_ms for run in head if run.pair in ours and run.log_ms is not None}
    if len(shared) < FEWEST_PAIRS:
        return None
    first = np.array([ours[pair] for pair in shared])
    second = np.array(list(shared.values()))
    return _Case([*base, *head], second - first, np.concatenate([first, second]))


def _false_alarms(differences: Floats, threshold: float, pairs: int) -> tuple[Floats, float]:
    """Return the shares of draws that call SLOWER each case [cases], and any case.

    `differences` are logs with the shape [cases, passes].
    """
    rng = np.random.default_rng(0)
    passes = differences.shape[1]
    wrong = np.zeros(len(differences))
    some = 0
    for _ in range(_DRAWS // 200):
        chosen = np.argsort(rng.random((200, passes)), axis=1)[:, :pairs]
        signs = rng.choice([-1.0, 1.0], (200, 1, pairs))
        draws = differences[:, chosen].transpose(1, 0, 2) * signs
        clear, _, _ = rule.decide(rule.trimmed(draws), threshold)
        wrong += clear.slower.sum(axis=0)
        some += int(clear.slower.any(axis=1).sum())
    return wrong / _DRAWS, some / _DRAWS


def _resolution(se: Floats, df: float) -> Floats:
    return rule.judge(Shift(np.zeros(len(se)), se, np.full(len(se), df)), 0.5).resolution
