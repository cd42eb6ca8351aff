"""Global memory by which the programs of a launch exchange values: who may read what depends on flags.

A program writes, counts its threads at a flag (release), and another that has seen the flag full (acquire)
reads. Programs run one after another in the order of their numbers, in which a GPU starts them: one that
waits for a flag of a later program would wait for ever.
"""

import re
from collections.abc import Callable

import numpy as np
import torch

from .arrays import INT32, Tile
from .errors import DeadlockError, HazardError
from .memory import Pointer, Region
from .schedule import Program

WORKSPACES = frozenset({"sums_ptr", "flags_ptr"})
"""Parameters of a kernel that its programs both write and read."""
_ANNOUNCE = re.compile(r"red\.release\.gpu\.global\.add\.u32 \[\$1\], (\d+); mov\.u32 \$0, 0;")
_AWAIT = re.compile(
    r"\{\.reg \.pred (\w+); \.reg \.u32 (\w+); (\w+): ld\.acquire\.gpu\.global\.u32 \2, \[\$1\]; "
    r"setp\.ge\.u32 \1, \2, \$2; @!\1 bra \3; mov\.u32 \$0, \2;\}"
)


class Workspace(Region):
    """A tensor that the programs of a launch write and read."""

    def __init__(self, name: str, tensor: torch.Tensor, program: Callable[[], Program]) -> None:
        super().__init__(name, tensor, output=self._is_values(tensor))
        self._program = program
        self.writers = np.full(self.values.size, -1)
        self.announcers: dict[int, set[int]] = {}

    @staticmethod
    def _is_values(tensor: torch.Tensor) -> bool:
        return tensor.dtype.is_floating_point  # flags keep what the host gives

    def write(self, offsets: np.ndarray, values: np.ndarray) -> None:
        """Store elements, each once, before the program announces them."""
        if self._program().announced:
            raise HazardError(f"store to {self.name} after the program has announced it")
        super().write(offsets, values)
        self.writers[offsets] = self._program().number

    def check(self, offsets: np.ndarray, what: str) -> None:
        """Check also that a read is of what other programs have announced and this one has waited for."""
        super().check(offsets, what)
        if what == "load":
            unknown = set(np.unique(self.writers[offsets])) - self._program().seen
            if unknown:
                raise HazardError(f"load of {self.name}: programs {sorted(unknown)} are not waited for")

    def finish(self) -> None:
        """Leave the host's tensor as it is: nobody reads a workspace after the launch."""

    def announce(self, offsets: np.ndarray, count: int) -> None:
        """Count threads at flags."""
        super().check(offsets, "announcement")
        np.add.at(self.values, offsets, count)
        program = self._program()
        program.announced = True
        for offset in np.unique(offsets):
            self.announcers.setdefault(int(offset), set()).add(program.number)

    def wait(self, offsets: np.ndarray, counts: np.ndarray) -> None:
        """Wait until flags are full, by programs that have run."""
        super().check(offsets, "wait")
        if (self.values[offsets] < counts).any():
            raise DeadlockError(f"program {self._program().number} waits for a flag that nobody has filled")
        for offset in np.unique(offsets[counts > 0]):
            self._program().seen |= self.announcers.get(int(offset), set())


def run(text: str, arguments: list[object]) -> Tile:
    """Run inline assembly on a tile of pointers.

    Raises:
        HazardError: if it is neither an announcement nor a wait, with their orders of memory.
    """
    pointer, *rest = arguments
    if not isinstance(pointer, Pointer) or not isinstance(pointer.region, Workspace):
        raise HazardError("a flag is not in a workspace")
    offsets = np.asarray(pointer.offset)
    if (match := _ANNOUNCE.fullmatch(text)) and not rest:
        pointer.region.announce(offsets, int(match[1]))
    elif _AWAIT.fullmatch(text) and len(rest) == 1:
        pointer.region.wait(offsets, np.broadcast_to(rest[0].data, offsets.shape))
    else:
        raise HazardError(f"neither an announcement nor a wait that orders memory: {text}")
    return Tile(np.zeros(offsets.shape, np.int64), INT32)
