"""Functions of the Hugging Face kernels Hub as providers: `hub:ORG/NAME@REVISION:FUNCTION`.

Its library `kernels` loads them, from the Hub, its cache or, by LOCAL_KERNELS, a folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NamedTuple

from lightning_bench.errors import UsageError
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.checked import FailedImport, Unfit
from lightning_bench.providers.registry.functions import function_provider, is_function
from lightning_bench.providers.registry.packages import load_error, missing_package
from lightning_bench.providers.registry.specs import split_code_spec

FORM = "hub:ORG/NAME@REVISION:FUNCTION, REVISION being a branch such as v1, a tag or a commit"
TRUST = "LBENCH_TRUST_REMOTE_CODE"
"""The environment variable with the repositories, commas between them, whose publishers need no trust."""

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT = 12  # of a commit
_UNREACHABLE = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)


class HubKernel(NamedTuple):
    """A repository of the Hub, ORG/NAME, and a revision of it."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    def named(self, function: str) -> str:
        """Return how rows call the provider of a function: NAME@REVISION:FUNCTION, with a short commit."""
        revision = self.revision[:_SHORT] if _COMMIT.fullmatch(self.revision) else self.revision
        return f"{self.repo.partition('/')[2]}@{revision.replace('/', '-')}:{function}"


class _Loaded(NamedTuple):
    module: ModuleType
    version: str


_loaded: dict[HubKernel, _Loaded] = {}


def split_hub_spec(spec: str) -> tuple[HubKernel, str]:
    """Return the kernel of `spec` and FUNCTION with its marks, which may be "".

    Raise UsageError without a repository or a revision.
    """
    where, name = split_code_spec(spec)
    repo, _, revision = where.partition("@")
    if not _REPO.fullmatch(repo):
        raise UsageError(f"{spec} names no repository of the Hub: {repo!r} is not ORG/NAME; give {FORM}")
    if not revision or not revision.isprintable():
        raise UsageError(f"{spec} names no revision of {repo}, whose code may change; give {FORM}")
    return HubKernel(repo, revision), name


def hub_provider(spec: str) -> Provider:
    """Return the provider of the function that `spec` names. Raise UsageError with what is wrong.

    Its version is the commit, "local" for a folder that LOCAL_KERNELS names, and a digest of the files.
    """
    kernel, named = split_hub_spec(spec)
    name, _, marks = named.partition("@")
    module, version = _loaded[kernel] if kernel in _loaded else _load(kernel)
    found = getattr(module, name, None) if name else None
    if not is_function(found):
        listed = ", ".join(_function_names(module)) or "none"
        raise UsageError(
            f"hub kernel {kernel}: {_no_function(module, name)}; its functions are {listed}; give {FORM}"
        )
    try:
        provider = function_provider(found, name, *marks.partition("@")[::2])  # type: ignore[arg-type]
    except Unfit as error:
        raise Unfit(f"hub kernel {kernel}: {error}") from error
    provider.name = provider.label = kernel.named(name)  # type: ignore[misc]
    provider.version = lambda: version  # type: ignore[method-assign]
    return provider


def _load(kernel: HubKernel) -> _Loaded:
    if reason := missing_package("kernels"):
        raise UsageError(f"hub kernel {kernel}: {reason}")
    try:
        module = _imported(kernel)
    except (Exception, SystemExit) as error:
        raise _explained(kernel, error) from error
    assert module.__file__ is not None, "kernels are imported from files"
    folder = Path(module.__file__).parent
    _loaded[kernel] = _Loaded(module, f"{_commit(folder)[:_SHORT] or 'local'}+{_digest(folder)}")
    return _loaded[kernel]


def _imported(kernel: HubKernel) -> ModuleType:
    from kernels import get_kernel, get_local_kernel

    trusted = [repo.strip() for repo in os.environ.get(TRUST, "").split(",")]
    try:
        module: ModuleType = get_kernel(kernel.repo, revision=kernel.revision, trust_remote_code=trusted)
    except FileNotFoundError as error:
        # Offline, kernels 0.17 wants the builds for all machines in the cache, and downloads only one.
        if not (snapshot := getattr(error.__cause__, "snapshot_path", "")):
            raise
        module = get_local_kernel(Path(snapshot))
    return module


def _explained(kernel: HubKernel, error: BaseException) -> UsageError:
    """Return what to tell the user of an error of `kernels`."""
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    what, chain = f"hub kernel {kernel}: ", list(_chain(error))

    def is_there(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if is_there(RepositoryNotFoundError):
        return UsageError(
            f"{what}the Hub has no kernel repository {kernel.repo}, or it is private: `hf auth login`"
        )
    if is_there(RevisionNotFoundError):
        return UsageError(f"{what}{kernel.repo} has no revision {kernel.revision}; give {FORM}")
    if constants.HF_HUB_OFFLINE and isinstance(error, FileNotFoundError | ValueError):
        return UsageError(
            f"{what}{load_error(error)} HF_HUB_OFFLINE is set: unset it, or name a folder by "
            f"LOCAL_KERNELS={kernel.repo}=FOLDER"
        )
    if is_there(*_UNREACHABLE):
        return UsageError(
            f"{what}{constants.ENDPOINT} cannot be reached ({load_error(chain[-1])}); HF_HUB_OFFLINE=1 loads "
            f"what is in the cache, LOCAL_KERNELS={kernel.repo}=FOLDER a folder"
        )
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        return UsageError(
            f"{what}Hugging Face does not vouch for its publisher; if you trust its code, set "
            f"{TRUST}={kernel.repo}"
        )
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{what}{load_error(error)}")
    return FailedImport(f"{what}it does not load: {load_error(error)}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _commit(folder: Path) -> str:
    """Return the commit of a folder in the cache of the Hub, …/snapshots/COMMIT/…; "" for another one."""
    names = [path.name for path in folder.parents if path.parent.name == "snapshots"]
    return next(filter(_COMMIT.fullmatch, names), "")


def _digest(folder: Path) -> str:
    """Return eight hex digits over all files of a kernel but bytecode."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            total.update(path.relative_to(folder).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:8]


def _no_function(module: ModuleType, name: str) -> str:
    if not name:
        return "no function after it"
    return f"{name} is no function" if hasattr(module, name) else f"no function {name}"


def _function_names(module: ModuleType) -> list[str]:
    """Return the names of the public functions of a kernel."""
    public = getattr(module, "__all__", None) or [name for name in vars(module) if name[0] != "_"]
    return [name for name in public if isinstance(getattr(module, name, None), FunctionType)]
