"""The kernel's source files, loaded apart from the installed package, with edits where a test wants them.

Functions under `gluon.jit` become generators: each call in them turns into `(yield from call(f, …))`, so
that a partition can stop wherever it synchronises. Nothing else changes, and lines keep their numbers.
"""

import ast
import builtins
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, GeneratorType, ModuleType, SimpleNamespace

import lightning_kernels

from .errors import StaleEditError
from .language import modules
from .launch import Machine
from .scalars import kernel_range

ROOT = Path(lightning_kernels.__file__).parent
PACKAGE = "lightning_kernels.lightning2"
LOADED = (f"{PACKAGE}.hopper", f"{PACKAGE}.tiles", f"{PACKAGE}.cuts")
"""Modules, and packages of such, that are loaded from their files; all others are imported."""


@dataclass(frozen=True)
class Edit:
    """Replace a text that a file of lightning2/ contains `count` times."""

    file: str
    old: str
    new: str
    count: int = 1


class Source:
    """The files of the kernel as modules of one emulated device.

    `module("hopper.host")` is lightning2/hopper/host.py; edits must each apply.
    """

    def __init__(self, machine: Machine, edits: Iterable[Edit] = ()) -> None:
        self.machine = machine
        self._triton = modules(machine)
        self._edits = tuple(edits)
        self._modules: dict[str, ModuleType] = {}
        for edit in self._edits:
            edited_text(edit.file, (edit,))

    def module(self, name: str) -> ModuleType:
        """Return the module of this name below lightning2."""
        return self._load(f"{PACKAGE}.{name}")

    def _load(self, name: str) -> ModuleType:
        if name not in self._modules:
            file = name.removeprefix(f"{PACKAGE}.").replace(".", "/") + ".py"
            module = ModuleType(name.replace("lightning_kernels", "emulated"))
            module.__dict__.update(__builtins__={**vars(builtins), "__import__": self._import}, call=call)
            module.__package__ = name.rpartition(".")[0]  # relative imports start from the real package
            self._modules[name] = module
            exec(compiled(file, tuple(edit for edit in self._edits if edit.file == file)), module.__dict__)
        return self._modules[name]

    def _is_loaded(self, name: str) -> bool:
        file = ROOT.parent / (name.replace(".", "/") + ".py")
        return file.is_file() and any(name == own or name.startswith(f"{own}.") for own in LOADED)

    def _import(self, name, globals=None, locals=None, fromlist=(), level=0):
        if level:
            name, level = resolve_name("." * level + name, globals["__package__"]), 0
        if name.split(".")[0] == "triton":
            found = SimpleNamespace(triton=self._triton)
            for part in name.split(".") if fromlist else ["triton"]:
                found = getattr(found, part)
            return found
        if self._is_loaded(name) and fromlist:
            return self._load(name)
        if fromlist and any(self._is_loaded(f"{name}.{item}") for item in fromlist):
            found = SimpleNamespace(**vars(importlib.import_module(name)))
            for item in fromlist:
                if self._is_loaded(f"{name}.{item}"):
                    setattr(found, item, self._load(f"{name}.{item}"))
            return found
        return builtins.__import__(name, globals, locals, fromlist, level)


def call(function, /, *arguments, **more):
    """Call a function of the kernel language or of the kernel, and run it if it is a generator."""
    result = (kernel_range if function is range else function)(*arguments, **more)
    if type(result) is GeneratorType:
        result = yield from result
    return result


def edited_text(file: str, edits: Iterable[Edit]) -> str:
    """Return the text of a file of lightning2/ after edits.

    Raises:
        StaleEditError: if one does not apply.
    """
    text = (ROOT / "lightning2" / file).read_text(encoding="utf-8")
    for edit in edits:
        found = text.count(edit.old)
        if found != edit.count:
            raise StaleEditError(f"{file} has {found} times, not {edit.count}: {edit.old!r}")
        text = text.replace(edit.old, edit.new)
    return text


@cache
def compiled(file: str, edits: tuple[Edit, ...]) -> CodeType:
    """Return the code of a file whose kernel functions are generators."""
    path = ROOT / "lightning2" / file
    tree = _Generators().visit(ast.parse(edited_text(file, edits)))
    return compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True)


class _Generators(ast.NodeTransformer):
    def __init__(self) -> None:
        self._inside = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if not any(_is_jit(decorator) for decorator in node.decorator_list):
            return node
        self._inside = True
        node.body = [self.visit(statement) for statement in node.body]
        self._inside = False
        # A function without calls is a generator, too.
        node.body.append(ast.parse("if False: yield").body[0])
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        target, value = node.targets[0], node.value
        match value:
            case ast.Call(func=ast.Attribute(attr="allocate_shared_memory")) if isinstance(target, ast.Name):
                # Reports name shared memory as the source does.
                value.keywords.append(ast.keyword("name", ast.Constant(target.id)))
        node.value = self.visit(value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if not self._inside:
            return node
        call_name = ast.Name("call", ast.Load())
        call_node = ast.Call(call_name, [node.func, *node.args], node.keywords)
        return ast.copy_location(ast.YieldFrom(call_node), node)


def _is_jit(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(target, ast.Attribute) and target.attr == "jit"
