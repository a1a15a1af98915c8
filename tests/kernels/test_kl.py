"Fused linear and KL: the kernels against the dense form in float64"
import inspect

import pytest
import torch

from hybrid_tutorial.core import ConfigError, ShapeError, assert_close, rms_error
from hybrid_tutorial.ops.kernels import loss as kl
from hybrid_tutorial.ops.kernels.loss import launches, parts_of, triton_chunked_kl
from hybrid_tutorial.ops.loss import chunked_kl

TOL = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def inputs(N=70, D=24, W=150, dtype=torch.float32, wider=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g)
    return r(N, D).to(dtype), r(N, D+wider).to(dtype), (2*r(W, D)/D**0.5).to(dtype), (2*r(W, D+wider)/D**0.5).to(dtype)


def dense(h_s, h_t, w_s, w_t, mask=None, temperature=1., reduction='mean', softcap=None, logit_scale=1.):
    "The definition, with all logits"
    s, t = (logit_scale*(h.double()@w.double().mT) for h, w in ((h_s, w_s), (h_t, w_t)))
    if softcap: s, t = softcap*torch.tanh(s/softcap), softcap*torch.tanh(t/softcap)
    s, t = (s/temperature).log_softmax(-1), (t/temperature).log_softmax(-1)
    loss = temperature**2*(t.exp()*(t-s)).sum(-1)
    loss = loss if mask is None else loss[mask]
    return loss.sum() if reduction == 'sum' else loss.mean()


def both(xs, **options):
    "Loss and gradients of the kernels, and of the dense form"
    out = []
    for f, kind in ((triton_chunked_kl, xs[0].dtype), (dense, torch.float64)):
        h, w = (xs[i].to(kind).detach().clone().requires_grad_() for i in (0, 2))
        loss = f(h, xs[1], w, xs[3], **options)
        (3*loss).backward()
        out.append((loss.detach(), h.grad, w.grad))
    return out


def check(xs, slack=1, **options):
    got, want = both(xs, **options)
    assert got[0].dtype == torch.float32
    for name, g, w in zip(('loss', 'dhidden', 'dhead'), got, want):
        assert_close(g, w, slack*TOL[xs[0].dtype] if name != 'loss' else 3e-6, name)


@pytest.mark.parametrize('dtype', TOL, ids=str)
@pytest.mark.parametrize('N, D, W', [(1, 24, 1), (65, 40, 129), (70, 64, 300), (129, 96, 127)])
def test_equals_float64(N, D, W, dtype): check(inputs(N, D, W, dtype))


@pytest.mark.parametrize('options', [dict(temperature=2.), dict(softcap=3.), dict(logit_scale=0.25), dict(reduction='sum'),
    dict(temperature=0.7, softcap=5., logit_scale=2.)], ids=str)
def test_options(options): check(inputs(), **options)


def test_several_tiles_in_a_part_and_several_parts():
    xs = inputs(40, 16, 1100)
    parts, words = parts_of(40, 1100, 128, 128)
    assert parts > 1 and words > 128 and words % 128 == 0
    check(xs)


def test_a_long_batch_takes_the_vocabulary_in_one_part(monkeypatch):
    assert parts_of(128*264, 1000, 128, 128)[0] == 1
    monkeypatch.setattr(kl, 'parts_of', lambda N, W, BN, BW: (1, W+77))
    check(inputs(9, 16, 600))


@pytest.mark.parametrize('masked', ['some', 'one', 'all'])
def test_mask(masked):
    xs = inputs()
    mask = dict(some=torch.rand(70, generator=torch.Generator().manual_seed(1)) < 0.6, one=torch.arange(70) == 5, all=torch.ones(70, dtype=torch.bool))[masked]
    check(xs, mask=mask)
    h = xs[0].clone().requires_grad_()
    triton_chunked_kl(h, *xs[1:], mask=mask).backward()
    assert (h.grad[~mask] == 0).all() and (h.grad[mask].abs().sum(-1) > 0).all()


def test_empty_mask_is_zero_with_zero_gradients():
    h_s, h_t, w_s, w_t = inputs()
    h, w = h_s.requires_grad_(), w_s.requires_grad_()
    loss = triton_chunked_kl(h, h_t, w, w_t, mask=torch.zeros(70, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (h.grad == 0).all() and (w.grad == 0).all()


def test_weights_that_differ_are_the_torch_forms():
    xs, weight = inputs(), torch.rand(70, generator=torch.Generator().manual_seed(2))
    out = []
    for f in (triton_chunked_kl, chunked_kl):
        h, w = xs[0].clone().requires_grad_(), xs[2].clone().requires_grad_()
        loss = f(h, xs[1], w, xs[3], mask=weight)
        loss.backward()
        out.append((loss.detach(), h.grad, w.grad))
    for got, want in zip(*out): assert_close(got, want, 5e-6)


@pytest.mark.parametrize('dtype', TOL, ids=str)
def test_identical_inputs_give_zero_and_zero_gradients(dtype):
    h, _, w, _ = inputs(dtype=dtype)
    a, b = h.clone().requires_grad_(), w.clone().requires_grad_()
    loss = triton_chunked_kl(a, h, b, w, temperature=1.7)
    loss.backward()
    assert loss == 0 and a.grad.abs().max() == 0 and b.grad.abs().max() == 0


def test_large_logits_do_not_overflow(): check(inputs(), slack=10, logit_scale=60.)


def test_float16_gradients_survive_small_weights():
    "As a mean over a million tokens with a loss scale would have it: the weight is applied after the sum in float32"
    h_s, h_t, w_s, w_t = inputs(dtype=torch.float16)
    _, want = both((h_s, h_t, w_s, w_t), reduction='sum')
    h, w = h_s.clone().requires_grad_(), w_s.clone().requires_grad_()
    (3e6*triton_chunked_kl(h, h_t, w, w_t, mask=torch.full((70,), 1e-6), reduction='sum')).backward()
    assert_close(h.grad, want[1], 1e-3)
    assert_close(w.grad, want[2], 1e-3)


@pytest.mark.parametrize('which', ['hidden', 'head'])
def test_only_the_gradient_that_is_needed_is_computed(which, monkeypatch):
    ran, launch = [], kl.launch
    monkeypatch.setattr(kl, 'launch', lambda entry, *a, **k: (ran.append(entry['name']), launch(entry, *a, **k)))
    h_s, h_t, w_s, w_t = inputs()
    want = both((h_s, h_t, w_s, w_t))[1]
    (h_s if which == 'hidden' else w_s).requires_grad_()
    ran.clear()
    triton_chunked_kl(h_s, h_t, w_s, w_t).backward()
    assert ran == ['kl_forward', f'kl_backward_{which}']
    x = h_s if which == 'hidden' else w_s
    assert_close(3*x.grad, want[1 if which == 'hidden' else 2], 3e-6)


def test_teacher_gets_no_gradient():
    xs = [x.requires_grad_() for x in inputs()]
    triton_chunked_kl(*xs).backward()
    assert xs[0].grad is not None and xs[1].grad is None and xs[3].grad is None


def test_never_holds_logits():
    xs = inputs(256, 64, 1400)
    sizes = []
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel()*x.element_size() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor))
            return out
    parts = parts_of(256, 1400, 64, 128)[0]
    with Watch(): triton_chunked_kl(xs[0].requires_grad_(), xs[1], xs[2].requires_grad_(), xs[3]).backward()
    assert sizes and max(sizes) <= 4*max(parts*256*64, 1400*128) < 4*256*1400  # the teacher's width of 67 is filled up to 128


def test_batch_shape_mixed_formats_and_autocast():
    h_s, h_t, w_s, w_t = inputs()
    want = dense(h_s, h_t, w_s, w_t)
    assert_close(triton_chunked_kl(h_s.view(2, 35, -1), h_t.view(2, 35, -1), w_s, w_t), want, 3e-6)
    assert_close(triton_chunked_kl(h_s, h_t.half(), w_s, w_t.half()), dense(h_s, h_t.half(), w_s, w_t.half()), 3e-6)
    h, w = h_s.clone().requires_grad_(), w_s.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16): loss = triton_chunked_kl(h, h_t, w, w_t)
    loss.backward()
    assert 1e-6 < rms_error(loss, want) < 1e-2
    assert h.grad.dtype == w.grad.dtype == torch.float32


def test_bad_input():
    h_s, h_t, w_s, w_t = inputs()
    with pytest.raises(ShapeError, match='words'): triton_chunked_kl(h_s, h_t, w_s[:9], w_t)
    with pytest.raises(ShapeError, match='same tokens'): triton_chunked_kl(h_s[:1], h_t, w_s, w_t)
    with pytest.raises(ShapeError, match='width'): triton_chunked_kl(h_s, h_t, w_s[:, :9], w_t)
    with pytest.raises(ShapeError, match='float64'): triton_chunked_kl(*(x.double() for x in (h_s, h_t, w_s, w_t)))
    with pytest.raises(ConfigError): triton_chunked_kl(h_s, h_t, w_s, w_t, temperature=0)
    with pytest.raises(ConfigError): triton_chunked_kl(h_s, h_t, w_s, w_t, reduction='none')


@pytest.mark.parametrize('softcap', [False, True])
@pytest.mark.parametrize('arch', [80, 89, 90, 100, 120])
@pytest.mark.parametrize('dtype', ['bf16', 'fp16', 'fp32'])
def test_table_is_complete(dtype, arch, softcap):
    rows = launches(576, 49152, dtype, arch, softcap)
    assert [r['name'] for r in rows] == ['kl_forward', 'kl_backward_hidden', 'kl_backward_head']
    for row in rows:
        names = list(inspect.signature(row['kernel'].fn).parameters)
        assert list(row['signature']) == names
        assert {n for n in names if row['signature'][n] == 'constexpr'} == set(row['constexprs'])
        assert row['programs'](4, 1024, 1) >= 32
