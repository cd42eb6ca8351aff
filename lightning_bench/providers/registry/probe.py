"""What a provider file declares, asked in a process of its own: the parent of a sweep imports no such file.

So an import that hangs, exits, prints or crashes is a reason in rows, and not the end of the sweep.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_bench.case import DEVICES, FAMILIES, Device
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.machine.guardian import flush, guarded, tail
from lightning_bench.machine.scratch import scratch_folder
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.checked import BadProvider
from lightning_bench.providers.registry.files import (
    file_provider,
    loaded_names,
    package_version,
    split_file_spec,
)
from lightning_bench.providers.registry.packages import load_error
from lightning_bench.providers.registry.sources import digest_of_sources

LIMIT_S = 120.0
"""How long the import of a file and the declarations of its providers may take together."""

_START = (
    "import json, sys; request = json.loads(sys.argv.pop()); sys.path[:] = request.pop('path'); "
    "from lightning_bench.providers.registry.probe import answer; answer(**request)"
)
_DECLARED = ("name", "label", "family", "layout", "package", "summary", "tf32")
_DECLARED_SETS = ("devices", "dtypes", "directions")

_answers: dict[Path, dict[str, dict[str, Any]]] = {}


class FileProvider(Provider):
    """What the parent process knows of a provider from a file, whose code only workers run."""

    def __init__(self, path: Path, name: str, declared: dict[str, Any]) -> None:
        family = declared.get("family")
        self.name = self.label = name  # type: ignore[misc]
        self.family = family if family in FAMILIES else "linear"  # type: ignore[misc]
        self.package = ""  # type: ignore[misc]
        self._said, self._path = declared, path
        for attribute in _DECLARED if "broken" not in declared else ():
            setattr(self, attribute, declared[attribute])
        for attribute in _DECLARED_SETS if "broken" not in declared else ():
            setattr(self, attribute, tuple(declared[attribute]))

    def version(self) -> str:
        """Return what the provider has said; one that said nothing has the digest of its sources."""
        if "broken" in self._said:
            return f"+{digest_of_sources(self._path)}"
        version: str = self._answer("version")
        return version

    def version_in(self, path: Path) -> str:
        """Return the version that it has if `path` is its file, which is not imported."""
        if self._said.get("own_version"):
            return self._said["version"][0] or ""
        return package_version(self.package, digest_of_sources(path))

    def unavailable(self, device: Device) -> str | None:
        """Return what the provider has said of `device`. Raise LbenchError if it failed to say."""
        if broken := self._said.get("broken"):
            raise LbenchError(broken)
        reason: str | None = self._answer(device)
        return reason

    def _answer(self, question: str) -> Any:
        value, error = self._said[question]
        if error is not None:
            raise LbenchError(error)
        return value


def declared_file_provider(spec: str) -> FileProvider:
    """Return what the provider that `spec` names declares. Raise UsageError if its file has none such."""
    path, name = split_file_spec(spec)
    known = _answers.setdefault(path, {})
    if name not in known:
        known.update(_ask(path, name))
    if message := known[name].get("usage"):
        raise UsageError(message)
    return FileProvider(path, name, known[name])


def _ask(path: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return the answers of a new process, by NAME: that of `name`, and of what else the file has."""
    with scratch_folder() as folder:
        log = folder / "probe.log"
        request = {"path": sys.path, "spec": f"{path}:{name}", "log": str(log), "parent": os.getpid()}
        process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        code: int | None = None
        try:
            lines, _ = process.communicate(timeout=LIMIT_S)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.terminate()  # its guardian ends what the file has started
            lines, _ = process.communicate()
        finally:
            process.terminate()
            process.wait()
        found: dict[str, dict[str, Any]] = {}
        for line in lines.splitlines():
            found.update(json.loads(line))
        if name not in found:
            how = f"did not end within {LIMIT_S:g} s" if code is None else _ended(code)
            last = tail(log, 1)
            output = f"; its last output: {last}" if last else ""
            found[name] = {"broken": f"the import of provider file {path} {how}{output}"}
    return found


def _ended(code: int) -> str:
    return f"ended its process with exit code {code}" if code >= 0 else f"ended its process by signal {-code}"


def answer(spec: str, log: str, parent: int) -> None:
    """Print a line of JSON per provider of the file, that of `spec` first; the work of the child process."""
    out = os.dup(1)  # what the file prints goes to the log
    guarded(Path(log), parent)
    path, name = split_file_spec(spec)
    with os.fdopen(out, "w") as file:

        def write(key: str, said: dict[str, Any]) -> None:
            file.write(json.dumps({key: said}) + "\n")
            file.flush()

        write(name, _describe(spec))
        for other in loaded_names(path):
            if other != name:
                write(other, _describe(f"{path}:{other}"))
    flush()
    os._exit(0)


def _describe(spec: str) -> dict[str, Any]:
    try:
        provider = file_provider(spec)
    except BadProvider as error:
        return {"broken": str(error)}
    except UsageError as error:
        if isinstance(error.__cause__, SystemExit):
            return {"broken": str(error)}
        return {"usage": str(error)}
    said: dict[str, Any] = {attribute: getattr(provider, attribute) for attribute in _DECLARED}
    said["tf32"] = bool(provider.tf32)
    said |= {attribute: list(getattr(provider, attribute)) for attribute in _DECLARED_SETS}
    said["own_version"] = type(provider).version is not Provider.version
    said["version"] = _say(provider.version)
    for device in DEVICES:
        said[device] = _say(provider.unavailable, device)
    return said


def _say(method: Callable[..., Any], *arguments: Any) -> list[str | None]:
    """Return (value, error) of a method's call."""
    try:
        return [method(*arguments), None]
    except (Exception, SystemExit) as error:
        return [None, f"{method.__name__}() raised {load_error(error)}"]
