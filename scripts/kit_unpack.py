"""Unpack a kit of `python -m scripts.kit`, which lies beside this file: Python 3.9 and git are enough.

    python3 .kit/unpack.py DIR                         # unpack what is whole; again after each copy
    path=$(python3 .kit/unpack.py DIR --peer a,b) && eval "$path"   # also PYTHONPATH for these peers

Parts that came in another copy are kept in DIR/parts until all of an archive are there. A repository that is
there gets the commit of a newer kit, and keeps what was changed in it. Exit codes: 0, all that was asked for
is unpacked; 1, a part of it or the manifest is damaged, or it cannot be unpacked; 2, usage; 3, parts of it
are missing, which it names.
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
    try:
        manifest = json.loads((HERE / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        print(f"copy manifest.json of the kit beside this file again: {error}", file=sys.stderr)
        return 1
    archives = manifest["archives"]
    if manifest["python"] != "{}.{}".format(*sys.version_info):
        print(f"note: the kit is for Python {manifest['python']}, which this is not", file=sys.stderr)
    wanted = [name for name in options.peer.split(",") if name]
    unknown = [name for name in wanted if name not in archives]
    if unknown:
        print(f"no peer {unknown[0]} in this kit; it has {', '.join(archives)}", file=sys.stderr)
        return 2
    parts = root / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    missing, damaged = {}, []
    for name, archive in archives.items():
        mark = root / f".{name}"
        if (root / name).exists() and mark.exists() and mark.read_text() == archive["sha256"]:
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
            damaged.append(name)
            continue
        mark.unlink(missing_ok=True)  # of an older one: what is stopped here is neither
        try:
            unpack(name, content, root)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{root / name} cannot be unpacked: {error}", file=sys.stderr)
            return 1
        mark.write_text(archive["sha256"])
        for part in archive["parts"]:
            (parts / part).unlink()
    asked = {*wanted, "repository", "needs"} if wanted else set(archives)
    lacks = [part for name, absent in missing.items() if name in asked for part in absent]
    if asked & set(damaged):
        return 1
    if lacks:
        print(f"still to come: {', '.join(lacks)}", file=sys.stderr)
        return 3
    sites = [*wanted, *(["needs"] if "needs" in archives else [])]
    found = [root / name / folder for name in sites for folder in (".", *archives[name]["paths"])]
    path = ":".join(map(str, [*found, root / "repository", root / "repository" / "kernels"]))
    print(f"export PYTHONPATH={shlex.quote(path)}")
    return 0


def unpack(name, content, root):
    """Unpack an archive into its folder below `root`: a site in place of an older one."""
    target = root / name
    if name == "repository":
        bundle = root / "repository.bundle"
        bundle.write_bytes(content)
        if (target / ".git").exists():  # it may hold results
            git("-C", target, "fetch", "--quiet", bundle, "HEAD")
            git("-C", target, "checkout", "--quiet", "--detach", "FETCH_HEAD")
        else:
            fresh = root / "repository.new"
            shutil.rmtree(fresh, ignore_errors=True)
            git("clone", "--quiet", bundle, fresh)
            fresh.rename(target)
        bundle.unlink()
        return
    shutil.rmtree(target, ignore_errors=True)
    packed = root / "archive.tar.xz"
    packed.write_bytes(content)
    with lzma.open(packed) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        tar.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    packed.unlink()


def git(*arguments):
    """Run git. Raise CalledProcessError, after git has said why, if it fails."""
    subprocess.run(["git", "-c", "advice.detachedHead=false", *map(str, arguments)], check=True)


if __name__ == "__main__":
    raise SystemExit(main())
