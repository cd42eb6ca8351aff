"""The barriers of the Hopper kernel as a model, for schedules that no run of it would meet by chance.

Loader, state and output take their steps in random order, with the waits and arrivals of
the Hopper kernel in theirs. A schedule fails where nobody can go on, or where somebody reads from a
ring what is not, not yet or no longer there. The first kernel with pairs of blocks hung on the device; here
such a mistake shows within a few schedules.
"""

import random

import pytest

from lightning_kernels.lightning2.tiles import hopper_tiles


class Barrier:
    """An mbarrier: a phase ends with the last of its arrivals, a wait is for the phase of a parity."""

    def __init__(self, count):
        self.count = self.left = count
        self.phase = 0

    def arrive(self):
        self.left -= 1
        if self.left == 0:
            self.left = self.count
            self.phase ^= 1

    def passed(self, parity):
        return self.phase != parity


class Kernel:
    """One program that walks over blocks first…last−1 and computes rows from `main` on."""

    def __init__(self, tiles, first, main, last):
        self.first, self.main, self.last = first, main, last
        self.stages, self.copies, self.pair = tiles.stages, tiles.copies, int(tiles.copies == 4)
        self.full = [Barrier(1) for _ in range(self.stages)]
        self.empty = [Barrier(2) for _ in range(self.stages)]
        self.ready = [Barrier(1) for _ in range(self.copies // (1 + self.pair))]
        self.taken = [Barrier(1) for _ in range(self.copies)]
        self.tiles = [None] * self.stages
        self.states = [None] * self.copies
        self.rows = []

    def stage(self, block):
        return (block - self.first) % self.stages

    def loaded(self, block):
        yield self.full[self.stage(block)], ((block - self.first) // self.stages) & 1
        assert self.tiles[self.stage(block)] == block, f"block {block} is not in its stage yet"

    def release(self, block):
        self.empty[self.stage(block)].arrive()

    def loader(self):
        for block in range(self.first, self.last):
            yield self.empty[self.stage(block)], (((block - self.first) // self.stages) & 1) ^ 1
            self.tiles[self.stage(block)] = block
            self.full[self.stage(block)].arrive()

    def state(self):
        for block in range(self.first, self.main):
            yield from self.loaded(block)
            self.release(block)
            self.release(block)
        yield from self.pairs() if self.pair else self.blocks()

    def write(self, place, block):
        yield self.taken[place % self.copies], ((place // self.copies) & 1) ^ 1
        self.states[place % self.copies] = block

    def blocks(self):
        for block in range(self.main, self.last):
            yield from self.loaded(block)
            yield from self.write(block - self.main, block)
            self.ready[(block - self.main) % self.copies].arrive()
            yield None, 0  # the product
            assert self.tiles[self.stage(block)] == block
            self.release(block)

    def pairs(self):
        def wait(block):
            for one in (block, block + 1):
                if one < self.last:
                    yield from self.loaded(one)

        yield from wait(self.main)
        self.states[1] = self.main
        self.ready[0].arrive()
        for block in range(self.main, self.last, 2):
            yield from wait(block + 2)
            for one in (block, block + 1):
                assert one >= self.last or self.tiles[self.stage(one)] == one
                self.release(one)
            place = block - self.main + 2
            yield from self.write(place, block + 1)
            yield from self.write(place + 1, block + 2)
            self.ready[place % self.copies // 2].arrive()

    def read(self, block):
        place = block - self.main + self.pair
        if block < self.last:
            parity = (place // self.copies) & 1
            yield self.ready[place % self.copies // (1 + self.pair)], parity
            assert self.states[place % self.copies] == block
            assert self.tiles[self.stage(block)] == block
        if not self.pair or block < self.last:
            self.taken[place % self.copies].arrive()

    def output(self):
        if self.pair:
            self.taken[0].arrive()
        yield from self.read(self.main)
        for block in range(self.main, self.last):
            yield None, 0  # the last product
            assert self.tiles[self.stage(block)] == block
            self.rows.append(block)
            self.release(block)
            yield from self.read(block + 1)

    def run(self, seed):
        """Take steps in random order until all are done."""
        order = random.Random(seed)
        parts = dict.fromkeys((self.loader(), self.state(), self.output()), (None, 0))
        while parts:
            able = [
                part for part, (barrier, parity) in parts.items() if not barrier or barrier.passed(parity)
            ]
            assert able, f"all wait, blocks {self.first}, {self.main}, {self.last}, seed {seed}"
            part = order.choice(able)
            try:
                parts[part] = next(part)
            except StopIteration:
                del parts[part]
        assert self.rows == list(range(self.main, self.last))


class Wide(Kernel):
    """The wide kernel, whose output starts a block when it has come in and not when the state is there."""

    def output(self):
        if self.last:
            yield from self.loaded(0)
        for block in range(self.last):
            assert self.tiles[self.stage(block)] == block
            yield self.ready[0], block & 1
            assert self.states[0] == block
            yield None, 0  # the product with the state
            assert self.states[0] == block
            self.taken[0].arrive()
            yield None, 0  # the last product
            assert self.tiles[self.stage(block)] == block
            self.rows.append(block)
            self.release(block)
            if block + 1 < self.last:
                yield from self.loaded(block + 1)


CONFIGURATIONS = sorted(
    {
        hopper_tiles(d, e, backward, programs, 132, elements)
        for d in (64, 128, 256)
        for e in (32, 64, 128, 256)
        for backward in (False, True)
        for programs in (8, 128)
        for elements in (0, 2**25)
    },
    key=str,
)


@pytest.mark.parametrize("tiles", CONFIGURATIONS, ids=str)
def test_no_schedule_hangs_or_reads_what_is_not_there(tiles):
    wide = tiles.wide
    for blocks in (0, 1, 2, 3, 4, 5, 8, 9, 23):
        for main in {0} if wide else {0, 4, blocks // 8 * 4}:
            for seed in range(20):
                (Wide if wide else Kernel)(tiles, 0, min(main, blocks), blocks).run(seed)


def test_a_ring_is_not_looked_at_before_its_phases_are_known():
    """Another mistake: who has not followed the ring takes an old round of it for the one it wants."""
    tiles = hopper_tiles(256, 64, False, 128, 132)

    class Late(Kernel):
        def output(self):
            yield from self.loaded(self.main)
            yield from super().output()

    def schedules():
        for seed in range(100):
            Late(tiles, 0, 4, 8).run(seed)

    with pytest.raises(AssertionError, match="block 4 is not in its stage yet"):
        schedules()


def test_a_copy_that_was_never_written_must_not_be_taken():
    """The mistake that the model was made for."""
    tiles = hopper_tiles(64, 64, False, 128, 132)

    class Hasty(Kernel):
        def read(self, block):
            yield from super().read(block)
            if block >= self.last:
                self.taken[(block - self.main + self.pair) % self.copies].arrive()

    def schedules():
        for seed in range(100):
            Hasty(tiles, 0, 0, 1).run(seed)

    with pytest.raises(AssertionError, match="all wait"):
        schedules()
