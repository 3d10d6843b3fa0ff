"""The sampler as a service, with test trees; no test needs KSM, root or a guest."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up_runs import Writer, run_record
from programs import ROLES, load
from test_sampler import KSM, KSM_STAT, STAT, TREE, put

from ksm_analysis.results.reader import read_run

FILES = ROLES / "monitor_service/files"
# When installed, the sampler is in the same directory.
sys.path[:0] = [str(FILES), str(ROLES / "part_sampler/files")]
os.environ["PYTHONPATH"] = str(ROLES / "part_sampler/files")
ksm_monitor = load(FILES / "ksm_monitor.py")
ksm_sampler = sys.modules["ksm_sampler"]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for path, text in TREE.items():
        put(root, path, text)
    (root / "run").mkdir()
    return root


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "state"
    path.mkdir()
    return path


def boot(tree, name, pid, argument=None, pid_file=None):
    """Make a guest in the tree: its process, and the pid file of libvirt."""
    argument = f"guest={name}" if argument is None else argument
    put(tree, f"proc/{pid}/cmdline", f"/usr/bin/qemu\0-name\0{argument},debug-threads=on\0-S\0")
    put(tree, f"proc/{pid}/ksm_stat", KSM_STAT)
    put(tree, f"proc/{pid}/stat", STAT)
    put(tree, f"proc/{pid}/statm", TREE["proc/4242/statm"])
    put(tree, f"run/{pid_file or name}.pid", f"{pid}")


def end(tree, pid, name=None):
    """End a process; libvirt, if it runs, removes the pid file."""
    put(tree, f"proc/{pid}/stat", STAT.replace("Z) S", "Z) Z"))
    put(tree, f"proc/{pid}/cmdline", "")
    if name:
        (tree / f"run/{name}.pid").unlink()


# Guests


@pytest.fixture
def guests(tree):
    reader, _ = ksm_sampler.open_reader(tree, [])
    complaints = ksm_monitor.Complaints()
    source = ksm_monitor.PidFiles(tree / "proc", tree / "run", complaints)
    return ksm_monitor.Guests(reader, tree / "proc", [source], [], complaints)


def sampled(guests):
    """Return the guests of one sample, and then update the guests like the service."""
    found = json.loads(guests.reader.line(0, 1, 1))["guests"]
    guests.look()
    return {name: guest and guest["resident_pages"] for name, guest in found.items()}


def test_guests_start_and_end(tree, guests):
    guests.look()
    assert sampled(guests) == {}
    boot(tree, "a", 4242)
    boot(tree, "b", 4243)
    assert sampled(guests) == {}
    assert sampled(guests) == {"a": 900, "b": 900}
    assert guests.pids == {"a": 4242, "b": 4243}
    end(tree, 4242, "a")
    assert sampled(guests) == {"a": None, "b": 900}
    assert sampled(guests) == {"b": 900}
    assert guests.pids == {"b": 4243}


def test_a_guest_with_a_stale_pid_file_has_ended(tree, guests):
    boot(tree, "a", 4242)
    guests.look()
    end(tree, 4242)
    assert [sampled(guests) for _ in range(3)] == [{"a": None}, {}, {}]


def test_a_restarted_guest_is_a_new_process(tree, guests):
    boot(tree, "a", 4242)
    guests.look()
    end(tree, 4242)
    boot(tree, "a", 4243)
    assert [sampled(guests) for _ in range(3)] == [{"a": None}, {"a": 900}, {"a": 900}]
    assert guests.pids == {"a": 4243}
    assert guests.reader.gone == {}


@pytest.mark.parametrize(
    "argument", ["guest=b", "guest=a,,b", "guest=ab", "guest=", "b", "guest=A", "xguest=a"]
)
def test_a_reused_pid_is_not_mistaken_for_the_guest(tree, guests, argument):
    boot(tree, "a", 4242, argument)
    guests.look()
    assert sampled(guests) == {}
    boot(tree, "a", 4242)
    guests.look()
    assert sampled(guests) == {"a": 900}


@pytest.mark.parametrize("text", ["", "4242x\n", "-1\n", "99999\n"])
def test_a_stale_pid_file_is_skipped(tree, guests, text):
    boot(tree, "a", 4242)
    put(tree, "run/b.pid", text)
    guests.look()
    assert sampled(guests) == {"a": 900}


def test_a_kernel_thread_is_no_guest(tree, guests):
    put(tree, "proc/37/statm", "0 0 0 0 0 0 0\n")
    put(tree, "run/ksmd.pid", "37\n")
    guests.look()
    assert sampled(guests) == {}


def test_names_are_unescaped_like_libvirt(tree, guests):
    name = "a \"b\" & <c>, 'd'"
    pid_file = "a &quot;b&quot; &amp; &lt;c&gt;, &apos;d&apos;"
    boot(tree, name, 4242, f"guest={name.replace(',', ',,')}", pid_file)
    guests.look()
    assert sampled(guests) == {name: 900}


def test_other_files_are_skipped(tree, guests):
    put(tree, "run/a.xml", "<domstatus/>")
    (tree / "run/dbus").mkdir()
    boot(tree, "a", 4242)
    guests.look()
    assert sampled(guests) == {"a": 900}


def test_an_unreadable_guest_is_reported_once_and_others_are_sampled(tree, guests, capsys):
    boot(tree, "a", 4242)
    boot(tree, "b", 4243)
    (tree / "proc/4243/ksm_stat").unlink()
    (tree / "proc/4243/ksm_stat").symlink_to("ksm_stat")
    for _ in range(3):
        guests.look()
    assert sampled(guests) == {"a": 900}
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "b.pid: cannot read ksm_stat: Too many levels of symbolic links" in told


def test_no_file_of_an_ended_guest_stays_open(tree, guests):
    put(tree, "proc/4242/ksm_merging_pages", "41\n")
    put(tree, "run/stale.pid", "37\n")  # a process, but no guest
    (tree / "proc/4244").mkdir()  # a process that cannot be read
    put(tree, "run/broken.pid", "4244\n")
    counts = set()
    for _ in range(5):
        boot(tree, "a", 4242)
        guests.look()
        assert sampled(guests) == {"a": 900}
        end(tree, 4242, "a")
        guests.look()
        assert sampled(guests) == {}
        counts.add(len(list(Path("/proc/self/fd").iterdir())))
    assert len(counts) == 1


def test_a_directory_that_has_been_removed_is_noticed(tree, guests, monkeypatch):
    monkeypatch.chdir(tree / "run")
    guests.sources[0].directory = Path()  # like a mount, it stays at the old directory
    guests.look()
    (tree / "run").rmdir()
    (tree / "run").mkdir()
    with pytest.raises(ksm_sampler.Unusable, match=r"has been removed|cannot list"):
        guests.look()


# Guests that are not libvirt's


@pytest.mark.parametrize(
    "arguments",
    [
        "-id\x00100\0-name\0web,debug-threads=on",
        "-name\x00100",
        "--name\0guest=100",
        "-daemonize\0-pidfile\0/run/x/100.pid",
    ],
)
def test_a_guest_of_proxmox_or_of_plain_qemu(tree, guests, arguments):
    boot(tree, "100", 4242)
    put(tree, "proc/4242/cmdline", f"/usr/bin/kvm\0{arguments}\0-S\0")
    guests.look()
    assert sampled(guests) == {"100": 900}


def test_a_pid_file_without_a_guest_is_told_once_and_counted(tree, guests, capsys):
    boot(tree, "100", 4242, "web")
    put(tree, "run/driver.pid", "1\n")
    guests.look()
    assert capsys.readouterr().err == ""  # it may still be about to start
    for _ in range(3):
        guests.look()
    assert capsys.readouterr().err.count("100.pid: no guest: the command line of process 4242") == 1
    assert guests.fruitless() == 1
    put(tree, "proc/4242/cmdline", "/usr/bin/kvm\0-id\x00100\0")
    guests.look()
    assert (guests.fruitless(), sampled(guests)) == (0, {"100": 900})


def found_by(tree, guests, **options):
    """Use other sources: those of these options of the command line."""
    argv = ["--state", "x", "--root", str(tree)]
    argv += [word for name, value in options.items() for word in (f"--{name}", value) if word]
    arguments = ksm_monitor.parse_arguments(argv)
    guests.sources, guests.grouped, _ = ksm_monitor.sources(arguments, guests.complaints)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("-name guest=(\\w+)", "a"),
        ("^/usr/bin/qemu ", "qemu-x86-4242"),
        ("^qemu-x86$", "qemu-x86-4242"),
    ],
)
def test_a_rule_matches_name_or_command_line(tree, guests, pattern, name):
    boot(tree, "a", 4242)
    put(tree, "proc/4242/comm", "qemu-x86\n")
    found_by(tree, guests, match=pattern)
    guests.look()
    assert sampled(guests) == {name: 900}
    end(tree, 4242)
    assert [sampled(guests) for _ in range(2)] == [{name: None}, {}]


def test_processes_of_one_name_have_their_pids(tree, guests):
    for pid in (4242, 4243):
        boot(tree, "a", pid)
    found_by(tree, guests, match="guest=(a)")
    guests.look()
    assert sampled(guests) == {"a-4242": 900, "a-4243": 900}


def test_a_rule_that_no_process_matches_is_told_once(tree, guests, capsys):
    found_by(tree, guests, match="nothing of this")
    for _ in range(3):
        guests.look()
    assert (
        capsys.readouterr().err == "ksm_monitor.py: --match nothing of this: no process matches\n"
    )


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("--match", "a(", "'a(' is not a regular expression: missing ), unterminated subpattern"),
        ("--match", "x*", "'x*' matches every process"),
        ("--cgroup", "/", "'/' is not a cgroup's path"),
        ("--cgroup", "../x", "'../x' is not a cgroup's path"),
    ],
)
def test_a_wrong_option_is_told(capsys, option, value, fault):
    with pytest.raises(SystemExit) as ended:
        ksm_monitor.parse_arguments(["--state", "x", option, value])
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize("hierarchy", ["", "unified/", "memory/", "systemd/"])
def test_a_cgroup_has_its_sum_and_that_of_each_child(tree, guests, hierarchy, capsys):
    base = f"sys/fs/cgroup/{hierarchy}"
    if not hierarchy:
        put(tree, base + "cgroup.controllers", "memory\n")
    for pid in (4242, 4243, 4244):
        boot(tree, f"g{pid}", pid)
    put(tree, base + "machine.slice/cgroup.procs", "0\n4242\n99999\n")
    put(tree, base + "machine.slice/a.scope/cgroup.procs", "")
    put(tree, base + "machine.slice/a.scope/libvirt/emulator/cgroup.procs", "4243\n4244\n")
    found_by(tree, guests, cgroup="machine.slice")
    guests.look()
    sections = guests.sections(json.loads(guests.reader.line(0, 1, 1))["guests"])
    assert sections["guests"] == {}
    counts = {
        name: (each["processes"], each["resident_pages"], each["ksm_rmap_items"])
        for name, each in sections["cgroups"].items()
    }
    assert counts == {"machine.slice": (3, 2700, 300), "machine.slice/a.scope": (2, 1800, 200)}
    assert capsys.readouterr().err == ""


def test_a_process_may_be_in_the_cgroup_of_one_hierarchy_only(tree, guests):
    boot(tree, "a", 4242)
    put(tree, "sys/fs/cgroup/unified/machine/cgroup.procs", "")
    put(tree, "sys/fs/cgroup/memory/machine/a/cgroup.procs", "4242\n")
    found_by(tree, guests, cgroup="machine")
    guests.look()
    assert guests.groups == {"machine": {4242}, "machine/a": {4242}}
    assert sampled(guests) == {"machine/a/4242": 900}


def test_a_cgroup_that_does_not_exist_is_told_once(tree, guests, capsys):
    found_by(tree, guests, cgroup="machine.slice")
    guests.look()
    guests.look()
    assert capsys.readouterr().err.count("--cgroup machine.slice: there is no such cgroup") == 1


ID = "0123456789ab" + 52 * "c"


@pytest.mark.parametrize(
    ("cgroup", "name"),
    [
        (f"0::/system.slice/docker-{ID}.scope", "docker/0123456789ab"),
        (f"12:pids:/docker/{ID}\n0::/", "docker/0123456789ab"),
        (f"0::/machine.slice/libpod-{ID}.scope/container", "podman/0123456789ab"),
        (
            f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
            "containerd/0123456789ab",
        ),
        (f"3:cpu:/kubepods/burstable/pod1/{ID}", "containerd/0123456789ab"),
        ("0::/lxc.payload.web/system.slice/x.service", "lxc/web"),
        ("0::/lxc/101/ns/init.scope", "lxc/101"),
        ("0::/machine.slice/systemd-nspawn@deb.service/payload", "nspawn/deb"),
        ("0::/machine.slice/machine-deb.scope", "nspawn/deb"),
        ("0::/machine.slice/machine-qemu\\x2d1\\x2da.scope", None),
        ("0::/user.slice", None),
    ],
)
def test_a_container_is_known_by_its_cgroup(tree, guests, cgroup, name):
    boot(tree, "a", 4242)
    put(tree, "proc/4242/cgroup", cgroup + "\n")
    found_by(tree, guests, containers="")
    guests.look()
    assert guests.groups == ({name: {4242}} if name else {})
    assert list(guests.pids) == ([f"{name}/4242"] if name else [])


# Files of samples


HEADER, SAMPLE, END = (
    b'{"kind":"header"}\n',
    b'{"kind":"sample","n":%d}\n',
    b'{"kind":"end"}\n',
)


def files(state, limit=60, number=3):
    return ksm_monitor.SampleFiles(state, limit, number, ksm_monitor.Complaints())


def fill(some, first):
    """Write a complete file, with samples numbered from `first`; return the next number."""
    some.begin(HEADER)
    while not some.full:
        some.write(SAMPLE % first)
        first += 1
    some.end(END)
    return first


def numbers(path):
    """Return the samples of a file, which must be complete."""
    header, *samples, last = path.read_bytes().splitlines(keepends=True)
    assert (header, last) == (HEADER, END)
    return [json.loads(sample)["n"] for sample in samples]


def names(state):
    return sorted(path.name for path in state.iterdir())


def test_the_number_of_files_is_limited_and_each_is_complete(state):
    some, n = files(state), 0
    for _ in range(5):
        n = fill(some, n)
    assert names(state) == ["samples.1.jsonl", "samples.2.jsonl", "samples.jsonl"]
    found = [numbers(state / name) for name in reversed(names(state))]
    assert found == [[n - 2, n - 1], [n - 6, n - 5], [n - 4, n - 3]]


def test_a_single_file_is_allowed(state):
    some = files(state, number=1)
    fill(some, 0)
    fill(some, 10)
    assert names(state) == ["samples.jsonl"]
    assert numbers(state / "samples.jsonl") == [10, 11]


def test_fewer_files_than_before(state):
    for n in range(5):
        fill(files(state, number=5), 10 * n)
    (state / "samples.old.jsonl").write_text("somebody's")
    fill(files(state, number=2), 50)
    assert names(state) == ["samples.1.jsonl", "samples.jsonl", "samples.old.jsonl"]
    assert numbers(state / "samples.1.jsonl") == [40, 41]


@pytest.mark.parametrize("left", [b"", HEADER, HEADER + b'{"kind":"sam', HEADER + END])
def test_a_file_without_a_sample_takes_no_place(state, left):
    fill(files(state), 0)
    some = files(state)
    fill(some, 10)
    (state / "samples.jsonl").write_bytes(left)
    fill(files(state), 20)
    assert numbers(state / "samples.1.jsonl") == [0, 1]
    assert numbers(state / "samples.jsonl") == [20, 21]


def test_an_incomplete_file_is_moved_aside_unchanged(state):
    cut = HEADER + SAMPLE % 5 + b'{"kind":"sample","n"'
    (state / "samples.jsonl").write_bytes(cut)
    fill(files(state), 0)
    assert (state / "samples.1.jsonl").read_bytes() == cut


def test_sampling_continues_if_the_directory_is_not_writable(state, capsys):
    some = files(state / "missing")
    for n in range(3):
        some.begin(HEADER)
        some.write(SAMPLE % n)
        assert some.full
        some.end(END)
    assert some.lost == 3
    assert capsys.readouterr().err.count("No such file or directory") == 1
    (state / "missing").mkdir()
    fill(some, 0)
    assert numbers(state / "missing/samples.jsonl") == [0, 1]


def test_metrics_that_cannot_be_replaced_stay(state, capsys):
    text = ksm_monitor.Textfile(state / "ksm.prom", ksm_monitor.Complaints())
    text.write("ksm_run 1\n")
    (state / "ksm.prom.new").mkdir()
    for _ in range(2):
        text.write("ksm_run 2\n")
    assert (state / "ksm.prom").read_text() == "ksm_run 1\n"
    assert capsys.readouterr().err.count("Is a directory") == 1
    (state / "ksm.prom.new").rmdir()
    text.write("ksm_run 2\n")
    assert (state / "ksm.prom").read_text() == "ksm_run 2\n"


# The service


@pytest.fixture
def start(tree, state):
    """Start services, and end them after the test."""
    started = []

    def service(*arguments, period=0.02, domains=True, **options):
        command = [sys.executable, FILES / "ksm_monitor.py", "--root", tree, "--state", state]
        command += ["--period", str(period), *(["--domains", tree / "run"] if domains else [])]
        process = subprocess.Popen(
            [*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True, **options
        )
        started.append(process)
        return process

    yield service
    for process in started:
        process.kill()
        process.wait()


def until(condition, process):
    """Wait until a condition is true, and return its value."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def stop(process, number=signal.SIGTERM):
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    return told


def told(state):
    """Return the metrics for Prometheus, as name and labels: value."""
    path = state / "ksm.prom"
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def sampled_since(state, count):
    """Return a condition: so many samples were taken."""
    return lambda: told(state).get("ksm_monitor_samples_total", 0) >= count


def inode(path):
    with contextlib.suppress(FileNotFoundError):  # while files are moved aside
        return path.stat().st_ino


def whole(path):
    """Return header, samples and end line of a file."""
    header, *samples, last = map(json.loads, path.read_text().splitlines())
    assert [header["kind"], last["kind"]] == ["header", "end"]
    assert all(sample["kind"] == "sample" for sample in samples)
    return header, samples, last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_samples_until_it_is_stopped(tree, state, start, number):
    boot(tree, "a", 4242)
    process = start()
    until(sampled_since(state, 3), process)
    assert told(state)['ksm_guest_rmap_items{guest="a"}'] == 100
    assert stop(process, number) == ""
    header, samples, last = whole(state / "samples.jsonl")
    assert header["samples"] is None
    assert header["guests"] == {"a": 4242}
    assert header["period"] == 0.02
    assert [sample["guests"]["a"]["utime"] for sample in samples] == [57] * len(samples)
    assert last["samples"] == len(samples) >= 3
    assert last["missed"] == samples[-1]["n"] + 1 - len(samples)
    assert last["reason"] == number.name


def test_a_stopped_service_leaves_only_its_own_metrics(tree, state, start):
    boot(tree, "a", 4242)
    process = start()
    until(sampled_since(state, 2), process)
    assert "ksm_full_scans_total" in told(state)
    stop(process)
    left = told(state)
    assert {name for name in left if not name.startswith("ksm_monitor_")} == {"ksm_page_size_bytes"}
    last = json.loads((state / "samples.jsonl").read_text().splitlines()[-2])
    assert left["ksm_monitor_last_sample_timestamp_seconds"] == last["wall"]


def test_metrics_of_an_ended_guest_disappear(tree, state, start):
    boot(tree, "a", 4242)
    boot(tree, "b", 4243)
    process = start()
    until(lambda: 'ksm_guest_resident_bytes{guest="a"}' in told(state), process)
    end(tree, 4242, "a")
    until(lambda: 'ksm_guest_resident_bytes{guest="a"}' not in told(state), process)
    assert 'ksm_guest_resident_bytes{guest="b"}' in told(state)


def test_the_metrics_are_always_complete_and_readable(tree, state, start):
    boot(tree, "a", 4242)
    process = start(period=0.01, preexec_fn=lambda: os.umask(0o077))
    until(sampled_since(state, 1), process)
    texts = set()
    while len(texts) < 50:
        texts.add((state / "ksm.prom").read_text())
    assert (state / "ksm.prom").stat().st_mode & 0o777 == 0o644
    stop(process)
    assert len({text.count("\n") for text in texts}) == 1
    assert all(text.endswith("\n") for text in texts)
    assert names(state) == ["ksm.prom", "samples.jsonl"]


def test_files_are_rotated_by_size_and_no_sample_is_lost(tree, state, start):
    put(tree, f"{KSM}/new_thing", "x" * 20_000 + "\n")
    process = start("--file-mib", 1, "--files", 3, period=0.01)
    until((state / "samples.2.jsonl").exists, process)
    oldest = (state / "samples.1.jsonl").stat().st_ino
    until(lambda: inode(state / "samples.2.jsonl") == oldest, process)  # the older one was removed
    stop(process)
    assert names(state) == ["ksm.prom", "samples.1.jsonl", "samples.2.jsonl", "samples.jsonl"]
    found = [whole(state / name) for name in ("samples.2.jsonl", "samples.1.jsonl")]
    for name, (header, samples, last) in zip(names(state)[1:], found[::-1], strict=False):
        assert 0 <= (state / name).stat().st_size - 2**20 < 25_000
        assert (last["reason"], last["samples"]) == ("rotated", len(samples))
        assert samples[-1]["n"] + 1 == last["samples"] + last["missed"]
        for sample in samples:
            late = sample["monotonic"] - header["monotonic"] - sample["n"] * 0.01
            assert -1e-6 < late < 0.01 + 1e-6
    (one, _, last), (two, _, _) = found
    due = one["monotonic"] + (last["samples"] + last["missed"]) * 0.01
    assert two["monotonic"] == pytest.approx(due, abs=1e-6)


def test_hangup_begins_a_new_file(state, start):
    process = start()
    for count in (1, 2, 3):
        until(lambda: sampled_since(state, 1)() and (state / "samples.jsonl").exists(), process)
        until(lambda: ksm_monitor.has_sample(state / "samples.jsonl"), process)
        process.send_signal(signal.SIGHUP)
        until(lambda n=count: (state / f"samples.{n}.jsonl").exists(), process)
    until(lambda: ksm_monitor.has_sample(state / "samples.jsonl"), process)
    stop(process)
    found = [whole(state / f"samples.{n}.jsonl") for n in (3, 2, 1)]
    assert {last["reason"] for _, _, last in found} == {"SIGHUP"}
    found.append(whole(state / "samples.jsonl"))
    taken = sum(last["samples"] for _, _, last in found)
    missed = sum(last["missed"] for _, _, last in found)
    assert told(state)["ksm_monitor_samples_total"] == taken
    assert told(state)["ksm_monitor_missed_samples_total"] == missed
    starts = [header["monotonic"] for header, _, _ in found]
    for (header, _, last), following in zip(found, starts[1:], strict=False):
        due = header["monotonic"] + (last["samples"] + last["missed"]) * 0.02
        assert following == pytest.approx(due, abs=1e-6)


def test_many_signals_do_not_damage_files(state, start):
    process = start("--files", 1000, period=0.01)
    until(sampled_since(state, 1), process)
    for n in range(300):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.03 * (n % 10 == 0))  # bursts, with time for samples in between
    stop(process)
    paths = list(state.glob("samples*.jsonl"))
    assert len(paths) > 3
    taken = sum(whole(path)[2]["samples"] for path in paths)
    assert told(state)["ksm_monitor_samples_total"] == taken


def test_a_restart_keeps_earlier_files(state, start):
    process = start()
    until(sampled_since(state, 3), process)
    process.kill()
    process.wait()
    before = (state / "samples.jsonl").read_bytes()
    (state / "ksm.prom").unlink()
    process = start()
    until(sampled_since(state, 1), process)
    stop(process)
    assert (state / "samples.1.jsonl").read_bytes() == before
    whole(state / "samples.jsonl")


def test_without_disk_space_complete_lines_stay_and_sampling_continues(state, start):
    limit = 9000  # maximum size of any file: enough for the metrics
    process = start()
    until(sampled_since(state, 1), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    until(lambda: told(state)["ksm_monitor_lost_samples_total"] >= 3, process)
    text = (state / "samples.jsonl").read_text()
    assert limit - 1000 < len(text) <= limit
    assert text.endswith("\n")
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
    until(lambda: (state / "samples.jsonl").stat().st_size > 2 * limit, process)
    assert stop(process).count("File too large") == 1
    _, samples, last = whole(state / "samples.jsonl")
    lost = told(state)["ksm_monitor_lost_samples_total"]
    assert last["samples"] == len(samples) + lost


def test_missed_samples_are_counted(state, start):
    process = start()
    until(sampled_since(state, 1), process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    process.send_signal(signal.SIGCONT)
    until(lambda: told(state)["ksm_monitor_missed_samples_total"] >= 20, process)
    stop(process)
    _, samples, last = whole(state / "samples.jsonl")
    assert last["missed"] == samples[-1]["n"] + 1 - len(samples)
    assert told(state)["ksm_monitor_missed_samples_total"] == last["missed"]


def test_systemd_is_notified_after_the_first_sample(state, start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        process = start(env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert listening.recv(100) == b"READY=1\nWATCHDOG=1"
        assert told(state)["ksm_monitor_samples_total"] >= 1
        assert listening.recv(100) == b"READY=1\nWATCHDOG=1"
        stop(process)


@pytest.mark.parametrize("missing", ["run", "sys"])
def test_it_does_not_start_without_its_inputs(tree, state, start, missing):
    (tree / missing).rename(tree / "elsewhere")
    process = start()
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "ksm_monitor.py: error: cannot list" in told
    assert names(state) == []


def test_without_guests_it_samples_the_host(state, start):
    process = start(domains=False)
    until(sampled_since(state, 2), process)
    stop(process)
    assert whole(state / "samples.jsonl")[0]["guests"] == {}


def test_a_file_of_samples_is_readable_like_that_of_a_run(tree, state, start, tmp_path):
    boot(tree, "a", 4242)
    process = start()
    until(sampled_since(state, 2), process)
    boot(tree, "b", 4243)
    until(lambda: 'ksm_guest_rmap_items{guest="b"}' in told(state), process)
    end(tree, 4242, "a")
    until(lambda: 'ksm_guest_rmap_items{guest="a"}' not in told(state), process)
    count = told(state)["ksm_monitor_samples_total"]
    until(sampled_since(state, count + 2), process)
    stop(process)
    _, samples, _ = whole(state / "samples.jsonl")
    record = run_record()
    path = Writer(tmp_path / "results")(record)
    record["run"]["sampling"]["samples"] = 10**9  # a slow machine may have missed many
    (path / "run.json").write_text(json.dumps(record))
    (path / "samples.jsonl").write_bytes((state / "samples.jsonl").read_bytes())
    run = read_run(path)
    assert list(run.samples.index) == [sample["n"] for sample in samples]
    assert list(run.samples["ksm.full_scans"]) == [12] * len(samples)
    there = {
        name: [sample["n"] for sample in samples if sample["guests"].get(name)]
        for name in ("a", "b")
    }
    assert 0 < len(there["a"]) < len(samples)
    for name, ns in there.items():
        assert list(run.guests[run.guests["guest"] == name]["n"]) == ns
    assert not [warning for warning in run.warnings if "torn" in warning or "read" in warning]
