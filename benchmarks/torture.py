"""Kill sweeps, fill their disk and let several write one file: count rows that are lost, doubled or torn.

Run in the repository root, on any machine; it takes minutes, and no GPU is used:

    python benchmarks/torture.py results/cpu/torture.csv [--trials 20] [--seed 1] [--kinds disk,parent]

The CSV has one row per kind of trial, by default those from parent to writers:

- parent: `kill -9` of the sweep at a moment drawn at random; the next trial goes on in the same file;
- signal: SIGINT, SIGTERM, SIGHUP or SIGQUIT to the sweep's process group, likewise;
- worker: `kill -9` of the worker while the sweep goes on;
- disk: rows appended to a file that may not grow beyond a size drawn at random, then the rest of them;
- writers: four processes that append ten rows each to one file, in turns;
- slots-parent, slots-worker: parent and worker, of a sweep with `--gpus cpu:2`;
- ray-node: `kill -9` of all processes of one of the two nodes of a Ray cluster, which is started here, while
  a sweep of 20 cases begins or runs on both; a new file per trial; needs the extra `ray`.

A row counts as lost if it was in the file before a trial and is missing in the end, or if a case has none, or
has crashed with a node; as doubled if a case has two; as torn if a line cannot be read. The exit code is 1
if one is. Rows of the CSV for kinds that are not run stay as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rows import made_up_record, write_rows

from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.record import Record, ResultFile, read_records
from lightning_bench.record.samples import read_samples, sidecar_path

PROVIDER = """\
import torch
from lightning_bench.providers import Provider

class Tiny(Provider):
    name, label, family, package = "tiny", "Tiny", "softmax", "torch"
    devices, dtypes = ("cpu",), ("fp32",)

    def build(self, inputs):
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(inputs.q, inputs.k, inputs.v, is_causal=True)
"""
SUITE = """\
title = "Torture"
description = "Many small cases."
device = "cpu"
[limits]
sample_limit_s = 0.05
min_samples = 6
ci_percent = 50.0
[[group]]
providers = ["tiny.py:Tiny"]
direction = "fwd"
dtype = "fp32"
batch = 1
heads = 1
seq_len = [{lengths}]
head_dim = 16
"""
SLOTS = ("--gpus", "cpu:2")
RAY_SLOTS = ("--executor", "ray", *SLOTS)
RAY_CASES = 20  # of each trial's sweep
RAY_NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}  # the least: a sweep keeps nothing in it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass
class Counts:
    """What became of the rows of one kind of trial."""

    trials: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    torn: int = 0

    def check(self, path: Path, seen: set[Record], cases: int) -> None:
        """Count what is wrong with a file that must hold `cases` cases and the rows `seen` earlier."""
        try:
            rows = read_records(path)
        except UsageError:
            self.torn += 1
            return
        twice = Counter(row.case_id for row in rows)
        self.rows += len(rows)
        self.doubled += sum(count - 1 for count in twice.values())
        self.lost += len(seen - set(rows)) + max(0, cases - len(twice))
        self.torn += len(read_samples(sidecar_path(path)).faults)


class Sweep:
    """A sweep of many small cases in a folder, started as often as it is killed, with `more` options."""

    def __init__(self, folder: Path, cases: int, more: Sequence[str]) -> None:
        self.folder, self.cases, self.out, self.more = folder, cases, folder / "out.csv", more
        (folder / "tiny.py").write_text(PROVIDER)
        lengths = ", ".join(str(8 * n) for n in range(1, cases + 1))
        (folder / "torture.toml").write_text(SUITE.format(lengths=lengths))

    def start(self) -> subprocess.Popen[bytes]:
        """Start it in its own process group."""
        words = ["check", "torture.toml", "--out", "out.csv", "--quiet", *self.more]
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_bench", *words],
            cwd=self.folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def rows(self) -> set[Record]:
        """Return the whole rows that the file has, whether or not its end is torn."""
        if not self.out.exists() or not (data := self.out.read_bytes()).count(b"\n"):
            return set()
        whole = self.folder / "whole.csv"
        whole.write_bytes(data[: data.rfind(b"\n") + 1])
        return set(read_records(whole))

    def grown(self, process: subprocess.Popen[bytes], rows: int) -> bool:
        """Wait until the file has so many rows; return whether the sweep still runs."""
        while process.poll() is None:
            if self.out.exists() and self.out.read_bytes().count(b"\n") > rows:
                return True
            time.sleep(0.001)
        return False


def interrupted(
    folder: Path,
    trials: int,
    draw: random.Random,
    strike: Callable[[subprocess.Popen[bytes]], None],
    more: Sequence[str] = (),
) -> Counts:
    """Strike a sweep that is started again after each strike, then let it end."""
    counts, sweep = Counts(), Sweep(folder, 3 * trials + 10, more)
    seen: set[Record] = set()
    for _ in range(trials):
        process = sweep.start()
        if not sweep.grown(process, len(seen) + draw.randint(0, 2)):
            break
        time.sleep(draw.random() * 0.03)
        strike(process)
        process.wait()
        seen |= sweep.rows()
        counts.trials += 1
    sweep.start().wait()
    counts.check(sweep.out, seen, sweep.cases)
    return counts


def workers(folder: Path, trials: int, draw: random.Random, more: Sequence[str] = ()) -> Counts:
    """Kill the worker of one sweep again and again; each kill costs at most one more start of a worker."""
    counts, sweep = Counts(), Sweep(folder, 3 * trials + 10, more)
    process = sweep.start()
    seen: set[Record] = set()
    for _ in range(trials):
        if not sweep.grown(process, len(seen) + draw.randint(1, 3)):
            break
        time.sleep(draw.random() * 0.03)
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
        seen |= sweep.rows()
        counts.trials += 1
    process.wait()
    counts.check(sweep.out, seen, sweep.cases)
    return counts


def ray_nodes(folder: Path, trials: int, draw: random.Random) -> Counts:
    """Kill a node of a cluster once per sweep; the head, on which nothing is killed, keeps a slot."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_memory_monitor_refresh_ms": "0"}
    from ray.cluster_utils import Cluster

    counts = Counts()
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **RAY_NODE})
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        node = cluster.add_node(**RAY_NODE)
        for trial in range(trials):
            (own := folder / str(trial)).mkdir()
            sweep = Sweep(own, RAY_CASES, RAY_SLOTS)
            process = sweep.start()
            if draw.random() < 0.3:
                time.sleep(draw.uniform(0, 6))  # as a rule before the first row
            elif sweep.grown(process, draw.randint(0, RAY_CASES - 3)):
                time.sleep(draw.random() * 0.2)
            seen = sweep.rows()
            counts.trials += process.poll() is None
            kill_node(cluster, node)
            node = cluster.add_node(**RAY_NODE)  # for the next sweep; this one has lost a slot
            if ended := process.wait():
                print(f"the sweep of trial {trial} ended with {ended}: the same command again", flush=True)
                sweep.start().wait()
            counts.check(sweep.out, seen, sweep.cases)
            counts.lost += sum(row.status == "crashed" for row in sweep.rows())
    finally:
        cluster.shutdown()
    return counts


def kill_node(cluster: Any, node: Any) -> None:
    """End a node as a lost host does: its raylet and all that runs under it, the slot's worker too."""
    (raylet,) = node.all_processes["raylet"]
    parent = psutil.Process(raylet.process.pid)
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            process.kill()
    cluster.remove_node(node, allow_graceful=False)


def full_disk(folder: Path, trials: int, draw: random.Random) -> Counts:
    """Append rows until the file may not grow; then the rest, without a limit."""
    counts = Counts()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for trial in range(trials):
        path, cases = folder / f"{trial}.csv", [f"tiny/fwd/{n}" for n in range(20)]
        seen: set[Record] = set()
        for limit in (draw.randint(1500, 6000), hard):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                with ResultFile(path) as file:
                    known = {row.case_id for row in file.records}
                    for case in cases:
                        if case not in known:
                            row = made_up_record(case_id=case, reason="x" * draw.randint(0, 300))
                            file.append_samples(row, {"samples_ms": [1.0] * 10, "turns": [5, 5]})
                            file.append(row)
                            seen.add(row)
            except LbenchError:
                continue
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        counts.trials += 1
        counts.check(path, seen, len(cases))
    return counts


def append(path: Path, writer: int) -> None:
    """Append ten rows, each when no other writer has the file."""
    for number in range(10):
        while True:
            try:
                with ResultFile(path) as file:
                    file.append(made_up_record(case_id=f"tiny/fwd/{writer}-{number}"))
                break
            except UsageError:
                time.sleep(0.001)


def several_writers(folder: Path, trials: int, draw: random.Random) -> Counts:
    """Let four processes write one file."""
    counts = Counts()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        for trial in range(trials):
            path = folder / f"{trial}.csv"
            pool.starmap(append, [(path, writer) for writer in draw.sample(range(4), 4)])
            counts.trials += 1
            counts.check(path, set(), 40)
    return counts


def other_kinds(path: Path, chosen: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV written earlier, if there is one, but for those of the kinds that were run."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["kind"] not in chosen]


def main() -> int:
    """Run every kind of trial, write the counts, and return the exit code."""
    parser = argparse.ArgumentParser(description="Count rows lost, doubled or torn under torture.")
    parser.add_argument("csv", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="disk,writers,worker,parent,signal")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"

    def kill_parent(process: subprocess.Popen[bytes]) -> None:
        process.kill()

    def signal_group(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, random.choice(SIGNALS))

    kinds: dict[str, Callable[[Path, int, random.Random], Counts]] = {
        "disk": full_disk,
        "writers": several_writers,
        "worker": workers,
        "parent": partial(interrupted, strike=kill_parent),
        "signal": partial(interrupted, strike=signal_group),
        "slots-parent": partial(interrupted, strike=kill_parent, more=SLOTS),
        "slots-worker": partial(workers, more=SLOTS),
        "ray-node": ray_nodes,
    }
    chosen = asked.kinds.split(",")

    def measured(kind: str) -> dict[str, object]:
        with tempfile.TemporaryDirectory(prefix="lbench-torture-") as name:
            begin = time.monotonic()
            counts = kinds[kind](Path(name), asked.trials, random.Random(f"{asked.seed}-{kind}"))
            row = {"kind": kind, **vars(counts), "seconds": f"{time.monotonic() - begin:.0f}"}
        print(row, flush=True)
        return row

    # The limit of "disk" is one of every process that starts meanwhile, and slots are locked.
    alone = [kind for kind in chosen if kind == "disk" or kind.startswith(("slots", "ray"))]
    rows = [measured(kind) for kind in alone]
    with ThreadPoolExecutor() as pool:
        rows += pool.map(measured, [kind for kind in chosen if kind not in alone])
    write_rows(asked.csv, [*other_kinds(asked.csv, chosen), *rows])
    return int(any(row[name] for row in rows for name in ("lost", "doubled", "torn")))


if __name__ == "__main__":
    sys.exit(main())
