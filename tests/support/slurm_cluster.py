"""A SLURM of one node on loopback, with two GPUs that no machine has: munged, slurmctld and slurmd, as root.

With accounting also slurmdbd and its MariaDB. All of it lies in one folder and ends with the tests.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.workspace import until

_DAEMONS = ("munged", "slurmctld", "slurmd")
_BOOKKEEPERS = ("mariadbd", "slurmdbd", "sacctmgr")
# Any two devices that every container has: SLURM only counts and names them.
_DEVICES = ("/dev/null", "/dev/zero")

_SLURM = """\
ClusterName=lbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000
KillWait=2
CompleteWait=0
GresTypes=gpu
{accounting}
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_TO_SLURMDBD = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge.socket"""
_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={slurmdbd}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=root
"""


def why_no_slurm(*, accounting: bool) -> str:
    """Return why no SLURM can be started here, "" if it can."""
    if os.geteuid():
        return "SLURM's daemons are started by root only"
    needed = (*_DAEMONS, *(_BOOKKEEPERS if accounting else ()))
    if missing := [name for name in needed if not shutil.which(name)]:
        packages = "slurm-wlm slurmdbd mariadb-server-core" if accounting else "slurm-wlm"
        return f"SLURM's {', '.join(missing)} is not installed (Debian: apt-get install {packages})"
    return ""


@contextmanager
def slurm_cluster(folder: Path, *, accounting: bool) -> Iterator[dict[str, str]]:
    """Start SLURM in a folder; yield the variables of the environment by which its commands find it."""
    with ExitStack() as stack:
        yield _started(folder, stack, accounting=accounting)


def _started(folder: Path, stack: ExitStack, *, accounting: bool) -> dict[str, str]:
    names = ("ctld", "slurmd", "slurmdbd", "mariadb")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    told = {"folder": str(folder), "host": socket.gethostname().partition(".")[0], **ports}
    told["accounting"] = _TO_SLURMDBD.format(**told) if accounting else ""
    for name in ("state", "spool", "mariadb"):
        (folder / name).mkdir()
    _write(folder / "munge.key", os.urandom(128))
    _write(folder / "slurm.conf", _SLURM.format(**told).encode())
    _write(folder / "slurmdbd.conf", _SLURMDBD.format(**told).encode())
    _write(folder / "gres.conf", "".join(f"Name=gpu File={device}\n" for device in _DEVICES).encode())
    # The other plugin wants a cgroup of its own even where nothing is put into one.
    _write(folder / "cgroup.conf", b"CgroupPlugin=cgroup/v1\n")
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(*words: str) -> None:
        _start(folder / f"{words[0]}.log", words, variables, stack)

    def answers(*words: str) -> str:
        ran = subprocess.run(words, env=os.environ | variables, capture_output=True, text=True)
        return ran.stdout if ran.returncode == 0 else ""

    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "seed"}
    start(
        *("munged", "--foreground", "--force", f"--log-file={folder}/munged.out"),
        *(f"--{option}={folder}/{name}" for option, name in files.items()),
    )
    until((folder / "munge.socket").exists, "munged does not start")
    if accounting:
        start(
            *("mariadbd", "--no-defaults", "--user=root", "--skip-grant-tables", "--bind-address=127.0.0.1"),
            *(f"--datadir={folder}/mariadb", f"--socket={folder}/mariadb.socket"),
            *(f"--port={ports['mariadb']}", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"),
        )
        until(lambda: _listens(ports["mariadb"]), "mariadbd does not start")
        start("slurmdbd", "-D")
        until(lambda: "lbench" in answers("sacctmgr", "-i", "add", "cluster", "lbench"), "slurmdbd does not")
    start("slurmctld", "-D")
    until(lambda: _listens(ports["ctld"]), "slurmctld does not start")
    start("slurmd", "-D")
    until(lambda: answers("sinfo", "-h", "-o", "%t").strip() == "idle", "the node of SLURM is not idle")
    return variables


def _start(log: Path, words: tuple[str, ...], variables: dict[str, str], stack: ExitStack) -> None:
    with log.open("w") as file:
        process = subprocess.Popen(words, env=os.environ | variables, stdout=file, stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
