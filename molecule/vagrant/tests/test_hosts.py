"""The state of the machines after an experiment, read over ssh."""

import json

KSM = "/sys/kernel/mm/ksm"
STATE = "/var/lib/ksm-testbed"


def test_nothing_was_installed_for_guests(host):
    assert host.package("python3").is_installed
    assert not host.package("qemu-system-x86").is_installed
    assert not host.package("libvirt-daemon").is_installed


def test_root_owns_the_programs_that_root_runs(host):
    for program in ("sampler/ksm_sampler.py", "arrays/ksm_arrays.py"):
        file = host.file(f"{STATE}/{program}")
        assert (file.user, file.group, file.mode) == ("root", "root", 0o755)


def test_the_sampler_advances(host):
    options = "--period 0.5 --samples 3 --output -"
    done = host.check_output(f"sudo python3 {STATE}/sampler/ksm_sampler.py {options}")
    samples = [line for line in map(json.loads, done.splitlines()) if line["kind"] == "sample"]
    times = [sample["monotonic"] for sample in samples]
    assert len(times) == 3
    assert times == sorted(set(times))
    assert samples[-1]["ksm"]["pages_to_scan"] == int(host.file(f"{KSM}/pages_to_scan").content)


def test_nothing_of_a_run_is_left(host):
    for name in ("lock.json", "knobs.json", "run", "guests"):
        assert not host.file(f"{STATE}/{name}").exists
    assert not [process.args for process in host.process.filter() if STATE in process.args]


def test_nothing_is_merged(host):
    for gauge in ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"):
        assert host.file(f"{KSM}/{gauge}").content_string == "0\n"


def test_no_user_can_log_in_with_a_password(host):
    """Only the key that Vagrant made for this machine allows a login."""
    shadow = host.check_output("sudo cat /etc/shadow")
    hashes = [line.split(":")[1] for line in shadow.splitlines()]
    assert all(each.startswith(("!", "*")) for each in hashes)
    keys = host.file("/home/vagrant/.ssh/authorized_keys").content_string
    assert "insecure" not in keys
    assert keys.count("ssh-") == 1
