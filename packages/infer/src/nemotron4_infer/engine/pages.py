"""The pool of pages and the tree of prompts that they hold.

A page is room for `page_tokens` tokens. Prompts that begin alike share pages: the tree has one node for each cached
page, found by its tokens below the node of the page before it, so that what is found is equal and needs no hash.

Invariants: a page is free, handed out to one owner, or in the tree; a node's tokens are never changed; a node that is
held has parents that are held; num_free + num_cached + num_running == num_pages.
"""

from collections.abc import Hashable, Sequence

PageTokens = tuple[int, ...]
"""The tokens of one whole page."""


class Node:
    """A cached page. What is held is in use by a sequence, and is not evicted."""

    __slots__ = ("children", "key", "num_holders", "page", "parent")

    def __init__(self, parent: "Node | None", key: Hashable, page: int) -> None:
        self.parent, self.key, self.page = parent, key, page
        self.children: dict[Hashable, Node] = {}
        self.num_holders = 0


class PagePool:
    """Which page holds what. It knows nothing of the memory behind the pages."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._handed_out: set[int] = set()
        self._roots: dict[Hashable, Node] = {}
        # Nodes that nobody holds, the longest unused first. `drop` adds children before their parents, and whoever
        # holds a node holds its parents, so a node comes after all of its children: the first has none.
        self._unused: dict[Node, None] = {}
        self._num_held = 0

    @property
    def num_free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Pages of prompts that no running sequence uses; they are given up, the longest unused first, when needed."""
        return len(self._unused)

    @property
    def num_running(self) -> int:
        """Pages of running sequences, each counted once."""
        return len(self._handed_out) + self._num_held

    @property
    def num_available(self) -> int:
        """Pages that `take` can give."""
        return len(self._free) + len(self._unused)

    def find(self, root: Hashable, path: Sequence[Node], tokens: PageTokens) -> Node | None:
        """The cached page of these tokens that follows `path`, which may be empty."""
        parent = path[-1] if path else self._roots.get(root)
        return None if parent is None else parent.children.get(tokens)

    def match(self, root: Hashable, pages: Sequence[PageTokens]) -> list[Node]:
        """The longest cached beginning of a prompt, given as its whole pages. Nothing is held by it."""
        path: list[Node] = []
        for tokens in pages:
            node = self.find(root, path, tokens)
            if node is None:
                break
            path.append(node)
        return path

    def hold(self, path: Sequence[Node]) -> None:
        """Keep nodes until they are dropped: a path from a root, or what continues one that is held."""
        for node in path:
            if node.num_holders == 0:
                del self._unused[node]
                self._num_held += 1
            node.num_holders += 1

    def drop(self, path: Sequence[Node]) -> None:
        """Undo `hold`; the pages stay cached until others need them."""
        for node in reversed(path):
            assert node.num_holders > 0
            node.num_holders -= 1
            if node.num_holders == 0:
                self._num_held -= 1
                self._unused[node] = None

    def take(self, count: int) -> list[int] | None:
        """Pages for one owner, the longest unused cached ones if too few are free; None if there are not as many.

        Every page that is evicted for this is among them.
        """
        if count > self.num_available:
            return None
        while len(self._free) < count:
            self._evict()
        pages = [self._free.pop() for _ in range(count)]
        self._handed_out.update(pages)
        return pages

    def give_back(self, pages: Sequence[int]) -> None:
        """Make pages of an owner free."""
        for page in pages:
            self._handed_out.remove(page)
            self._free.append(page)

    def insert(self, root: Hashable, path: Sequence[Node], tokens: PageTokens, page: int) -> Node:
        """Pass a page from its owner to the tree, below the last of `path`, and hold it. It must not be there yet."""
        if path:
            parent = path[-1]
            assert parent.num_holders > 0
        else:
            parent = self._roots.setdefault(root, Node(None, root, -1))
        assert tokens not in parent.children
        self._handed_out.remove(page)
        node = parent.children[tokens] = Node(parent, tokens, page)
        node.num_holders = 1
        self._num_held += 1
        return node

    def _evict(self) -> None:
        node = next(iter(self._unused))
        assert not node.children
        del self._unused[node]
        self._free.append(node.page)
        parent = node.parent
        assert parent is not None
        del parent.children[node.key]
        if parent.parent is None and not parent.children:
            del self._roots[parent.key]
