"""Calls whose tensors are sharded, on forked ranks: python -m tests.support.sharded_calls RANKS FILE."""

import os
import sys
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from tests.support.kernel_cases import lk, make_case

REPLICATED = Replicate()
# The name of a result, and its place among the placements that are expected.
NAMES = ("o", "state", "dq", "dk", "dv", "d_initial")


def check(mesh, case, placements, expected_placements, with_states=(False, True)):
    """Compare calls of sharded tensors with that of whole ones, forward and backward, with states or not."""
    given = case.q, case.k, case.v, case.s, case.initial_state, case.cu_seqlens, case.do, case.d_state
    q, k, v, s, initial, bounds, do, d_state = (
        None if x is None else distribute_tensor(x.detach(), mesh, [placement])
        for x, placement in zip(given, placements, strict=True)
    )
    inputs = [x.requires_grad_() for x in (q, k, v, initial)]
    whole = whole_results(case)
    for return_state in with_states:
        results = lk.lightning_attn2(
            q, k, v, s, initial_state=initial, cu_seqlens=bounds, scale=0.5, return_state=return_state
        )
        results, upstream = (results, (do, d_state)) if return_state else ((results,), (do,))
        grads = torch.autograd.grad(results, inputs, upstream)
        got = dict(zip(NAMES if return_state else ("o", *NAMES[2:]), (*results, *grads), strict=True))
        for name, x in got.items():
            assert isinstance(x, DTensor)
            placement = expected_placements[NAMES.index(name)]
            assert x.placements == (placement,), (name, x.placements, placement)
            torch.testing.assert_close(
                x.full_tensor(), whole[return_state][name], rtol=1e-5, atol=1e-5, msg=name
            )


def whole_results(case):
    """Return the results of the call of whole tensors by their names, by whether its state is used."""
    inputs = case.inputs()
    o, state = case.call(lk.lightning_attn2, inputs)
    grads = {
        False: torch.autograd.grad(o, inputs, case.do, retain_graph=True),
        True: torch.autograd.grad((o, state), inputs, (case.do, case.d_state)),
    }
    return {
        used: dict(zip(NAMES, (o.detach(), state.detach(), *found), strict=True))
        for used, found in grads.items()
    }


def main(rank, ranks, file):
    """Run every case on this rank."""
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=ranks, timeout=timedelta(minutes=5)
    )
    mesh = init_device_mesh("cpu", (ranks,))
    batch, heads = Shard(0), Shard(1)

    case = make_case(4, 2, 1, 20, 16, 32, torch.float32, scale=0.5)
    placements = (batch, batch, batch, REPLICATED, batch, None, batch, batch)
    # Neither answer is remembered for the other.
    check(mesh, case, placements, (batch,) * 6, with_states=(False, True, False))
    case = make_case(1, 4, 4, 20, 16, 32, torch.float32, scale=0.5, bounds=[0, 3, 18])
    check(mesh, case, (heads, heads, heads, Shard(0), heads, REPLICATED, heads, heads), (heads,) * 6)
    # Slopes of all heads on every rank, of which each takes its own; one kv head for all.
    case = make_case(1, 4, 1, 20, 16, 32, torch.float32, scale=0.5)
    check(
        mesh, case, (heads, REPLICATED, REPLICATED, REPLICATED, heads, None, heads, heads),
        (heads, heads, heads, Partial(), Partial(), heads),
    )  # fmt: skip
    # Heads that cannot be divided among the ranks are computed whole.
    case = make_case(1, 6, 3, 20, 16, 32, torch.float32, scale=0.5)
    check(mesh, case, (REPLICATED,) * 5 + (None,) + (REPLICATED,) * 2, (REPLICATED,) * 6)
    dist.destroy_process_group()


def fork(rank, ranks, file):
    """Run a rank in a child of this process and return its id; its exit code is 1 if a case fails."""
    child = os.fork()
    if child == 0:
        code = 0
        try:
            main(rank, ranks, file)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    return child


if __name__ == "__main__":
    children = [fork(rank, int(sys.argv[1]), sys.argv[2]) for rank in range(int(sys.argv[1]))]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(statuses))
