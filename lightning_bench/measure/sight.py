"""What attention took and gave inside of a model, of one pair of batch entry and head, against fp64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_bench.case import Dtype, Family
from lightning_bench.families import Problem
from lightning_bench.measure.oracle import Slack, allowed_error, relative_error, solve, solve_rounded

# Gradients in a model are sums of terms that all but cancel: rounding costs more than on random inputs. On a
# CPU the right ones used 0.18 of this at most, from the first training step on and after sixty.
_SLACK = Slack(rounding=4.0, accumulation=8.0)

EVERY_TOKEN = slice(None)


def pair_of(x: Tensor, batch: int, head: int) -> Tensor:
    """Return a copy of one pair [n, columns] of a tensor [batch, n, heads, columns]."""
    return x.detach()[batch, :, head].clone()


def off_by(
    family: Family,
    dtype: Dtype,
    seen: dict[str, Tensor],
    slope: Tensor,
    seed: int,
    parts: Sequence[slice] = (EVERY_TOKEN,),
) -> str | None:
    """Return what of a pair is off and by how much, or None; each of some parts of the tokens by itself.

    `seen` has q, k, v and o, each [n, columns], and do, dq, dk and dv if gradients are judged; `slope` is
    that of the head, [1].
    """
    exact = {name: x.double()[None] for name, x in seen.items()}
    do = exact.get("do", torch.zeros_like(exact["v"]))
    problem = Problem(exact["q"], exact["k"], exact["v"], do, slope.double())
    right = solve(family, problem, gradients="do" in seen)
    rounded = solve_rounded(family, problem, dtype, seed, gradients="do" in seen)
    of = do.norm(dim=(1, 2))
    for name, x in right.items():
        if name not in exact:
            return f"it gives no gradient of {name[1:]}"
        for part in parts:
            error, least = (float(relative_error(y[name][:, part], x[:, part], of)) for y in (exact, rounded))
            allowed = allowed_error(least, dtype, _SLACK)
            if not error <= allowed:  # NaN too
                return f"{name} is off by {error:.2g} and may be by {allowed:.2g}"
    return None
