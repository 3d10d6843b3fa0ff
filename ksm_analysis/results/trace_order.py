"""The order of contents over all moments of a trace, from the order at each of them.

A content that is gone cannot be compared with one that comes later. But it was compared with others
that stay. If two contents have different numbers of leading bytes in common with a third, then
this says which of the two is the lower, and how many bytes these two have in common.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ksm_analysis.errors import InputError


@dataclass(frozen=True)
class Order:
    """Contents in the order of their bytes.

    `numbers` of the contents; `lcp`: how many leading bytes each has in common with the one before;
    `exact`: whether that and its place are certain. If not, it has at least `lcp` in common.
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

    def without(self, dropped: Callable[[int], bool]) -> "Order":
        """Leave out some contents."""
        left, least, certain = Order([], [], []), None, True
        for number, lcp, exact in zip(self.numbers, self.lcp, self.exact, strict=True):
            low = lcp if least is None else min(least, lcp)
            if dropped(number):
                certain &= exact
                least = low
                continue
            left.add(number, low, exact and (certain or lcp == low))
            least, certain = None, True
        return left

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
    certain = {number for number, exact in zip(new.numbers, new.exact, strict=True) if exact}
    doubtful = {number for number, exact in zip(old.numbers, old.exact, strict=True) if not exact}
    old = old.without(lambda number: number in doubtful and number in certain)
    known = {*old.numbers}
    new = new.without(lambda number: number in known and number not in certain)
    both = known & {*new.numbers}
    pieces = _pieces(old, both), _pieces(new, both)
    if [_end(piece) for piece in pieces[0][:-1]] != [_end(piece) for piece in pieces[1][:-1]]:
        raise InputError("the orders of two moments of the trace contradict each other")
    every = Order([], [], [])
    for one, other in zip(pieces[0][:-1], pieces[1][:-1], strict=True):
        _join(one, other, every)
    _join([*pieces[0][-1], AFTER_ALL], [*pieces[1][-1], AFTER_ALL], every)
    return every.without(lambda number: number == AFTER_ALL[0])


Item = tuple[int, int, bool]  # number, lcp, exact
AFTER_ALL: Item = (-1, 0, True)


def _pieces(order: Order, both: set[int]) -> list[list[Item]]:
    """Cut an order after each content that the other order has, too; the last has no such end."""
    pieces: list[list[Item]] = [[]]
    for item in zip(order.numbers, order.lcp, order.exact, strict=True):
        pieces[-1].append(item)
        if item[0] in both:
            pieces.append([])
    return pieces


def _end(piece: list[Item]) -> int:
    return piece[-1][0]


class _Side:
    """The contents of a piece that are not in the joined order yet.

    `lcp`: what the first of them has in common with the last of the joined order; `right`: what
    each has in common with the end of the piece.
    """

    def __init__(self, piece: list[Item]) -> None:
        self.piece, self.at, self.lcp = piece, 0, piece[0][1]
        common = accumulate((lcp for _, lcp, _ in reversed(piece)), min)
        self.right = [*reversed([*common])][1:]

    def has_more(self) -> bool:
        return self.at < len(self.piece) - 1

    def move(self, every: Order, certain: bool) -> None:
        number, _, exact = self.piece[self.at]
        every.add(number, self.lcp, exact and certain)
        self.at += 1
        self.lcp = self.piece[self.at][1]


def _join(one: list[Item], other: list[Item], every: Order) -> None:
    """Join two pieces that follow the same content, and end with the same."""
    sides = a, b = _Side(one), _Side(other)
    last = a if len(one) > len(other) else b  # the side of the last that has been moved
    certain = len(one) == 1 or len(other) == 1 or all(exact for *_, exact in one + other)
    while a.has_more() and b.has_more():
        ends = a.right[a.at], b.right[b.at]
        alike = a.lcp == b.lcp
        if not alike:
            last, waits = (a, b) if a.lcp > b.lcp else (b, a)
        else:
            last, waits = (a, b) if ends[0] <= ends[1] else (b, a)
        last.move(every, certain)
        if alike:
            waits.lcp = max(waits.lcp, min(ends))
            certain &= ends[0] != ends[1]
    for side in sides:
        while side.has_more():
            last = side
            side.move(every, certain)
    number, _, exact = last.piece[-1]
    every.add(number, last.lcp, exact)
