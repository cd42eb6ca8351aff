"""NVIDIA nvbench's cold measurement of calls of Python, through the package cuda-bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

# How long one cell may take, with what is done between nvbench's samples.
TIMEOUT_S = 12.0
# nvbench's default: after a sample that was throttled it waits for so long.
THROTTLED_PAUSE_S = 0.05


class NvbenchSamples(NamedTuple):
    """What nvbench kept, in order, and the number of samples that it discarded as throttled."""

    ms: list[float]
    mhz: list[float]
    dropped: int


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
        self,
        state: Any,
        fn: Callable[[], Any],
        other: Callable[[], None],
        *,
        stream: torch.cuda.Stream,
        count: int,
    ) -> NvbenchSamples:
        """Take `count` samples of `fn` on the stream; before one and after the next, `other` is called.

        nvbench measures from `timer.start()`, which flushes the L2, to `timer.stop()`, which waits for the
        stream: `other` may use the GPU as it likes. There are fewer samples after the time limit.
        """
        before = self._files("-bin"), self._files("-freqs-bin")
        state.set_stream(_StreamOf(stream))
        state.set_min_samples(count)
        warm_ups = state.get_cold_warmup_runs()
        calls = 0

        def launch(_launch: Any, timer: Any) -> None:
            nonlocal calls
            turn, calls = calls - warm_ups, calls + 1
            with torch.cuda.stream(stream):
                if turn >= 0 and turn % 2 == 0:
                    other()
                timer.start()
                fn()
                timer.stop()
                if turn >= 0 and turn % 2 == 1:
                    other()

        state.exec(launch, batched=False, timer=True)
        seconds = self._new("-bin", before[0])
        hertz = self._new("-freqs-bin", before[1])
        return NvbenchSamples(
            [1e3 * s for s in seconds], [hz / 1e6 for hz in hertz], calls - warm_ups - len(seconds)
        )

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
