"""The rules of the house that no linter knows, each a function from a tree to what offends in it.

Every function takes the root of a checkout and returns sentences; an empty list is a tree in order.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MOST_LINES = 400
KERNELS = "kernels/lightning_kernels"
PACKAGES = ("lightning_bench", KERNELS)
SOURCES = (*PACKAGES, "tests", "scripts", "benchmarks")
SOURCE_ENDINGS = (".py", ".js", ".css", ".j2")
MOST_PARAMETERS = 8
MOST_PARAMETERS_OF_COMMANDS = 12
MOST_PARAMETERS_OF_KERNELS = 15
# Modules that Python or the command line finds by name: their tracebacks name the folder.
SHARED_STEMS = ("__init__", "__main__")
COMMANDS = "lightning_bench/cli/commands"
GPU = "lightning_bench/machine/gpu.py"
# The kernels have one file for private symbols of torch. The harness has four uses, each in its own file: it
# clears cuBLAS workspaces, spins on the GPU, sets what torch.compile has no public switch for, and
# sees what was put in front of torch's functions.
PRIVATE_TORCH = (
    "kernels/lightning_kernels/common/private_torch.py",
    "lightning_bench/measure/device/memory.py",
    "lightning_bench/measure/device/timer.py",
    "lightning_bench/measure/interposed.py",
    "lightning_bench/providers/bundled_srmsnorm.py",
)
ROW = "lightning_bench/record/row.py"
WORKED = {"ok", "unstable"}
READING_ROOMS = tuple(f"lightning_bench/{room}/" for room in ("report", "comparison", "history"))
CSV_READERS = {"csv.reader", "csv.DictReader", "pandas.read_csv", "pd.read_csv"}
TYPED_ROOMS = tuple(f"lightning_bench/{room}/" for room in ("measure", "run", "record"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_files(root: Path) -> list[str]:
    """Return the files with more lines than someone reads at once."""
    counted = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _files(root)}
    return [f"{_name(root, path)} has {lines} lines" for path, lines in counted.items() if lines > MOST_LINES]


def shared_stems(root: Path) -> list[str]:
    """Return the module names that a traceback alone does not place, and names that say nothing."""
    found = defaultdict(list)
    for path in _modules(root):
        if path.stem not in SHARED_STEMS and _name(root, path.parent) != COMMANDS:
            found[path.stem].append(_name(root, path))
    return [
        f"{stem}: {', '.join(names)}" for stem, names in found.items() if len(names) > 1 or stem == "utils"
    ]


def shared_types(root: Path) -> list[str]:
    """Return the names that two public classes or type aliases have."""
    found = defaultdict(list)
    for path in _modules(root):
        for statement in _parsed(path).body:
            if isinstance(statement, ast.ClassDef):
                found[statement.name].append(_name(root, path))
        for alias in _aliases(_parsed(path)):
            found[alias].append(_name(root, path))
    return [
        f"{name}: {', '.join(names)}"
        for name, names in found.items()
        if len(names) > 1 and not name.startswith("_")
    ]


def long_signatures(root: Path) -> list[str]:
    """Return the functions with more parameters than their kind may have.

    The entry of a kernel, a jitted function whose name ends in `_kernel`, may have any number: pointers and
    strides cannot travel in a value from the host.
    """
    return [
        f"{_name(root, path)}: {function.name} has {count} parameters, at most {most}"
        for path in _modules(root)
        for function in _functions(path)
        if (count := _count(function)) > (most := _most_parameters(_name(root, path), function))
    ]


def readers_of_visible_devices(root: Path) -> list[str]:
    """Return the modules besides machine/gpu.py that name the variable CUDA_VISIBLE_DEVICES in code."""
    return [
        _name(root, path)
        for path in _modules(root)
        if _name(root, path) != GPU
        and any(
            isinstance(node, ast.Constant) and node.value == "CUDA_VISIBLE_DEVICES"
            for node in ast.walk(_parsed(path))
        )
    ]


def untyped_figures(root: Path) -> list[str]:
    """Return the figures of measure/, run/ and record/ that are `dict[str, Any]`.

    Fields, parameters and results of public functions and whatever is called `figures` are typed values; a
    private function may take a line of JSON apart.
    """
    return [
        f"{name}: {what}"
        for path in _modules(root)
        if (name := _name(root, path)).startswith(TYPED_ROOMS)
        for what, annotation in _annotations(_parsed(path))
        if _is_any_dict(annotation)
    ]


def private_torch_symbols(root: Path) -> list[str]:
    """Return the private symbols of torch that are used outside their owners."""
    return [
        f"{_name(root, path)}: {symbol}"
        for path in _modules(root)
        if _name(root, path) not in PRIVATE_TORCH
        for symbol in sorted(set(_private_torch(_parsed(path))))
    ]


def lists_of_worked_statuses(root: Path) -> list[str]:
    """Return the modules besides record/row.py that list the statuses of rows with a usable figure.

    `Record.worked` is the owner of that rule.
    """
    return [
        _name(root, path)
        for path in _modules(root)
        if _name(root, path) != ROW
        and any(
            isinstance(node, ast.Tuple | ast.Set | ast.List)
            and {element.value for element in node.elts if isinstance(element, ast.Constant)} == WORKED
            for node in ast.walk(_parsed(path))
        )
    ]


def readers_of_csv(root: Path) -> list[str]:
    """Return the modules of report/, comparison/ and history/ that open CSVs instead of asking record/."""
    return [
        f"{_name(root, path)}: {call}"
        for path in _modules(root)
        if _name(root, path).startswith(READING_ROOMS)
        for call in sorted({ast.unparse(node) for node in ast.walk(_parsed(path))} & CSV_READERS)
    ]


def absolute_imports_of_kernels(root: Path) -> list[str]:
    """Return the imports by which the kernels name their own package.

    On the Hugging Face Hub each build of the package has another name.
    """
    return [
        f"{_name(root, path)}: {name}"
        for path in _modules(root)
        if _name(root, path).startswith(f"{KERNELS}/")
        for node in ast.walk(_parsed(path))
        for name in _absolute_imports(node)
        if name.split(".")[0] == Path(KERNELS).name
    ]


def _files(root: Path) -> list[Path]:
    folders = [root / name for name in SOURCES]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCE_ENDINGS)


def _modules(root: Path) -> list[Path]:
    return sorted(path for name in PACKAGES for path in (root / name).rglob("*.py"))


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(_parsed(path)) if isinstance(node, Function))


def _count(function: Function) -> int:
    taken = function.args
    return len(taken.posonlyargs) + len(taken.args) + len(taken.kwonlyargs)


def _most_parameters(name: str, function: Function) -> float:
    if name.startswith("kernels/"):
        jitted = any(
            ast.unparse(decorator).split("(")[0].endswith("jit") for decorator in function.decorator_list
        )
        entry = jitted and function.name.endswith("_kernel")
        return float("inf") if entry else MOST_PARAMETERS_OF_KERNELS
    is_command = name == f"{COMMANDS}/{function.name}.py"
    return MOST_PARAMETERS_OF_COMMANDS if is_command else MOST_PARAMETERS


def _aliases(module: ast.Module) -> Iterator[str]:
    """Names of a module's type aliases: capitalized, bound to a subscript, a union or a name of a type."""
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() | ast.BinOp(op=ast.BitOr())):
                if name[0].isupper() and not name.isupper():
                    yield name


def _annotations(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield the annotations that a reader of the module relies on, with what they annotate."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign):
                    yield f"{node.name}.{ast.unparse(statement.target)}", statement.annotation
        elif isinstance(node, Function) and (not node.name.startswith("_") or node.name == "__init__"):
            for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
                if argument.annotation is not None:
                    yield f"{node.name}({argument.arg})", argument.annotation
            if node.returns is not None:
                yield f"{node.name}()", node.returns
        elif isinstance(node, ast.AnnAssign) and "figures" in ast.unparse(node.target):
            yield ast.unparse(node.target), node.annotation


def _is_any_dict(annotation: ast.expr) -> bool:
    return any(
        ast.unparse(node) in ("dict[str, Any]", "Mapping[str, Any]", "MutableMapping[str, Any]")
        for node in ast.walk(annotation)
        if isinstance(node, ast.Subscript)
    )


def _private_torch(module: ast.Module) -> Iterator[str]:
    """Private symbols, dotted: those imported from torch, and attributes of what was imported from torch."""
    roots = {"torch": "torch"}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    roots[alias.asname or "torch"] = alias.name if alias.asname else "torch"
                    yield from _if_private(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                roots[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield from _if_private(f"{node.module}.{alias.name}")
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            if first in roots:
                yield from _if_private(f"{roots[first]}{dot}{rest}")


def _if_private(dotted: str) -> Iterator[str]:
    if any(part.startswith("_") and not part.startswith("__") for part in dotted.split(".")):
        yield dotted


def _absolute_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
