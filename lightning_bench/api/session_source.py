"""The source of a function of a notebook or a script, as a file that other processes can import.

The file has the statement that defines the function, with its decorators, and what the names in it mean now:
imports, constants that can be written down, and the functions and classes of the session that it uses, each
from its source. The definitions run anew in each worker, so that Triton kernels, `torch.compile` and custom
operators work, none of which can be pickled.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import math
import symtable
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, cast

from lightning_bench.errors import UsageError
from lightning_bench.providers.registry.sources import digest_of_sources

# Where wrappers keep the function that they were made from: functools, Triton, torch.compile, torch.library.
_WRAPPED = ("__wrapped__", "fn", "_torchdynamo_orig_callable", "_init_fn")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_REMEDY = "put the function into a file and give path/to/file.py:NAME"


def name_of(found: object) -> str:
    """Return the name by which a function, a wrapper of one or a class was defined.

    Raise UsageError for one that has none, such as a lambda.
    """
    name = str(getattr(found, "__name__", None) or getattr(_innermost(found), "__name__", ""))
    if not name.isidentifier() or iskeyword(name):
        what = "a lambda" if name == "<lambda>" else f"of type {type(found).__name__} and"
        raise UsageError(f"{_shown(found)} is {what} without a name: define it by `def`, or {_REMEDY}")
    return name


def file_source(found: object) -> str:
    """Return the source of a file in which the name of `found`, by `name_of`, is what it is here.

    Raise UsageError for what no other process could define again: a function of another function, one whose
    source is not kept, and names in it that mean objects of this session.
    """
    return _File(found).text()


class _File:
    """The parts of a file, in the order in which they must run."""

    def __init__(self, root: object) -> None:
        self._root = name_of(root)
        self._imports: dict[str, str] = {}
        self._constants: dict[str, str] = {}
        self._definitions: dict[str, str] = {}
        self._modules: dict[str, ModuleType] = {}
        self._values: dict[str, object] = {}
        self._has_future = False
        self._add(self._root, root, self._root)

    def text(self) -> str:
        """Return the file. It names the sources of modules that are imported and not installed."""
        digests = sorted(
            f"# {name}: {digest_of_sources(Path(str(module.__file__)))}\n"
            for name, module in self._modules.items()
            if _is_own(module)
        )
        future = ["from __future__ import annotations\n\n"] if self._has_future else []
        parts = [
            f'"""{self._root}, as it was defined in a session."""\n\n',
            *future,
            *digests,
            *self._imports.values(),
            *self._constants.values(),
            *(f"\n\n{source}" for source in self._definitions.values()),
        ]
        return "".join(parts)

    def _add(self, name: str, value: object, user: str) -> None:
        """Add what `name` means; `user` is the name of the function that uses it."""
        if name in self._values:
            if self._values[name] is not value:
                raise UsageError(f"{user} uses {name}, which is two different objects here: {_REMEDY}")
            return
        self._values[name] = value
        if (line := self._import(name, value)) is not None:
            self._imports[name] = line
        elif (text := _literal(value)) is not None:
            self._constants[name] = f"{name} = {text}\n"
        else:
            self._define(name, value, user)

    def _import(self, name: str, value: object) -> str | None:
        """Return the line that imports `value` as `name`, None if no import gives it."""
        if isinstance(value, ModuleType):
            if value.__name__ == "__main__" or sys.modules.get(value.__name__) is not value:
                return None
            self._modules[value.__name__] = value
            return f"import {value.__name__} as {name}\n"
        module = getattr(value, "__module__", None)
        named = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if not isinstance(module, str) or not isinstance(named, str) or not named.isidentifier():
            return None
        if module == "__main__" or getattr(sys.modules.get(module), named, None) is not value:
            return None
        self._modules[module] = import_module(module)
        return f"from {module} import {named} as {name}\n"

    def _define(self, name: str, value: object, user: str) -> None:
        function = _innermost(value)
        uses = "" if name == user else f"{user} uses {name}: "
        if not isinstance(function, FunctionType | type):
            raise UsageError(
                f"{uses}{name} is of type {type(value).__name__}, an object of this session, which is not "
                f"sent to the processes that measure: make it in the function, or {_REMEDY}"
            )
        if "<locals>" in function.__qualname__:
            free = function.__code__.co_freevars if isinstance(function, FunctionType) else ()
            closure = f" and uses its {', '.join(free)}" if free else ""
            raise UsageError(
                f"{uses}{name} is defined in another function{closure}: define it at the top of the session, "
                f"or {_REMEDY}"
            )
        own = name_of(value)
        source = _Source.of(own, function, uses)
        if own != name and source.scope.get(own) is value:
            self._add(own, value, user)
            self._definitions[name] = f"{name} = {own}\n"
            return
        is_remade = value is not function or source.is_decorated  # by decorators, which run again there
        if source.name != name or (is_remade and source.scope.get(name) is not value):
            raise UsageError(
                f"{uses}{name} is not what `{source.name}` was defined as, but made from it by an "
                "expression, which is not kept: define it by `def` or `class` at the top of the session, if "
                f"need be with a decorator, or {_REMEDY}"
            )
        self._has_future |= source.has_future
        for used in sorted(_global_names(source.text)):
            if used in source.scope and used != name:
                self._add(used, source.scope[used], name)
        self._definitions[name] = source.text


@dataclass(frozen=True)
class _Source:
    """The statement that defines a function or a class, and the global names that it sees."""

    name: str
    text: str
    is_decorated: bool
    has_future: bool
    scope: Mapping[str, object]

    @classmethod
    def of(cls, name: str, found: Any, uses: str) -> _Source:
        """Return that of a function or a class. Raise UsageError if its source is not kept."""
        for function in _functions(found):
            code = function.__code__
            lines = linecache.getlines(code.co_filename)
            node = _definition_at(ast.parse("".join(lines)), code.co_firstlineno)
            if node is not None:
                break
        else:
            raise UsageError(
                f"{uses}the source of {name} is not kept, as in a Python shell or below %%time: {_REMEDY}"
            )
        decorators = [each.lineno for each in node.decorator_list]
        text = textwrap.dedent("".join(lines[min([node.lineno, *decorators]) - 1 : node.end_lineno]))
        return cls(
            name=node.name,
            text=text.rstrip("\n") + "\n",
            is_decorated=bool(decorators),
            has_future=bool(code.co_flags & annotations.compiler_flag),
            scope=function.__globals__,
        )


def _functions(found: Any) -> Iterator[FunctionType]:
    """Yield a function, or the methods of a class."""
    if isinstance(found, FunctionType):
        yield found
        return
    for member in vars(found).values():
        inner = inspect.unwrap(getattr(member, "__func__", member))
        if isinstance(inner, FunctionType) and inner.__module__ == found.__module__:
            yield inner


def _definition_at(tree: ast.AST, line: int) -> Any:
    """Return the outermost definition around a line, None if there is none."""
    for node in ast.iter_child_nodes(tree):
        first = min([getattr(node, "lineno", 0), *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if not first <= line <= (getattr(node, "end_lineno", None) or 0):
            continue
        return node if isinstance(node, _DEFINITIONS) else _definition_at(node, line)
    return None


def _global_names(source: str) -> set[str]:
    """Return the names that a definition reads from its module, those in its functions and methods too."""
    pending = [symtable.symtable(source, "<session>", "exec")]
    names: set[str] = set()
    while pending:
        table = pending.pop()
        top = table.get_type() == "module"
        names |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (top or symbol.is_global())
        }
        pending += table.get_children()
    return names


def _literal(value: object) -> str | None:
    """Return an expression for a constant, None for what has none."""
    kind: Any = type(value)
    if value is None or kind in (bool, int, str, bytes):
        return repr(value)
    if kind is complex:
        number = cast(complex, value)
        return f"complex({_literal(number.real)}, {_literal(number.imag)})"
    if kind is float:
        return repr(value) if math.isfinite(cast(float, value)) else f"float({str(value)!r})"
    if kind in (tuple, list, set, frozenset):
        parts = [_literal(each) for each in cast("Iterable[object]", value)]
        return None if None in parts else f"{kind.__name__}([{', '.join(map(str, parts))}])"
    if kind is dict:
        pairs = [(_literal(key), _literal(each)) for key, each in cast("dict[object, object]", value).items()]
        known = all(None not in pair for pair in pairs)
        return "{" + ", ".join(f"{key}: {each}" for key, each in pairs) + "}" if known else None
    match f"{kind.__module__}.{kind.__qualname__}":
        case "torch.dtype":
            return f"__import__('torch').{str(value).removeprefix('torch.')}"
        case "torch.device":
            return f"__import__('torch').device({str(value)!r})"
        case "triton.language.core.constexpr":
            inner = _literal(cast(Any, value).value)
            return inner and f"__import__('triton.language').language.constexpr({inner})"
    return None


def _innermost(found: object) -> Any:
    """Return the function or class in the wrappers around it, else what was given."""
    seen = {id(found)}
    while not isinstance(found, type):
        inner = next((each for name in _WRAPPED if callable(each := getattr(found, name, None))), None)
        if inner is None or id(inner) in seen:
            break
        seen.add(id(inner))
        found = inner
    return found


def _is_own(module: ModuleType) -> bool:
    """Return whether a module is the user's: a file that is neither installed nor of Python itself."""
    path = getattr(module, "__file__", None)
    if path is None or not path.endswith(".py"):
        return False
    top = module.__name__.partition(".")[0]
    installed = {"site-packages", "dist-packages"} & set(Path(path).parts)
    return not installed and top not in sys.stdlib_module_names and top != "lightning_bench"


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 60 else text[:57] + "..."
