"""Random trials without end: shapes, layouts, states, packing, slopes, and how a launch is cut up."""

import random
import time
from collections import Counter
from collections.abc import Callable

import torch

from .errors import HazardError
from .trials import Runner, Trial

_DIMS = (
    (64, 64), (64, 64), (128, 128), (128, 128), (16, 32), (80, 48), (96, 96), (64, 128), (128, 64), (256, 64),
    (192, 208), (256, 256), (64, 16),
)  # fmt: skip
_LENGTHS = (0, 1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 256, 257, 320)


def draw(seed: int, longest: int = 1100) -> Trial:
    """Return the random trial of a seed, of at most `longest` tokens."""
    rng = random.Random(seed)
    n = min(longest, rng.choice((rng.choice(_LENGTHS), rng.randrange(1, 700), rng.randrange(300, 1100))))
    bounds = None
    if rng.random() < 0.35:
        cuts = [rng.choice((rng.randrange(n + 1), 0, n, n // 128 * 64)) for _ in range(rng.randrange(4))]
        bounds = (0, *sorted(cuts), n)
    kv_heads = rng.choice((1, 1, 2))
    heads = kv_heads * rng.choice((1, 1, 2, 3))
    head_dim, value_dim = rng.choice(_DIMS)
    return Trial(
        n=n, head_dim=head_dim, value_dim=value_dim, heads=heads, kv_heads=kv_heads,
        batch=1 if bounds or n > 200 else rng.choice((0, 1, 1, 2)),
        bounds=bounds,
        slopes=_slopes(rng, heads),
        scale=rng.choice((1.0, 0.125, -0.5, 0.3)),
        dtype=rng.choice((torch.bfloat16, torch.float16)),
        layouts=tuple(rng.choice(("bhnd", "bhnd", "bnhd", "sliced", "strided")) for _ in range(4)),
        initial=rng.random() < 0.5, final=(final := rng.random() < 0.5),
        grad_o=not (final and rng.random() < 0.15),
        processors=rng.choice((132, 132, 132, 16, 4, 1, 33, 400)),
        wide=rng.random() < 0.5, boxes=rng.random() < 0.5, exchange=rng.random() < 0.7,
    )  # fmt: skip


def _slopes(rng: random.Random, heads: int) -> tuple[float, ...] | None:
    kind = rng.choice(("none", "mixed", "mixed", "usual", "one"))
    if kind == "none":
        return None
    if kind == "one":
        return (rng.choice((0.0, 1e-8, 0.3, 50.0, 1e30)),) * heads
    if kind == "usual":
        return tuple(2.0 ** (-8 * (i + 1) / heads) for i in range(heads))
    most = rng.choice((0.01, 0.1, 1.0, 8.0))
    return tuple(rng.random() * most for _ in range(heads))


def fuzz(first: int, seconds: float, report: Callable[[str], None]) -> list[int]:
    """Run the trials of seeds from `first` on for some seconds; return the seeds that failed."""
    runner, failed, paths, worst = Runner(), [], Counter(), 0.0
    start, seed = time.monotonic(), first
    while time.monotonic() - start < seconds:
        try:
            outcome = runner.run(draw(seed), seed)
            worst = max(worst, outcome.worst)
            paths.update(
                f"{'backward' if launch['BACKWARD'] else 'forward'}"
                f"{', segments' if int(launch['segments']) > 1 else ''}"
                for launch in outcome.launches
            )  # fmt: skip
        except HazardError as hazard:
            failed.append(seed)
            report(f"seed {seed}: {type(hazard).__name__}: {hazard}\n    {draw(seed)}")
        seed += 1
    spent = time.monotonic() - start
    report(
        f"seeds {first} to {seed - 1}: {len(failed)} failed, {(seed - first) / spent:.1f} trials per second, "
        f"largest error {worst:.2f} of the budget; "
        + ", ".join(f"{k}: {v}" for k, v in sorted(paths.items()))
    )
    return failed
