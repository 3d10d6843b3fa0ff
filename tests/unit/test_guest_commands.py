"""Workloads of guests, as command lines."""

from programs import PLUGINS, load

filters = load(PLUGINS / "filter/guest_commands.py")

STRESS = {"guests": [1, 3], "stress_ng": {"vm": 2, "vm_keep": True}, "start": 1.5, "stop": 24.0}
OWN = {"guests": [12], "command": ["/bin/echo", "a b"], "start": 0.0, "stop": 30.5}


def test_each_guest_of_a_part_gets_the_same_command():
    first, second = filters.guest_commands([STRESS], "ksm-guest-", 100.0)
    assert first == {
        "guest": "ksm-guest-01",
        "argv": [
            *("/usr/bin/stress-ng", "--vm=2", "--vm-keep", "--timeout=22s"),
            *("--metrics", "--yaml=/dev/stdout"),
        ],
        "at": 101.5,
        "seconds": 22.5,
        "success": [0],
    }
    assert second == first | {"guest": "ksm-guest-03"}


def test_a_command_is_ended_after_its_time_without_error():
    (command,) = filters.guest_commands([OWN], "vm", 0.0)
    assert command["guest"] == "vm12"
    assert command["argv"] == [
        *("/usr/bin/timeout", "--kill-after=5s", "30.5s"),
        *("/bin/echo", "a b"),
    ]
    assert command["success"] == [0, 124, 137]


def test_no_tasks_give_no_commands():
    assert filters.guest_commands([], "vm", 0.0) == []


def test_a_false_option_is_omitted():
    part = STRESS | {"stress_ng": {"vm": 1, "vm_populate": False}}
    assert "--vm-populate" not in filters.argv(part)
