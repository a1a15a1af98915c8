"Against the naive functions of flash-linear-attention, float32, on its own grid with tighter tolerances"
import os, warnings
import pytest, torch, torch.nn.functional as F
from hybrid_tutorial.core import rms_error
from ops_cases import form

pytest.importorskip('fla')
GRID = [(1, 63, 1, 64, 1.), (2, 500, 2, 60, 1.), (2, 1000, 2, 100, 0.1), (2, 75, 4, 64, 0.01), (1, 256, 2, 128, 10.)]
TIGHT, GATES = 1e-4, 1e-3  # fla allows 0.005 for values and up to 0.02 for the gradients of gates


@pytest.fixture(scope='module', autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def inputs(B, T, H, D, normalizer, names, HV=None):
    r = torch.Generator().manual_seed(42)
    n = lambda *s: torch.randn(*s, generator=r)
    u = lambda *s: torch.rand(*s, generator=r)
    HV = HV or H
    gate = lambda *s: F.logsigmoid(n(*s))/normalizer
    make = dict(q=lambda: n(B, T, H, D), k=lambda: F.normalize(n(B, T, H, D), dim=-1), v=lambda: n(B, T, HV, D),
                g=lambda: gate(B, T, HV), gk=lambda: gate(B, T, HV, D), beta=lambda: u(B, T, HV).sigmoid(), S=lambda: n(B, HV, D, D))
    return [make[x]().requires_grad_() for x in names.split()]


def compare(ours, theirs, xs, gate=None):
    "`gate` is the place of the log decay among the inputs: at the strongest gates its true gradient is almost nothing"
    outs = []
    for f in (ours, theirs):
        o, s = f(*xs)
        r = torch.Generator().manual_seed(1)
        go, gs = torch.randn(o.shape, generator=r), torch.randn(s.shape, generator=r)
        outs.append([o, s, *torch.autograd.grad([o, s], xs, [go, gs])])
    errors = [rms_error(a, b) for a, b in zip(*outs)]
    assert all(torch.isfinite(x).all() for x in outs[0])
    assert gate is None or errors.pop(gate+2) < GATES
    assert max(errors) < TIGHT, errors


kw = lambda S: dict(initial_state=S, output_final_state=True)


@pytest.mark.parametrize('B, T, H, D, norm', GRID)
def test_gated_delta_rule(B, T, H, D, norm):
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule as theirs
    xs = inputs(B, T, H, D, norm, 'q k v g beta S')
    compare(lambda q, k, v, g, b, S: form('gated_delta_rule', 'chunk')(q, k, v, g, b, **kw(S)),
            lambda q, k, v, g, b, S: theirs(q, k, v, b, g, **kw(S)), xs, 3)


@pytest.mark.parametrize('C', [16, 32, 64])
def test_gated_delta_rule_grouped(C):
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule as theirs
    xs = inputs(2, 100, 2, 64, 1., 'q k v g beta S', HV=4)
    rep = lambda x: x.repeat_interleave(2, 2)
    compare(lambda q, k, v, g, b, S: form('gated_delta_rule', 'chunk')(q, k, v, g, b, **kw(S), chunk_size=C),
            lambda q, k, v, g, b, S: theirs(rep(q), rep(k), v, b, g, **kw(S)), xs)


@pytest.mark.parametrize('B, T, H, D, norm', GRID[:3])
def test_delta_rule(B, T, H, D, norm):
    from fla.ops.delta_rule.naive import delta_rule_recurrence as theirs
    xs = inputs(B, T, H, D, norm, 'q k v beta S')
    t = lambda x: x.transpose(1, 2)
    def naive(q, k, v, b, S):
        o, s = theirs(t(q), t(k), t(v), t(b), initial_state=S)
        return t(o), s
    compare(lambda q, k, v, b, S: form('delta_rule', 'chunk')(q, k, v, b, **kw(S)), naive, xs)


@pytest.mark.parametrize('B, T, H, D, norm', GRID)
def test_gla(B, T, H, D, norm):
    from fla.ops.gla.naive import naive_recurrent_gla as theirs
    xs = inputs(B, T, H, D, norm, 'q k v gk S')
    compare(lambda q, k, v, g, S: form('gla', 'chunk')(q, k, v, g, **kw(S)), lambda q, k, v, g, S: theirs(q, k, v, g, **kw(S)), xs, 3)


@pytest.mark.parametrize('B, T, H, D, norm', GRID[:3])
def test_rwkv6(B, T, H, D, norm):
    "fla's naive RWKV-6 reads before it decays; its GLA is the recurrence that RADLADS calls RWKV-6"
    from fla.ops.gla.naive import naive_recurrent_gla as theirs
    xs = inputs(B, T, H, D, norm, 'q k v gk S')
    compare(lambda q, k, v, g, S: form('rwkv6', 'chunk')(q, k, v, g, **kw(S)),
            lambda q, k, v, g, S: theirs(q, k*(1-g.exp()), v, g, **kw(S)), xs)


@pytest.mark.parametrize('B, T, H, D, norm', GRID)
def test_kda(B, T, H, D, norm):
    from fla.ops.kda.naive import naive_recurrent_kda as theirs
    xs = inputs(B, T, H, D, norm, 'q k v gk beta S')
    compare(lambda q, k, v, g, b, S: form('kda', 'chunk')(q, k, v, g, b, **kw(S)), lambda q, k, v, g, b, S: theirs(q, k, v, g, b, **kw(S)), xs, 3)


@pytest.mark.parametrize('B, T, H, D, norm', GRID[:4])
def test_rwkv7(B, T, H, D, norm):
    from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence as theirs
    xs = inputs(B, T, H, D, norm, 'q gk k v S')
    t = lambda x: x.transpose(1, 2)
    rate = torch.rand(B, T, H, D, generator=torch.Generator().manual_seed(3))
    def naive(q, w, k, v, S):
        o, s = theirs(t(q), t(k), t(v), t(-k), t(k*rate), t(w), initial_state=S)
        return t(o), s
    compare(lambda q, w, k, v, S: form('rwkv7', 'chunk')(q, w, k, v, -k, k*rate, **kw(S)), naive, xs, 1)


@pytest.mark.parametrize('B, T, H, D, norm', GRID)
def test_mamba2(B, T, H, D, norm):
    from fla.ops.simple_gla.naive import naive_recurrent_simple_gla as theirs
    xs = inputs(B, T, H, D, norm, 'q k v g S')
    compare(lambda q, k, v, g, S: form('mamba2', 'chunk')(q, k, v, g, **kw(S)), lambda q, k, v, g, S: theirs(q, k, v, g, **kw(S)), xs, 3)


@pytest.mark.parametrize('normalize', [False, True])
def test_linear_attn(normalize):
    from fla.ops.linear_attn.naive import naive_recurrent_linear_attn as theirs
    q, k, v = inputs(2, 200, 2, 64, 1., 'q k v')
    ours = form('linear_attn', 'chunk')(q, k, v, feature_map='elu1', normalize=normalize)[0]
    assert rms_error(ours, theirs(F.elu(q)+1, F.elu(k)+1, v, normalize=normalize)[0]) < TIGHT
