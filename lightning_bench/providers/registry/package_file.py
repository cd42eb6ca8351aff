"""One module of an installed package, loaded without the rest of the package, which may be large."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def load_package_file(package: str, *paths: str) -> ModuleType:
    """Return the module of the first of `paths`, relative to the folder of `package`, that exists.

    Nothing else of the package is imported. Raise ImportError if no such file exists, and what importing it
    raises.
    """
    spec = find_spec(package)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or []]
    found = next(
        (path for folder in folders for path in (folder / each for each in paths) if path.is_file()), None
    )
    if found is None:
        raise ImportError(f"{package} has no {' and no '.join(paths)}")
    name = f"_lightning_bench_{package}_{found.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(found):
        return known
    own = spec_from_file_location(name, found)
    if own is None or own.loader is None:
        raise ImportError(f"{found} is no module")
    module = module_from_spec(own)
    sys.modules[name] = module  # Triton and dataclasses look it up
    try:
        own.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
