"""The swap space of this machine is replaced and restored."""

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.host
MIB = 2**20


def devices() -> set[str]:
    return {path.name for path in Path("/sys/block").glob("zram*")}


def swaps() -> dict[str, list[str]]:
    """Return the type, size and priority of all swap space, by name. How much is used changes."""
    rows = [line.split() for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    return {row[0]: [*row[1:3], row[4]] for row in rows}


@pytest.fixture
def swap_file(tmp_path):
    """Switch on a file as swap space, with a priority."""
    path = tmp_path / "swap file"
    path.touch(mode=0o600)
    path.write_bytes(bytes(16 * MIB))
    subprocess.run(["mkswap", path], check=True, capture_output=True)
    if subprocess.run(["swapon", "--priority", "5", path], check=False).returncode:
        pytest.skip("this machine cannot swap to a file")
    yield str(path).replace(" ", r"\040")
    subprocess.run(["swapoff", path], check=True)


def test_zram_replaces_what_was_found_until_it_is_restored(module, swap_file, tmp_path):
    found, before = swaps(), devices()
    assert found[swap_file][-1] == "5"
    remember = tmp_path / "swap.json"

    def swap(check=False, **arguments):
        return module("host_swap", {"remember": str(remember)} | arguments, check=check)

    assert swap(zram_mib=32, check=True)["changed"]
    assert swaps() == found
    assert not remember.exists()
    assert swap(zram_mib=32)["changed"]
    ((name, zram),) = swaps().items()
    assert name.startswith("/dev/zram")
    assert int(zram[1]) == 32 * 1024 - 4, "less a page for its header"
    assert not swap(zram_mib=32)["changed"]
    # what a program leaves that was killed when it had made a device
    Path("/sys/class/zram-control/hot_add").read_text()
    others = f"zram{Path('/sys/class/zram-control/hot_add').read_text().strip()}"
    Path("/sys/block", others, "disksize").write_text("1M")
    assert swap(state="restored")["changed"]
    assert swaps() == found
    assert devices() == before | {others}, "a device that is in use by others stays"
    Path("/sys/block", others, "reset").write_text("1")
    Path("/sys/class/zram-control/hot_remove").write_text(others.removeprefix("zram"))
    assert not remember.exists()
    assert not swap(state="restored")["changed"]


def test_a_damaged_record_is_an_error(module, tmp_path):
    remember, found = tmp_path / "swap.json", swaps()
    remember.write_text('{"boot_id": "x"}')
    refused = module("host_swap", {"remember": str(remember), "state": "restored"})
    assert f"{remember} is damaged" in refused["msg"]
    assert swaps() == found
    assert remember.exists()
