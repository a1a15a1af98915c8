"Triton gated delta rule, in the interpreter, against the float64 torch form"
import pytest
import torch
import torch.nn.functional as F
from hybrid_tutorial.core import ConfigError, ShapeError, assert_close
from hybrid_tutorial.ops.delta import chunk_gated_delta_rule, recurrent_gated_delta_rule
from hybrid_tutorial.ops.kernels import delta
from hybrid_tutorial.ops.kernels.common import WIDTHS
from hybrid_tutorial.ops.kernels.delta import C, launches, triton_gated_delta_rule, unit_lower_inverse
import triton
import triton.language as tl


def inputs(T, K=32, V=32, B=1, H=1, HV=1, seqs=None, g=None, beta=None, seed=0):
    gen = torch.Generator().manual_seed(seed)
    x = lambda *shape: torch.randn(*shape, generator=gen, dtype=torch.float64)
    gate = F.logsigmoid(x(B, T, HV)+1)
    return dict(q=x(B, T, H, K), k=F.normalize(x(B, T, H, K), dim=-1), v=x(B, T, HV, V), g=gate if g is None else g(gate),
        beta=x(B, T, HV).sigmoid() if beta is None else torch.full((B, T, HV), beta, dtype=torch.float64), S=x(seqs or B, HV, K, V))


def outcome(f, args, dtype=torch.float64, **kwargs):
    "Output, final state and the gradient of every input, from random gradients of both"
    half = lambda n: dtype if n in 'qkv' or dtype == torch.float64 else torch.float32
    args = {n: x.to(half(n)).requires_grad_() for n, x in args.items()}
    S = args.pop('S')
    o, end = f(*args.values(), initial_state=S, output_final_state=True, **kwargs)
    gen = torch.Generator().manual_seed(1)
    do, dS = (torch.randn(x.shape, generator=gen, dtype=torch.float64) for x in (o, end))
    grads = torch.autograd.grad((o, end), [*args.values(), S], (do.to(dtype).to(o.dtype), dS.to(end.dtype)))
    return dict(o=o, end=end, **{f'd{n}': x for n, x in zip([*args, 'S'], grads)})


def compare(args, tol=3e-6, dtype=torch.float32, want=chunk_gated_delta_rule, **kwargs):
    if dtype != torch.float32: args = {n: x.to(dtype).double() if n in 'qkv' else x for n, x in args.items()}
    want, got = outcome(want, args, **kwargs), outcome(triton_gated_delta_rule, args, dtype, **kwargs)
    assert set(got) == set(want) == {'o', 'end', 'dq', 'dk', 'dv', 'dg', 'dbeta', 'dS'}
    for n in want:
        assert got[n].dtype == (dtype if n in ('o', 'dq', 'dk', 'dv') else torch.float32), n
        if not want[n].abs().max(): assert not got[n].abs().max(), n
        else: assert_close(got[n].double(), want[n], tol, n)


@pytest.mark.parametrize('T', [1, 15, 64, 65, 130])
def test_lengths(T): compare(inputs(T))


@pytest.mark.parametrize('T', [1, 65])
def test_against_the_recurrence(T): compare(inputs(T), want=recurrent_gated_delta_rule)


@pytest.mark.parametrize('K,V', [(64, 64), (128, 32), (48, 40), (16, 16)])
def test_widths(K, V): compare(inputs(65, K, V))


@pytest.mark.parametrize('arch', [80, 90])
def test_the_float32_blocks_of_both_families(arch, monkeypatch):
    "The widest heads, packed, in the tiles of both chips"
    monkeypatch.setattr(delta, 'arch_of', lambda device: arch)
    assert launches(128, 128, 'fp32', arch)[0]['constexprs']['BK'] == (16 if arch == 80 else 32)
    compare(inputs(66, 100, 128, seqs=2), cu_seqlens=torch.tensor([0, 65, 66]))


def test_batch_grouped_heads_and_scale(): compare(inputs(66, 16, 16, B=2, H=2, HV=4), scale=0.3)


@pytest.mark.parametrize('ends', [[0, 0, 15, 80, 80], [0, 64, 65, 67]])
def test_packed(ends): compare(inputs(ends[-1], 16, 32, H=1, HV=2, seqs=len(ends)-1), cu_seqlens=torch.tensor(ends))


def test_packed_equals_each_alone():
    x, ends = {n: t.float() for n, t in inputs(70, 16, 16, seqs=2).items()}, (0, 67, 70)
    S = x.pop('S')
    o, end = triton_gated_delta_rule(*x.values(), initial_state=S, output_final_state=True, cu_seqlens=torch.tensor(ends))
    for i, (a, b) in enumerate(zip(ends, ends[1:])):
        one, last = triton_gated_delta_rule(*(t[:, a:b] for t in x.values()), initial_state=S[i:i+1], output_final_state=True)
        assert torch.equal(o[:, a:b], one) and torch.equal(end[i:i+1], last)


def test_state_hand_over():
    x = {n: t.float() for n, t in inputs(100, 16, 16).items()}
    S = x.pop('S')
    whole, end = triton_gated_delta_rule(*x.values(), initial_state=S, output_final_state=True)
    a, half = triton_gated_delta_rule(*(t[:, :37] for t in x.values()), initial_state=S, output_final_state=True)
    b, last = triton_gated_delta_rule(*(t[:, 37:] for t in x.values()), initial_state=half, output_final_state=True)
    assert_close(torch.cat([a, b], 1), whole, 2e-6), assert_close(last, end, 2e-6)


def test_no_state_given():
    x = {n: t.float() for n, t in inputs(65, 16, 16).items()}
    S = x.pop('S')
    o, end = triton_gated_delta_rule(*x.values())
    assert end is None
    assert_close(o, triton_gated_delta_rule(*x.values(), initial_state=0*S)[0], 1e-12)


def test_no_decay(): compare(inputs(66, g=torch.zeros_like))


def test_strong_decay(): compare(inputs(66, g=lambda g: torch.full_like(g, -30.)), tol=2e-5)


def test_decay_beyond_the_clamp():
    "A token that forgets everything; running sums this large cost digits in every float32 form"
    def g(g): g = g.clone(); g[:, 20::30] = -1e4; return g
    compare(inputs(66, g=g), tol=2e-5)


def test_nothing_written(): compare(inputs(66, beta=0.))


def test_the_same_key_again_and_again():
    x = inputs(66, beta=1., g=torch.zeros_like)
    x['k'] = x['k'][:, :1].expand_as(x['k']).clone()
    compare(x, tol=2e-5)


@pytest.mark.parametrize('dtype,tol', [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision(dtype, tol): compare(inputs(66), tol, dtype)


@triton.jit
def invert(M, X, C: tl.constexpr):
    at = tl.arange(0, C)[:, None]*C + tl.arange(0, C)[None, :]
    tl.store(X + at, unit_lower_inverse(tl.load(M + at), C, 'ieee'))


@pytest.mark.parametrize('n', [16, 32, 64])
def test_inverse(n):
    M = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).tril(-1)*0.5
    X = torch.empty_like(M)
    invert[(1,)](M, X, n)
    assert_close(X.double() @ (M.double() + torch.eye(n)), torch.eye(n).double(), 1e-4)
    assert not X.triu(1).any() and torch.equal(X.diagonal(), torch.ones(n))


def test_a_change_of_a_thousandth_is_noticed():
    "The comparison itself can fail"
    x = inputs(66)
    with pytest.raises(AssertionError): compare(x, want=lambda q, k, v, g, b, **kw: chunk_gated_delta_rule(q, k, v, g*1.001, b, **kw))


def test_refusals():
    x = {n: t.float() for n, t in inputs(4, 16, 16).items() if n != 'S'}
    with pytest.raises(ConfigError, match="chunk_size=128.*backend='chunk'"): triton_gated_delta_rule(*x.values(), chunk_size=128)
    with pytest.raises(ShapeError, match="backend='chunk'"): triton_gated_delta_rule(*(t.double() for t in x.values()))
    wide = {n: t.float() for n, t in inputs(4, 130, 16).items() if n != 'S'}
    with pytest.raises(ShapeError, match="up to 128.*backend='chunk'"): triton_gated_delta_rule(*wide.values())
    with pytest.raises(ShapeError, match='cu_seqlens'): triton_gated_delta_rule(*x.values(), cu_seqlens=torch.tensor([0, 3]))
    with pytest.raises(ShapeError, match='initial_state'): triton_gated_delta_rule(*x.values(), initial_state=torch.zeros(2, 1, 16, 16))


def test_table_of_launches():
    for K in WIDTHS:
        for V in WIDTHS:
            for dtype in ('fp32', 'bf16', 'fp16'):
                for arch in (80, 90):
                    rows = launches(K, V, dtype, arch)
                    assert [r['phase'] for r in rows] == 2*['forward'] + 3*['backward']
                    for r in rows:
                        assert list(r['signature']) == r['kernel'].arg_names
                        assert {n for n, t in r['signature'].items() if t == 'constexpr'} == set(r['constexprs'])
                        assert V % r['constexprs'].get('BV', V) == 0 and K % r['constexprs'].get('BK', K) == 0
    chunk, forward, *_ = launches(64, 128, 'bf16', 90)
    assert chunk['programs'](2, C+1, 3) == 12 and forward['programs'](2, 999, 3) == 6*128//forward['constexprs']['BV']
