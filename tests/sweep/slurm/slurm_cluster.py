"""A real Slurm of one node on loopback: munge, MariaDB, slurmdbd, slurmctld and slurmd of our own, in one folder.

Nothing of the machine's own configuration is read or written, and all of it ends with `LocalSlurm.stop`. No cgroups, no
systemd: it runs in a container.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

DAEMONS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
SBIN = os.pathsep.join(["/usr/sbin", "/sbin"])
START_SECONDS = 60.0

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.sock
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 Port={slurmd} CPUs=4 RealMemory=8000 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2
"""
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
DbdHost=localhost
DbdPort={dbd}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=slurm
StoragePass=test
StorageLoc=slurm
"""


def missing() -> list[str]:
    """Programs that are needed and not installed."""
    return [name for name in DAEMONS if shutil.which(name, path=_path()) is None]


class LocalSlurm:
    """The daemons, and the environment in which ``sbatch`` and friends find them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start everything; returns when a job could be run.

        Raises:
            RuntimeError: a daemon does not come up; with the end of its log.
        """
        ports = dict(zip(("ctld", "slurmd", "dbd", "mariadb"), _free_ports(4), strict=True))
        facts = {"folder": self.folder, "host": socket.gethostname().partition(".")[0], "user": getpass.getuser()}
        for name in ("state", "spool", "mysql"):
            (self.folder / name).mkdir()
        self._write("slurm.conf", SLURM_CONF.format(**facts, **ports))
        self._write("slurmdbd.conf", SLURMDBD_CONF.format(**facts, **ports))
        self._write("gres.conf", "Name=gpu File=/dev/null,/dev/zero\n")
        self._start_munge()
        self._start_database(ports["mariadb"])
        self._daemon("slurmdbd", "-D")
        self._until("slurmdbd", lambda: self.call("sacctmgr", "-in", "list", "cluster").returncode == 0)
        self.call("sacctmgr", "-i", "add", "cluster", "test")
        self._daemon("slurmctld", "-D", "-c")
        self._daemon("slurmd", "-D", "-c")
        self._until("slurmd", lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T").stdout)

    def stop(self) -> None:
        """End everything that was started, the last one first."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster."""
        return subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text.lstrip())
        path.chmod(0o600)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", *options)
        self._until("munged", (self.folder / "munge.sock").exists)

    def _start_database(self, port: int) -> None:
        data, user = self.folder / "mysql", getpass.getuser()
        common = ["--no-defaults", f"--datadir={data}", f"--user={user}"]
        small = ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"]
        made = self.call("mariadb-install-db", *common, "--skip-test-db", "--auth-root-authentication-method=normal")
        if made.returncode:
            raise RuntimeError(f"mariadb-install-db: {made.stdout[-2000:]}{made.stderr[-2000:]}")
        init = self.folder / "init.sql"
        init.write_text(
            "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'test';\nGRANT ALL ON slurm.* TO slurm@'127.0.0.1';\n"
        )
        here = [f"--socket={self.folder}/mysql.sock", f"--port={port}", "--bind-address=127.0.0.1"]
        self._daemon("mariadbd", *common, *small, *here, "--skip-name-resolve", f"--init-file={init}")
        self._until("mariadbd", lambda: _is_listening(port))

    def _daemon(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as log:
            command = [shutil.which(name, path=_path()) or name, *options]
            environment = {**os.environ, **self.environment}
            self._processes.append(
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def _until(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                log = (self.folder / f"{name}.out").read_text(errors="replace")
                raise RuntimeError(f"{name} does not come up: {log[-2000:]}")
            time.sleep(0.1)


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), SBIN])


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
