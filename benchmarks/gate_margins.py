"""How much of its budget each provider uses at the gate, over many inputs: the margin to a false `wrong`.

    OMP_NUM_THREADS=1 python benchmarks/gate_margins.py results/cpu/gate-margins.csv --seeds 50

Each provider that runs here computes output and gradients on --seeds inputs of every distribution, and is
judged as `lbench check` judges it. A row has the largest ratio of a measure to its budget over all seeds,
shapes and tensors: 1 is the limit. ``over`` counts the results that were beyond it, of ``judged``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rows import write_rows

from lightning_bench.case import DISTRIBUTIONS, DTYPES, Device, Distribution, Shape
from lightning_bench.errors import Unavailable
from lightning_bench.machine import Machine, describe_machine
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.deviation import Deviation, judge
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference
from lightning_bench.providers import Provider, get_provider, provider_names

# (batch, heads, seq_len, head_dim): one that fills no tile, one whose heads differ much, one that is long.
SHAPES = {
    "cpu": ((2, 3, 150, 32), (1, 2, 256, 32), (1, 2, 1024, 64)),
    "cuda": ((2, 3, 150, 64), (4, 32, 512, 128), (4, 32, 2048, 128), (1, 8, 8192, 128)),
}


@dataclass
class Margin:
    """What is known of one measure."""

    worst: float = 0.0
    tensor: str = ""
    shape: str = ""
    judged: int = 0
    over: int = 0

    def add(self, deviation: Deviation, shape: Shape) -> None:
        """Count one result."""
        self.judged += 1
        self.over += not deviation.ratio <= 1.0
        if not deviation.ratio <= self.worst:
            self.worst, self.tensor, self.shape = deviation.ratio, deviation.name, str(shape)


def loaded(names: list[str], device: Device) -> Iterator[Provider]:
    """Yield the providers that run on the device."""
    for name in names:
        provider = get_provider(name)
        try:
            provider.load()
        except (ImportError, OSError, Unavailable) as error:
            print(f"{name}: {error}", flush=True)
            continue
        if device in provider.devices:
            yield provider


def margins(
    providers: list[Provider], shape: Shape, distribution: Distribution, seed: int
) -> Iterator[tuple[Provider, Deviation]]:
    """Yield every deviation of every provider that takes the shape, on one set of inputs."""
    inputs = InputSet(shape, seed, distribution)
    references: dict[str, Reference] = {}
    for provider in providers:
        if provider.unsupported(shape, "bwd"):
            continue
        if provider.family not in references:
            references[provider.family] = Reference(provider.family, inputs, gradients=True, seed=seed)
        got = direction_call(provider, inputs, "bwd").tensors()
        for deviation in judge(references[provider.family], got, provider.layout).deviations:
            yield provider, deviation


def rows_of(
    found: dict[tuple[str, str, str, str], Margin], machine: Machine, seeds: int
) -> list[dict[str, object]]:
    """Return a row for each provider, dtype, distribution and measure, the tightest first."""
    rows: list[dict[str, object]] = [
        {
            "provider": name,
            "dtype": dtype,
            "inputs": distribution,
            "measure": measure,
            "worst": f"{margin.worst:.3f}",
            "tensor": margin.tensor,
            "shape": margin.shape,
            "judged": margin.judged,
            "over": margin.over,
            "seeds": seeds,
            "device_name": machine.device_name,
            "torch": machine.torch,
            "harness_commit": machine.harness_commit,
        }
        for (name, dtype, distribution, measure), margin in found.items()
    ]
    return sorted(rows, key=lambda row: -float(str(row["worst"])))


def main() -> None:
    """Judge, print what is beyond its budget, write the CSV after each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--providers", nargs="+", default=provider_names())
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES))
    parser.add_argument("--distributions", nargs="+", default=list(DISTRIBUTIONS))
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no seed after this time")
    args = parser.parse_args()
    begin = time.monotonic()
    machine = describe_machine(args.device)
    providers = list(loaded(args.providers, args.device))
    found: dict[tuple[str, str, str, str], Margin] = defaultdict(Margin)
    for seed in range(args.seeds):
        if time.monotonic() - begin > args.seconds:
            break
        for b, h, n, d in SHAPES[args.device]:
            for dtype in args.dtypes:
                shape = Shape(b, h, n, d, d, dtype, args.device)
                for distribution in args.distributions:
                    for provider, deviation in margins(providers, shape, distribution, seed):
                        key = (provider.name, dtype, distribution, deviation.measure)
                        found[key].add(deviation, shape)
                        if deviation.ratio > 1.0:
                            print(*key, str(shape), seed, deviation.text, flush=True)
        print(f"seed {seed}: {time.monotonic() - begin:.0f} s", flush=True)
        write_rows(args.out, rows_of(found, machine, seed + 1))


if __name__ == "__main__":
    main()
