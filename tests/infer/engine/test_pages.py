"""The pool of pages against a plain account of who has what."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from nemotron4_infer.engine.pages import PagePool

NUM_PAGES = 6
PAGES = st.lists(st.sampled_from([(1, 1), (1, 2)]), min_size=1, max_size=3)


class Held:
    """A path that is held and pages that are owned."""

    def __init__(self, root, path, keys):
        self.root, self.path, self.keys, self.owned = root, path, keys, []


class PoolMachine(RuleBasedStateMachine):
    """`self.tree` maps (root, tokens of pages from the first) to (page, node); `self.used` says when it was let go."""

    helds = Bundle("helds")

    def __init__(self):
        super().__init__()
        self.pool = PagePool(NUM_PAGES)
        self.tree, self.last_use, self.time = {}, {}, 0
        self.all_held = []

    @rule(target=helds, root=st.sampled_from(["", "salt"]), keys=PAGES)
    def match(self, root, keys):
        path = self.pool.match(root, keys)
        assert [node.page for node in path] == self.expected(root, keys)
        self.pool.hold(path)
        held = Held(root, path, keys)
        self.all_held.append(held)
        return held

    def expected(self, root, keys):
        pages = []
        while len(pages) < len(keys) and (root, *keys[: len(pages) + 1]) in self.tree:
            pages.append(self.tree[root, *keys[: len(pages) + 1]])
        return pages

    @rule(held=helds, count=st.integers(1, 3))
    def take(self, held, count):
        before, could = self.in_tree(), self.pool.num_available
        unused = sorted(self.unused(), key=lambda name: self.last_use[name])
        pages = self.pool.take(count)
        assert (pages is None) == (count > could)
        gone = [name for name in before if self.pool.match(name[0], name[1:])[len(name) - 2 :] == []]
        assert sorted(gone) == sorted(unused[: len(gone)]), "the longest unused go first"
        assert pages is None or {self.tree[name] for name in gone} <= set(pages)
        assert pages is not None or gone == []
        for name in gone:
            del self.tree[name]
        held.owned += pages or []

    @rule(held=helds)
    def compute(self, held):
        """What a prompt does: take a page for each that it lacks, and insert it."""
        while len(held.path) < len(held.keys) and self.pool.num_available > 0:
            self.take(held, 1)
            self.insert(held)

    @rule(held=helds)
    def insert(self, held):
        name = (held.root, *held.keys[: len(held.path) + 1])
        if held.owned and len(held.path) < len(held.keys):
            if name in self.tree:
                node = self.pool.find(held.root, held.path, name[-1])
                self.pool.hold([node])
            else:
                page = held.owned.pop()
                node = self.pool.insert(held.root, held.path, name[-1], page)
                self.tree[name] = page
            held.path.append(node)

    @rule(held=helds)
    def give_back(self, held):
        if held.owned:
            self.pool.give_back([held.owned.pop(0)])

    @rule(held=consumes(helds))
    def end(self, held):
        self.all_held.remove(held)
        self.pool.drop(held.path)
        self.pool.give_back(held.owned)
        for length in range(len(held.path), 0, -1):
            name = (held.root, *held.keys[:length])
            if name in self.unused():
                self.time += 1
                self.last_use[name] = self.time

    def in_tree(self):
        return list(self.tree)

    def unused(self):
        names = {(held.root, *held.keys[: i + 1]) for held in self.all_held for i in range(len(held.path))}
        return [name for name in self.tree if name not in names]

    @invariant()
    def every_page_has_one_place(self):
        owned = [page for held in self.all_held for page in held.owned]
        placed = [*owned, *self.tree.values()]
        assert len(set(placed)) == len(placed)
        pool = self.pool
        assert pool.num_free == NUM_PAGES - len(placed)
        assert pool.num_cached == len(self.unused())
        assert pool.num_running == len(placed) - len(self.unused())
        assert pool.num_free + pool.num_cached + pool.num_running == pool.num_pages

    @invariant()
    def what_is_held_is_there(self):
        for name, page in self.tree.items():
            assert self.pool.match(name[0], name[1:])[-1].page == page
        for held in self.all_held:
            assert self.pool.match(held.root, held.keys)[: len(held.path)] == held.path


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)


def test_a_root_without_pages_is_forgotten():
    pool = PagePool(1)
    for salt in range(100):
        (page,) = pool.take(1)
        pool.drop([pool.insert(salt, [], (1,), page)])
    assert len(pool._roots) == 1


def test_a_page_is_not_given_back_twice():
    pool = PagePool(2)
    pages = pool.take(2)
    pool.give_back(pages)
    with pytest.raises(KeyError):
        pool.give_back(pages)
