"""CUDA graphs: a call that is captured once and then replayed without its Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lightning_bench.providers import load_error


class NoGraphError(Exception):
    """Why there is no graph_ms; the other figures are valid."""


@dataclass(frozen=True, eq=False)  # a timer learns about each of its own
class Replay:
    """Replays what was captured, and returns what the captured call returned: each replay writes it again.

    It holds that call, whose tensors the graph reads.
    """

    replay: Callable[[], None]
    fn: Callable[[], Any]
    results: Any

    def __call__(self) -> Any:
        """Replay once."""
        self.replay()
        return self.results


def capture_graph(build: Callable[[], Callable[[], Any]]) -> Replay:
    """Return a call that replays from a CUDA graph what `build` makes.

    `build` runs on the stream of the capture, because autograd runs a backward pass on the stream of its
    forward pass. Raises NoGraphError if the call cannot be captured (because it synchronises, for example).
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            fn = build()
            for _ in range(3):
                fn()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            results = fn()
    except RuntimeError as error:
        torch.cuda.synchronize()
        raise NoGraphError(f"no graph_ms: the capture failed: {load_error(error)}") from error
    return Replay(graph.replay, fn, results)
