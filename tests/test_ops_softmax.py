"Softmax attention against torch's own, and the feature maps"
import pytest, torch, torch.nn.functional as F
from hybrid_tutorial.core import ConfigError, ShapeError, rms_error
from hybrid_tutorial.ops.feature_maps import feature_map, hedgehog, performer, random_directions
from hybrid_tutorial.ops.softmax import attention_mask, attention_weights, softmax_attention


def qkv(T=33, J=None, H=4, G=2, dtype=torch.float64):
    r = torch.Generator().manual_seed(0)
    n = lambda *s: torch.randn(*s, generator=r, dtype=dtype)
    return n(2, T, H, 8), n(2, J or T, G, 8), n(2, J or T, G, 6)


@pytest.mark.parametrize('dtype, tol', [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize('window', [None, 1, 5])
@pytest.mark.parametrize('J', [None, 50])
def test_against_sdpa(dtype, tol, window, J):
    xs = [x.requires_grad_() for x in qkv(J=J, dtype=dtype)]
    q, k, v = (x.permute(0, 2, 1, 3) for x in xs)
    mask = attention_mask(xs[0].shape[1], xs[1].shape[1], window)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).permute(0, 2, 1, 3)
    got = softmax_attention(*xs, window=window)
    go = torch.ones_like(want)
    pairs = zip((got, *torch.autograd.grad(got, xs, go)), (want, *torch.autograd.grad(want, xs, go)))
    assert max(rms_error(a, b) for a, b in pairs if b.abs().max() > 1e-9) < tol


def test_window_and_sinks():
    m = attention_mask(6, 6, window=2, sinks=1)
    assert m[4].tolist() == [True, False, False, True, True, False]
    assert attention_mask(1, 6, window=2).tolist() == [[False]*4 + [True]*2]


def test_packed_and_sink_logits():
    q, k, v = qkv(T=10)
    cu = torch.tensor([0, 4, 10])
    got = softmax_attention(q[:1], k[:1], v[:1], cu_seqlens=cu)
    want = torch.cat([softmax_attention(q[:1, a:b], k[:1, a:b], v[:1, a:b]) for a, b in ((0, 4), (4, 10))], 1)
    assert rms_error(got, want) < 1e-12
    got = softmax_attention(q[:1], k[:1], v[:1], cu_seqlens=cu, window=2, sinks=1)
    want = torch.cat([softmax_attention(q[:1, a:b], k[:1, a:b], v[:1, a:b], window=2, sinks=1) for a, b in ((0, 4), (4, 10))], 1)
    assert rms_error(got, want) < 1e-12
    p = attention_weights(q, k, sink_logits=torch.zeros(4))
    assert (p.sum(-1) < 1).all()
    assert rms_error(softmax_attention(q, k, v, sink_logits=torch.full((4,), -1e9)), softmax_attention(q, k, v)) < 1e-12


def test_errors():
    q, k, v = qkv()
    with pytest.raises(ShapeError): softmax_attention(q[:, :, :3], k, v)
    with pytest.raises(ShapeError): softmax_attention(q, k, v, cu_seqlens=torch.tensor([0, 33]))
    with pytest.raises(ConfigError, match='performer'): feature_map('performr')


def test_bfloat16():
    xs = qkv(dtype=torch.bfloat16)
    want = softmax_attention(*(x.double() for x in xs))
    got = softmax_attention(*xs)
    assert got.dtype == torch.bfloat16 and rms_error(got, want) < 0.01


def test_hedgehog_is_two_distributions():
    x = torch.randn(2, 5, 3, 8)
    y = hedgehog(x, torch.randn(3, 8, 4))
    assert y.shape == (2, 5, 3, 8) and (y > 0).all()
    assert torch.allclose(y.unflatten(-1, (2, 4)).sum(-1), torch.ones(2, 5, 3, 2))


def test_performer_is_unbiased():
    r = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 1, 8, generator=r, dtype=torch.float64)*0.2
    W = random_directions(200_000, 8, r, torch.float64)
    f = performer(x, W)[0, :, 0]
    want = (x[0, 0, 0] @ x[0, 1, 0]).exp()
    assert abs(f[0] @ f[1]/want - 1) < 0.02
    first = W[:8]/W[:8].norm(dim=-1, keepdim=True)
    assert rms_error(first @ first.T, torch.eye(8, dtype=torch.float64)) < 1e-10
