"The arithmetic of the operator benchmark; times themselves are never tested"
import math, time
import pytest
from hybrid_tutorial.ops.bench import paired, median_ratio, row, crossover, bench_decode, bench_memory, bench_growth


def test_paired_takes_turns():
    calls = []
    t = paired(dict(a=lambda: calls.append('a'), b=lambda: (calls.append('b'), time.sleep(.002))), seconds=0.05)
    assert calls[:6] == list('ababab') and len(t['a']) == len(t['b']) >= 5
    assert len(calls) == 2*(len(t['a'])+1), "the first round does not count"
    assert median_ratio(t['b'], t['a']) > 1


def test_median_ratio_ignores_one_bad_round():
    assert median_ratio([2., 2., 2., 900., 2.], [1., 1., 1., 1., 1.]) == 2.
    assert median_ratio([2., 200., 2.], [1., 100., 1.]) == 2., "a slow round slows both"


def test_row_says_whether_the_goal_is_met():
    assert row('x', 1, 1, [.001]*3, 'peer', [.003]*3, 2.5)['ok'] is True
    assert row('x', 1, 1, [.001]*3, 'peer', [.003]*3, 3.5)['ok'] is False
    assert row('x', 1, 1, [.001]*3)['ratio'] is None


def test_crossover_takes_the_last_one():
    rows = [dict(T=T, ratio=r) for T, r in ((256, 1.2), (512, .5), (1024, 2.), (2048, 3.))]
    assert math.isclose(crossover(rows), 512*2**.5)
    assert crossover([dict(T=1, ratio=.1), dict(T=2, ratio=.2)]) is None


@pytest.mark.parametrize('f, kw', [(bench_decode, dict(batches=(2,), seconds=.01)), (bench_growth, dict(lengths=(64, 128), seconds=.01)), (bench_memory, dict(T=256))])
def test_blocks_give_rows(f, kw):
    keys = set(row('x', 1, 1, [1.]))
    rows = f(**kw)
    assert all(set(r) == keys for r in rows) and (rows or f is bench_memory)
