"""Providers from a file: `path/to/file.py:NAME`, and `path/to/file.py:NAME@FAMILY` for a plain function."""

from __future__ import annotations

import hashlib
import sys
import traceback
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType

from lightning_bench.errors import UsageError
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.checked import (
    BadProvider,
    FailedImport,
    NotAProvider,
    Unfit,
    as_provider,
)
from lightning_bench.providers.registry.functions import FunctionProvider, function_provider, is_function
from lightning_bench.providers.registry.packages import installed_version, load_error
from lightning_bench.providers.registry.sources import digest_of_sources, folder_of_module, path_in_repository
from lightning_bench.providers.registry.specs import split_code_spec
from lightning_bench.record.function_files import function_label

FORM = "path/to/file.py:NAME, NAME being a Provider subclass or instance in that file, or a function"


_modules: dict[Path, tuple[ModuleType, str]] = {}


def canonical_file_spec(spec: str) -> str:
    """Return `spec` with the absolute path of its file, so that it means the same in any folder."""
    path, name = _split(spec)
    return f"{path.resolve()}:{name}"


def file_provider(spec: str) -> Provider:
    """Return the provider that `spec` names. Raise UsageError with what is wrong and what is allowed.

    Its version ends in a digest of the file and of what it imports from its repository, unless it declares
    its own, so that a resumed sweep never takes figures of older sources for those of the present ones.
    """
    path, named = split_file_spec(spec)
    name, _, marks = named.partition("@")
    module, digest = _module(path)
    if not name or not hasattr(module, name):
        has = [*_provider_names(module), *_function_names(module)]
        listed = f"has {', '.join(has)}" if has else "has no Provider at all"
        problem = f"no {name}" if name else "no name after it"
        raise UsageError(f"provider file {path}: {problem}; the file {listed}; give {FORM}")
    try:
        provider = _provider(getattr(module, name), name, *marks.partition("@")[::2])
    except (Unfit, BadProvider) as error:
        raise type(error)(f"provider file {path}: {error}") from error
    except NotAProvider as error:
        raise NotAProvider(f"provider file {path}: {error}; give {FORM}") from error
    if isinstance(provider, FunctionProvider):
        provider.label = function_label(provider.name, path_in_repository(path))  # type: ignore[misc]
    if type(provider).version is Provider.version:
        provider.version = MethodType(partial(_version, digest=digest), provider)  # type: ignore[method-assign]
    return provider


def _provider(found: object, name: str, family: str, layout: str) -> Provider:
    """Return the provider that a file calls `name`; `family` and `layout` were given with it, or are ""."""
    if is_function(found):
        return function_provider(found, name, family, layout)  # type: ignore[arg-type]  # it can be called
    provider = as_provider(found, name)
    for what, given, own in (("family", family, provider.family), ("layout", layout, provider.layout)):
        if given and given != own:
            raise Unfit(f"{name} declares {what} {own}, and {given} was given: leave it out")
    return provider


def package_version(package: str, digest: str) -> str:
    """Return the installed version of `package`, then `+` and `digest`; "" if it is not installed."""
    installed = installed_version(package)
    return f"{installed}+{digest}" if installed else ""


def split_file_spec(spec: str) -> tuple[Path, str]:
    """Return the absolute path and the NAME of `spec`, which may be "". Raise UsageError without a file."""
    path, name = _split(spec)
    if not path.is_file():
        raise UsageError(f"provider file {path} does not exist; give {FORM}")
    return path.resolve(), name


def _split(spec: str) -> tuple[Path, str]:
    path, name = split_code_spec(spec)
    return Path(path).expanduser(), name


class _SourceOnly(SourceFileLoader):
    """Compiles the file at each import: cached bytecode may be older, and is torn where a disk was full."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the source."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _module(path: Path) -> tuple[ModuleType, str]:
    """Return the module of `path` and a digest of the sources that it loads.

    It runs once per process, so that no kernel registers twice.
    """
    if path in _modules:
        return _modules[path]
    name = f"lightning_bench_provider_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path, loader=_SourceOnly(name, str(path)))
    if spec is None or spec.loader is None:
        raise UsageError(f"provider file {path} is no Python file; give {FORM}")
    digest = digest_of_sources(path)
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = _line(error, path)
        where = f", line {line}" if line else ""
        reason = load_error(error)
        kind = type(error).__name__
        reason = reason if reason.startswith(kind) else f"{kind}: {reason}"
        reason += _where_else(error, path)
        raise FailedImport(f"provider file {path} failed to import{where}: {reason}") from error
    _modules[path] = module, digest
    return _modules[path]


def _where_else(error: BaseException, path: Path) -> str:
    """Return the advice for a module that was not found and that lies beside or above the file, else "".

    Its folder is not put on the import path: of two files with helpers of one name, the second would silently
    get those of the first.
    """
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    folder = folder_of_module(path, missing.partition(".")[0]) if missing else None
    return f"; it is in {folder}: set PYTHONPATH={folder}" if folder else ""


def _line(error: BaseException, path: Path) -> int | None:
    """Return the line of `path` at which `error` was raised or from which it was called."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)


def loaded_names(path: Path) -> list[str]:
    """Return the names of the providers in a file, none if it is not loaded."""
    return _provider_names(_modules[path][0]) if path in _modules else []


def loaded_functions(path: Path) -> list[str]:
    """Return the names of the public functions in a file, none if it is not loaded."""
    return _function_names(_modules[path][0]) if path in _modules else []


def _provider_names(module: ModuleType) -> list[str]:
    """Return the names in `module` of its own providers: classes that it defines, and instances."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, Provider)
        or (isinstance(value, type) and issubclass(value, Provider) and value.__module__ == module.__name__)
    ]


def _function_names(module: ModuleType) -> list[str]:
    """Return the names of the public functions that `module` defines."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and name[0] != "_"
    ]


def _version(provider: Provider, digest: str) -> str:
    return package_version(provider.package, digest)
