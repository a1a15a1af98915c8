"Gated RMS norm: the kernel against the torch form in float64, and the torch form against the mixers' own"
import inspect

import pytest
import torch

from hybrid_tutorial.core import ConfigError, ShapeError, assert_close, rms_error
from hybrid_tutorial.ops.kernels import norm
from hybrid_tutorial.ops.kernels.norm import gated_rms_norm, launches, strips, tile_of, triton_gated_rms_norm

TOL = {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 6e-4}


def inputs(shape, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g).to(dtype)
    return r(*shape), r(shape[-1]), r(*shape), r(*shape)


def both(x, w, z, dy, activation, eps=1e-5):
    "Output and gradients of the kernel, and of the torch form in float64"
    out = []
    for f, kind in ((triton_gated_rms_norm, x.dtype), (gated_rms_norm, torch.float64)):
        leaves = [t.to(kind).detach().clone().requires_grad_() for t in (x, w, z)]
        y = f(leaves[0], leaves[1], leaves[2] if activation else None, eps=eps, gate_activation=activation)
        y.backward(dy.to(kind))
        out.append([y.detach()] + [t.grad for t in leaves[:3 if activation else 2]])
    return out


@pytest.mark.parametrize('dtype', TOL, ids=str)
@pytest.mark.parametrize('activation', [None, 'open', 'silu'])
@pytest.mark.parametrize('shape', [(1, 24), (31, 40), (33, 64), (2, 9, 3, 96), (5, 576), (2, 2050)], ids=str)
def test_equals_float64(shape, activation, dtype):
    for name, got, want in zip(('y', 'dx', 'dweight', 'dgate'), *both(*inputs(shape, dtype), activation)):
        assert got.dtype == dtype
        assert_close(got, want, TOL[dtype], name)


def test_backward_programs_walk_over_several_blocks(monkeypatch):
    monkeypatch.setattr(norm, 'PROGRAMS', 3)
    x, w, z, dy = inputs((1000, 40), torch.float32)
    programs, steps = strips(1000, launches(40, None, 'fp32', 90, 'silu')[1]['constexprs']['BR'])
    assert programs <= 3 and steps > 1
    for got, want in zip(*both(x, w, z, dy, 'silu')): assert_close(got, want, 1e-6)


def test_torch_form_is_what_the_mixers_do():
    from hybrid_tutorial.models.mixers import RMSNorm
    x, w, z, _ = inputs((7, 32), torch.float32)
    layer = RMSNorm(32)
    layer.weight.data = w
    assert_close(gated_rms_norm(x, w, z, gate_activation='open'), layer(x)*2*z.sigmoid(), 1e-6)
    assert_close(gated_rms_norm(x, w, z), layer(x)*torch.nn.functional.silu(z), 1e-6)
    assert_close(gated_rms_norm(x, w), layer(x), 1e-6)


def test_eps_counts_and_a_row_of_zeros_is_finite():
    x, w, z, dy = inputs((6, 40), torch.float32)
    x[2] = 0
    for got, want in zip(*both(1e-3*x, w, z, dy, 'silu', eps=1e-2)): assert_close(got, want, 1e-6)
    assert rms_error(triton_gated_rms_norm(x, w, eps=1e-2), triton_gated_rms_norm(x, w, eps=1e-5)) > 1e-3


def test_strided_and_empty_inputs():
    x, w, z, _ = inputs((12, 48), torch.float32)
    assert_close(triton_gated_rms_norm(x.mT.contiguous().mT, w, z), gated_rms_norm(x, w, z), 1e-6)
    assert triton_gated_rms_norm(x[:0], w, z[:0]).shape == (0, 48)
    e = x[:0].clone().requires_grad_()
    triton_gated_rms_norm(e, w).sum().backward()
    assert e.grad.shape == (0, 48)


@pytest.mark.parametrize('K', [40, 64])
def test_mixed_formats(K):
    "A weight and a gate in float32 beside rows in bfloat16: nothing is rounded before it is used"
    x, w, z, dy = inputs((21, K), torch.bfloat16)
    out = []
    for f, kind in ((triton_gated_rms_norm, torch.float32), (gated_rms_norm, torch.float64)):
        leaves = [t.to(k).detach().requires_grad_() for t, k in ((x, torch.bfloat16), (w+0.001, kind), (z.float()+0.001, kind))]
        y = f(*leaves)
        y.backward(dy)
        out.append((y, *(t.grad for t in leaves)))
    for got, want in zip(*out): assert_close(got, want, 1e-2)
    assert_close(out[0][3], out[1][3], 1e-5)


def test_strided_gradient():
    x, w, z, dy = inputs((12, 48), torch.float32)
    for got, want in zip(*both(x, w, z, dy.mT.contiguous().mT, 'silu')): assert_close(got, want, 1e-6)


def test_refuses_what_does_not_fit():
    x, w, z, _ = inputs((3, 32), torch.float32)
    with pytest.raises(ConfigError, match='silu'): triton_gated_rms_norm(x, w, z, gate_activation='slu')
    with pytest.raises(ConfigError, match='needs an activation'): triton_gated_rms_norm(x, w, z, gate_activation=None)
    with pytest.raises(ShapeError, match='weight'): triton_gated_rms_norm(x, w[:5], z)
    with pytest.raises(ShapeError, match='gate'): triton_gated_rms_norm(x, w, z[:1])
    with pytest.raises(ShapeError, match='float64'): triton_gated_rms_norm(x.double(), w, z)
    with pytest.raises(ShapeError, match='8192'): tile_of(8193)


@pytest.mark.parametrize('K', [16, 24, 64, 128, 576, 4096, 8192])
def test_table_is_complete(K):
    for row in launches(K, None, 'bf16', 80):
        names = list(inspect.signature(row['kernel'].fn).parameters)
        assert list(row['signature']) == names
        assert {n for n in names if row['signature'][n] == 'constexpr'} == set(row['constexprs'])
        assert row['programs'](2, 64, 3) >= 1 and row['constexprs']['BK'] >= K
        assert row['constexprs']['BK']*row['constexprs']['BR'] <= 512*row['num_warps']
