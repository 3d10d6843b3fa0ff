"""A container with its own systemd, for tests of services.

It sees the files and kernel of this machine, but has its own changes, processes and network. The
process of ksmd is not visible there; everything else is like on a host.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from machine import ROOT, until

HAS_SYSTEMD = Path("/run/systemd/system").is_dir()
# An overlay on the files of this machine, without its enabled services.
BOOT = """
mount --make-rprivate /
[ -d /run/systemd/system ] || mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs "$1"
mkdir "$1"/changes "$1"/work "$1"/root
mount -t overlay overlay -o lowerdir=/,upperdir="$1"/changes,workdir="$1"/work "$1"/root
rm -rf "$1"/root/etc/systemd/system/*.wants "$1"/root/var/lib/ksm-testbed
mkdir -p "$1"/root/var/lib/prometheus/node-exporter
printf '%s\\n' 'cgroup_controllers = []' 'security_driver = "none"' 'stdio_handler = "file"' \\
    > "$1"/root/etc/libvirt/qemu.conf
shift
exec "$@"
"""


class Container:
    """A container with its own systemd."""

    def __init__(self, directory: Path):
        self.root = directory / "root"
        self.cgroup = None if HAS_SYSTEMD else cgroups() / f"ksm-container-test-{os.getpid()}"
        nspawn = ["systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"]
        nspawn += ["--register=no", "--private-network", "--console=pipe", "--link-journal=no"]
        nspawn += [f"--machine=ksm-container-test-{os.getpid()}"]
        nspawn += [f"--bind-ro={ROOT}"]  # which may be below /tmp, of which it has its own
        nspawn += [] if HAS_SYSTEMD else ["--keep-unit"]
        self.process = subprocess.Popen(
            ["unshare", "--mount", "bash", "-ec", BOOT, "bash", directory, *nspawn],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            preexec_fn=self.enter_cgroup,
        )
        self.leader = None

    def enter_cgroup(self):
        """Put the control groups of systemd below our own."""
        if self.cgroup:
            self.cgroup.mkdir()
            (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def wait(self):
        """Wait until it has booted."""
        self.leader = until(self.find_leader)
        # Degraded is enough: on a busy machine, a unit of Debian may have timed out
        state = ("systemctl", "is-system-running")
        until(lambda: self.run(*state, check=False).strip() in ("running", "degraded"), 240)

    def find_leader(self):
        """Find its first process, as seen from the host."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in children.split():
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                return pid
        return None

    def run(self, *command, check=True, stdin=None):
        """Run a command in it and return its output."""
        paths = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = ["env", f"--chdir={ROOT}", "-i", f"PATH={paths}", "HOME=/root"]
        environment += ["LANG=C.UTF-8", "ANSIBLE_NOCOLOR=1"]
        done = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--all", "--", *environment, *map(str, command)],
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def play(self, playbook, *arguments):
        """Run a playbook; return its output and the numbers of changed and failed tasks."""
        text = self.run("ansible-playbook", f"playbooks/{playbook}.yml", *arguments, check=False)
        found = re.search(r"changed=([0-9]+) +unreachable=0 +failed=([0-9]+)", text)
        return " ".join(text.split()), *map(int, found.groups())

    def exists(self, path):
        """Whether it has a file; a broken link counts, too."""
        return bool(self.run("find", path, "-maxdepth", 0, check=False))

    def end(self):
        """Shut it down."""
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            if self.cgroup:
                # systemd-nspawn makes the same one for a systemd of version 1
                for top in self.cgroup.parents[1].glob(f"*/{self.cgroup.name}"):
                    for path in sorted(top.glob("**"), reverse=True):
                        path.rmdir()


def cgroups():
    """Return the mount point of the unified hierarchy of control groups."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next(Path(mount[1]) for mount in mounts if mount[2] == "cgroup2")


@contextlib.contextmanager
def booted(kind: type[Container] = Container) -> Iterator[Container]:
    """Boot a container, in which libvirt has not run yet."""
    packages = {"systemd-nspawn": "systemd-container", "libvirtd": "libvirt-daemon-system"}
    packages |= {"virsh": "libvirt-clients", "qemu-system-x86_64": "qemu-system-x86"}
    if missing := [package for name, package in packages.items() if not shutil.which(name)]:
        subprocess.run(["apt-get", "update", "-q"], check=True)
        command = ["apt-get", "install", "-qy", "--no-install-recommends", *missing]
        subprocess.run(command, check=True)
    with tempfile.TemporaryDirectory() as directory:
        found = kind(Path(directory))
        try:
            found.wait()
            yield found
        finally:
            found.end()
