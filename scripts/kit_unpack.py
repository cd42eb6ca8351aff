"""Unpack a kit of `python -m scripts.kit`, which lies beside this file: Python 3.9 and git are enough.

    python3 .kit/unpack.py DIR                         # unpack what is whole; again after each copy
    eval "$(python3 .kit/unpack.py DIR --peer a,b)"    # also PYTHONPATH for these peers

Parts that came in another copy are kept in DIR/parts until all of an archive are there. Exit codes: 0, all
that was asked for is unpacked; 1, a part is damaged; 3, parts are missing, which it names.
"""

import argparse
import hashlib
import json
import lzma
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    """Run the command line. Return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dir", type=Path, metavar="DIR")
    parser.add_argument("--peer", default="", metavar="LIST", help="print the PYTHONPATH with these peers")
    options = parser.parse_args()
    root = options.dir.resolve()
    archives = json.loads((HERE / "manifest.json").read_text())["archives"]
    wanted = [name for name in options.peer.split(",") if name]
    unknown = [name for name in wanted if name not in archives]
    if unknown:
        print(f"no peer {unknown[0]} in this kit; it has {', '.join(archives)}", file=sys.stderr)
        return 2
    parts = root / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    missing = {}
    for name, archive in archives.items():
        mark = root / f".{name}"
        if mark.exists() and mark.read_text() == archive["sha256"]:
            continue
        for part in archive["parts"]:
            if (HERE / part).exists():
                shutil.copy(HERE / part, parts / part)
        missing[name] = [part for part in archive["parts"] if not (parts / part).exists()]
        if missing[name]:
            continue
        content = b"".join((parts / part).read_bytes() for part in archive["parts"])
        if hashlib.sha256(content).hexdigest() != archive["sha256"]:
            print(f"{name} is damaged: copy {', '.join(archive['parts'])} again", file=sys.stderr)
            return 1
        unpack(name, content, root)
        mark.write_text(archive["sha256"])
        for part in archive["parts"]:
            (parts / part).unlink()
    lacks = [
        part
        for name, absent in missing.items()
        if not wanted or name in wanted or name in ("repository", "needs")
        for part in absent
    ]
    if lacks:
        print(f"still to come: {', '.join(lacks)}", file=sys.stderr)
        return 3
    sites = [*wanted, *(["needs"] if "needs" in archives else [])]
    found = [root / name / folder for name in sites for folder in (".", *archives[name]["paths"])]
    path = ":".join(map(str, [*found, root / "repository", root / "repository" / "kernels"]))
    print(f"export PYTHONPATH={shlex.quote(path)}")
    return 0


def unpack(name, content, root):
    """Unpack an archive into its folder below `root`, in place of an older one."""
    target = root / name
    shutil.rmtree(target, ignore_errors=True)
    if name == "repository":
        bundle = root / "repository.bundle"
        bundle.write_bytes(content)
        subprocess.run(
            ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", str(bundle), str(target)],
            check=True,
        )
        bundle.unlink()
        return
    packed = root / "archive.tar.xz"
    packed.write_bytes(content)
    with lzma.open(packed) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        tar.extractall(target, filter="data")
    packed.unlink()


if __name__ == "__main__":
    raise SystemExit(main())
