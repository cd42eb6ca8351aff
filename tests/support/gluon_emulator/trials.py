"""Trials: one call forward and one backward through the kernel's host code, on an emulated device.

Every row of every result is compared with fp64 by itself, relative to the row or, where its terms cancel,
to the root of the sum of their squares: an error over a whole tensor cannot see that some rows miss a term.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

import lightning_kernels as lk
from lightning_kernels.common.call import Call, Upstream

from .errors import HazardError
from .launch import Machine
from .source import Edit, Source

BUDGET = {torch.bfloat16: 1.2e-2, torch.float16: 1.6e-3}
"""Largest relative error of a row."""
_FLOOR = {torch.bfloat16: 0.0, torch.float16: 2.0**-23}
"""Absolute error of an element: below the normal numbers of fp16 rounding is absolute."""


class WrongResultError(HazardError):
    """A row of a result is not what the definition says."""


@dataclass(frozen=True)
class Trial:
    """One call of the kernel, forward and backward."""

    n: int = 130
    head_dim: int = 64
    value_dim: int = 64
    heads: int = 2
    kv_heads: int = 2
    batch: int = 1
    bounds: tuple[int, ...] | None = None
    """Bounds of sequences packed along n, in a batch of 1."""
    slopes: tuple[float, ...] | None = (0.3, 0.0)
    """One slope per head; None is no decay."""
    scale: float = 0.5
    dtype: torch.dtype = torch.bfloat16
    layouts: tuple[str, str, str, str] = ("bhnd",) * 4
    """Of q, k, v and the gradient of o: bhnd, bnhd, sliced or strided."""
    initial: bool = False
    final: bool = False
    """Whether the final state is returned and has a gradient."""
    grad_o: bool = True
    backward: bool = True
    outlier: int | None = None
    """A token whose kᵀv is 10⁴ times as large as that of others."""
    processors: int = 132
    wide: bool = False
    """Whether the wide kernel is taken where it can be, whatever the size of the call."""
    segments: int | None = None
    """Segments of a sequence; None leaves the choice to the host code."""
    boxes: bool = False
    """Whether TMA is taken where it can be, whatever the size of the call."""
    exchange: bool = True
    """Whether segments exchange states wherever it costs less than to walk, not counting what it costs."""


@dataclass
class Outcome:
    """What a trial found."""

    worst: float = 0.0
    """The largest error of a row over its budget."""
    launches: list[dict[str, object]] = field(default_factory=list)
    """Arguments of the forward and of the backward launch."""
    shared_bytes: int = 0
    """Shared memory of a program as the source allocates it, without barriers."""
    announcements: int = 0
    """Programs that left a state for others."""


def run(trial: Trial, seed: int, edits: Iterable[Edit] = ()) -> Outcome:
    """Run a trial; `seed` decides on values and on the schedule.

    Raises:
        HazardError: for what the kernel does wrong; `WrongResultError` for wrong values.
    """
    return Runner(edits).run(trial, seed)


class Runner:
    """Runs trials on one emulated device, whose compiled kernels are kept as on a GPU."""

    def __init__(self, edits: Iterable[Edit] = ()) -> None:
        self.machine = Machine()
        self.source = Source(self.machine, edits)
        self.host = self.source.module("hopper.host")
        self._choose_segments = self.source.module("cuts").hopper_segments

    def run(self, trial: Trial, seed: int) -> Outcome:
        """Run a trial, as `run` does."""
        self.machine.rng.seed(seed)
        self.machine.launches.clear()
        self.machine.shared_bytes = self.machine.announcements = 0
        tiles, cuts = self.source.module("tiles"), self.source.module("cuts")
        _replace(tiles, "_WIDE_FROM", 1 if trial.wide else 2**40)
        _replace(tiles, "_BOXES_FROM", 1 if trial.boxes else 2**40)
        _replace(tiles, "_WIDE_BACKWARD_FROM", 1 if trial.wide else 2**40)
        _replace(tiles, "_WIDE_BACKWARD_PROGRAMS", 1)
        _replace(cuts, "_PACKED_FROM", 16)
        _replace(self.source.module("hopper.kernel"), "_EXCHANGED", 0 if trial.exchange else 2**20)
        forced = trial.segments
        _replace(cuts, "hopper_segments", self._choose_segments if forced is None else lambda *_: forced)
        _replace(self.host, "processors", lambda device: trial.processors)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._run(trial, _Inputs(trial, seed))
        finally:
            torch.set_num_threads(threads)

    def _run(self, trial: Trial, x: "_Inputs") -> Outcome:
        if not self.host.takes(x.q, x.k, x.v, x.do):
            raise ValueError("the kernel does not take these tensors")
        slopes = None if trial.slopes is None else torch.tensor(trial.slopes)
        offsets = None if trial.bounds is None else torch.tensor(trial.bounds, dtype=torch.int32)
        got: dict[str, Tensor] = {}
        call = Call(x.q, x.k, x.v, slopes, x.initial, offsets, trial.scale, trial.final)
        got["o"], state = self.host.HopperAttention().forward(call)
        if trial.final:
            got["state"] = state
        if trial.backward:
            needs = (True, True, True, x.initial is not None)
            upstream = Upstream(x.do if trial.grad_o else None, x.d_state, needs)
            grads = self.host.HopperAttention().backward(upstream, call)
            names = ("dq", "dk", "dv", "d_initial")
            got |= {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}
        expected = x.reference(trial, slopes, offsets)
        # Terms of a sum whose signs are random: their squares add up to the square of the sum.
        energy = x.squared().reference(
            trial, None if slopes is None else 2 * slopes.double(), offsets, trial.scale**2
        )
        worst = max(
            _worst_row(name, value, expected[name], energy[name], trial.dtype) for name, value in got.items()
        )
        machine = self.machine
        return Outcome(worst, list(machine.launches), machine.shared_bytes, machine.announcements)


class _Inputs:
    """Values of a trial."""

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    initial: Tensor | None
    d_state: Tensor | None

    def __init__(self, trial: Trial, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        size = max(trial.head_dim, trial.value_dim) ** -0.25

        def draw(heads: int, dim: int, layout: str) -> Tensor:
            x = torch.randn(trial.batch, heads, trial.n, dim, generator=generator) * size
            return _laid_out(x.to(trial.dtype), layout)

        of_q, of_k, of_v, of_do = trial.layouts
        self.q = draw(trial.heads, trial.head_dim, of_q)
        self.k = draw(trial.kv_heads, trial.head_dim, of_k)
        self.v = draw(trial.kv_heads, trial.value_dim, of_v)
        self.do = draw(trial.heads, trial.value_dim, of_do)
        if trial.outlier is not None:
            self.k[:, :, trial.outlier] *= 100
            self.v[:, :, trial.outlier] *= 100
        count = trial.batch if trial.bounds is None else len(trial.bounds) - 1
        states = (count, trial.heads, trial.head_dim, trial.value_dim)
        self.initial = torch.randn(states, generator=generator) * size if trial.initial else None
        self.d_state = torch.randn(states, generator=generator) * size if trial.final else None

    def squared(self) -> "_Inputs":
        """Return the squares of all values."""
        other = object.__new__(_Inputs)
        for name, value in vars(self).items():
            setattr(other, name, None if value is None else value.double() ** 2)
        return other

    def reference(
        self, trial: Trial, slopes: Tensor | None, offsets: Tensor | None, scale: float | None = None
    ) -> dict[str, Tensor]:
        """Return all results in fp64."""
        leaves = {"dq": self.q, "dk": self.k, "dv": self.v, "d_initial": self.initial}
        leaves = {
            name: x.detach().double().requires_grad_(trial.backward)
            for name, x in leaves.items() if x is not None
        }  # fmt: skip
        # In fp64 the blocked form is the definition (test_states.py), without the square of a long sequence.
        attend = lk.reference_attention if trial.n <= 256 else lk.lightning_attn2_torch
        o, state = attend(
            leaves["dq"], leaves["dk"], leaves["dv"], slopes, initial_state=leaves.get("d_initial"),
            scale=trial.scale if scale is None else scale, return_state=True, cu_seqlens=offsets,
        )  # fmt: skip
        results = {"o": o.detach(), "state": state.detach()}
        if trial.backward:
            pairs = [(o, self.do if trial.grad_o else None), (state, self.d_state)]
            pairs = [(x, grad.double()) for x, grad in pairs if grad is not None and x.requires_grad]
            grads = torch.autograd.grad(
                [x for x, _ in pairs], list(leaves.values()), [grad for _, grad in pairs], allow_unused=True,
                materialize_grads=True,
            ) if pairs else [torch.zeros_like(x) for x in leaves.values()]  # fmt: skip
            results |= dict(zip(leaves, grads, strict=True))
        return results


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """Return x [b, h, n, dim] with other strides; gaps are NaN."""
    if layout == "bnhd":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "sliced":
        wide = x.new_full((*x.shape[:3], x.shape[3] + 48), math.nan)
        wide[..., 16:-32] = x
        return wide[..., 16:-32]
    if layout == "strided":
        wide = x.new_full((*x.shape[:2], 2 * x.shape[2], x.shape[3]), math.nan)
        wide[:, :, ::2] = x
        return wide[:, :, ::2]
    return x


def _replace(module, name: str, value: object) -> None:
    """Set what a module already has."""
    getattr(module, name)
    setattr(module, name, value)


def _worst_row(name: str, got: Tensor, expected: Tensor, energy: Tensor, dtype: torch.dtype) -> float:
    """Return the largest error of a row over what is allowed.

    Raises:
        WrongResultError: if it is too large, or not a number.
    """
    if got.shape != expected.shape:
        raise WrongResultError(f"{name} is {list(got.shape)}, not {list(expected.shape)}")
    if got.numel() == 0:
        return 0.0
    error = (got.double() - expected).norm(dim=-1)
    size = torch.maximum(expected.norm(dim=-1), energy.sum(-1).sqrt())
    allowed = BUDGET[dtype] * size + _FLOOR[dtype] * got.shape[-1] ** 0.5 + 1e-30
    over = torch.nan_to_num(error / allowed, nan=math.inf)
    worst = float(over.max())
    if worst > 1:
        index = [int(i) for i in torch.unravel_index(over.argmax(), over.shape)]
        raise WrongResultError(
            f"row {index} of {name}: error {float(error[tuple(index)]):.3g}, "
            f"allowed {float(allowed[tuple(index)]):.3g}, {int((over > 1).sum())} rows wrong"
        )
    return worst
