"Chunked KL: design check 5"
import pytest
import torch

from hybrid_tutorial.core import ConfigError, ShapeError, assert_close
from hybrid_tutorial.ops.loss import CappedTarget, KLTarget, chunked_kl, dense_kl, kl_target


def setup(dtype=torch.float64, B=2, T=37, D=16, W=83):
    g = torch.Generator().manual_seed(0)
    r = lambda *s: torch.randn(*s, generator=g, dtype=dtype)
    return r(B, T, D), r(B, T, D+3), r(W, D), r(W, D+3), torch.rand(B, T, generator=g) < 0.6


@pytest.mark.parametrize('chunk', [1, 7, 64, 1000])
@pytest.mark.parametrize('options', [{}, dict(temperature=2.), dict(softcap=3.), dict(logit_scale=0.25), dict(temperature=0.7, softcap=5., logit_scale=2.)])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_dense_in_value_and_gradient(chunk, options, masked):
    h_s, h_t, w_s, w_t, mask = setup(torch.float32)
    def dense(h, w):
        s, t = ((x.double()*options.get('logit_scale', 1.)) for x in (h@w.T, h_t@w_t.T))
        if cap := options.get('softcap'): s, t = cap*torch.tanh(s/cap), cap*torch.tanh(t/cap)
        tau = options.get('temperature', 1.)
        s, t = (s/tau).log_softmax(-1), (t/tau).log_softmax(-1)
        kl = tau**2*(t.exp()*(t-s)).sum(-1)
        return (kl[mask] if masked else kl).mean()
    out = []
    for fn in (dense, lambda h, w: chunked_kl(h, h_t, w, w_t, mask=mask if masked else None, chunk_size=chunk, **options)):
        h, w = h_s.clone().requires_grad_(), w_s.clone().requires_grad_()
        loss = fn(h, w); (loss*3).backward()
        out.append((loss.detach(), h.grad, w.grad))
    for want, got in zip(*out): assert_close(got.double(), want.double(), 2e-5)


def test_identical_inputs_give_zero_and_zero_gradient():
    h, _, w, _, _ = setup(torch.float32)
    h = h.requires_grad_()
    loss = chunked_kl(h, h.detach(), w, w)
    loss.backward()
    assert loss == 0 and h.grad.abs().max() < 1e-8


def test_sum_is_mean_times_count_and_empty_mask_is_zero():
    h_s, h_t, w_s, w_t, mask = setup(torch.float32)
    assert_close(chunked_kl(h_s, h_t, w_s, w_t, mask=mask, reduction='sum'), chunked_kl(h_s, h_t, w_s, w_t, mask=mask)*mask.sum(), 1e-5)
    assert chunked_kl(h_s, h_t, w_s, w_t, mask=torch.zeros_like(mask)) == 0


def test_never_holds_all_logits():
    h_s, h_t, w_s, w_t, _ = setup(torch.float32, B=4, T=64, W=500)
    sizes = []
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor))
            return out
    with Watch(): chunked_kl(h_s.requires_grad_(), h_t, w_s.requires_grad_(), w_t, chunk_size=32).backward()
    assert max(sizes) < 4*64*500 and max(sizes) <= max(32*500, w_s.numel(), w_t.numel(), h_t.numel())


def test_target_equals_dense():
    h_s, h_t, w, _, _ = setup()
    h_s, h_t = h_s.flatten(0, 1).float(), torch.randn(74, 16)
    for scale in (1., 0.3):
        t = KLTarget(h_t, w.float(), chunk_size=10, logit_scale=scale)
        assert_close(t.kl(h_s), dense_kl(h_s@w.float().T*scale, h_t@w.float().T*scale), 1e-5)


def test_target_of_squashed_logits():
    h_s, h_t, w, _, _ = setup()
    h_s, h_t, w = h_s.flatten(0, 1).float().requires_grad_(), torch.randn(74, 16), w.float()
    for scale in (1., 0.3):
        t = CappedTarget(h_t, w, softcap=2., chunk_size=10, logit_scale=scale)
        squash = lambda h: 2*torch.tanh(h@w.T*scale/2)
        want = dense_kl(squash(h_s), squash(h_t))
        kl, slope = t.slope(h_s.detach())
        for got in (t.kl(h_s.detach()), kl): assert_close(got, want.detach(), 1e-5)
        assert_close(slope, torch.autograd.grad(want.sum(), h_s)[0], 1e-4)
    assert isinstance(kl_target(h_t, w), KLTarget) and isinstance(kl_target(h_t, w, softcap=2.), CappedTarget)


def test_bad_input():
    h_s, h_t, w_s, w_t, _ = setup()
    with pytest.raises(ShapeError, match='words'): chunked_kl(h_s, h_t, w_s[:9], w_t)
    with pytest.raises(ShapeError, match='same tokens'): chunked_kl(h_s[:1], h_t, w_s, w_t)
    with pytest.raises(ConfigError): chunked_kl(h_s, h_t, w_s, w_t, temperature=0)
    with pytest.raises(ConfigError): chunked_kl(h_s, h_t, w_s, w_t, reduction='none')
