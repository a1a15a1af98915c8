"Triton GLA and linear attention, in the interpreter, against the float64 torch form"
import pytest
import torch
import torch.nn.functional as F
from hybrid_tutorial.core import ConfigError, ShapeError, assert_close
from hybrid_tutorial.ops import chunk_gla, chunk_linear_attn
from hybrid_tutorial.ops.kernels import gla
from hybrid_tutorial.ops.kernels.gla import triton_gla, triton_linear_attn


def inputs(T, K=32, V=32, B=1, H=1, HV=1, seqs=None, gate=None, seed=0):
    gen = torch.Generator().manual_seed(seed)
    x = lambda *shape: torch.randn(*shape, generator=gen, dtype=torch.float64)
    g = F.logsigmoid(x(B, T, HV, K)) if gate is None else gate(x(B, T, HV, K))
    return dict(q=x(B, T, H, K), k=x(B, T, H, K), v=x(B, T, HV, V), g=g, S=x(seqs or B, HV, K, V))


def outcome(f, args, dtype=torch.float64, **kwargs):
    "Output, final state and the gradient of every input, from random gradients of both"
    args = {n: x.to(torch.float64 if dtype == torch.float64 else torch.float32 if n in 'gS' else dtype).requires_grad_() for n, x in args.items() if n != 'none'}
    S = args.pop('S')
    o, end = f(*args.values(), initial_state=S, output_final_state=True, **kwargs)
    gen = torch.Generator().manual_seed(1)
    do, dS = (torch.randn(x.shape, generator=gen, dtype=torch.float64) for x in (o, end))
    names = [*args, 'S']
    grads = torch.autograd.grad((o, end), [*args.values(), S], (do.to(o.dtype), dS.to(end.dtype)))
    return dict(o=o, end=end, **{f'd{n}': x for n, x in zip(names, grads)})


def compare(kernel, torch_form, args, tol=2e-6, dtype=torch.float32, dg_tol=None, **kwargs):
    if dtype != torch.float32: args = {n: x.to(dtype).double() if n in 'qkv' else x for n, x in args.items()}
    want, got = outcome(torch_form, args, **kwargs), outcome(kernel, args, dtype, **kwargs)
    assert set(got) == set(want)
    for n in want:
        assert got[n].dtype == (torch.float32 if n in ('end', 'dg', 'dS') else dtype), n
        assert_close(got[n], want[n], dg_tol or 10*tol if n == 'dg' else tol, n)


@pytest.mark.parametrize('T', [1, 15, 64, 65, 130])
def test_lengths(T): compare(triton_gla, chunk_gla, inputs(T))


@pytest.mark.parametrize('K,V', [(64, 64), (64, 128), (48, 40), (16, 100)])
def test_widths(K, V): compare(triton_gla, chunk_gla, inputs(70, K, V, H=1, HV=1))


def test_widest(): compare(triton_gla, chunk_gla, inputs(70, 128, 128))


@pytest.mark.parametrize('arch', [80, 90])
def test_the_float32_blocks_of_both_families(arch, monkeypatch):
    "Value tiles narrower than the head, packed, mixed widths, a length that is no multiple of the chunk"
    monkeypatch.setattr(gla, 'arch_of', lambda device: arch)
    assert gla.launches(64, 64, 'fp32', arch)[1]['constexprs']['BV'] == (16 if arch == 80 else 32)
    compare(triton_gla, chunk_gla, inputs(67, 40, 64, seqs=2), cu_seqlens=torch.tensor([0, 65, 67]))
    compare(triton_gla, chunk_gla, inputs(66, 33, 64, B=2))


def test_batch_and_grouped_heads(): compare(triton_gla, chunk_gla, inputs(20, 16, 16, B=2, H=2, HV=4), scale=0.3)


@pytest.mark.parametrize('ends', [[0, 0, 65, 66, 66, 130], [0, 3, 67, 128], [0, 64, 128]])
def test_packed(ends): compare(triton_gla, chunk_gla, inputs(ends[-1], 32, 16, seqs=len(ends)-1), cu_seqlens=torch.tensor(ends))


def strongest(x):
    "Channels that forget everything beside channels that forget nothing"
    g = torch.zeros_like(x)
    g[..., 0::4], g[..., 1::4], g[..., 2::4] = -30., -100., F.logsigmoid(x[..., 2::4])
    return g


def bursts(x): return torch.where(x > 1.5, -100., torch.where(x > 1, -30., -0.01*x.abs()))


@pytest.mark.parametrize('gate', [strongest, bursts, lambda x: x*0, lambda x: x.abs()*-200], ids=['strongest', 'bursts', 'none', 'wild'])
def test_gates(gate): compare(triton_gla, chunk_gla, inputs(80, gate=gate), dg_tol=1e-4)


def test_a_gate_of_minus_infinity_forgets():
    args = inputs(80)
    args['g'][:, 70] = -torch.inf
    got = outcome(triton_gla, args, torch.float32)
    args['g'][:, 70] = -200.
    want = outcome(chunk_gla, args)
    for n in want: assert_close(got[n], want[n], 1e-4, n)


@pytest.mark.parametrize('dtype,tol', [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half_precision(dtype, tol): compare(triton_gla, chunk_gla, inputs(70, 32, 64, HV=2), tol, dtype, dg_tol=5*tol)


def linear(f):
    return lambda q, k, v, **kw: f(q, k, v, feature_map='elu1', **kw)


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('ends', [None, [0, 0, 65, 66, 130]])
def test_linear_attn(normalize, ends):
    args = inputs(130, 32, 32, seqs=len(ends)-1 if ends else 1)
    del args['g']
    if normalize: args['S'] = torch.cat([args['S'], args['S'][..., :1].abs()+1], -1).abs()
    kw = dict(normalize=normalize, cu_seqlens=None if ends is None else torch.tensor(ends))
    compare(linear(triton_linear_attn), linear(chunk_linear_attn), args, 5e-6, **kw)


def test_linear_attn_with_128_values_and_a_normaliser():
    args = inputs(65, 16, 128)
    del args['g']
    args['S'] = torch.cat([args['S'], args['S'][..., :1]], -1).abs()
    compare(linear(triton_linear_attn), linear(chunk_linear_attn), args, 5e-6, normalize=True)


def test_state_handover():
    a = inputs(100)
    q, k, v, g = (a[n].float() for n in 'qkvg')
    o, S = triton_gla(q, k, v, g, output_final_state=True)
    o1, S1 = triton_gla(*(x[:, :37] for x in (q, k, v, g)), output_final_state=True)
    o2, S2 = triton_gla(*(x[:, 37:] for x in (q, k, v, g)), initial_state=S1, output_final_state=True)
    assert_close(torch.cat([o1, o2], 1), o, 1e-6), assert_close(S2, S, 1e-6)


def test_refusals():
    a = inputs(5)
    q, k, v, g = (a[n].float() for n in 'qkvg')
    with pytest.raises(ConfigError, match="chunk_size=32.*backend='chunk'"): triton_gla(q, k, v, g, chunk_size=32)
    with pytest.raises(ConfigError, match='chunks of 64'): triton_linear_attn(q, k, v, chunk_size=128)
    with pytest.raises(ShapeError, match='chunk'): triton_gla(*(F.pad(x, (0, 100)) for x in (q, k, v, g)))
    with pytest.raises(ShapeError, match='float64'): triton_gla(*(a[n] for n in 'qkvg'))
    with pytest.raises(ShapeError, match='g is'): triton_gla(q, k, v, g[..., :3])
    with pytest.raises(ShapeError, match='rise'): triton_gla(q, k, v, g, cu_seqlens=torch.tensor([0, 4]))
    with pytest.raises(ShapeError, match='batch size'): triton_gla(*(x.repeat(2, 1, 1, 1) for x in (q, k, v, g)), cu_seqlens=torch.tensor([0, 5]))
    with pytest.raises(ShapeError, match='initial_state'): triton_gla(q, k, v, g, initial_state=torch.zeros(1, 1, 32, 31))


@pytest.mark.parametrize('first, last', [(False, False), (True, False), (False, True)])
def test_states_may_be_left_out(first, last):
    "without a first state it is zero; without a last one the output and the gradients are the same"
    got, want = [], []
    for f, dtype, out in ((triton_gla, torch.float32, got), (chunk_gla, torch.float64, want)):
        a = {n: x.to(dtype).requires_grad_() for n, x in inputs(70).items()}
        S = a.pop('S') if first else None
        o, end = f(*(a[n] for n in 'qkvg'), initial_state=S, output_final_state=last)
        assert (end is None) == (not last)
        loss = (o*o.detach()).sum() + (0 if end is None else (end*end.detach()).sum())
        out += [o, *torch.autograd.grad(loss, [*(a[n] for n in 'qkvg'), *([S] if first else [])])]
    for x, y in zip(got, want): assert_close(x, y, 2e-5)
