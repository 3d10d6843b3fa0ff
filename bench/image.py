#!/usr/bin/env python3
"""Measure the time of the image and its clones, compared with the usual methods.

  image   playbooks/guest_image.yml, in a separate directory, compared with plain mmdebstrap of the
          same packages into a directory
  clone   a qcow2 overlay, as in the role guests, compared with virt-clone of a domain on the image

Needs root and a provisioned host (playbooks/host.yml). virt-clone comes from Debian's virtinst,
which is installed if it is missing.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = yaml.safe_load((ROOT / "roles/guest_image/defaults/main.yml").read_text())
DOMAIN = """\
<domain type='qemu'><name>{name}</name><memory unit='MiB'>512</memory><os><type>hvm</type></os>
<devices><disk type='file'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>
"""
ORIGINAL, CLONE = "ksm-bench-original", "ksm-bench-clone"


def seconds(*command, **options):
    """Run a command to its end and return how long it took."""
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, **options)
    return time.monotonic() - start


def build_image(directory):
    """Build the image again, with the whole role."""
    variables = json.dumps({"guest_image_directory": str(directory), "host_acceleration": "tcg"})
    return seconds("ansible-playbook", "playbooks/guest_image.yml", "-e", variables)


def plain_mmdebstrap(directory):
    """Install the same packages, and nothing more."""
    packages = ",".join(DEFAULTS["guest_image_packages"])
    suite = DEFAULTS["guest_image_suite"]
    options = ["--quiet", "--variant=minbase", '--aptopt=Apt::Install-Recommends "false"']
    return seconds("mmdebstrap", *options, f"--include={packages}", suite, directory)


def overlay(base, path):
    """Make a clone like the role guests."""
    return seconds("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path)


def virt_clone(path):
    """Make a clone with virt-clone, of the domain that `original` has defined."""
    took = seconds("virt-clone", "-q", "-o", ORIGINAL, "-n", CLONE, "-f", path)
    subprocess.run(["virsh", "-q", "undefine", CLONE], check=True, stdout=subprocess.DEVNULL)
    return took


def clone_rounds(base, directory, rounds):
    """Make clones alternately; return the seconds of both methods."""
    costs = {"overlay": [], "virt-clone": []}
    xml = directory / "original.xml"
    xml.write_text(DOMAIN.format(name=ORIGINAL, disk=base))
    subprocess.run(["virsh", "-q", "define", xml], check=True, stdout=subprocess.DEVNULL)
    try:
        for number in range(rounds):
            costs["overlay"].append(overlay(base, directory / f"overlay-{number}.qcow2"))
            costs["virt-clone"].append(virt_clone(directory / f"clone-{number}.qcow2"))
    finally:
        subprocess.run(["virsh", "-q", "undefine", ORIGINAL], check=True)
    return costs


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="images each way (default: 2)")
    arguments = parser.parse_args()
    if not shutil.which("virt-clone"):
        subprocess.run(
            ["apt-get", "install", "-qy", "--no-install-recommends", "virtinst"], check=True
        )
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        images, plain = [], []
        for number in range(arguments.rounds):
            images.append(build_image(directory / f"images-{number}"))
            plain.append(plain_mmdebstrap(directory / f"plain-{number}"))
        ratio = statistics.median(a / b for a, b in zip(images, plain, strict=True))
        print(
            f"image: playbook {statistics.median(images):.1f} s, "
            f"plain mmdebstrap {statistics.median(plain):.1f} s, "
            f"ratio {ratio:.2f} (target: at most 1.5)"
        )
        costs = clone_rounds(directory / "images-0/current/root.qcow2", directory, 5)
        ratio = statistics.median(
            a / b for a, b in zip(costs["overlay"], costs["virt-clone"], strict=True)
        )
        print(
            f"clone: overlay {1e3 * statistics.median(costs['overlay']):.1f} ms, "
            f"virt-clone {1e3 * statistics.median(costs['virt-clone']):.0f} ms, "
            f"ratio 1/{1 / ratio:.0f} (target: at most 1/50)"
        )


if __name__ == "__main__":
    main()
