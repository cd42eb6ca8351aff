"""Which code a function of the kernels, or a model, runs at a commit.

For a function it is that of its module and of all that it imports: a change in the kernels that serve leaves
the rows of training as they are. The version in a row tells of all sources together; with the commit in that
row, git tells of those that mattered to it. For a model it is its own file and those of all models.
"""

from __future__ import annotations

import ast
import atexit
import hashlib
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_bench.machine.git import run_git
from lightning_bench.providers.bundled import KERNELS, sources_of_function

ROOT = Path(__file__).parents[1]
PACKAGE = f"kernels/{KERNELS}"
MODELS = "lightning_bench/models"
_OF_MODEL = {"transnormer": "transnormer_llm.py", "llama": "llama.py"}
_NOT_RUN = {"model_sizes.py", "published.py"}
"""Files of that folder without code that a step runs; all others count for every model."""
_PLUGGED = ("attention_of", "build_model")
"""What a run calls in plugged_attention.py; the rest of it judges."""
_HARMLESS = {"aggregate", "cache", "constexpr_function", "dataclass", "jit"}
_FOLDERS = ExitStack()
atexit.register(_FOLDERS.close)


def same_sources(function: str, commit: str, root: Path = ROOT) -> bool | None:
    """Say whether a function runs the code that it ran at a commit; None if git does not know the commit.

    Comments, docstrings and line breaks do not count, nor definitions that nothing of it names, nor
    the package's own file, which only says where the functions are.
    """
    then = _digest(function, commit, root)
    return None if then is None else then == _digest(function, None, root)


def same_model(architecture: str, commit: str, root: Path = ROOT) -> bool | None:
    """Say whether models of an architecture run the code that they ran at a commit, as `same_sources` does.

    Everything in its files counts but comments, docstrings and what judges; sizes do not, which figures in
    the rows tell.
    """
    then = _model_digest(architecture, commit, root)
    return None if then is None else then == _model_digest(architecture, None, root)


@cache
def _model_digest(architecture: str, commit: str | None, root: Path) -> str | None:
    tree = _tree(commit, root, MODELS)
    if tree is None:
        return None
    left_out = _NOT_RUN | {name for other, name in _OF_MODEL.items() if other != architecture}
    paths = sorted((tree / MODELS).glob("*.py"))
    files = {path.name: _code(path) for path in paths if path.name not in left_out}
    if plugged := files.get("plugged_attention.py"):
        _drop_unnamed([plugged], *_PLUGGED)
    return "".join(f"{name}\0{ast.dump(module)}\0" for name, module in files.items())


@cache
def _digest(function: str, commit: str | None, root: Path) -> str | None:
    """Return a digest of the sources of a function, at a commit or as they are now."""
    tree = _tree(commit, root, PACKAGE)
    if tree is None:
        return None
    package = tree / PACKAGE
    paths = sorted(sources_of_function(package, function))
    files = {path.relative_to(package).as_posix(): _code(path) for path in paths}
    files.pop("__init__.py", None)
    _drop_unnamed(files.values(), function)
    text = "".join(f"{name}\0{ast.dump(module)}\0" for name, module in files.items())
    return hashlib.sha256(text.encode()).hexdigest()


def _code(path: Path) -> ast.Module:
    """Return what a file says to Python, without strings that nothing uses, such as docstrings."""
    module = ast.parse(path.read_bytes())
    for node in ast.walk(module):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [each for each in body if not _says_nothing(each)]  # type: ignore[attr-defined]
    return module


def _says_nothing(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return [getattr(target, "id", "") for target in node.targets] == ["__all__"]
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _drop_unnamed(modules: Iterable[ast.Module], *functions: str) -> None:
    """Drop definitions of modules that neither `functions` nor what is run at import names, also in turn.

    A name stands for every definition of that name, also if it is in a string. What may register something
    stays: what has decorators but `_HARMLESS` ones, and constants that are computed by calls.
    """
    modules = list(modules)
    waiting = {id(node): node for module in modules for node in module.body if _defined(node)}
    named = set(functions)
    reached: list[ast.AST] = [node for each in modules for node in each.body if id(node) not in waiting]
    while True:
        named.update(name for node in reached for name in _names(node))
        reached = [waiting.pop(key) for key, node in list(waiting.items()) if named & _defined(node)]
        if not reached:
            break
    for module in modules:
        module.body = [node for node in module.body if id(node) not in waiting]


def _defined(node: ast.stmt) -> set[str]:
    """Return the names that a statement defines and does nothing else; none if it may do more."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        decorators = (each.func if isinstance(each, ast.Call) else each for each in node.decorator_list)
        harmless = all(ast.unparse(each).rpartition(".")[2] in _HARMLESS for each in decorators)
        return {node.name} if harmless else set()
    if not isinstance(node, ast.Assign) or any(isinstance(each, ast.Call) for each in ast.walk(node)):
        return set()
    targets = [each for target in node.targets for each in ast.walk(target)]
    if any(isinstance(each, ast.Attribute | ast.Subscript) for each in targets):  # of any object
        return set()
    return {each.id for each in targets if isinstance(each, ast.Name)}


def _names(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
        elif isinstance(each, ast.alias) and each.asname:
            yield each.name


@cache
def _tree(commit: str | None, root: Path, folder: str) -> Path | None:
    """Return a place that has a folder as of a commit, or as it is now, until this process ends."""
    tree = Path(_FOLDERS.enter_context(TemporaryDirectory())).resolve()
    (tree / ".git").mkdir()  # imports are followed up to here
    if commit is None:
        shutil.copytree(root / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
        return tree
    return tree if _extracted(commit, root, folder, tree) else None


def _extracted(commit: str, root: Path, folder: str, tree: Path) -> bool:
    """Put a folder as of a commit into `tree`, empty if it had none. Return whether git knows the commit."""
    if not commit.isalnum():  # as with `-dirty`
        return False
    archive = tree / "sources.tar"
    try:
        if run_git(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
            return False
        done = run_git(root, "archive", "-o", str(archive), commit, folder)
    except OSError:  # no git
        return False
    if done.returncode:  # the folder was elsewhere then
        (tree / folder).mkdir(parents=True)
        return True
    with tarfile.open(archive) as tar:
        tar.extractall(tree, filter="data")
    return True
