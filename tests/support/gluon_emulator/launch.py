"""Launches: an emulated device runs the programs of a grid one after another.

Their order is random, but where they wait for each other.
"""

import inspect
import random

import numpy as np
import torch

from .errors import HazardError
from .memory import Pointer, Pool, launch_argument
from .schedule import Program
from .transfers import Box
from .workspaces import WORKSPACES, Workspace

OUTPUTS = frozenset({"out_ptr", "dk_ptr", "dv_ptr", "final_ptr"})
"""Parameters of a kernel that it must write whole; all others it may only read."""


class Machine:
    """The emulated device: what a launch has done, and the program that runs."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.program: Program = Program(0, 4, self.rng)
        self.grid: tuple[int, ...] = (1, 1, 1)
        self.launches: list[dict[str, object]] = []
        """The arguments of every launch by their names, without tensors."""
        self.shared_bytes = 0
        """The largest amount of shared memory that a program has allocated, without barriers."""
        self.announcements = 0
        """Programs that have told others of what they wrote."""

    def run(self, kernel: "JitFunction", grid: tuple[int, ...], arguments: tuple, warps: int) -> None:
        """Run a kernel to its end.

        Raises:
            HazardError: for what it does wrong.
        """
        bound = kernel.signature.bind(*arguments).arguments
        if len(bound) != len(kernel.signature.parameters):
            raise TypeError("a launch gives every argument")
        self.launches.append({k: v for k, v in bound.items() if not isinstance(v, torch.Tensor)})
        values = self._arguments(kernel, bound)
        regions = [value.region for value in values if isinstance(value, Pointer)]
        self.grid = grid
        programs = list(range(int(np.prod(grid))))
        if not any(isinstance(region, Workspace) for region in regions):
            self.rng.shuffle(programs)
        with np.errstate(all="ignore"):
            for number in programs:
                self.program = Program(number, warps, self.rng)
                self.program.run(kernel.function(*values))
                self.shared_bytes = max(self.shared_bytes, self.program.shared_bytes)
                self.announcements += self.program.announced
        for region in regions:
            region.finish()

    def _arguments(self, kernel: "JitFunction", bound: dict[str, object]) -> list[object]:
        missing = (OUTPUTS | WORKSPACES) - set(bound)
        if missing:
            raise TypeError(f"the kernel has no parameters {sorted(missing)}, which are named here")
        values: list[object] = []
        pointers: dict[int, Pointer] = {}
        states = bound.get("initial_ptr")
        pool = None
        if isinstance(states, torch.Tensor) and states is bound.get("final_ptr"):
            pool = Pointer(Pool("the pool", states), states.storage_offset())
        for name, value in bound.items():
            if name in kernel.constants:
                values.append(value)
            elif isinstance(value, torch.Tensor) and name in WORKSPACES:
                values.append(Pointer(Workspace(name, value, lambda: self.program), value.storage_offset()))
            elif pool is not None and value is states:
                values.append(pool)
            elif isinstance(value, torch.Tensor):
                pointer = Pointer.to_tensor(name, value, name in OUTPUTS)
                pointers.setdefault(value.data_ptr(), pointer)
                values.append(pointer)
            elif hasattr(value, "block_shape"):
                values.append(Box(value, pointers[value.base.data_ptr()].region))
            else:
                values.append(launch_argument(value))
        return values


class JitFunction:
    """A function of the kernel: a generator that yields wherever it synchronises."""

    def __init__(self, machine: Machine, function, options: dict[str, object]) -> None:
        self.machine, self.function = machine, function
        self.signature = inspect.signature(function)
        self.constants = {
            name for name, parameter in self.signature.parameters.items()
            if "constexpr" in str(parameter.annotation).lower()
        }  # fmt: skip
        self.options = options

    @classmethod
    def decorate(cls, machine, function, options):
        """Return what `gluon.jit` makes of a function, with or without options."""
        if function is None:
            return lambda later: cls(machine, later, options)
        return cls(machine, function, options)

    def __call__(self, *arguments, **more):
        return self.function(*arguments, **more)

    def __get__(self, instance, owner=None):
        return self if instance is None else lambda *args, **more: self.function(instance, *args, **more)

    def __getitem__(self, grid):
        def launch(*arguments, num_warps: int) -> "Compiled":
            compiled = Compiled(self, arguments, num_warps)
            compiled[grid](*arguments)
            return compiled

        return launch


class Compiled:
    """A kernel as it was compiled for the arguments of its first launch."""

    def __init__(self, kernel: JitFunction, arguments: tuple, warps: int) -> None:
        self._kernel, self._warps = kernel, warps
        self._compiled_for = self._variant(arguments)

    def _variant(self, arguments: tuple) -> list[object]:
        """Return what code is generated for, of each argument."""
        names = self._kernel.signature.parameters
        variable = self._kernel.options.get("do_not_specialize", ())
        anywhere = self._kernel.options.get("do_not_specialize_on_alignment", ())
        kinds: list[object] = []
        for name, value in zip(names, arguments, strict=True):
            if name in self._kernel.constants or value is None:
                kinds.append(value)
            elif isinstance(value, torch.Tensor):
                kinds.append((value.dtype, name not in anywhere and value.data_ptr() % 16 == 0))
            elif isinstance(value, int) and name not in variable:
                kinds.append((-(2**31) <= value < 2**31, value % 16 == 0, value == 1))
            else:
                kinds.append(type(value))
        return kinds

    def __getitem__(self, grid):
        def launch(*arguments) -> None:
            for name, before, now in zip(
                self._kernel.signature.parameters, self._compiled_for, self._variant(arguments), strict=True
            ):
                if before != now and not _covers(before, now):
                    raise HazardError(f"{name} is {now}, but the kernel was compiled for {before}")
            self._kernel.machine.run(self._kernel, grid, arguments, self._warps)

        return launch


def _covers(before: object, now: object) -> bool:
    """Say whether code for one kind of pointer or integer is right for another one, too."""
    if not isinstance(before, tuple) or not isinstance(now, tuple) or len(before) != len(now):
        return False
    if len(before) == 2:
        return before[0] == now[0] and (now[1] or not before[1])
    fits, divisible, one = before
    return (now[0] or not fits) and (now[1] or not divisible) and (now[2] or not one)
