"""Fetch a directory of root while logged in as another user."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from programs import load

ROOT = Path(__file__).parents[2]
plugin = load(ROOT / "plugins/action/fetch_directory.py")
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ksm.testbed.fetch_directory: {src: SRC, dest: DEST}
"""
# A connection as an unprivileged user: commands run with become as root, files are copied without
CONNECTION = """
import shutil, subprocess
from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase
from ansible.module_utils.common.text.converters import to_bytes

DOCUMENTATION = "{name: nobody, short_description: x, description: x, options: {}, author: x}"


class Connection(ConnectionBase):
    transport = "nobody"
    has_pipelining = True

    def _connect(self):
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        rights = [] if sudoable else ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        done = subprocess.run([*rights, "/bin/sh", "-c", cmd], input=in_data, capture_output=True)
        return done.returncode, done.stdout, done.stderr

    def fetch_file(self, in_path, out_path):
        with open(out_path, "wb") as file:
            copied = subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", in_path],
                stdout=file, stderr=subprocess.PIPE)
        if copied.returncode:
            raise AnsibleError(copied.stderr.decode())

    def put_file(self, in_path, out_path):
        raise AnsibleError("nothing is put")

    def close(self):
        pass
"""


@pytest.fixture
def fetch(tmp_path):
    """Return a function that fetches a directory through that connection."""
    (tmp_path / "connections").mkdir()
    (tmp_path / "connections/nobody.py").write_text(CONNECTION)

    def run(src, dest):
        playbook = tmp_path / "play.yml"
        playbook.write_text(PLAY.replace("SRC", str(src)).replace("DEST", str(dest)))
        return subprocess.run(
            ["ansible-playbook", "-i", "localhost,", "-c", "nobody", str(playbook)],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "ANSIBLE_CONNECTION_PLUGINS": str(tmp_path / "connections"),
                "TMPDIR": "/tmp",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_files_of_root_are_fetched_completely(fetch, tmp_path):
    source, dest = tmp_path / "source", tmp_path / "dest"
    (source / "deep").mkdir(parents=True, mode=0o700)
    (source / "samples.jsonl").write_bytes(os.urandom(3 * 2**20))
    (source / "deep/a name.txt").write_text("ä\n")
    (source / "samples.jsonl").chmod(0o600)
    os.mkfifo(source / "pipe")
    before = set(Path("/tmp").glob("ksm-fetch*"))

    done = fetch(source, dest)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (dest / "samples.jsonl").read_bytes() == (source / "samples.jsonl").read_bytes()
    assert (dest / "deep/a name.txt").read_text() == "ä\n"
    assert sorted(path.name for path in dest.iterdir()) == ["deep", "samples.jsonl"]
    assert (source / "samples.jsonl").exists(), "what is fetched stays on the host"
    assert set(Path("/tmp").glob("ksm-fetch*")) == before, "no archive is left"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_directory_that_is_not_there_is_an_error(fetch, tmp_path):
    done = fetch(tmp_path / "missing", tmp_path / "dest")

    assert done.returncode != 0
    words = " ".join(done.stdout.split())
    assert "cannot pack" in words
    assert "No such file or directory" in words
    assert not (tmp_path / "dest").exists()


def archive(tmp_path, *members):
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, target, 0o4777
            packed.addfile(member)
    return path


@pytest.mark.parametrize("name", ["../evil", "/etc/evil"])
def test_nothing_is_unpacked_outside(tmp_path, name):
    packed = archive(tmp_path, (name, tarfile.REGTYPE, ""))
    dest = tmp_path / "a" / "dest"

    with contextlib.suppress(tarfile.TarError):
        plugin.unpack(packed, dest)
    assert not (tmp_path / "a/evil").exists()
    assert not Path("/etc/evil").exists()


def test_links_are_left_out_and_modes_are_plain(tmp_path):
    packed = archive(
        tmp_path, ("link", tarfile.SYMTYPE, "/etc/passwd"), ("file", tarfile.REGTYPE, "")
    )

    assert plugin.unpack(packed, tmp_path / "dest") == ["file"]
    assert [path.name for path in (tmp_path / "dest").iterdir()] == ["file"]
    assert (tmp_path / "dest/file").stat().st_mode & 0o7111 == 0


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "archive"
    path.write_bytes(b"x")

    with pytest.raises(AnsibleError, match="damaged in transfer"):
        plugin.check(path, "0" * 64)
