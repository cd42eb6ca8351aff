"""Pack what a GPU machine without package registries needs to measure: this commit, its needs and peers.

    python -m scripts.kit .kit --has freeze.txt --peer flash4,sglang --part-mib 30
    python3 .kit/unpack.py /tmp/lbench                # there; again when parts come in several copies
    path=$(python3 .kit/unpack.py /tmp/lbench --peer flash4) && eval "$path" && cd /tmp/lbench/repository
    python3 -m lightning_bench speed paper --provider lightning2,flash4

OUT is a new folder, to be copied there whole or in parts: `repository` is a bundle of the committed history,
so that rows name their commit, `needs` what lightning-bench and the peers require beyond `--has`, and each
peer a site of its own, since flash2 and flash4 share a package's name. `--has` is what
`pip list --format=freeze` prints there; without a version a package counts as new enough. Versions are those
of constraints.txt. There, Python, git and torch, which a kit does not hold, are enough.

scripts/kit_peers.py says what is packed of each peer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import Version

from lightning_bench.machine.git import is_shallow, run_git
from scripts.kit_peers import PEERS, Peer

ROOT = Path(__file__).parents[1]
_GLIBC = (17, 24, 27, 28, 31, 34, 35)
_MIB = 1 << 20
_TAKEN = ("needs", "parts", "repository")
"""Folders that unpacking makes besides those of the peers."""
_UNBUILT = {"MAMBA_SKIP_CUDA_BUILD": "TRUE"}
"""Lets pip ask sdists for their metadata where there is no nvcc."""


class KitError(Exception):
    """What was asked for cannot be packed; the text says why."""


def lacking(has: Mapping[str, str], root: str = "lightning-bench") -> dict[str, str]:
    """Return what `root` requires and a machine with the packages `has` lacks: name to requirement.

    `has` maps canonical names to versions, "" where unknown. What requires what is read from what is
    installed here; versions are those of constraints.txt.
    """
    pins = dict(_pins(ROOT / "constraints.txt"))
    found: dict[str, str] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        try:
            needed = requires(name) or []
        except PackageNotFoundError as error:
            raise KitError(f"{name} is not installed here: run `make .venv/.installed-for-tests`") from error
        for requirement in map(Requirement, needed):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            its = canonicalize_name(requirement.name)
            version = has.get(its)
            met = version is not None and (not version or requirement.specifier.contains(version, True))
            if met or its in found:
                continue
            found[its] = f"{its}=={pins[its]}" if its in pins else str(requirement)
            waiting.append(its)
    return found


def _pins(constraints: Path) -> Iterator[tuple[str, str]]:
    for line in constraints.read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([^\s;]+)", line):
            yield canonicalize_name(match[1]), match[2]


def installed_there(text: str) -> dict[str, str]:
    """Return name to version of a list of packages, one `name==version` or `name` a line."""
    found: dict[str, str] = {}
    for line in text.split():
        name, _, version = line.partition("==")
        try:
            # `name===version` is how pip prints what is no version of PEP 440
            known = version and not version.startswith("=")
            found[canonicalize_name(name, validate=True)] = str(Version(version)) if known else ""
        except (InvalidName, ValueError) as error:
            raise KitError(f"--has: {line!r} is no line of `pip list --format=freeze`") from error
    return found


def fetch(wanted: Sequence[str], python: str, folder: Path) -> list[Path]:
    """Fetch wheels for Linux on x86-64, and sdists, into `folder`. Return their paths."""
    given = [Path(each) for each in wanted if each.endswith(".whl")]
    if missing := [path for path in given if not path.is_file()]:
        raise KitError(f"{missing[0]} does not exist")
    sources = [each.removesuffix(" (source)") for each in wanted if each.endswith(" (source)")]
    wheels = [each for each in wanted if not each.endswith((".whl", " (source)"))]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    if wheels:
        tags = ["manylinux2014_x86_64", "any", *(f"manylinux_2_{minor}_x86_64" for minor in _GLIBC)]
        platforms = [option for tag in tags for option in ("--platform", tag)]
        _run(
            [
                *pip,
                "--only-binary=:all:",
                "--python-version",
                python,
                "--implementation",
                "cp",
                *platforms,
                *wheels,
            ]
        )
    if sources:
        _run([*pip, "--no-build-isolation", "--no-binary=:all:", *sources])
    return sorted([*given, *folder.glob("*.whl"), *folder.glob("*.tar.gz")])


def _run(command: Sequence[str]) -> None:
    environment = {**os.environ, **_UNBUILT}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    _raise_if_failed(done, command[:4])


def _git(*arguments: str) -> str:
    done = run_git(ROOT, *arguments)
    _raise_if_failed(done, ("git", *arguments[:2]))
    return done.stdout


def _raise_if_failed(done: subprocess.CompletedProcess[str], words: Sequence[str]) -> None:
    if done.returncode:
        raise KitError(f"{' '.join(words)} ... failed:\n{done.stderr.strip()[-2000:]}")


def lay_out(archive: Path, files: Iterable[str], site: Path) -> None:
    """Unpack the `files` of a wheel or an sdist into `site`, with the metadata of its version."""
    patterns = list(files)
    if archive.suffix == ".whl":
        if not zipfile.is_zipfile(archive):
            raise KitError(f"{archive} is no wheel: it is not a zip file")
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                place = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", name)
                if not name.endswith("/") and (".dist-info/" in place or _wanted(place, patterns)):
                    _write(site / place, wheel.read(name))
        return
    with tarfile.open(archive) as sources:
        for member in sources.getmembers():
            place = str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))
            content = sources.extractfile(member)
            if content is None:
                continue
            if place == "PKG-INFO":
                stem = archive.name.removesuffix(".tar.gz")
                _write(site / f"{stem}.dist-info" / "METADATA", content.read())
            elif _wanted(place, patterns):
                _write(site / place, content.read())


def _wanted(place: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(place, pattern) for pattern in patterns)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class Kit:
    """A kit that is being packed into the folder `out`: parts of archives and a manifest of them."""

    def __init__(self, out: Path, python: str, part_bytes: int) -> None:
        self._out, self._python, self._part_bytes = out, python, part_bytes
        self._manifest: dict[str, dict[str, object]] = {}

    def add_site(self, name: str, peer: Peer) -> None:
        """Fetch and pack a site."""
        with tempfile.TemporaryDirectory() as scratch:
            site = Path(scratch, "site")
            wheels = Path(scratch, "wheels")
            wheels.mkdir()
            for archive in fetch(peer.wheels, self._python, wheels):
                lay_out(archive, peer.files, site)
            for place, text in peer.stand_ins.items():
                _write(site / place, text.encode())
            unmatched = [each for each in peer.files if not any(_below(site, each))]
            if unmatched:
                raise KitError(f"{name}: no file is {unmatched[0]} in {', '.join(peer.wheels)}")
            packed = Path(scratch, f"{name}.tar.xz")
            with (
                lzma.open(packed, "wb", preset=9) as compressed,
                tarfile.open(fileobj=compressed, mode="w|") as tar,
            ):
                tar.add(site, ".")
            self._add(name, packed, list(peer.paths))

    def add_repository(self) -> None:
        """Pack the history of the commit that is checked out; what is not committed is not packed."""
        if is_shallow(ROOT):
            raise KitError(f"{ROOT} lacks older commits: run `git fetch --unshallow`")
        if _git("status", "--porcelain"):
            print("kit: the kit does not hold what is not committed (`git status`)", file=sys.stderr)
        with tempfile.TemporaryDirectory() as scratch:
            bundle = Path(scratch, "repository.bundle")
            _git("bundle", "create", "--quiet", str(bundle), "HEAD")
            self._add("repository", bundle, [])

    def _add(self, name: str, packed: Path, paths: list[str]) -> None:
        content, parts = packed.read_bytes(), []
        for number, first in enumerate(range(0, len(content), self._part_bytes)):
            part = self._out / f"{packed.name}.{number}"
            part.write_bytes(content[first : first + self._part_bytes])
            parts.append(part.name)
        digest = hashlib.sha256(content).hexdigest()
        self._manifest[name] = {"parts": parts, "sha256": digest, "paths": paths}

    def finish(self) -> None:
        """Write the manifest, and beside it the script that unpacks."""
        text = json.dumps({"python": self._python, "archives": self._manifest}, indent=1)
        (self._out / "manifest.json").write_text(text + "\n")
        shutil.copy(ROOT / "scripts" / "kit_unpack.py", self._out / "unpack.py")


def _below(site: Path, pattern: str) -> Iterator[Path]:
    return (path for path in site.rglob("*") if _wanted(path.relative_to(site).as_posix(), [pattern]))


def pack(out: Path, python: str, has: Mapping[str, str], peers: Mapping[str, Peer], part_mib: float) -> None:
    """Write a kit into the new folder `out`. Raise KitError, and leave no folder, if it cannot be packed."""
    if out.exists():
        raise KitError(f"{out} exists: name a new folder")
    needs = lacking(has)
    if "torch" in needs:
        raise KitError(
            f"a kit does not hold torch with its CUDA libraries: install {needs['torch']} there, and give "
            "what `pip list --format=freeze` prints there as --has"
        )
    pins = dict(_pins(ROOT / "constraints.txt"))
    of_peers = {name for peer in peers.values() for name in peer.needs}
    needs |= {name: f"{name}=={pins[name]}" for name in sorted(of_peers) if name not in has}
    out.mkdir(parents=True)
    try:
        kit = Kit(out, python, max(1, int(part_mib * _MIB)))
        kit.add_repository()
        if needs:
            kit.add_site("needs", Peer(tuple(needs.values())))
        for name, peer in peers.items():
            kit.add_site(name, peer)
        kit.finish()
    except BaseException:
        shutil.rmtree(out)
        raise


def _peers_of(text: str) -> dict[str, Peer]:
    """Return the peers of a `--peer`. Raise KitError if there is none of a name."""
    peers = {}
    for each in filter(None, map(str.strip, text.split(","))):
        name, given, wheel = each.partition("=")
        if given:
            if not wheel.endswith(".whl"):
                raise KitError(f"--peer {each}: not a wheel; NAME=FILE.whl takes one of yours")
            if name in _TAKEN or not re.fullmatch(r"\w[\w-]*", name):
                raise KitError(
                    f"--peer {each}: the name is letters, digits, - and _, and none of {', '.join(_TAKEN)}"
                )
            peers[name] = Peer((wheel,))
        elif name in PEERS:
            peers[name] = PEERS[name]
        else:
            raise KitError(
                f"no peer {name}; there are {', '.join(PEERS)}, and NAME=FILE.whl takes a wheel of yours"
            )
    return peers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return its exit code."""
    first = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        "python -m scripts.kit",
        description=first[0],
        epilog=first[2],
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--python", default="3.12", help="Python there; default: %(default)s")
    parser.add_argument(
        "--has", type=Path, metavar="FILE", help="what `pip list --format=freeze` prints there"
    )
    parser.add_argument(
        "--peer", default="", metavar="LIST", help=f"of {', '.join(PEERS)}; NAME=FILE.whl is a wheel of yours"
    )
    parser.add_argument("--part-mib", type=float, default=1024.0, help="size of a part; default: %(default)s")
    options = parser.parse_args(arguments)
    if not 0 < options.part_mib < math.inf:
        parser.error(f"--part-mib is a number above 0, not {options.part_mib}")
    try:
        peers = _peers_of(options.peer)
        has = installed_there(options.has.read_text()) if options.has else {}
        pack(options.out, options.python, has, peers, options.part_mib)
    except (KitError, OSError) as error:
        print(f"kit: {error}", file=sys.stderr)
        return 1
    for part in sorted(options.out.iterdir()):
        print(f"{part.stat().st_size / _MIB:8.1f} MiB  {part}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
