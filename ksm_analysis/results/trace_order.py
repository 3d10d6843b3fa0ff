"""The order of contents over all moments of a trace, from the order at each of them.

A content that is gone cannot be compared with one that comes later. But it was compared with others
that stay. If two contents have different numbers of leading bytes in common with a third, then
this says which of the two is the lower, and how many bytes these two have in common.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ksm_analysis.errors import InputError


@dataclass(frozen=True)
class Order:
    """Contents in the order of their bytes.

    `numbers` of the contents; `lcp`: how many leading bytes each has in common with the one before,
    at least; `exact`: whether its place among those that are exact is certain. Two contents have
    the least `lcp` after the first of them in common, up to that of the second: at least, and if
    both are exact, not more.
    """

    numbers: list[int]
    lcp: list[int]
    exact: list[bool]

    @classmethod
    def of(cls, numbers: Sequence[int], lcp: Sequence[int], unsure: Iterable[int]) -> "Order":
        """Make it from what the census program says. Raises ValueError."""
        not_known = {int(each) for each in unsure}
        own = [int(each) for each in numbers]
        if len(own) != len(lcp) or len({*own}) != len(own):
            raise ValueError("its order has a content twice, or no lcp for one")
        return cls(own, [int(each) for each in lcp], [each not in not_known for each in own])

    def certain(self) -> "Order":
        """Leave out the contents whose place is not certain."""
        left, least = Order([], [], []), None
        for number, lcp, exact in zip(self.numbers, self.lcp, self.exact, strict=True):
            least = lcp if least is None else min(least, lcp)
            if exact:
                left.add(number, least, True)
                least = None
        return left

    def doubtful(self, known: set[int]) -> dict[int, list[tuple[int, int]]]:
        """Return the others that are not known: the content that each follows, number and lcp."""
        found: dict[int, list[tuple[int, int]]] = {}
        after, least = -1, 0
        for number, lcp, exact in zip(self.numbers, self.lcp, self.exact, strict=True):
            least = min(least, lcp)
            if exact:
                after, least = number, 2**16
            elif number not in known:
                found.setdefault(after, []).append((number, least))
        return found

    def add(self, number: int, lcp: int, exact: bool) -> None:
        """Add the next content."""
        self.numbers.append(number)
        self.lcp.append(lcp)
        self.exact.append(exact)


def joined(orders: Sequence[Order]) -> Order:
    """Make one order of those of all moments. Raises InputError if they contradict each other."""
    first, *later = orders
    for each in later:
        first = _joined(first, each)
    return first


def _joined(old: Order, new: Order) -> Order:
    one, other = old.certain(), new.certain()
    both = {*one.numbers} & {*other.numbers}
    pieces = _pieces(one, both), _pieces(other, both)
    if [_end(piece) for piece in pieces[0][:-1]] != [_end(piece) for piece in pieces[1][:-1]]:
        raise InputError("the orders of two moments of the trace contradict each other")
    every = Order([], [], [])
    for piece, same in zip(pieces[0][:-1], pieces[1][:-1], strict=True):
        _join(piece, same, every)
    _join([*pieces[0][-1], AFTER_ALL], [*pieces[1][-1], AFTER_ALL], every)
    known = {*every.numbers}
    waiting = old.doubtful(known)
    known.update(number for each in waiting.values() for number, _ in each)
    for after, each in new.doubtful(known).items():
        waiting.setdefault(after, []).extend(each)
    return _with_doubtful(every, waiting)


def _with_doubtful(order: Order, waiting: dict[int, list[tuple[int, int]]]) -> Order:
    """Add contents of uncertain place where they change nothing that is known of the others.

    This is before the first content that has no more in common with the one before than they have.
    """
    every, now = Order([], [], []), waiting.get(-1, [])
    for number, lcp, exact in zip(order.numbers, order.lcp, order.exact, strict=True):
        _add_doubtful(every, [each for each in now if each[1] >= lcp])
        now = [each for each in now if each[1] < lcp]
        if number >= 0:
            every.add(number, lcp, exact)
        now = now + waiting.get(number, [])
    return every


def _add_doubtful(every: Order, some: list[tuple[int, int]]) -> None:
    least = 2**16
    for number, lcp in some:
        least = min(least, lcp)
        every.add(number, least, False)


Item = tuple[int, int]  # number, lcp
AFTER_ALL: Item = (-1, 0)


def _pieces(order: Order, both: set[int]) -> list[list[Item]]:
    """Cut an order after each content that the other has, too; the last piece has no such end."""
    pieces: list[list[Item]] = [[]]
    for item in zip(order.numbers, order.lcp, strict=True):
        pieces[-1].append(item)
        if item[0] in both:
            pieces.append([])
    return pieces


def _end(piece: list[Item]) -> int:
    return piece[-1][0]


class _Side:
    """The contents of a piece that are not in the joined order yet.

    `lcp`: what the first of them has in common with the last of the joined order, at least;
    `right`: what each has in common with the end of the piece. If `doubt`, the first may be lower
    than some of the other side in the joined order, with which it has at least `bound` in common.
    """

    def __init__(self, piece: list[Item]) -> None:
        self.piece, self.at, self.lcp, self.doubt, self.bound = piece, 0, piece[0][1], False, 0
        common = accumulate((lcp for _, lcp in reversed(piece)), min)
        self.right = [*reversed([*common])][1:]

    def has_more(self) -> bool:
        return self.at < len(self.piece) - 1

    def move(self, every: Order) -> None:
        every.add(self.piece[self.at][0], self.lcp, not self.doubt)
        self.at += 1
        self.lcp = self.piece[self.at][1]
        self.doubt &= self.lcp >= self.bound


def _join(one: list[Item], other: list[Item], every: Order) -> None:
    """Join two pieces that follow the same content, and end with the same.

    If nothing says which of two contents is the lower, that of `one` comes first, and the place of
    the other is in doubt.
    """
    sides = a, b = _Side(one), _Side(other)
    last = a if len(one) > len(other) else b  # the side of the last that has been moved
    while a.has_more() and b.has_more():
        ends = a.right[a.at], b.right[b.at]
        if ends[0] != ends[1]:
            last, waits = (a, b) if ends[0] < ends[1] else (b, a)
            last.move(every)
            waits.lcp, waits.doubt = min(ends), False
        elif a.lcp != b.lcp:
            last = a if a.lcp > b.lcp else b
            last.move(every)
        else:
            last = a
            a.move(every)
            b.lcp = b.bound = max(b.lcp, ends[0])
            b.doubt = True
    for side in sides:
        while side.has_more():
            last = side
            side.move(every)
    every.add(last.piece[-1][0], last.lcp, True)
