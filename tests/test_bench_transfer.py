"The transfer bench on a tiny teacher"
import json, math

import pytest
import torch

from hybrid_tutorial.core import ConfigError, DataError
from hybrid_tutorial.training import bench
from hybrid_tutorial.training.bench import (bench_start, bench_table, bench_transfer, held_out_kl, over_seeds, parse_design, plot_transfer, spaced_layers, start_table,
                                            tokens_to_reach, transfer_arguments)

from helpers import tiny_teacher, tokens

SMALL = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, intermediate_size=32)
texts = lambda n, seed: [dict(input_ids=tokens(2, 32, seed=100*seed+i)) for i in range(n)]


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def test_designs_are_read_and_refused():
    assert parse_design('gdn:window=64,rope=true') == ('gdn', dict(window=64, rope=True)) and parse_design('kda') == ('kda', {})
    assert parse_design('rwkv7:value_mix=-4,gate=open') == ('rwkv7', dict(value_mix=-4., gate='open'))
    for bad, word in (('gdm', 'Did you mean'), ('gdn:windw=3', 'Did you mean'), ('gdn:window=few', 'takes a int'), ('gdn:rope=maybe', 'takes a bool')):
        with pytest.raises(ConfigError, match=word): parse_design(bad)


def test_starts(tmp_path):
    teacher = tiny_teacher(**SMALL)
    how = dict(teacher=teacher, corpus=texts(6, 0), layers=(1, 2), tokens=256, test_tokens=128, seq_len=32, out=tmp_path/'s.jsonl')
    rows = bench_start(('gdn-official', 'gdn:window=4', 'gdn:window=4,decay=teacher', 'rwkv7', 'swa:window=32'), ridges=(0.1, 800.), **how)
    assert len(rows) == 10 and all(len(r['errors']) == 2 and math.isfinite(r['error']) for r in rows)
    exact = [r['error'] for r in rows if r['design'].startswith('swa') and r['ridge'] == 0.1][0]
    assert exact < 1e-3 < min(r['error'] for r in rows if not r['design'].startswith('swa'))           # a window that holds all is the teacher
    n = len((tmp_path/'s.jsonl').read_text().splitlines())
    assert len(bench_start(('gdn:window=4',), **how)) == 10 and len((tmp_path/'s.jsonl').read_text().splitlines()) == n
    assert '| `gdn:window=4` | 800 to copied |' in start_table(rows)
    with pytest.raises(DataError, match='not enough'): bench_start(('gdn',), **{**how, 'tokens': 10000})


def test_grid_resumes_and_reads(tmp_path):
    teacher, said = tiny_teacher(**SMALL), []
    echo = dict(input_ids=tokens(2, 32, seed=77), recall_mask=torch.arange(32).expand(2, -1) > 20)
    grid = dict(tokens=(0, 128, 512), seeds=(0, 1), teacher=teacher, corpus=lambda seed: texts(10, seed+1), held=dict(plain=texts(1, 9), echo=[echo]),
                out=tmp_path/'b'/'t.jsonl', seq_len=32, calibrate_tokens=128, lr=3e-3, show=False, tell=said.append)
    bench_transfer(('gdn-official',), **{**grid, 'tokens': (0,)})
    rows = bench_transfer(('gdn-official', 'gdn:window=4'), **grid)
    assert len(rows) == len(said) == 12 and len({(r['design'], r['seed'], r['tokens']) for r in rows}) == 12
    assert all(r['kl_linear_plain'] > 0 and r['kl_hybrid_echo'] > 0 and r['peak_mib'] > 0 and r['keep'] == [1] for r in rows)
    assert all((r['tokens_per_second'] is None) == (r['tokens'] == 0) for r in rows if r['design'] == 'gdn:window=4')
    assert bench_transfer(('gdn-official', 'gdn:window=4'), **grid) == rows and len(said) == 12
    assert [p.name for p in (tmp_path/'b').iterdir()] == ['t.jsonl'] and all(json.loads(l) for l in open(tmp_path/'b'/'t.jsonl'))
    table = bench_table(rows)
    assert '| `gdn:window=4` | 512 |' in table and 'Tokens to reach `gdn-official`' in table and '±' in table
    assert plot_transfer(rows).axes[0].get_xscale() == 'log'
    mean, half, n = over_seeds(rows)['gdn-official'][0]
    pair = [r['kl_linear_plain'] for r in rows if r['design'] == 'gdn-official' and r['tokens'] == 0]
    assert n == 2 and math.isclose(mean, sum(pair)/2) and math.isclose(half, 12.71*abs(pair[0]-pair[1])/2, rel_tol=1e-6)


def test_tokens_to_reach_between_budgets():
    row = lambda d, t, v: dict(design=d, seed=0, tokens=t, kl=v)
    rows = [row('a', 0, 4.), row('a', 1000, 3.), row('a', 100000, 2.), row('b', 0, 3.), row('b', 1000, 2.5), row('b', 10000, 1.5), row('c', 0, 5.), row('c', 1000, 4.), row('d', 0, 1.)]
    mark, got = tokens_to_reach(rows, 'kl', 'a')
    assert mark == 2. and got['a'] == 100000 and math.isclose(got['b'], 10**3.5) and got['c'] == math.inf and got['d'] == 0
    with pytest.raises(DataError, match='run it first'): tokens_to_reach(rows, 'kl', 'z')


def test_kl_is_that_of_the_logits():
    a, b = tiny_teacher(**SMALL), tiny_teacher(**SMALL)
    with torch.no_grad(): b.model.layers[1].self_attn.o_proj.weight.mul_(0.5)
    ids = tokens(2, 20)
    p, q = (m(ids).logits[:, :-1].log_softmax(-1) for m in (a, b))
    want = (p.exp()*(p-q)).sum(-1)
    assert math.isclose(held_out_kl(dict(b=b), a, [dict(input_ids=ids)])['b'], float(want.mean()), rel_tol=1e-4)
    mask = torch.zeros(2, 20, dtype=torch.bool); mask[:, 7:9] = True
    assert math.isclose(held_out_kl(dict(b=b), a, [dict(input_ids=ids, recall_mask=mask)])['b'], float(want[:, 6:8].mean()), rel_tol=1e-4)
    assert spaced_layers(30) == sorted(set(spaced_layers(30))) and len(spaced_layers(30)) == 8 and spaced_layers(3) == [1]


def test_options():
    import argparse
    args = transfer_arguments(argparse.ArgumentParser()).parse_args(['--presets', 'gdn', 'kda:window=64', '--tokens', '0', '8192'])
    assert args.presets == ['gdn', 'kda:window=64'] and args.tokens == [0, 8192] and args.seeds == [0, 1, 2]
    assert all(parse_design(d) for d in bench.START_DESIGNS+bench.DESIGNS)
