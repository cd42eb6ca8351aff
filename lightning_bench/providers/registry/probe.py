"""What providers of files, of the Hub and of entry points declare, asked in processes of their own.

No parent imports them, so an import that hangs, exits, prints, raises or crashes is a reason in rows, and not
the end of the sweep.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning_bench.case import DEVICES, DTYPES, FAMILIES, Device, Family
from lightning_bench.errors import Unavailable, UsageError
from lightning_bench.machine.guardian import flush, guarded, tail
from lightning_bench.machine.scratch import scratch_folder
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.checked import BadProvider, FailedImport
from lightning_bench.providers.registry.files import (
    FORM,
    file_provider,
    loaded_functions,
    loaded_names,
    package_version,
    split_file_spec,
)
from lightning_bench.providers.registry.hub import hub_provider, split_hub_spec
from lightning_bench.providers.registry.packages import installed_version, load_error
from lightning_bench.providers.registry.plugins import BrokenPlugin, Plugin, plugins
from lightning_bench.providers.registry.sources import digest_of_sources

LIMIT_S = 120.0
"""How long an import and the declarations of the providers that it gives may take together."""
DOWNLOAD_LIMIT_S = 3600.0
"""How long a download from the Hub may take besides."""

Said = dict[str, Any]
"""What a process has said of one provider: `broken`, `unavailable` or `usage`, or its declarations."""

_START = (
    "import json, sys; request = json.loads(sys.argv.pop()); sys.path[:] = request.pop('path'); "
    "from lightning_bench.providers.registry.probe import answer; answer(**request)"
)
_DECLARED = ("name", "label", "family", "layout", "package", "summary")
_DECLARED_FLAGS = ("tf32", "packs", "grouped_heads", "on_ranks")
_DECLARED_SETS = ("devices", "dtypes", "directions")

_answers: dict[Path | str, dict[str, Said]] = {}


class DeclaredProvider(Provider):
    """What the parent process knows of a provider, whose code only workers run."""

    def __init__(self, name: str, package: str, said: Said, marks: str = "") -> None:
        self.name = self.label = name  # type: ignore[misc]
        family = marks.partition("@")[0]  # that of `marks`, FAMILY@LAYOUT, else unknown without its class
        self.package, self.family = package, family if family in FAMILIES else "linear"  # type: ignore[misc]
        self._said = said
        if self.is_loaded:
            for attribute in (*_DECLARED, *_DECLARED_FLAGS):
                setattr(self, attribute, said[attribute])
            for attribute in _DECLARED_SETS:
                setattr(self, attribute, tuple(said[attribute]))
        else:  # unknown, so nothing is ruled out
            self.packs = self.grouped_heads = self.on_ranks = True  # type: ignore[misc]
            self.dtypes = DTYPES  # type: ignore[misc]

    @property
    def is_loaded(self) -> bool:
        """Whether there was a provider that could be asked."""
        return not {"broken", "unavailable"} & self._said.keys()

    def version(self) -> str:
        """Return what the provider has said; of one that did not load, that of its package."""
        version: str = self._answer("version") if self.is_loaded else installed_version(self.package)
        return version

    def unavailable(self, device: Device) -> str | None:
        """Return what the provider has said of `device`. Raise UsageError if it failed to say."""
        if broken := self._said.get("broken"):
            raise UsageError(broken)
        reason: str | None = self._answer(device) if self.is_loaded else self._said["unavailable"]
        return reason

    def load(self) -> None:
        """Raise Unavailable if the provider's own `load` failed, where it was asked for."""
        if reason := self._said.get("load"):
            raise Unavailable(reason)

    def _answer(self, question: str) -> Any:
        value, error = self._said[question]
        if error is not None:
            raise UsageError(error)
        return value


class FileProvider(DeclaredProvider):
    """What the parent process knows of a provider from a file."""

    def __init__(self, path: Path, named: str, said: Said) -> None:
        name, _, marks = named.partition("@")
        super().__init__(name, "", said, marks)
        self._path = path

    def version(self) -> str:
        """Return what the provider has said; one that said nothing has the digest of its sources."""
        return super().version() if self.is_loaded else f"+{digest_of_sources(self._path)}"

    def version_in(self, path: Path) -> str:
        """Return the version that it has if `path` is its file, which is not imported."""
        if self._said.get("own_version"):
            return self._said["version"][0] or ""
        return package_version(self.package, digest_of_sources(path))


def declared_file_provider(spec: str) -> FileProvider:
    """Return what the provider that `spec` names declares. Raise UsageError if its file has none such."""
    path, name = split_file_spec(spec)
    known = _answers.setdefault(path, {})
    if name not in known:
        known.update(_ask({"file": str(path)}, name, f"provider file {path}"))
    said = known[name]
    if "broken" in said and not name:
        raise UsageError(f"{said['broken']}; give {FORM}")
    if "usage" in said:
        raise UsageError(said["usage"])
    return FileProvider(path, name, said)


def declared_hub_provider(spec: str) -> DeclaredProvider:
    """Return what the function of the Hub that `spec` names declares. Raise UsageError if there is none such.

    The kernel is downloaded if it is not in the cache.
    """
    kernel, named = split_hub_spec(spec)
    known = _answers.setdefault(str(kernel), {})
    if named not in known:
        limit_s = LIMIT_S + DOWNLOAD_LIMIT_S
        known.update(_ask({"hub": str(kernel)}, named, f"hub kernel {kernel}", limit_s))
    if "usage" in known[named]:
        raise UsageError(known[named]["usage"])
    name, _, marks = named.partition("@")
    return DeclaredProvider(kernel.named(name), "", known[named], marks)


def forget_code() -> None:
    """Ask every file and kernel of the Hub anew when it is named next: it may be another in the meantime."""
    _answers.clear()


def declared_plugin(plugin: Plugin, *, load: bool = False, family: Family | None = None) -> DeclaredProvider:
    """Return what the provider of an entry point declares.

    With `load` its library is imported, too; with `family` only if the provider is of that family.
    """
    request = {"plugin": [plugin.value, plugin.dist], "load": load, "family": family}
    found = _ask(request, plugin.name, f"entry point {plugin.name} of {plugin.dist}")
    return DeclaredProvider(plugin.name, plugin.dist, found[plugin.name])


def _ask(request: dict[str, Any], name: str, what: str, limit_s: float | None = None) -> dict[str, Said]:
    """Return the answers of a new process, by NAME: that of `name`, and of what else it has loaded."""
    limit_s = LIMIT_S if limit_s is None else limit_s
    with scratch_folder() as folder:
        log = folder / "probe.log"
        request = {"path": sys.path, "name": name, "log": str(log), "parent": os.getpid(), **request}
        process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        code: int | None = None
        try:
            lines, _ = process.communicate(timeout=limit_s)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.terminate()  # its guardian ends what the import has started
            lines, _ = process.communicate()
        finally:
            process.terminate()
            process.wait()
        found: dict[str, Said] = {}
        for line in lines.splitlines():
            found.update(json.loads(line))
        if name not in found:
            how = f"did not end within {limit_s:g} s" if code is None else _ended(code)
            last = tail(log, 1)
            output = f"; its last output: {last}" if last else ""
            found[name] = {"broken": f"the import of {what} {how}{output}"}
    return found


def _ended(code: int) -> str:
    return f"ended its process with exit code {code}" if code >= 0 else f"ended its process by signal {-code}"


def answer(
    name: str,
    log: str,
    parent: int,
    file: str = "",
    hub: str = "",
    plugin: tuple[str, str] = ("", ""),
    load: bool = False,
    family: Family | None = None,
) -> None:
    """Print a line of JSON per provider, that of `name` first; the work of the child process."""
    out = os.dup(1)  # what the import prints goes to the log
    guarded(Path(log), parent)
    if file:
        described = _of_file(Path(file), name)
    elif hub:
        described = iter([(name, _described(hub_provider, f"hub:{hub}:{name}"))])
    else:
        described = _of_plugin(name, *plugin, load, family)
    with os.fdopen(out, "w") as answers:
        for key, said in described:
            answers.write(json.dumps({key: said}) + "\n")
            answers.flush()
    flush()
    os._exit(0)


def _of_file(path: Path, name: str) -> Iterator[tuple[str, Said]]:
    yield name, _described(file_provider, f"{path}:{name}")
    marks = "".join(name.partition("@")[1:])  # with which its other functions are asked about, too
    for other in [*loaded_names(path), *(function + marks for function in loaded_functions(path))]:
        if other != name:
            yield other, _described(file_provider, f"{path}:{other}")


def _described(found: Callable[[str], Provider], spec: str) -> Said:
    try:
        return _describe(found(spec))
    except (BadProvider, FailedImport) as error:
        return {"broken": str(error)}
    except UsageError as error:
        return {"usage": str(error)}


def _of_plugin(
    name: str, value: str, dist: str, load: bool, family: Family | None
) -> Iterator[tuple[str, Said]]:
    for plugin in plugins():
        if (plugin.name, plugin.value, plugin.dist) == (name, value, dist):
            yield name, _describe_plugin(plugin, load, family)


def _describe_plugin(plugin: Plugin, load: bool, family: Family | None) -> Said:
    """Return what a plug-in says; as in workers, a library that is missing is no crash."""
    try:
        provider = plugin.load()
    except (ImportError, OSError, Unavailable) as error:
        return {"unavailable": BrokenPlugin(plugin, error).reason}
    except (Exception, SystemExit) as error:
        return {"broken": BrokenPlugin(plugin, error).reason}
    said = _describe(provider)
    if load and family in (None, provider.family):
        try:
            provider.load()
        except (Exception, SystemExit) as error:
            said["load"] = load_error(error)
    return said


def _describe(provider: Provider) -> Said:
    said: Said = {attribute: getattr(provider, attribute) for attribute in _DECLARED}
    said |= {attribute: bool(getattr(provider, attribute)) for attribute in _DECLARED_FLAGS}
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
