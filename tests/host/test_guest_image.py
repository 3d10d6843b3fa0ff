"""An image build that is killed, or that gets no packages. It uses neither KSM nor libvirt."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import ROOT, Playbook, processes

pytestmark = [pytest.mark.host, pytest.mark.beside]
PLAY = """\
- hosts: ksm_hosts
  roles: [ksm.testbed.guest_image]
"""


def installed(images: Path) -> Iterator[Path]:
    """Yield directories of Debian that is being installed, which only its own processes see."""
    for pid in processes(f"mmdebstrap .*{images}"):
        yield from Path(f"/proc/{pid}/root{images}").glob("*.partial/work/rootfs/usr/bin")


@pytest.fixture
def build(tmp_path):
    """Return a function that starts a build in a directory of its own; end all of them."""
    started = []

    (tmp_path / "build.yml").write_text(PLAY)

    def start(**variables) -> Playbook:
        more = json.dumps(variables | {"testbed_directory": str(tmp_path)})
        log = tmp_path / f"build-{len(started)}.log"
        started.append(Playbook(str(tmp_path / "build.yml"), "-e", more, log=log))
        return started[-1]

    yield start
    for each in started:
        each.kill()
    subprocess.run(["pkill", "-KILL", "--full", str(tmp_path)], check=False)


def test_a_build_that_is_killed_and_a_mirror_that_does_not_answer(build, tmp_path):
    images = tmp_path / "images"
    killed = build()
    killed.until(lambda: any(installed(images)))
    killed.kill()
    subprocess.run(["pkill", "-KILL", "--full", str(images)], check=True)
    assert not list(images.glob("*/manifest.json"))

    again = build()
    assert again.wait() == 0, again.log.read_text()
    (image,) = (path for path in images.iterdir() if not path.is_symlink())
    assert (images / "current").resolve() == image
    rootfs = ROOT / "roles/guest_image/files/rootfs"
    laid_out = {str(path.relative_to(rootfs)) for path in rootfs.rglob("*") if path.is_file()}
    manifest = json.loads((image / "manifest.json").read_text())
    assert set(manifest["inputs"]["files"]) == laid_out, "a change to any file makes a new image"
    made = {path.name for path in image.iterdir()}
    assert made == {"manifest.json", "root.qcow2", "vmlinuz", "initrd.img"}

    refused = build(guest_image_mirrors=["http://127.0.0.1:9/debian"], guest_image_disk_gib=5)
    assert refused.wait() != 0
    assert "127.0.0.1:9" in refused.output
    assert (images / "current").resolve() == image, "the previous image still exists"
    assert build().wait() == 0
    assert [path for path in images.iterdir() if not path.is_symlink()] == [image]
