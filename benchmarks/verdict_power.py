r"""How often `lbench compare` is wrong: comparisons of a kernel with itself, and with a slowdown injected.

    python benchmarks/verdict_power.py results/h200/verdict-power.csv --device cuda --seconds 270
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000 OMP_NUM_THREADS=1 nice -n -20 \
        python benchmarks/verdict_power.py results/cpu/verdict-power.csv --device cpu --seconds 1800 \
        --pairs 20 --processes 40

On a CPU the variables keep glibc from giving memory back after each call, whose page faults cost more than
the slowdown that is sought, and ``nice`` puts the workers before what else runs.

One row a comparison. Worker processes are started once and live on; each comparison draws at random which
of them are its base and its head, two others a pass, and has every one of them measure anew, A B B A, with
the timer, the turns and the shuffled rounds of a sweep. So no sample serves two comparisons, and every
comparison has as many processes a side as it has passes. What comparisons share is the pool of processes,
each of which drew its lot (memory layout, say) once: so they are drawn into sides anew each time. The blocks
go through ``rule`` as those of `lbench compare --ref` do.

Each row has the verdicts of all cells, judged by themselves as one sweep. ``kind`` is ``same`` (A against A)
or ``slower`` (in head, extra work inside the timed call of the cells named in ``injected``; ``true_percent``
is what it measures to over all passes). ``single_false_slower`` and ``single_found`` are of the first pass
alone, judged as two CSVs of one run each would be, by the noise that the first ``same`` comparisons showed.

A file that is there is continued: rows are appended until --same and --slower are reached or the time is up.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import random
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rows import kernels_version

from lightning_bench.case import Device, Shape
from lightning_bench.comparison import rule
from lightning_bench.machine import describe_machine

CELLS = {
    "cuda": (
        ("lightning2", "fwd", Shape(4, 32, 8192, 128, 128, "bf16", "cuda")),
        ("lightning2", "bwd", Shape(4, 32, 8192, 128, 128, "bf16", "cuda")),
        ("sdpa-flash", "fwd", Shape(4, 32, 2048, 128, 128, "bf16", "cuda")),
    ),
    "cpu": (
        ("sdpa-flash", "fwd", Shape(1, 2, 512, 64, 64, "fp32", "cpu")),
        ("sdpa-flash", "bwd", Shape(1, 2, 256, 64, 64, "fp32", "cpu")),
        ("lightning2-torch", "fwd", Shape(1, 2, 256, 64, 64, "fp32", "cpu")),
    ),
}
SLOWER = {"cuda": 0.03, "cpu": 0.10}
SAMPLES = {"cuda": 10, "cpu": 11}
# A worker that has waited for its turn is cold; a sweep warms every case for longer.
WARM_S = {"cuda": 0.004, "cpu": 0.01}
# What is injected goes into the first of these, and in every second comparison into all.
INJECTED = (0, 1)
COLUMNS = (
    "kind",
    "number",
    "pairs",
    "processes",
    "threshold_percent",
    "verdicts",
    "injected",
    "found",
    "false_slower",
    "pair_log_percent",
    "block_noise_percent",
    "single_false_slower",
    "single_found",
    "true_percent",
    "device_name",
    "torch",
    "provider_version",
    "harness_commit",
    "seconds",
)


class Bench:
    """What lives in a worker: every cell, warm, with and without the extra work."""

    def __init__(self, device: Device) -> None:
        from lightning_bench.measure.calls import direction_call
        from lightning_bench.measure.device.call_watch import NoCallWatch
        from lightning_bench.measure.device.timer import make_timer
        from lightning_bench.measure.inputs import InputSet
        from lightning_bench.measure.rounds import Task, warm_up
        from lightning_bench.measure.sampling import StopRule
        from lightning_bench.providers import get_provider

        self.timer = make_timer(device)
        self.device = device
        count = SAMPLES[device]
        self.rule = StopRule(ci_percent=1e-9, min_samples=count, max_samples=count, sample_limit_s=60.0)
        inputs: dict[Shape, Any] = {}
        self.calls, self.work, self.estimates = [], [], []
        for name, direction, shape in CELLS[device]:
            provider = get_provider(name)
            provider.load()
            made = inputs.setdefault(shape, InputSet(shape, seed=0))
            self.calls.append(direction_call(provider, made, direction).fn)
        for call in self.calls:
            task = Task.of("", call, self.rule)
            warm_up(task, self.timer, 0.5)
            self.estimates.append(float(np.median(self.timer.sample(call, 25, NoCallWatch()))))
        self.unit = extra_work(device)

    def inject(self, amounts: list[float]) -> None:
        """Set how many units of extra work each cell does in its call."""

        def with_work(call: Any, amount: float) -> Any:
            def both() -> Any:
                result = call()
                self.unit(amount)
                return result

            return both

        self.slow = [with_work(call, amount) for call, amount in zip(self.calls, amounts, strict=True)]

    def block(self, slow: tuple[int, ...], seed: int) -> list[float]:
        """Median in ms of every cell, measured now; those in ``slow`` with the extra work."""
        from lightning_bench.measure.device.clocks import NoClocks
        from lightning_bench.measure.rounds import Task, sample_rounds, warm_up

        tasks = []
        for index, call in enumerate(self.calls):
            task = Task.of(str(index), self.slow[index] if index in slow else call, self.rule)
            warm_up(task, self.timer, WARM_S[self.device])
            task.estimate_ms = self.estimates[index]
            tasks.append(task)
        sample_rounds(tasks, self.timer, NoClocks(), seed=seed)
        return [float(np.median(task.sampler.samples)) for task in tasks]


def extra_work(device: Device) -> Any:
    """Do as much work as it is told: clock cycles on a GPU, products of small matrices on a CPU."""
    import torch

    if device == "cuda":
        return lambda amount: torch.cuda._sleep(max(1, round(amount)))
    x = torch.randn(24, 24)

    def multiply(amount: float) -> None:
        for _ in range(round(amount)):
            torch.mm(x, x)

    return multiply


def amounts(bench: Bench, share: float) -> list[float]:
    """Units of extra work that make each injected cell slower by ``share``, found by measuring here."""
    found = []
    for index in range(len(bench.calls)):
        if index not in INJECTED:
            found.append(0.0)
            continue
        probe = 40_000.0 if bench.device == "cuda" else 40.0
        guess = probe
        for _ in range(3):
            bench.inject([guess] * len(bench.calls))
            ratios = []
            for seed in range(15):
                plain = bench.block((), seed)[index]
                ratios.append(bench.block((index,), seed)[index] / plain - 1)
            guess = max(1.0, guess * share / max(float(np.median(ratios)), share / 20))
        found.append(guess)
    return found


def serve(pipe: Connection, device: Device) -> None:
    """Run the worker process, which answers until its parent closes the connection."""
    bench = Bench(device)
    pipe.send("ready")
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        match request:
            case ("amounts", share):
                pipe.send(amounts(bench, share))
            case ("inject", units):
                bench.inject(units)
                pipe.send("injected")
            case ("block", slow, seed):
                pipe.send(bench.block(slow, seed))


def start(device: Device, count: int) -> list[tuple[Any, Connection]]:
    """Fresh processes: one that fills the cache of compiled kernels, then the others all at once."""
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[Any, Connection]] = []
    for _ in range(count):
        if len(workers) == 1:
            workers[0][1].poll(None)
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, device), daemon=True)
        process.start()
        theirs.close()
        workers.append((process, ours))
    for _, pipe in workers:
        pipe.recv()
    return workers


def ask(pipe: Connection, *request: Any) -> Any:
    """One request and its answer."""
    pipe.send(request)
    return pipe.recv()


def measure(
    workers: list[tuple[Any, Connection]], pairs: int, slow: tuple[int, ...], rng: random.Random
) -> tuple[Any, Any]:
    """Log medians of base and head, [cells, pairs], from processes drawn at random without return."""
    chosen = rng.sample(range(len(workers)), 2 * pairs)
    base, head = [], []
    for number in range(pairs):
        a, b = (workers[chosen[2 * number + side]][1] for side in (0, 1))
        seed = rng.randrange(2**31)
        if number % 2 == 0:
            base.append(ask(a, "block", (), seed))
            head.append(ask(b, "block", slow, seed))
        else:
            head.append(ask(b, "block", slow, seed))
            base.append(ask(a, "block", (), seed))
    return np.log(base).T, np.log(head).T


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows that are there already. SystemExit if their columns are not those that are appended."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and tuple(rows[0]) != COLUMNS:
        raise SystemExit(f"{path} has other columns than this script writes: give another file")
    return rows


def main() -> None:
    """Measure until enough, append, and say the rates of all rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--seconds", type=float, default=270.0, help="wall time in all")
    parser.add_argument("--same", type=int, default=220, help="A/A comparisons to reach")
    parser.add_argument("--slower", type=int, default=100, help="comparisons with a slowdown to reach")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--processes", type=int, default=24)
    parser.add_argument("--threshold", type=float, default=None, help="per cent; default: what is injected")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    device: Device = options.device
    threshold = SLOWER[device] if options.threshold is None else options.threshold / 100
    rows = read(options.out)
    counts = Counter(row["kind"] for row in rows)
    rng = random.Random(f"{len(rows)}")
    workers = start(device, options.processes)
    # One process's lot would make the extra work too large or too small for the others.
    found = [ask(pipe, "amounts", SLOWER[device]) for _, pipe in workers[: min(6, len(workers))]]
    units = [float(np.median(each)) for each in zip(*found, strict=True)]
    for _, pipe in workers:
        ask(pipe, "inject", units)
    print(
        f"{len(workers)} processes ready, extra work {units}, {end - time.monotonic():.0f} s left", flush=True
    )
    machine = describe_machine(device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    wanted = {"same": options.same, "slower": options.slower}
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not rows:
            writer.writeheader()
        while time.monotonic() < end and any(counts[kind] < most for kind, most in wanted.items()):
            kind = min(wanted, key=lambda one: counts[one] / max(1, wanted[one]))
            begin = time.monotonic()
            slow = () if kind == "same" else INJECTED[: 1 + counts[kind] % 2]
            base, head = measure(workers, options.pairs, slow, rng)
            row = judged(base, head, threshold, slow, rows) | {
                "kind": kind,
                "number": counts[kind],
                "pairs": options.pairs,
                "processes": options.processes,
                "threshold_percent": f"{100 * threshold:g}",
                "device_name": machine.device_name,
                "torch": machine.torch,
                "provider_version": kernels_version(),
                "harness_commit": machine.harness_commit,
                "seconds": f"{time.monotonic() - begin:.2f}",
            }
            writer.writerow(row)
            file.flush()
            rows.append({name: str(value) for name, value in row.items()})
            counts[kind] += 1
    for process, pipe in workers:
        pipe.close()
        process.kill()
    sys.exit(say(rows))


def judged(
    base: Any, head: Any, threshold: float, slow: tuple[int, ...], rows: list[dict[str, str]]
) -> dict[str, Any]:
    """Return the verdicts of one comparison, and of only its first pass if the noise is known by then."""
    differences = head - base
    result = rule.judge(rule.trimmed(differences), threshold)
    noise = differences.std(axis=1, ddof=1) / np.sqrt(2)
    row: dict[str, Any] = {
        "verdicts": " ".join(result.verdicts),
        "injected": " ".join(map(str, slow)),
        "found": sum(result.verdicts[index] == "SLOWER" for index in slow),
        "false_slower": sum(
            verdict == "SLOWER" for index, verdict in enumerate(result.verdicts) if index not in slow
        ),
        "pair_log_percent": "; ".join(" ".join(f"{100 * one:.2f}" for one in cell) for cell in differences),
        "block_noise_percent": " ".join(f"{100 * one:.3f}" for one in noise),
        "single_false_slower": "",
        "single_found": "",
        "true_percent": " ".join(f"{100 * np.expm1(np.median(differences[index])):.2f}" for index in slow),
    }
    # The first 20 A/A comparisons calibrate; they are judged by no calibration.
    known = [row for row in rows if row["kind"] == "same"][:20]
    if len(known) == 20:
        each = np.array([[float(one) for one in row["block_noise_percent"].split()] for row in known]) / 100
        df = float(len(known) * (differences.shape[1] - 1))
        se = np.sqrt(2 * np.square(each).mean(axis=0))
        one = rule.judge(rule.Shift(differences[:, 0], se, np.full(len(se), df)), threshold)
        row["single_found"] = sum(one.verdicts[index] == "SLOWER" for index in slow)
        row["single_false_slower"] = sum(
            verdict == "SLOWER" for index, verdict in enumerate(one.verdicts) if index not in slow
        )
    return row


def say(rows: list[dict[str, str]]) -> int:
    """Print the rates; 1 where they are not those that docs/compare.md promises."""
    same = [row for row in rows if row["kind"] == "same"]
    slower = [row for row in rows if row["kind"] == "slower"]
    false = sum(int(row["false_slower"]) > 0 for row in same)
    injected = sum(len(row["injected"].split()) for row in slower)
    found = sum(int(row["found"]) for row in slower)
    print(f"A/A: {false} of {len(same)} comparisons raise a false SLOWER")
    print(f"slowdowns: {found} of {injected} found, in {len(slower)} comparisons")
    for index in INJECTED:
        there = [row for row in slower if str(index) in row["injected"].split()]
        if there:
            logs = [float(one) for row in there for one in row["pair_log_percent"].split("; ")[index].split()]
            hits = sum(row["verdicts"].split()[index] == "SLOWER" for row in there)
            true = 100 * np.expm1(np.median(logs) / 100)
            print(f"  cell {index}: {hits} of {len(there)}; over all passes it is slower by {true:.1f} %")
    known = [row for row in rows if row["single_false_slower"]]
    if known:
        alone = [row for row in known if row["kind"] == "same"]
        wrong = sum(int(row["single_false_slower"]) > 0 for row in alone)
        hits = sum(int(row["single_found"]) for row in known)
        of = sum(len(row["injected"].split()) for row in known)
        print(
            f"one process a side, calibrated: false SLOWER in {wrong} of {len(alone)}; {hits} of {of} found"
        )
    enough = len(same) >= 200 and bool(slower)
    good = false <= 0.01 * len(same) and found >= 0.95 * injected
    print("as promised" if enough and good else "not enough comparisons yet" if good else "NOT as promised")
    return 0 if enough and good else 1


if __name__ == "__main__":
    main()
