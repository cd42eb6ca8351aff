"""A kit takes the repository, what it needs and peers to a machine that reaches no registry."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from lightning_bench.machine.git import is_shallow
from lightning_bench.record.codec import read_cells
from scripts.kit import Kit, KitError, installed_there, lacking, lay_out, main
from scripts.kit import pack as pack_kit
from scripts.kit_peers import PEERS, Peer
from tests.support.paths import ROOT

PYTHON = "{}.{}".format(*sys.version_info)


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or is_shallow(ROOT),
    reason="a kit holds the whole history of a clone",
)


def wheel(folder, name, **files):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in files.items():
            archive.writestr(place, text)
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
    return path


@pytest.fixture
def has_all(tmp_path):
    """Return a list of packages with all that lightning-bench needs, in any version."""
    path = tmp_path / "freeze.txt"
    path.write_text("\n".join(lacking({})))
    return path


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Have kits hold a repository of two commits, in place of this one, which takes seconds."""
    root = tmp_path / "small"
    (root / "scripts").mkdir(parents=True)
    git(root, "init", "--quiet")
    for name in ("constraints.txt", "scripts/kit_unpack.py"):
        shutil.copy(ROOT / name, root / name)
        commit(root)
    monkeypatch.setattr("scripts.kit.ROOT", root)
    return root


def commit(folder):
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "one")


def pack(tmp_path, has, peers, *options):
    kit = tmp_path / "kit"
    assert main([str(kit), "--has", str(has), "--peer", peers, "--python", PYTHON, *options]) == 0
    return kit


def unpack(kit, target, *options):
    command = [sys.executable, "-I", str(kit / "unpack.py"), str(target), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_kit_in_two_copies(tmp_path, has_all):
    """Parts come one after the other; then the commit and the peers are there, each where it asked for."""
    noise = os.urandom(1_500_000).hex()
    first = wheel(tmp_path, "first", **{"first.py": "NAME = 'first'\n", "first.txt": noise})
    second = wheel(tmp_path, "second", **{"second.py": "NAME = 'second'\n"})
    kit = pack(tmp_path, has_all, f"first={first},second={second}", "--part-mib", "1")
    archives = json.loads((kit / "manifest.json").read_text())["archives"]
    assert list(archives) == ["repository", "first", "second"]
    late = archives["first"]["parts"][1:]
    assert late
    contents = [(kit / part).read_bytes() for part in late]
    for part in late:
        (kit / part).unlink()
    there = tmp_path / "there"
    done = unpack(kit, there)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"still to come: {', '.join(late)}\n"
    done = unpack(kit, there, "--peer", "second")  # needs none of those
    assert done.returncode == 0, done.stderr
    for path in kit.glob("*.[0-9]*"):
        path.unlink()
    for part, content in zip(late, contents, strict=True):
        (kit / part).write_bytes(content)
    done = unpack(kit, there, "--peer", "first,second")
    assert (done.returncode, done.stderr) == (0, "")
    script = "import first, second, lightning_bench as b; print(first.NAME, second.NAME, b.__file__)"
    shell = f'{done.stdout} exec "{sys.executable}" -c "{script}"'
    said = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.stdout.split()[:2] == ["first", "second"], said.stderr
    assert said.stdout.split()[2] == str(there / "repository" / "lightning_bench" / "__init__.py")
    assert not any((there / "parts").iterdir())
    assert git(there / "repository", "rev-parse", "HEAD") == git(ROOT, "rev-parse", "HEAD")


@pytest.mark.usefixtures("small")
def test_a_hook_s_repository_is_not_packed(tmp_path, has_all, monkeypatch):
    """`git` tells what it calls where its own repository is."""
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))
    kit = pack(tmp_path, has_all, "")
    monkeypatch.delenv("GIT_DIR")
    assert unpack(kit, tmp_path / "there").returncode == 0
    assert git(tmp_path / "there" / "repository", "rev-list", "--count", "HEAD") == "2"


@pytest.mark.usefixtures("small")
def test_damaged_part(tmp_path, has_all):
    one, other = (f"{name}={wheel(tmp_path, name, **{f'{name}.py': ''})}" for name in ("one", "other"))
    kit = pack(tmp_path, has_all, f"{one},{other}")
    part = kit / "one.tar.xz.0"
    part.write_bytes(part.read_bytes()[:-1])
    done = unpack(kit, tmp_path / "there")
    assert (done.returncode, done.stderr) == (1, "one is damaged: copy one.tar.xz.0 again\n")
    done = unpack(kit, tmp_path / "there", "--peer", "two")
    assert done.returncode == 2
    assert done.stderr == "no peer two in this kit; it has repository, one, other\n"
    done = unpack(kit, tmp_path / "there", "--peer", "other")  # which is not damaged
    assert (done.returncode, "one is damaged" in done.stderr) == (0, True)
    assert (tmp_path / "there" / "other" / "other.py").exists()
    (kit / "manifest.json").write_text("{")
    done = unpack(kit, tmp_path / "there")
    assert done.returncode == 1
    assert done.stderr.startswith("copy manifest.json of the kit beside this file again")


@pytest.mark.usefixtures("small")
def test_what_was_measured_stays_when_a_newer_kit_comes(tmp_path, has_all):
    kit, there = pack(tmp_path, has_all, "", "--python", "3.9"), tmp_path / "there"
    note = "note: the kit is for Python 3.9, which this is not\n"
    assert unpack(kit, there).stderr == note
    repository = there / "repository"
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "HEAD~1")
    (repository / "mine.csv").write_text("a row\n")
    (there / ".repository").write_text("of another kit")
    done = unpack(kit, there)
    assert (done.returncode, done.stderr) == (0, note)
    assert git(repository, "rev-parse", "HEAD") == commit
    assert (repository / "mine.csv").read_text() == "a row\n"
    mine = tmp_path / "mine"
    (mine / "repository").mkdir(parents=True)
    (mine / "repository" / "notes.txt").write_text("not of a kit")
    done = unpack(kit, mine)
    assert done.returncode == 1
    assert f"{mine / 'repository'} cannot be unpacked" in done.stderr
    assert (mine / "repository" / "notes.txt").exists()


STOPPED_AT_A_SITE = """
def stopped(self, path, **options):
    self.extract(self.next(), path)
    os._exit(9)
tarfile.TarFile.extractall = stopped
"""
STOPPED_AT_A_CLONE = """
plain = subprocess.run
def stopped(command, **options):
    if "clone" in command:
        os.makedirs(os.path.join(command[-1], ".git"))
        os._exit(9)
    return plain(command, **options)
subprocess.run = stopped
"""


@pytest.mark.usefixtures("small")
def test_what_was_removed_or_stopped_is_not_there(tmp_path, has_all):
    there, kits = tmp_path / "there", []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        site = wheel(folder, "one", **{"one.py": f"NUMBER = {number}\n"})
        kits.append(pack(folder, has_all, f"one={site}"))
    assert unpack_by(STOPPED_AT_A_CLONE, kits[0], there).returncode == 9
    for _ in range(2):
        assert unpack(kits[0], there).returncode == 0
        shutil.rmtree(there / "one")
        shutil.rmtree(there / "repository")
    assert unpack(kits[0], there).returncode == 0
    assert git(there / "repository", "status", "--porcelain") == ""
    assert unpack_by(STOPPED_AT_A_SITE, kits[1], there).returncode == 9
    for number in (0, 1):
        assert unpack(kits[number], there).returncode == 0
        assert (there / "one" / "one.py").read_text() == f"NUMBER = {number + 1}\n"


WITHOUT_FILTERS = """
del tarfile.data_filter
plain = tarfile.TarFile.extractall
tarfile.TarFile.extractall = lambda self, path=".": plain(self, path)
"""


@pytest.mark.usefixtures("small")
def test_python_whose_tarfile_knows_no_filters(tmp_path, has_all):
    """As 3.11.2 of Debian 12 does not."""
    kit = pack(tmp_path, has_all, f"one={wheel(tmp_path, 'one', **{'one.py': ''})}")
    done = unpack_by(WITHOUT_FILTERS, kit, tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "one" / "one.py").exists()


def unpack_by(changes, kit, target):
    """Unpack in a Python with these changes."""
    first = "import os, runpy, subprocess, sys, tarfile\n"
    last = "\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    words = ["-I", "-W", "ignore", "-c", first + changes + last, str(kit / "unpack.py"), str(target)]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_shallow_clone(tmp_path, has_all, monkeypatch, capsys):
    git(tmp_path, "clone", "--quiet", "--depth", "1", "--no-checkout", ROOT.as_uri(), "shallow")
    monkeypatch.setattr("scripts.kit.ROOT", tmp_path / "shallow")
    (tmp_path / "shallow" / "constraints.txt").write_text("")
    assert main([str(tmp_path / "kit"), "--has", str(has_all)]) == 1
    assert "run `git fetch --unshallow`" in capsys.readouterr().err
    assert not (tmp_path / "kit").exists()


def test_what_is_not_committed_and_what_peers_import(tmp_path, has_all, small, monkeypatch, capsys):
    """A kit leaves out what is not committed, and says so; it includes what peers import if need be."""
    sites = {}
    monkeypatch.setattr(Kit, "add_site", lambda _, name, peer: sites.update({name: peer.wheels}))
    monkeypatch.setattr(Kit, "finish", lambda _: None)
    has, mine = installed_there(has_all.read_text()), Peer((), needs=("einops",))
    (small / "new.txt").write_text("")
    pack_kit(tmp_path / "kit", PYTHON, has, {"mine": mine}, 1)
    (needed,) = sites.pop("needs")
    assert needed in (ROOT / "constraints.txt").read_text().splitlines()
    assert needed.startswith("einops==")
    assert "does not hold what is not committed" in capsys.readouterr().err
    (small / "new.txt").unlink()
    pack_kit(tmp_path / "other", PYTHON, {**has, "einops": ""}, {"mine": mine}, 1)
    assert sites == {"mine": ()}
    assert capsys.readouterr().err == ""


def test_only_files_that_are_wanted(tmp_path):
    given = wheel(
        tmp_path,
        "big",
        **{"big/kernel.py": "A = 1\n", "big/rest.py": "", "big-1.0.data/purelib/big/own.py": ""},
    )
    lay_out(given, ["big/kernel.py", "big/own.py"], tmp_path / "site")
    assert files(tmp_path / "site") == ["big-1.0.dist-info/METADATA", "big/kernel.py", "big/own.py"]
    for place in ("PKG-INFO", "big/kernel.py", "big/rest.py"):
        path = tmp_path / "big-1.0" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("Metadata-Version: 2.1\nName: big\nVersion: 1.0\n")
    with tarfile.open(tmp_path / "big-1.0.tar.gz", "w:gz") as sources:
        sources.add(tmp_path / "big-1.0", "big-1.0")
    lay_out(tmp_path / "big-1.0.tar.gz", ["*kernel.py"], tmp_path / "other")
    assert files(tmp_path / "other") == ["big-1.0.dist-info/METADATA", "big/kernel.py"]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_is_lacking():
    everything = lacking({})
    assert {"torch", "typer", "pydantic", "pydantic-core"} <= everything.keys()
    assert "ruff" not in everything  # an extra's
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().lower().splitlines()}
    assert everything["pydantic"].startswith("pydantic==")
    assert "pydantic" in pins
    there = dict.fromkeys(everything, "")
    assert lacking(there) == {}
    assert "typing-extensions" in lacking({**there, "pydantic": "1.0", "typing-extensions": "3.0"})
    assert lacking({**there, "pydantic": "99.0"}) == {}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "nobody"], "no peer nobody; there are flash2, flash4"),
        (["--peer", "mine=none.whl"], "none.whl does not exist"),
        (["--peer", "mine=bad.whl"], "bad.whl is no wheel"),
        (["--peer", "mine=other"], "--peer mine=other: not a wheel; NAME=FILE.whl takes one of yours"),
        (["--peer", "parts=bad.whl"], "none of needs, parts, repository"),
        (["--peer", "../mine=bad.whl"], "the name is letters, digits, - and _"),
        (["--has", "bad.txt"], "'torch==new' is no line of `pip list --format=freeze`"),
        (["--has", "empty.txt"], "a kit does not hold torch with its CUDA libraries: install torch=="),
        (["--part-mib", "0"], "--part-mib is a number above 0, not 0.0"),
        (["--part-mib", "nan"], "--part-mib is a number above 0, not nan"),
    ],
)
def test_what_cannot_be_packed(tmp_path, has_all, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("torch==new\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.whl").write_text("no zip file")
    has = [] if "--has" in arguments else ["--has", str(has_all)]
    try:
        code = main(["kit", *has, *arguments])
    except SystemExit as stopped:
        code = stopped.code
    assert code in (1, 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "kit").exists()


def test_a_kit_that_exists(tmp_path, has_all, capsys):
    (tmp_path / "kit").mkdir()
    assert main([str(tmp_path / "kit"), "--has", str(has_all)]) == 1
    assert "exists: name a new folder" in capsys.readouterr().err
    with pytest.raises(KitError, match="no line"):
        installed_there("torch=2")


def test_versions_that_are_none():
    """Debian has packages whose versions pip prints so."""
    assert installed_there("distro-info===1.1build1\ntorch==2.8.0a0+nv25.6\n") == {
        "distro-info": "",
        "torch": "2.8.0a0+nv25.6",
    }


def test_peers_are_of_the_versions_measured():
    of_peer = {
        "flash2": "flash2", "flash4": "flash4", "fla-chunk": "fla", "lightning-official": "lightning-attn",
        "xformers": "xformers", "sglang-seg-la": "sglang", "vllm-lightning": "vllm",
        "mamba-ssm-step": "mamba", "flashinfer-decode": "flashinfer",
    }  # fmt: skip
    assert set(of_peer.values()) == set(PEERS)
    measured = {
        (of_peer[row["provider"]], row["provider_version"])
        for path in (ROOT / "results" / "h200").glob("*-*.csv")
        for row in read_cells(path)
        if row.get("provider") in of_peer and row.get("provider_version")
    }
    assert {peer for peer, _ in measured} >= set(PEERS) - {"flashinfer"}  # which has not been measured
    for peer, version in measured:
        assert PEERS[peer].wheels[0].removesuffix(" (source)").endswith(f"=={version}")
