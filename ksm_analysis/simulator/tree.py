"""The stable tree with its shape: which frames a search meets on its way to a content.

A red-black tree, as in lib/rbtree.c, which has the same shape after the same steps. The textbook:
Cormen, Leiserson, Rivest and Stein, Introduction to Algorithms, chapter 13.
"""

from collections.abc import Callable, Iterator


class Node:
    """A content in the tree. The node NIL stands for all leaves."""

    __slots__ = ("content", "key", "left", "parent", "red", "right")

    def __init__(self, content: int, key: int, red: bool) -> None:
        self.content, self.key, self.red = content, key, red
        self.left: Node = self
        self.right: Node = self
        self.parent: Node = self


class Tree:
    """Contents in the order of their bytes, of which `key` returns a number for each content."""

    def __init__(self, key: Callable[[int], int]) -> None:
        self.key = key
        self.nil = Node(0, 0, red=False)
        self.root = self.nil
        self.nodes: dict[int, Node] = {}

    def path(self, content: int) -> Iterator[int]:
        """Yield the contents that a search for a content meets, that content last if it is there.

        Begin again after any change of the tree.
        """
        key, node = self.key(content), self.root
        while node is not self.nil:
            yield node.content
            if key == node.key:
                return
            node = node.left if key < node.key else node.right

    def insert(self, content: int) -> None:
        """Add a content that is not there."""
        node = Node(content, self.key(content), red=True)
        parent, place = self.nil, self.root
        while place is not self.nil:
            parent, place = place, place.left if node.key < place.key else place.right
        node.parent, node.left, node.right = parent, self.nil, self.nil
        self._put(parent, node, left=node.key < parent.key)
        self.nodes[content] = node
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

    def erase(self, content: int) -> None:
        """Remove a content."""
        node = self.nodes.pop(content)
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
