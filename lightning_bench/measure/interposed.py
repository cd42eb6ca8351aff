"""What is called between a caller and its function, and replaces no name: hooks of Python and of torch.

torch has no public view of its dispatch modes and of the kernels that Python has given to its operators.
"""

from __future__ import annotations

import sys

from torch._C import _len_torch_dispatch_stack
from torch.library import _impls
from torch.utils._python_dispatch import _pop_mode

# Under these keys an operator computes; under others, such as Meta, torch registers kernels when it likes.
_KEYS = frozenset(("CPU", "CUDA", "AutogradCPU", "AutogradCUDA"))


class Interposed:
    """The profile and trace function of Python, the dispatch modes and kernels of torch, at one moment."""

    def __init__(self) -> None:
        self._kernels = kernels_of_python()
        self._profile, self._trace = sys.getprofile(), sys.gettrace()
        self._modes = _len_torch_dispatch_stack()

    def put_back(self) -> list[str]:
        """Take away what was added since, apart from kernels, which stay, and return its names once."""
        found = []
        if more := kernels_of_python() - self._kernels:
            self._kernels |= more
            found.append(f"kernels of torch ({', '.join(sorted(more))})")
        if sys.getprofile() is not self._profile:
            sys.setprofile(self._profile)
            found.append("the function of sys.setprofile")
        if sys.gettrace() is not self._trace:
            sys.settrace(self._trace)
            found.append("the function of sys.settrace")
        while _len_torch_dispatch_stack() > self._modes:
            found.append(f"torch's dispatch ({type(_pop_mode()).__name__})")
        return found


def kernels_of_python() -> frozenset[str]:
    """Return the kernels, as `aten/OPERATOR/KEY`, that Python has given to operators of torch itself."""
    return frozenset(name for name in _impls if name.startswith("aten/") and name.rsplit("/", 1)[1] in _KEYS)
