"""Profiles of the bundled kernels and their peers on one GPU, each in processes of its own, within a time.

Run on a GPU in the repository root, with Nsight Compute installed:

    python benchmarks/profile_cases.py results/h200/profile

It profiles ``PROVIDERS`` forward and backward at the papers' shape, n = 8192, by ``lbench profile --ncu
--out``: DRAM bytes beside the byte model. Ceilings are those that ``lbench ceilings`` has kept of this
machine in results/; without them each profile measures the two that it needs. The directions of a provider
share a Triton cache, empty at first: ``compile_s`` of the second is of its own kernels alone. A profile that
fails is a sentence and stops no other; what does not fit into ``--budget-s`` is named and left out. Exit
status 1 where one failed or was left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROVIDERS = ("lightning2", "fla-chunk", "sdpa-cudnn", "flash2", "lightning-official")
DIRECTIONS = ("fwd", "bwd")
LBENCH = (sys.executable, "-m", "lightning_bench")
# A case starts torch twice; with less time than this left it would not end.
LEAST_S = 15.0


def run(words: list[str], limit_s: float, cache: str) -> str:
    """Run ``lbench`` with these words; "" where it worked, else why not in a line."""
    environment = {**os.environ, "TRITON_CACHE_DIR": cache}
    try:
        done = subprocess.run(
            [*LBENCH, *words], env=environment, stderr=subprocess.PIPE, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return f"not done within {limit_s:.0f} s"
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return "" if done.returncode == 0 else (said or [f"exit code {done.returncode}"])[-1]


def main() -> int:
    """Profile all; the exit status."""
    parser = argparse.ArgumentParser(description="Profiles at the papers' shape, within a time.")
    parser.add_argument("out", type=Path, help="folder for the JSONs and CSVs")
    parser.add_argument("--budget-s", type=float, default=420.0, help="seconds for all of it")
    parser.add_argument("--case-s", type=float, default=75.0, help="seconds for each profiler of a case")
    parser.add_argument("--providers", default=",".join(PROVIDERS))
    parser.add_argument("--device", default="cuda", help="cpu is a dry run: use it with --seq-len")
    parser.add_argument("--seq-len", type=int, default=8192)
    given = parser.parse_args()
    begin = time.monotonic()
    failed = []

    def left() -> float:
        return given.budget_s - (time.monotonic() - begin)

    def report(name: str, why: str) -> None:
        print(f"{name}: {why or 'done'}, {time.monotonic() - begin:.0f} s so far", flush=True)
        if why:
            failed.append(name)

    case = ["--device", given.device, "--seq-len", str(given.seq_len), "--out", str(given.out)]
    for provider in given.providers.split(","):
        with tempfile.TemporaryDirectory() as cache:
            for direction in DIRECTIONS:
                if left() < LEAST_S:
                    report(f"{provider} {direction}", "left out, the time is up")
                    continue
                limit = ["--time-limit", f"{min(given.case_s, left() / 2):.0f}"]
                words = ["profile", provider, "--direction", direction, *case, "--ncu", "--warm", *limit]
                # Its own limits end it; a minute more only for what they do not see.
                report(f"{provider} {direction}", run(words, left() + 60, cache))
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
