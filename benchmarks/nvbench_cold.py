"""NVIDIA nvbench's cold measurement of calls of Python, through the package cuda-bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

# nvbench discards samples whose SM clock was below 75 % of the highest, and waits after each.
TIMEOUT_S = 8.0


class Nvbench:
    """nvbench's cold measurement. It runs all of its benchmarks once, and calls back for each of them."""

    def __init__(self, folder: str) -> None:
        self._json = Path(folder) / "nvbench.json"

    def run(self, measure: Callable[[Any, int], None], cells: Sequence[int]) -> None:
        """Call `measure` with nvbench's state and each of the numbers."""
        from cuda import bench

        def cell(state: Any) -> None:
            measure(state, state.get_int64("cell"))

        # It stops at the least number of samples, which each state sets.
        benchmark = bench.register(cell).add_int64_axis("cell", list(cells)).set_timeout(TIMEOUT_S)
        benchmark.set_stopping_criterion("sample-count").set_criterion_param_int64("target-samples", 1)
        bench.run_all_benchmarks(["nvbench", "--devices", "0", "--jsonbin", str(self._json)])

    def sampled(
        self, state: Any, fn: Callable[[], Any], stream: torch.cuda.Stream, count: int
    ) -> tuple[list[float], float | None]:
        """Return `count` samples in ms on the stream, and the median SM clock in MHz.

        There are fewer after the time limit, and none (and no clock) if nvbench took all for throttled.
        """
        before = self._files("-bin"), self._files("-freqs-bin")
        state.set_stream(_StreamOf(stream))
        state.set_min_samples(count)

        def launch(_launch: Any) -> None:
            with torch.cuda.stream(stream):
                fn()

        state.exec(launch, batched=False)
        seconds = self._new("-bin", before[0])
        hertz = self._new("-freqs-bin", before[1])
        return [1e3 * s for s in seconds], float(np.median(hertz)) / 1e6 if hertz else None

    def _files(self, ending: str) -> set[Path]:
        return set(self._json.with_name(self._json.name + ending).glob("*.bin"))

    def _new(self, ending: str, before: set[Path]) -> list[float]:
        """Return what nvbench has written since, little-endian float32."""
        return [float(x) for path in self._files(ending) - before for x in np.fromfile(path, dtype="<f4")]


@dataclass(frozen=True)
class _StreamOf:
    """A stream of torch as nvbench takes one."""

    stream: torch.cuda.Stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.stream.cuda_stream
