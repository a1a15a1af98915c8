"Kernels compiled for GPUs that are not here: what the compiler made of them, and what they move"
import hashlib, importlib.util, json, os
from pathlib import Path
import pytest, torch

pytest.importorskip('triton')
if os.environ.get('TRITON_INTERPRET') == '1': pytest.skip('needs a process without the interpreter', allow_module_level=True)
import aot_kernels as tiny
from hybrid_tutorial.cli import main
from hybrid_tutorial.core import ConfigError
from hybrid_tutorial.ops.bench_kernels import bench_kernels, bench_row, roof_of, roofline, work
from hybrid_tutorial.ops.kernels.aot import CHIPS, FORMATS, aot_table, compile_kernel, in_worker, measure, programs_per_sm, resources
from hybrid_tutorial.ops.kernels.traffic import launch_traffic, past_cache, traffic_table

ARCHS, WIDTHS = (80, 90), ((64, 64), (128, 128))
KEYS = {'kernel', 'implementation', 'operator', 'phase', 'K', 'V', 'dtype', 'arch', 'registers', 'spill_bytes', 'shared_bytes', 'mma', 'num_warps', 'num_stages', 'programs_per_sm'}
OPS = ('gla', 'linear_attn', 'gated_delta_rule', 'gated_norm', 'gla decode', 'gated_delta_rule decode', 'kl')
FLA = importlib.util.find_spec('fla') is not None
LOST = dict(bytes={('kl', 64), ('kl', 128)}, device={('kl', 128)}, least={('gated_delta_rule decode', 64), ('gated_delta_rule decode', 128)})
# The loss computes logits again on the way back: where nothing is cached that costs bytes. The decoding step takes write strengths in
# float32: 8 bytes of 33,294 where every byte counts once. Notebook 06h says so.


@pytest.fixture(scope='module')
def ours(): return aot_table(archs=ARCHS, peers=False)


@pytest.fixture(scope='module')
def blackwell(): return aot_table(archs=(100,), dtypes=('bf16',), peers=False)


def at(r): return f"{r['kernel']} sm_{r['arch']} {r['dtype']} K={r['K']} V={r['V']}"


def test_every_kernel_compiles(ours):
    "Every operator, chip and number format, and every width that `width_of` can answer"
    assert {(r['operator'], r['arch'], r['dtype']) for r in ours} == {(o, a, d) for o in OPS for a in ARCHS for d in FORMATS}
    assert {(r['K'], r['arch'], r['dtype']) for r in ours if r['operator'] in OPS[:3]} == {(K, a, d) for K in (32, 64, 128) for a in ARCHS for d in FORMATS}
    assert {r['phase'] for r in ours} == {'forward', 'backward', 'decode'} and all(KEYS <= set(r) for r in ours)
    assert not [f"{at(r)}: {r['error']}" for r in ours if r.get('error')]


def test_nothing_is_spilled(ours):
    "Only a norm of rows that are no multiple of 16 wide may keep 8 bytes per thread on its stack"
    allowed = lambda r: 8 if r['operator'] == 'gated_norm' and r['K'] % 16 else 0
    assert not [f"{at(r)}: {r['spill_bytes']} bytes" for r in ours if r['spill_bytes'] > allowed(r)]


def test_blackwell_compiles(blackwell):
    "All bfloat16 kernels; `bench kernels --aot` makes the other formats too"
    assert {r['operator'] for r in blackwell} == set(OPS) and not [f"{at(r)}: {r['error']}" for r in blackwell if r.get('error')]
    assert not [at(r) for r in blackwell if r['dots'] and not r['mma'] or r['shared_bytes'] > CHIPS[100]['shared_max']]


def test_products_run_on_tensor_cores(ours):
    assert not [at(r) for r in ours if r['dots'] and not r['mma']]
    assert {r['operator'] for r in ours if r['mma']} >= {'gla', 'gated_delta_rule', 'kl'}


def test_shared_memory_fits(ours):
    assert not [f"{at(r)}: {r['shared_bytes']}" for r in ours if r['shared_bytes'] > CHIPS[r['arch']]['shared_max'] or r['programs_per_sm'] < 1]


def test_two_programs_fit_where_the_table_wants_two(ours):
    assert {r['want'] for r in ours} == {1, 2} and {r['operator'] for r in ours if r['want'] == 2} >= {'gated_delta_rule', 'gated_norm', 'gla decode'}
    assert not [f"{at(r)}: {r['programs_per_sm']}" for r in ours if r['programs_per_sm'] < r['want']]


@pytest.mark.parametrize('arch', [80, 90])
def test_awkward_calls_launch_nothing_else(arch, monkeypatch):
    "Odd widths, grouped heads, packed sequences, states, mixed formats, unaligned slices: every launch is one of `our_kernels`"
    here = Path(__file__).parent
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(here), str(here.parent), os.environ.get('PYTHONPATH', '')]))
    source = hashlib.sha256((here/'aot_calls.py').read_bytes()).hexdigest()
    found = in_worker('aot_calls:odd_calls', dict(arch=arch, implementation='ours', source=source))
    assert found.pop('wrong') == ['gla_states']
    assert {n: f['kernels'] for n, f in found.items()} == dict(sequences=10, steps=2, norms=2, losses=3)
    assert not {n: f['unlisted'] for n, f in found.items() if f['unlisted']}


def test_command_prints_one_list(ours, capfd):
    assert main(['bench', 'kernels', '--aot', '--json', '--no-peers', '--archs', '80,90']) == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows == ours and all({'kernel', 'implementation', 'arch', 'registers', 'spill_bytes', 'shared_bytes', 'mma'} <= set(r) for r in rows)


def test_command_without_gpu(capsys):
    if torch.cuda.is_available(): pytest.skip('there is a GPU')
    assert main(['bench', 'kernels']) == 2
    said = capsys.readouterr()
    assert 'no GPU' in said.err and '--aot' in said.err and said.out == ''


def test_bench_ops_prints_one_list(capfd, monkeypatch):
    def noisy(show):
        print('a library says something'); os.write(2, b'and so does this')
        return [dict(what='x', ratio=1.5, show=show)]
    monkeypatch.setattr('hybrid_tutorial.ops.bench.bench_ops', noisy)
    assert main(['bench', 'ops', '--json']) == 0
    assert json.loads(capfd.readouterr().out) == [dict(what='x', ratio=1.5, show=False)]


def test_mistakes_are_named(capsys):
    assert main(['bench', 'kernels', '--aot', '--archs', 'hopper']) == 2 and '--archs' in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown arch 70"): aot_table(archs=(70,))
    with pytest.raises(ConfigError, match="Did you mean 'gla'"): aot_table(ops=('glaa',))


@pytest.fixture(scope='module')
def moved(): return traffic_table(archs=(90,), widths=WIDTHS) + traffic_table(archs=(80,), widths=WIDTHS, peers=False)


def test_what_is_launched_is_what_was_compiled(moved):
    "The launchers run against a recorder: every launch is a row of a table of launches"
    rows = [r for r in moved if r['implementation'] == 'ours']
    assert len(rows) == 2*2*(5*2+2) and all(r['kernels'] for r in rows)
    assert not [(r['operator'], r['K'], r['arch'], r['unlisted']) for r in rows if r['unlisted']]


@pytest.mark.skipif(not FLA, reason='needs fla')
@pytest.mark.parametrize('count', ['bytes', 'device', 'least'])
def test_ours_moves_no_more_than_fla(moved, count):
    "Forward and backward together, by each of the three counts of notebook 06h, on the chip of the comparison"
    total = {}
    for r in moved:
        k = r['operator'], r['K'], r['implementation']
        if r['arch'] == 90: total[k] = total.get(k, 0)+r[count]
    pairs = {(o, K): (total[o, K, 'ours'], total[o, K, 'fla']) for o, K, i in total if i == 'ours'}
    lost = {k for k, p in pairs.items() if p[0] > p[1]}
    assert len(pairs) == 14 and lost == LOST[count], pairs


@pytest.mark.skipif(not FLA, reason='needs fla')
def test_forward_alone_moves_no_more_than_fla(moved):
    by = {(r['operator'], r['K'], r['implementation']): r for r in moved if r['arch'] == 90 and r['phase'] == 'forward'}
    pairs = {(o, K): [(by[o, K, i]['load']+by[o, K, i]['store']+by[o, K, i]['torch']) for i in ('ours', 'fla')] for o, K, i in by if i == 'ours'}
    assert len(pairs) == 10 and not {k: p for k, p in pairs.items() if p[0] > p[1]+1e-6}, pairs


def test_model_of_the_cache():
    "300 programs on 100 multiprocessors are three waves; each fetches what it shares, and only its own part of what it writes"
    total, chip = {('x', 'load'): 3000., ('y', 'load'): 600., ('y', 'store'): 600., ('product', 'flops'): 9.}, dict(sms=100, l2=200)
    assert past_cache(total, dict(x=100, y=300), 300, chip) == 3*100+300+300
    assert past_cache(total, dict(x=100, y=300), 300, dict(chip, l2=199)) == 3000+600+600
    assert past_cache(total, dict(x=5000, y=300), 300, dict(chip, l2=2000)) == 3000+300+300


# counting, on kernels small enough to count by hand
def tiny_launch(kernel, grid, values, constexprs, **kinds):
    sig = {n: 'constexpr' if n in constexprs else kinds.get(n, '*fp32' if isinstance(values[n], torch.Tensor) else 'i32') for n in kernel.arg_names}
    return dict(kernel=kernel, signature=sig, constexprs=constexprs, num_warps=4, num_stages=2, grid=grid, values={**values, **constexprs})


@pytest.mark.parametrize('T', [64, 100, 128, 1])
def test_traffic_counts_masks(T):
    x = torch.zeros(T, 32)
    got = launch_traffic(tiny_launch(tiny.copy_rows, (-(-T//64), 1, 1), dict(x=x, y=x.clone(), T=T), dict(K=32, BLOCK=64)))
    assert got == dict(load=T*128, store=T*128, device=T*256, least=T*256, flops=0)


def test_traffic_counts_loops_and_branches():
    x, y = torch.zeros(8, 32), torch.zeros(8, 32)
    got = launch_traffic(tiny_launch(tiny.triangle, (8, 1, 1), dict(x=x, y=y), dict(n=8, K=32)))
    assert got == dict(load=(36+8)*128, store=8*128, device=2*8*128, least=2*8*128, flops=0)


def test_traffic_reads_tables():
    ends, x, y = torch.tensor([0, 3, 3, 10], dtype=torch.int32), torch.zeros(10, 16), torch.zeros(3, 16)
    got = launch_traffic(tiny_launch(tiny.by_table, (3, 1, 1), dict(x=x, ends=ends, y=y), dict(K=16), ends='*i32'))
    assert got['load'] == 10*64+3*2*4 and got['store'] == 2*64


def test_operations_of_products_are_counted():
    a, c = torch.zeros(5*64, 32, dtype=torch.bfloat16), torch.zeros(64, 64)
    got = launch_traffic(tiny_launch(tiny.product, (1, 1, 1), dict(a=a, b=a.clone(), c=c, N=5), dict(K=32, C=64), a='*bf16', b='*bf16'))
    assert got == dict(load=2*5*64*32*2, store=64*64*4, device=2*5*64*32*2+64*64*4, least=2*5*64*32*2+64*64*4, flops=5*2*64*64*32)


def test_tiny_kernels_compile_for_every_chip():
    sig, const = dict(a='*bf16', b='*bf16', c='*fp32', N='i32'), dict(K=64, C=64)
    for arch, name in ((80, 'HMMA'), (90, 'HGMMA')):
        got = resources(compile_kernel(tiny.product, sig, const, arch))
        assert got['mma'] > 0 and name in got['sass'] and got['dots'] == 1 and got['spill_bytes'] == 0 and got['registers'] > 16
    assert compile_kernel(tiny.product, sig, const, 100).asm['cubin']
    wrong = measure(dict(kernel=tiny.product, signature=sig, constexprs=dict(K=64, C=63), num_warps=4, num_stages=2), 90)
    assert 'error' in wrong and wrong['registers'] is None


def test_programs_per_sm():
    assert programs_per_sm(255, 0, 4, 90) == 2 and programs_per_sm(168, 0, 4, 90) == 3 and programs_per_sm(32, 0, 4, 90) == 16
    assert programs_per_sm(32, 100*1024, 4, 80) == 1 and programs_per_sm(32, 100*1024, 4, 90) == 2
    assert programs_per_sm(32, 228*1024, 4, 90) == 0 and programs_per_sm(16, 0, 1, 90) == 32 and programs_per_sm(16, 0, 32, 90) == 2


def test_roofline():
    got = roofline(2., flops=4e12, nbytes=8e9, roof=(4e12, 1e9))
    assert got == dict(tflops=2., gbytes=4., bound='memory', share=4.)
    assert roofline(2., 4e12, 1e9, (4e12, 1e9))['bound'] == 'arithmetic' and roofline(2., 4e12, 1e9)['share'] is None
    assert roof_of('NVIDIA H100 80GB HBM3') == (989e12, 3.35e12) and roof_of('NVIDIA H100 PCIe') == (756e12, 2.0e12) and roof_of('GeForce') is None
    assert roof_of('NVIDIA A100-SXM4-80GB')[1] == 2.039e12


def test_work():
    assert work('softmax', 1, 100, 1, 8, 8) == (100*16*100, 100*2*32)
    f, b = work('gla', 2, 128, 4, 32, 64, size=2)
    assert f == 2*128*4*(2*64*96+4*32*64) and b == 2*128*4*(2*(64+64)+128+2*64-0)-2*128*4*0
    assert work('gla', 2, 128, 4, 32, 64, backward=True)[0] == 3*f
    assert work('gated_delta_rule', 1, 64, 1, 64, 64)[0] > work('linear_attn', 1, 64, 1, 64, 64)[0]
    with pytest.raises(ConfigError, match='unknown operator'): work('fox', 1, 1, 1, 1, 1)
    row = bench_row('gla', 'triton', 128, 'forward', 1e-3, (2, 4, 64), 2, roof_of('H100'))
    assert row['implementation'] == 'ours' and row['ms'] == 1. and row['bound'] == 'memory' and 0 < row['share'] < 1
    assert bench_row('gla', 'sdpa', 128, 'forward', 1e-3, (2, 4, 64), 2, None)['tflops'] == pytest.approx(work('softmax', 2, 128, 4, 64, 64)[0]/1e9)


def test_bench_needs_a_gpu():
    if torch.cuda.is_available(): pytest.skip('there is a GPU')
    with pytest.raises(ConfigError, match='no GPU.*--aot'): bench_kernels()
