"""Triton's Proton: parse the tree that it writes (`.hatchet`, JSON) into a list of kernels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lightning_bench.profile.data import ProtonKernel

_SCALES = {"time (ns)": 1e-6, "time (us)": 1e-3, "time (ms)": 1.0, "time (s)": 1e3}


def parse(text: str) -> tuple[ProtonKernel, ...]:
    """Return the kernels with their time and count, the longest first.

    Raises ValueError if the text is not Proton's JSON or holds no kernel.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"Proton wrote no JSON ({error})") from error
    roots = tree if isinstance(tree, list) else [tree]
    kernels: dict[str, tuple[float, int]] = {}
    for name, ms, count in (leaf for root in roots for leaf in _leaves(root)):
        seen_ms, seen = kernels.get(name, (0.0, 0))
        kernels[name] = (seen_ms + ms, seen + count)
    if not kernels:
        raise ValueError("Proton saw no kernel")
    ordered = sorted(kernels.items(), key=lambda item: -item[1][0])
    return tuple(ProtonKernel(name=name, time_ms=ms, count=count) for name, (ms, count) in ordered)


def _leaves(node: Any) -> Iterator[tuple[str, float, int]]:
    """Yield the nodes that were timed and have no timed node below them; the last root describes devices."""
    if not isinstance(node, dict) or "frame" not in node:
        return
    below = [leaf for child in node.get("children", []) for leaf in _leaves(child)]
    if below:
        yield from below
        return
    metrics = node.get("metrics", {})
    for unit, scale in _SCALES.items():
        if unit in metrics:
            yield (
                str(node["frame"].get("name", "")),
                float(metrics[unit]) * scale,
                int(metrics.get("count", 1)),
            )
