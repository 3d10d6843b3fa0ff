"""The arithmetic of the census program, compared with the definitions of its counts."""

import os
import random
from array import array
from fractions import Fraction
from types import SimpleNamespace

import pytest
from programs import ROLES, load

from ksm_analysis.results import censuses

ksm_census = load(ROLES / "part_census/files/ksm_census.py")
ZERO = ksm_census.ZERO
SEEDS = range(20)


def some_contents(seed):
    """Return contents of pages of some guests: some equal, zeros, and some not in memory."""
    draw = random.Random(seed)
    few = [ZERO, 0, *(draw.getrandbits(63) for _ in range(draw.choice((3, 40, 400))))]
    return [
        [array("q", draw.choices(few, k=draw.randrange(300))) for _ in range(2)]
        for _ in range(draw.randrange(1, 5))
    ]


def pages_of(guest):
    """Return the contents of all pages of a guest that are in memory."""
    return [content for mapping in guest for content in mapping if content]


def counted(guests, **ksm):
    every, each = ksm_census.count_contents(
        [ksm_census.split(guest) for guest in guests], ksm.get("max_page_sharing")
    )
    zero = sum(count["zero"] for count in each)
    return ksm_census.count_limits(every, each, zero, 0, ksm), each


@pytest.mark.parametrize("seed", SEEDS)
def test_the_limit_is_pages_less_contents(seed):
    guests = some_contents(seed)
    pages = [content for guest in guests for content in pages_of(guest)]
    limits, _ = counted(guests)
    assert limits["distinct_contents"] == len(set(pages))
    assert limits["limit_pages"] == len(pages) - len(set(pages))


@pytest.mark.parametrize("seed", SEEDS)
def test_its_parts_are_zeros_within_and_between(seed):
    guests = some_contents(seed)
    others = [[content for content in pages_of(guest) if content != ZERO] for guest in guests]
    zeros = sum(pages_of(guest).count(ZERO) for guest in guests)
    limits, _ = counted(guests)
    within = sum(len(pages) - len(set(pages)) for pages in others)
    together = sum(map(len, others)) - len(set().union(*others))
    assert limits["limit_zero_pages"] == max(0, zeros - 1)
    assert limits["limit_within_pages"] == within
    assert limits["limit_between_pages"] == together - within


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("largest", [2, 3, 256])
def test_what_max_page_sharing_costs(seed, largest):
    guests = some_contents(seed)
    pages = [content for guest in guests for content in pages_of(guest)]
    frames = sum(-(-pages.count(content) // largest) for content in set(pages))
    limits, _ = counted(guests, max_page_sharing=largest)
    assert limits["max_page_sharing_pages"] == frames - len(set(pages))


@pytest.mark.parametrize("seed", SEEDS)
def test_pages_of_each_guest(seed):
    guests = some_contents(seed)
    pages = [content for guest in guests for content in pages_of(guest)]
    for guest, count in zip(guests, counted(guests)[1], strict=True):
        own = pages_of(guest)
        others = [content for content in own if content != ZERO]
        assert count["zero"] == own.count(ZERO)
        assert count["pages"] == len(others)
        assert count["duplicate"] == sum(pages.count(content) > 1 for content in others)
        assert count["own_duplicate"] == sum(own.count(content) > 1 for content in others)


@pytest.mark.parametrize(
    ("zero", "given_up", "ksm", "limit", "split"),
    [
        (0, 0, {"use_zero_pages": 0, "max_page_sharing": 256}, 0, 0),
        (1, 0, {"use_zero_pages": 0, "max_page_sharing": 256}, 0, 0),
        (1, 0, {"use_zero_pages": 1, "max_page_sharing": 256}, 1, 0),
        (513, 0, {"use_zero_pages": 0, "max_page_sharing": 256}, 512, 2),
        (513, 0, {"use_zero_pages": 1, "max_page_sharing": 256}, 513, 0),
        (513, 500, {"use_zero_pages": 1, "max_page_sharing": 256}, 513, 0),
        # The knob was 1 and is 0 again: zero pages stay, and the rest needs one frame
        (513, 500, {"use_zero_pages": 0, "max_page_sharing": 256}, 512, 0),
        (513, 513, {"use_zero_pages": 0, "max_page_sharing": 256}, 513, 0),
        (513, 0, {}, 512, None),  # a kernel before 4.11
    ],
)
def test_zeros(zero, given_up, ksm, limit, split):
    each = [{"pages": 0, "distinct": 0}]
    limits = ksm_census.count_limits({"distinct": 0, "split": 0}, each, zero, given_up, ksm)
    assert limits["limit_zero_pages"] == limits["limit_pages"] == limit
    assert limits["max_page_sharing_pages"] == split


def some_frames(seed):
    """Return frames of the KSM pages that some guests map."""
    draw = random.Random(seed)
    frames = [draw.randrange(1, 2**20) for _ in range(draw.choice((1, 7, 90)))]
    return [draw.choices(frames, k=draw.randrange(200)) for _ in range(draw.randrange(1, 6))]


def count_shares(guests):
    return ksm_census.count_shares([ksm_census.split([guest], 12) for guest in guests])


@pytest.mark.parametrize(
    ("ksm", "nodes", "said"),
    [
        ({"merge_across_nodes": 0}, 2, 1),
        ({"merge_across_nodes": 0}, 1, 0),
        ({"merge_across_nodes": 1}, 2, 0),
        ({}, 2, 0),  # a kernel without NUMA does not have the file
    ],
)
def test_numa_nodes_that_are_not_merged_are_reported(ksm, nodes, said):
    assert len(ksm_census.apart(ksm, nodes)) == said


@pytest.mark.parametrize("seed", SEEDS)
def test_savings_and_their_parts(seed):
    guests = some_frames(seed)
    saved, _, _ = count_shares(guests)
    frames = [frame for guest in guests for frame in guest]
    within = sum(len(guest) - len(set(guest)) for guest in guests)
    assert saved["ksm_frames"] == len(set(frames))
    assert saved["saved_ksm_pages"] == len(frames) - len(set(frames))
    assert saved["saved_within_pages"] == within
    assert saved["saved_between_pages"] == saved["saved_ksm_pages"] - within


@pytest.mark.parametrize("seed", SEEDS)
def test_the_matrix(seed):
    guests = some_frames(seed)
    _, rows, _ = count_shares(guests)
    for a, own in enumerate(guests):
        for b, other in enumerate(guests):
            shared = [
                frame for frame in own if (own.count(frame) > 1 if a == b else frame in other)
            ]
            assert rows[a][b] == len(shared)


@pytest.mark.parametrize("seed", SEEDS)
def test_savings_are_attributed_like_pss(seed):
    guests = some_frames(seed)
    saved, _, shares = count_shares(guests)
    frames = [frame for guest in guests for frame in guest]
    for own, share in zip(guests, shares, strict=True):
        assert share == sum(1 - Fraction(1, frames.count(frame)) for frame in own)
    given = ksm_census.whole_bytes(shares)
    assert sum(given) == saved["saved_ksm_pages"] * ksm_census.PAGE
    for byte, share in zip(given, shares, strict=True):
        assert abs(byte - share * ksm_census.PAGE) < 1


def test_remaining_bytes_go_to_the_largest_remainders():
    third = Fraction(1, 3 * ksm_census.PAGE)
    assert ksm_census.whole_bytes([7 * third, 4 * third, 10 * third]) == [3, 1, 3]
    assert ksm_census.whole_bytes([2 * third, 2 * third, 2 * third]) == [1, 1, 0]
    assert ksm_census.whole_bytes([]) == []


def test_changes_count_pages_that_were_in_memory_both_times():
    before = {0x1000: array("q", [1, 2, 0, 4, 5]), 0x9000: array("q", [7])}
    now = {0x1000: array("q", [1, 3, 3, 0, 6]), 0xA000: array("q", [8])}
    assert ksm_census.count_changes(before, now) == (2, 3)
    assert ksm_census.count_changes({}, now) == (0, 0)


PRESENT, SWAPPED, FILE, ALONE = (1 << bit for bit in (63, 62, 61, 56))
SOFT_DIRTY, WRITE_PROTECTED = 1 << 55, 1 << 57


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (0, b"-"),
        (PRESENT | ALONE | SOFT_DIRTY | 0x1234, b"o"),
        (PRESENT | 0x1234, b"s"),
        (PRESENT | WRITE_PROTECTED | 0x1234, b"s"),
        (PRESENT | FILE | ALONE | 0x1234, b"f"),
        (PRESENT | FILE | 0x1234, b"f"),
        (SWAPPED | 0x1234, b"w"),
        (SWAPPED | FILE | 0x1234, b"f"),
        (SOFT_DIRTY, b"-"),
    ],
)
def test_kinds_of_pages(entry, kind):
    raw = array("Q", [entry]).tobytes()
    assert raw[ksm_census.HIGH].translate(ksm_census.KINDS) == kind


@pytest.fixture
def numbers(tmp_path):
    """Make a file of 64-bit numbers, like /proc/kpageflags; return its descriptor."""
    opened = []

    def make(values):
        path = tmp_path / str(len(opened))
        path.write_bytes(array("Q", values).tobytes())
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    yield make
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("seed", SEEDS)
def test_near_numbers_are_read_together(seed, numbers):
    draw = random.Random(seed)
    values = [draw.getrandbits(64) for _ in range(5000)]
    indexes = sorted(draw.sample(range(5000), draw.choice((0, 1, 40, 3000))))
    found = list(ksm_census.numbers_at(numbers(values), indexes))
    assert found == [values[index] for index in indexes]


def mapping_of(frames):
    """Make a mapping whose pages are shared and have these frames."""
    mapping = ksm_census.Mapping(None, 0, len(frames))
    mapping.kinds[:] = b"s" * len(frames)
    mapping.frames[:] = memoryview(array("q", frames))
    return mapping


def test_ksm_frames_are_recognized_by_their_flags(numbers):
    anon, ksm, zero = 1 << 12, 1 << 12 | 1 << 21, 1 << 24
    flags, counts = numbers([0, anon, ksm, ksm, zero]), numbers([0, 2, 5, 70_000, 1])
    guests = [
        SimpleNamespace(
            ksm=ksm_census.split([frames], 12),
            zero_frame=0,
            fork_shared=0,
            mappings=[mapping_of(frames)],
        )
        for frames in ([1, 2, 2, 4], [4, 3, 4, 2])
    ]
    assert ksm_census.look_up(guests, flags, counts) == 70_005
    assert [sorted(guest.ksm[0]) for guest in guests] == [[2, 2], [2, 3]]
    assert [guest.zero_frame for guest in guests] == [1, 2]
    assert [guest.fork_shared for guest in guests] == [1, 0]
    assert [guest.mappings[0].kinds[:] for guest in guests] == [b"sssz", b"zszs"]
    assert ksm_census.look_up(guests, flags, None) == 0


class Memory:
    """A process whose pages contain their address, with the pagemap of several reads."""

    def __init__(self, *looks):
        self.looks, self.read_pages = list(looks), []

    def entries(self, _start, _first, pages):
        return array("Q", self.looks.pop(0)[:pages]).tobytes()

    def read(self, address, pages):
        for at in range(pages):
            self.read_pages.append(address // ksm_census.PAGE + at)
            content = self.read_pages[-1].to_bytes(ksm_census.PAGE, "little")
            ksm_census.BUFFER[ksm_census.PLACES[at]] = content
        return pages


def test_a_known_frame_is_not_read_again_unless_its_page_has_moved():
    entries = [PRESENT | 7, PRESENT | ALONE | 99, PRESENT | SOFT_DIRTY | 8, PRESENT | 9, 0]
    later = [PRESENT | 7, PRESENT | ALONE | 99, PRESENT | 8, PRESENT | ALONE | 55, 0]
    known = {}
    memory = Memory(entries, later)
    mapping = ksm_census.Mapping(memory, 100 * ksm_census.PAGE, 5)
    ksm_census.hash_piece(mapping, 0, known)
    contents = mapping.contents.tolist()
    assert mapping.kinds[:] == b"soso-"
    assert memory.read_pages == [100, 101, 102, 103]
    assert contents[4] == 0
    assert len(set(contents)) == 5
    assert known == {7: contents[0], 8: contents[2]}

    memory = Memory(
        [PRESENT | 8, PRESENT | 9, PRESENT | 7], [PRESENT | 8, PRESENT | 9, PRESENT | 7]
    )
    mapping = ksm_census.Mapping(memory, 200 * ksm_census.PAGE, 3)
    ksm_census.hash_piece(mapping, 0, known)
    assert mapping.kinds[:] == b"ksk"
    assert memory.read_pages == [201]
    assert mapping.contents.tolist() == [contents[2], known[9], contents[0]]
    assert mapping.frames.tolist() == [8, 9, 7]


def test_hidden_frames_do_not_count_as_equal():
    memory = Memory([PRESENT, PRESENT], [PRESENT, PRESENT])
    mapping = ksm_census.Mapping(memory, 100 * ksm_census.PAGE, 2)
    known = {}
    ksm_census.hash_piece(mapping, 0, known)
    assert mapping.kinds[:] == b"ss"
    assert len(set(mapping.contents.tolist())) == 2
    assert known == {}


class Clock:
    """A clock that advances only in sleep."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(
    ("every", "at_end", "took", "times", "missed"),
    [
        (10, True, {}, [10, 20, 30, 40, 50, 60], 0),
        (10, False, {}, [10, 20, 30, 40, 50, 60], 0),
        (10, True, {20: 15}, [10, 20, 40, 50, 60], 1),
        (10, True, {50: 15}, [10, 20, 30, 40, 50, 65], 0),  # the end comes late, and is not missed
        (10, False, {50: 15}, [10, 20, 30, 40, 50], 1),
        (30, True, {30: 31}, [30, 61], 0),
        (10, True, {20: 100}, [10, 20, 120], 3),
        (25, True, {}, [25, 50, 60], 0),
        (100, True, {}, [60], 0),
    ],
)
def test_moments_during_a_census_are_missed(monkeypatch, every, at_end, took, times, missed):
    clock, came = Clock(), []
    monkeypatch.setattr(ksm_census, "time", clock)
    moments = ksm_census.Moments(0.0, 60.0, every, False, at_end)
    for _ in moments:
        came.append(clock.now)
        clock.now += took.get(clock.now, 0)

    assert came == times
    assert moments.missed == missed


def test_the_reader_knows_the_complaint_of_an_excluded_guest():
    program = (ROLES / "part_census/files/ksm_census.py").read_text()
    assert censuses.NOTHING_MERGEABLE[0] in program
