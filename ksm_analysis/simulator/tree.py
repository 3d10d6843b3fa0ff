"""A tree of ksmd with its shape: what a search meets on its way.

A red-black tree, as in lib/rbtree.c, which has the same shape after the same steps. The textbook:
Cormen, Leiserson, Rivest and Stein, Introduction to Algorithms, chapter 13.
"""

from collections.abc import Callable, Iterator


class Node:
    """An item in the tree. The node NIL stands for all leaves."""

    __slots__ = ("item", "left", "parent", "red", "right")

    def __init__(self, item: int, red: bool) -> None:
        self.item, self.red = item, red
        self.left: Node = self
        self.right: Node = self
        self.parent: Node = self


class Tree:
    """Items, by their keys when they were added. A key that changes later misleads searches."""

    def __init__(self, key: Callable[[int], int]) -> None:
        self.key = key
        self.nil = Node(0, red=False)
        self.root = self.nil
        self.nodes: dict[int, Node] = {}

    def path(self, key: int) -> Iterator[int]:
        """Yield the items that a search for a key meets, the one that has it last.

        Begin again after any change of the tree.
        """
        node = self.root
        while node is not self.nil:
            yield node.item
            there = self.key(node.item)
            if key == there:
                return
            node = node.left if key < there else node.right

    def insert(self, item: int) -> None:
        """Add an item that is not there, nor another with its key."""
        node, key, left = Node(item, red=True), self.key(item), False
        parent, place = self.nil, self.root
        while place is not self.nil:
            left = key < self.key(place.item)
            parent, place = place, place.left if left else place.right
        node.parent, node.left, node.right = parent, self.nil, self.nil
        self._put(parent, node, left=left)
        self.nodes[item] = node
        while node.parent.red:
            node = self._blacken_parent(node)
        self.root.red = False

    def _blacken_parent(self, node: Node) -> Node:
        parent, grand = node.parent, node.parent.parent
        on_left = parent is grand.left
        uncle = grand.right if on_left else grand.left
        if uncle.red:
            parent.red = uncle.red = False
            grand.red = True
            return grand
        if node is (parent.right if on_left else parent.left):
            node = parent
            self._rotate(node, left=on_left)
        node.parent.red, grand.red = False, True
        self._rotate(grand, left=not on_left)
        return node

    def erase(self, item: int) -> None:
        """Remove an item."""
        node = self.nodes.pop(item)
        if node.left is self.nil or node.right is self.nil:
            below, black = node.left if node.right is self.nil else node.right, not node.red
            self._replace(node, below)
        else:
            next_ = node.right
            while next_.left is not self.nil:
                next_ = next_.left
            below, black = next_.right, not next_.red
            if next_.parent is node:
                below.parent = next_
            else:
                self._replace(next_, below)
                next_.right, node.right.parent = node.right, next_
            self._replace(node, next_)
            next_.left, node.left.parent, next_.red = node.left, next_, node.red
        if black:
            self._fix(below)

    def _fix(self, node: Node) -> None:
        """Restore the balance where a black node is missing above a node."""
        while node is not self.root and not node.red:
            on_left = node is node.parent.left
            sibling = node.parent.right if on_left else node.parent.left
            if sibling.red:
                sibling.red, node.parent.red = False, True
                self._rotate(node.parent, left=on_left)
                sibling = node.parent.right if on_left else node.parent.left
            near, far = (sibling.left, sibling.right) if on_left else (sibling.right, sibling.left)
            if not near.red and not far.red:
                sibling.red, node = True, node.parent
                continue
            if not far.red:
                near.red, sibling.red = False, True
                self._rotate(sibling, left=not on_left)
                sibling, far = near, sibling
            sibling.red, node.parent.red, far.red = node.parent.red, False, False
            self._rotate(node.parent, left=on_left)
            node = self.root
        node.red = False

    def _rotate(self, node: Node, left: bool) -> None:
        """Let the right child of a node (the left one, if not `left`) take its place."""
        above = node.right if left else node.left
        inner = above.left if left else above.right
        self._put(node, inner, left=not left)
        if inner is not self.nil:
            inner.parent = node
        self._replace(node, above)
        self._put(above, node, left=left)
        node.parent = above

    def _replace(self, node: Node, other: Node) -> None:
        self._put(node.parent, other, left=node is node.parent.left)
        other.parent = node.parent

    def _put(self, parent: Node, child: Node, left: bool) -> None:
        if parent is self.nil:
            self.root = child
        elif left:
            parent.left = child
        else:
            parent.right = child
