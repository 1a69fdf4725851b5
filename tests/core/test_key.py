"""Named randomness: golden vectors, an independent generator, and the distribution."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.key import Key, normals

# Made with fairlead 0.1.0 and numpy 2.4.6 on x86_64: a seed must mean the same picture tomorrow.
ROOT = "a53aa95fa1af0b6e1c8dbe4987bd693c"
CANDIDATE = "7dc57a54ca97afe4639b5ab517f15d99"
NORMAL = ["-0x1.0fbab6p+0", "0x1.14553p-1", "0x1.15b026p-1", "0x1.8b44f2p+0", "0x1.758164p-4"]
STEP = ["0x1.b1046ep-1", "-0x1.1aa04ep-2", "0x1.5fe4f0p-3", "0x1.c40e4ap-1"]
INTEGER = 7629111036210182009
UNIFORM = ["0x1.a78030444547dp-1", "0x1.1cebf169125f0p-3"]

MASK = (1 << 64) - 1


def golden(words: list[str]) -> torch.Tensor:
    return torch.tensor([float.fromhex(w) for w in words], dtype=torch.float64)


def philox(key: int, n: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011), written from the paper; counter from 1."""
    out: list[int] = []
    block = 0
    while len(out) < n:
        block += 1
        c, k0, k1 = [block, 0, 0, 0], key & MASK, key >> 64
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(b >> 64) ^ c[1] ^ k0, b & MASK, (a >> 64) ^ c[3] ^ k1, a & MASK]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        out += c
    return out[:n]


def test_golden_vectors() -> None:
    key = Key.root(0)
    assert key.hex() == ROOT
    assert key.fold("candidate", 0).hex() == CANDIDATE
    torch.testing.assert_close(key.normal(5).double(), golden(NORMAL), rtol=1.2e-7, atol=0)
    torch.testing.assert_close(key.fold("step", 3).normal(2, 2).flatten().double(), golden(STEP), rtol=1.2e-7, atol=0)
    assert key.integer() == INTEGER
    assert torch.equal(key.uniform(2), golden(UNIFORM))


def test_bits_are_philox_and_normals_are_box_muller() -> None:
    key = Key.root(12).fold("x", 4)
    raw = philox(int.from_bytes(key.digest, "little"), 8)
    assert key.integer() == raw[0] >> 1
    u = [(r >> 11) * 2.0**-53 for r in raw]
    assert key.uniform(8).tolist() == u
    radius = [math.sqrt(-2 * math.log1p(-v)) for v in u[:4]]
    expected = [r * math.cos(2 * math.pi * v) for r, v in zip(radius, u[4:], strict=True)]
    expected += [r * math.sin(2 * math.pi * v) for r, v in zip(radius, u[4:], strict=True)]
    torch.testing.assert_close(key.normal(8), torch.tensor(expected), rtol=1.2e-7, atol=1e-9)


def test_drawing_changes_nothing() -> None:
    key = Key.root(1)
    first = key.normal(3, 4)
    key.integer()
    key.normal(7)
    assert torch.equal(key.normal(3, 4), first)
    assert first.dtype == torch.float32
    assert first.shape == (3, 4)
    assert key.normal(0).shape == (0,)
    assert key.normal().shape == ()


def test_first_eight_of_sixteen() -> None:
    keys = tuple(Key.root(3).fold("candidate", i) for i in range(16))
    assert torch.equal(normals(keys, 2, 5)[:8], normals(keys[:8], 2, 5))


@settings(max_examples=60)
@given(st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=4), st.lists(st.text(max_size=3), max_size=3))
def test_other_paths_are_other_keys(a: list[str | int], b: list[str | int]) -> None:
    key = Key.root(0)
    assert (key.fold(*a) == key.fold(*b)) == (a == b)
    assert (key.fold(*a, "x") == key.fold(*a)) is False


def test_paths_that_look_alike_differ() -> None:
    key = Key.root(0)
    alike = [key.fold("a", "b"), key.fold("ab"), key.fold("a").fold("b"), key.fold("astr:b")]
    alike += [key.fold("1"), key.fold(1), key, key.fold()]
    assert len(set(alike)) == len(alike)
    assert Key.root(0) != Key.root(1)
    assert Key.root(-1) != Key.root(1)


def test_moments_and_independence() -> None:
    n = 1 << 18
    x = Key.root(42).normal(n).double()
    y = Key.root(42).fold("other").normal(n).double()
    for power, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((x**power).mean()) - expected) < 5 * math.sqrt(spread / n)
    halves = float((x[: n // 2] * x[n // 2 :]).mean())
    assert abs(halves) < 5 / math.sqrt(n / 2)
    assert abs(float((x[1:] * x[:-1]).mean())) < 5 / math.sqrt(n)
    assert abs(float((x * y).mean())) < 5 / math.sqrt(n)


def test_distribution() -> None:
    from scipy.stats import kstest

    assert kstest(Key.root(9).normal(100_000).numpy(), "norm").pvalue > 1e-3
    assert kstest(Key.root(9).uniform(100_000).numpy(), "uniform").pvalue > 1e-3
    first = torch.stack([Key.root(9).fold(i).normal(2) for i in range(4000)]).numpy()
    assert kstest(first[:, 0], "norm").pvalue > 1e-3
    assert kstest(first[:, 1], "norm").pvalue > 1e-3
