"Decoding kernels against the torch recurrences in float64"
import inspect

import pytest
import torch

from hybrid_tutorial.core import ConfigError, ShapeError, assert_close
from hybrid_tutorial.ops import delta, gla, linear, mamba2
from hybrid_tutorial.ops.kernels import decode
from hybrid_tutorial.ops.kernels.decode import launches

OPS = {  # name -> (kernel, torch form, which gates)
    'gla': (decode.triton_recurrent_gla, gla.recurrent_gla, ('channel',)),
    'mamba2': (decode.triton_recurrent_mamba2, mamba2.recurrent_mamba2, ('head',)),
    'linear_attn': (decode.triton_recurrent_linear_attn, linear.recurrent_linear_attn, ()),
    'delta_rule': (decode.triton_recurrent_delta_rule, delta.recurrent_delta_rule, ('beta',)),
    'gated_delta_rule': (decode.triton_recurrent_gated_delta_rule, delta.recurrent_gated_delta_rule, ('head', 'beta')),
}
TOL = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 6e-4}
SHAPES = [(2, 1, 2, 4, 24, 40), (1, 3, 2, 2, 64, 64), (2, 2, 1, 3, 96, 33), (1, 1, 1, 1, 128, 128), (1, 4, 1, 2, 40, 24)]


def inputs(op, B, T, H, HV, K, V, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g)
    k = torch.nn.functional.normalize(r(B, T, H, K), dim=-1)
    gates = dict(channel=-r(B, T, HV, K).abs(), head=-r(B, T, HV).abs(), beta=r(B, T, HV).sigmoid())
    return [x.to(dtype) for x in (r(B, T, H, K), k, r(B, T, HV, V))] + [gates[n] for n in OPS[op][2]], r(B, HV, K, V)


def compare(op, xs, dtype, **options):
    kernel, form, _ = OPS[op]
    wide = {n: x.double() if n == 'initial_state' and x is not None else x for n, x in options.items()}
    (o, S), (want_o, want_S) = kernel(*xs, **options), form(*(x.double() for x in xs), **wide)
    assert o.dtype == dtype
    assert_close(o, want_o, TOL[dtype], 'o')
    if want_S is None: assert S is None
    else:
        assert S.dtype == torch.float32
        assert_close(S, want_S, 2e-6, 'state')
    return o, S


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('op', OPS)
def test_equals_float64(op, shape):
    xs, S = inputs(op, *shape)
    compare(op, xs, torch.float32, initial_state=S, output_final_state=True)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('op', OPS)
def test_half_precision_keeps_a_float32_state(op, dtype):
    xs, S = inputs(op, 2, 3, 1, 2, 64, 40, dtype)
    compare(op, xs, dtype, initial_state=S, output_final_state=True)


@pytest.mark.parametrize('op', OPS)
def test_without_states_and_with_a_scale(op):
    xs, _ = inputs(op, 1, 3, 2, 4, 40, 33)
    compare(op, xs, torch.float32, scale=0.3)
    compare(op, xs, torch.float32, scale=0.3, output_final_state=True)


@pytest.mark.parametrize('op', OPS)
def test_packed_sequences_with_an_empty_one(op):
    xs, _ = inputs(op, 1, 7, 1, 2, 24, 40)
    S = torch.randn(4, 2, 24, 40, generator=torch.Generator().manual_seed(1))
    _, last = compare(op, xs, torch.float32, cu_seqlens=torch.tensor([0, 3, 3, 4, 7]), initial_state=S, output_final_state=True)
    assert torch.equal(last[1], S[1])
    compare(op, xs, torch.float32, cu_seqlens=torch.tensor([0, 3, 3, 4, 7]), output_final_state=True)


@pytest.mark.parametrize('op', OPS)
def test_two_calls_equal_one(op):
    kernel = OPS[op][0]
    xs, S = inputs(op, 1, 5, 1, 2, 40, 40)
    o, last = kernel(*xs, initial_state=S, output_final_state=True)
    before = S.clone()
    a, S1 = kernel(*(x[:, :2] for x in xs), initial_state=S, output_final_state=True)
    b, S2 = kernel(*(x[:, 2:] for x in xs), initial_state=S1, output_final_state=True)
    assert torch.equal(torch.cat([a, b], 1), o) and torch.equal(S2, last) and torch.equal(S, before)


@pytest.mark.parametrize('op', ['gla', 'gated_delta_rule'])
def test_state_after_a_chunk(op):
    "Read with the chunk form, go on with the kernel"
    chunk = {'gla': gla.chunk_gla, 'gated_delta_rule': delta.chunk_gated_delta_rule}[op]
    xs, _ = inputs(op, 1, 9, 2, 2, 32, 32)
    want = chunk(*(x.double() for x in xs))[0][:, -1:]
    S = chunk(*(x[:, :-1] for x in xs), output_final_state=True)[1]
    assert_close(OPS[op][0](*(x[:, -1:] for x in xs), initial_state=S)[0], want, 2e-6)


def test_normalised_linear_attention():
    xs, _ = inputs('linear_attn', 2, 3, 1, 2, 32, 32)
    options = dict(feature_map='elu1', normalize=True, output_final_state=True)
    o, S = decode.triton_recurrent_linear_attn(*xs, **options)
    want_o, want_S = linear.recurrent_linear_attn(*(x.double() for x in xs), **options)
    assert_close(o, want_o, 2e-6)
    assert_close(S, want_S, 2e-6)


def test_strided_inputs():
    xs, S = inputs('gated_delta_rule', 2, 2, 2, 2, 32, 32)
    odd = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in xs]
    compare('gated_delta_rule', odd, torch.float32, initial_state=S.mT.contiguous().mT, output_final_state=True)


def test_a_decay_of_minus_infinity_forgets_everything():
    (q, k, v, g), S = inputs('gla', 1, 1, 1, 1, 32, 32)
    o, last = decode.triton_recurrent_gla(q, k, v, torch.full_like(g, -torch.inf), initial_state=S, output_final_state=True)
    assert_close(last[0, 0], k[0, 0, 0, :, None]*v[0, 0, 0, None, :], 1e-6)


def test_no_gradient_is_said_and_not_silent():
    xs, S = inputs('gated_delta_rule', 1, 1, 1, 1, 32, 32)
    xs[1].requires_grad_()
    with pytest.raises(ConfigError, match='chunk_gated_delta_rule'): decode.triton_recurrent_gated_delta_rule(*xs)
    with torch.no_grad(): assert not decode.triton_recurrent_gated_delta_rule(*xs)[0].requires_grad
    xs[1].requires_grad_(False)
    with pytest.raises(ConfigError, match='no gradient'): decode.triton_recurrent_gated_delta_rule(*xs, initial_state=S.requires_grad_())


def test_refuses_what_does_not_fit():
    (q, k, v, g), S = inputs('gla', 2, 2, 2, 3, 16, 16)
    with pytest.raises(ShapeError, match='not a multiple'): decode.triton_recurrent_gla(q, k, v, g)
    (q, k, v, g), S = inputs('gla', 2, 2, 2, 2, 16, 16)
    with pytest.raises(ShapeError, match='g is'): decode.triton_recurrent_gla(q, k, v, g[..., 0])
    with pytest.raises(ShapeError, match='initial_state'): decode.triton_recurrent_gla(q, k, v, g, initial_state=S[:1])
    with pytest.raises(ShapeError, match='batch size 1'): decode.triton_recurrent_gla(q, k, v, g, cu_seqlens=torch.tensor([0, 2]))
    with pytest.raises(ShapeError, match='cu_seqlens'): decode.triton_recurrent_gla(*(x[:1] for x in (q, k, v, g)), cu_seqlens=torch.tensor([0, 3]))
    with pytest.raises(ShapeError, match='float64'): decode.triton_recurrent_gla(q.double(), k, v, g)
    with pytest.raises(ShapeError, match='recurrent'): launches(257, 64)


@pytest.mark.parametrize('K', [16, 24, 64, 128, 256])
def test_table_is_complete(K):
    rows = launches(K, K, 'bf16', 80)
    assert len({r['name'] for r in rows}) == 5
    for row in rows:
        names = list(inspect.signature(row['kernel'].fn).parameters)
        assert list(row['signature']) == names
        assert {n for n in names if row['signature'][n] == 'constexpr'} == set(row['constexprs'])
        c = row['constexprs']
        assert c['BK'] >= K and c['BK']*c['BV'] <= 4096 and row['programs'](2, 1, 3)*c['BV'] >= 6*K
