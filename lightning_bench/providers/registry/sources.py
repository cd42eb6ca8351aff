"""The sources that a provider file loads from its folder or its git repository, found without running it.

Imports are read from the syntax tree, also those within functions, and followed into every file of the
repository (outside one, of the file's folder and its subfolders) that they can mean. What is found is an
upper bound: a name that several files of the repository answer to stands for all of them. The standard
library, site-packages and the harness itself are left out. Not found are modules whose names are computed,
and files that are read but not imported, such as CUDA sources.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

_HARNESS = "lightning_bench"  # its commit is a column of its own
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_LOOSE_DEPTH = 2  # a file outside a repository may lie in a home folder


def digest_of_sources(path: Path) -> str:
    """Return eight hex digits over the source of `path` and of all that it loads from its repository."""
    path = path.resolve()
    root, _ = _root(path)
    files = sorted(sources_of(path))
    if files == [path]:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    total = hashlib.sha256()
    for file in files:
        total.update(file.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:8]


def sources_of(path: Path) -> set[Path]:
    """Return `path` and all that it loads from its repository, with links resolved."""
    path = path.resolve()
    return _Walk(*_root(path)).from_file(path)


def path_in_repository(path: Path) -> str:
    """Return the path of a file from the root of its git repository, outside of one its name."""
    path = path.resolve()
    root, _ = _root(path)
    return path.relative_to(root).as_posix()


def folder_of_module(path: Path, top: str) -> Path | None:
    """Return the nearest folder, from that of `path` to that of its repository, with the module `top`."""
    root, _ = _root(path.resolve())
    near = (each for each in path.resolve().parents if each.is_relative_to(root))
    return next((each for each in near if _has(each, top)), None)


def _root(path: Path) -> tuple[Path, int | None]:
    """Return the folder in which imports of `path` are followed, and how deep; None without a limit."""
    for folder in path.parents:
        if (folder / ".git").exists():
            return folder, None
    return path.parent, _LOOSE_DEPTH


class _Walk:
    """Follows imports below `root`."""

    def __init__(self, root: Path, depth: int | None) -> None:
        self._root, self._depth = root, depth
        self._folders: list[Path] | None = None
        self._at: dict[tuple[str, bool, Path], list[Path]] = {}

    def from_file(self, path: Path) -> set[Path]:
        """Return `path` and every file below the root that its imports lead to."""
        found, pending = {path}, [path]
        while pending:
            for file in self._imported_by(pending.pop()):
                if file not in found:
                    found.add(file)
                    pending.append(file)
        return found

    def _imported_by(self, path: Path) -> Iterator[Path]:
        try:
            source = path.read_bytes()
            imports = _imports(source)
        except (OSError, SyntaxError, ValueError):  # it will say so when it is imported
            return
        moves_path = b"sys.path" in source
        for name, level in imports:
            if level:
                folder = path.parents[level - 1] if level <= len(path.parents) else path.parent
                starts = [folder] if folder.is_relative_to(self._root) else []
            else:
                starts = self._starts(name.partition(".")[0], moves_path, path.parent)
            for start in starts:
                yield from _files_of(start, name)

    def _starts(self, top: str, moves_path: bool, folder: Path) -> list[Path]:
        """Return the folders below the root from which the top-level module `top` can be imported."""
        if top == _HARNESS or top in sys.stdlib_module_names:
            return []
        key = (top, moves_path, folder)
        if key not in self._at:
            near = [each for each in (folder, *folder.parents) if each.is_relative_to(self._root)]
            found = [each for each in near if _has(each, top)]
            if moves_path or not (found or _is_installed(top)):
                found = [each for each in self._all_folders() if _has(each, top)]
            self._at[key] = found
        return self._at[key]

    def _all_folders(self) -> list[Path]:
        if self._folders is None:
            self._folders = []
            for at, names, files in os.walk(self._root):
                deep = len(Path(at).relative_to(self._root).parts)
                if "pyvenv.cfg" in files or (self._depth is not None and deep > self._depth):
                    names.clear()
                    continue
                names[:] = [name for name in names if name[0] != "." and name not in _INSTALLED]
                self._folders.append(Path(at))
        return self._folders


@lru_cache(maxsize=4096)
def _imports(source: bytes) -> tuple[tuple[str, int], ...]:
    """Return what `_imports_in` finds in a source, which many providers and both sides of a diff share."""
    return tuple(_imports_in(ast.parse(source)))


def _imports_in(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, level) of every import: `from .a import b` gives (`a.b`, 1)."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                for alias in names:
                    yield alias.name, 0
            case ast.ImportFrom(module, names, level):
                for alias in names:
                    parts = [module or "", "" if alias.name == "*" else alias.name]
                    yield ".".join(filter(None, parts)), level
            case ast.Call(
                ast.Name("import_module" | "__import__") | ast.Attribute(attr="import_module"),
                [ast.Constant(str(name)), *_],
            ):
                yield name.lstrip("."), len(name) - len(name.lstrip("."))


def _files_of(start: Path, name: str) -> Iterator[Path]:
    """Yield the files that importing `name` from the folder `start` runs: packages, then the module."""
    folder = start
    for part in filter(None, name.split(".")):
        for file in (folder / "__init__.py", folder / f"{part}.py"):
            if file.is_file() and (file.name != "__init__.py" or folder != start):
                yield file.resolve()
        folder /= part
    if (folder / "__init__.py").is_file():
        yield (folder / "__init__.py").resolve()


def _has(folder: Path, top: str) -> bool:
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


def _is_installed(top: str) -> bool:
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return spec.origin in ("built-in", "frozen") or any(_INSTALLED & set(Path(p).parts) for p in places)
