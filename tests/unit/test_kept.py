"""What follows from rows alone: worked out once, told apart by identity, and not changed after."""

import gc
import pickle
from weakref import ref

import numpy as np
import pytest

from forerun.cost.kept import kept
from forerun.cost.rows import rows


class Counted:
    def __init__(self):
        self.n = 0

    def __call__(self, x, *others):
        self.n += 1
        return x.get("m") * 2, [len(others)]


@pytest.fixture
def counted():
    work = Counted()

    @kept
    def doubled(x, *others):
        return work(x, *others)

    return work, doubled


def test_the_same_rows_are_worked_out_once(counted):
    work, doubled = counted
    x, y = rows(m=np.array([1.0, 2.0])), rows(m=np.array([1.0, 2.0]))
    for _ in range(3):
        assert doubled(x)[0].tolist() == [2, 4]
    assert work.n == 1
    doubled(y)  # equal, and not the same
    assert work.n == 2


def test_others_that_change_are_asked_for_again(counted):
    work, doubled = counted
    x, a, b = rows(m=1.0), np.zeros(1), np.zeros(1)
    for other in (a, a, b, b, a):
        assert doubled(x, other)[1] == [1]
    assert work.n == 3


def test_what_is_kept_cannot_be_written_to(counted):
    x = rows(m=np.array([1.0, 2.0]))
    found, _ = counted[1](x)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 5
    own = np.arange(2.0)
    assert kept(lambda x: own)(x).tolist() == [0, 1]
    own[0] = 7  # the array itself stays its owner's
    assert own[0] == 7


def test_it_lives_as_long_as_the_rows_and_does_not_travel_with_them(counted):
    work, doubled = counted
    x = rows(m=np.array([1.0, 2.0]))
    doubled(x)
    there = pickle.loads(pickle.dumps(x))
    doubled(there)
    assert work.n == 2
    gone = ref(x)
    del x
    gc.collect()
    assert gone() is None


def test_of_many_products_nothing_large_is_kept():
    import tracemalloc

    from forerun.cost.families import gemm
    from forerun.cost.sheet import sheet

    n = 2 * gemm.BLOCK + 1
    x = rows(n, m=np.arange(1.0, n + 1), n=64.0, k=64.0, batch=1.0, device="h100-sxm", dtype="bf16")
    s = sheet(x)
    c = {coef.name: coef.start for coef in gemm.COEFS}
    first = gemm.physics(x, s, c)
    tracemalloc.start()
    assert gemm.physics(x, s, c).tobytes() == first.tobytes()
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tiles = 8 * gemm.BLOCK * len(gemm._TM)
    assert peak > 3 * tiles  # bytes of one array of a block's choices
    assert left < tiles
    parts = [gemm.physics(x.take(at), s.take(at), c) for at in np.array_split(np.arange(n), 4)]
    assert np.concatenate(parts).tobytes() == first.tobytes()
