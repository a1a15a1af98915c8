"Every operator: recurrent = parallel = chunk, values, states and gradients, and the laws that any causal memory obeys"
import pytest, torch
from hypothesis import given, settings, strategies as st
from hybrid_tutorial.core import ConfigError, ShapeError, rms_error
from hybrid_tutorial.ops import layout
from hybrid_tutorial.ops.dispatch import OPERATORS, FLA, _fla_arguments, attend
from ops_cases import GROUPED, case, form, run, worst

OPS = list(OPERATORS)
quick = settings(max_examples=12, deadline=None, derandomize=True)


@pytest.mark.parametrize('T', [1, 2, 63, 64, 65])
@pytest.mark.parametrize('op', OPS)
def test_three_forms_agree(op, T):
    xs, S = case(op, T=T)
    want = run(form(op, 'recurrent'), xs, S)
    for kind in ('parallel', 'chunk'): assert worst(run(form(op, kind), xs, S), want) < 1e-10


@pytest.mark.parametrize('op', OPS)
def test_long_sequence(op):
    xs, S = case(op, B=1, T=1000, H=1)
    assert worst(run(form(op, 'chunk'), xs, S), run(form(op, 'recurrent'), xs, S)) < 1e-10


@pytest.mark.parametrize('op', OPS)
def test_many_stretches(op, monkeypatch):
    monkeypatch.setattr(layout, 'STRETCH', 1)
    xs, S = case(op, T=70)
    assert worst(run(form(op, 'chunk'), xs, S, chunk_size=16), run(form(op, 'recurrent'), xs, S)) < 1e-10


@pytest.mark.parametrize('op', OPS)
def test_chunk_sizes(op):
    xs, S = case(op, T=50)
    want = run(form(op, 'recurrent'), xs, S)
    for C in (1, 2, 3, 7, 16, 33, 50, 64, 128): assert worst(run(form(op, 'chunk'), xs, S, chunk_size=C), want) < 1e-10


@pytest.mark.parametrize('op', GROUPED)
def test_grouped_value_heads(op):
    xs, S = case(op, T=20, H=2, HV=6)
    want = run(form(op, 'recurrent'), xs, S)
    for kind in ('parallel', 'chunk'): assert worst(run(form(op, kind), xs, S, chunk_size=8), want) < 1e-10
    flat = [x.repeat_interleave(3, 2) if i < 2 else x for i, x in enumerate(xs)]
    assert rms_error(run(form(op, 'chunk'), flat, S, grads=False)[0], want[0]) < 1e-10


@pytest.mark.parametrize('op', OPS)
def test_scale_and_defaults(op):
    xs, _ = case(op)
    f = form(op, 'chunk')
    o, end = f(*xs)
    assert end is None
    assert rms_error(f(*xs, scale=2*8**-0.5)[0], 2*o) < 1e-12
    assert rms_error(form(op, 'recurrent')(*xs, scale=0.3)[0], f(*xs, scale=0.3)[0]) < 1e-12


@pytest.mark.parametrize('kind', ['recurrent', 'parallel', 'chunk'])
@pytest.mark.parametrize('op', OPS)
def test_packing(op, kind):
    "Packed sequences = separate calls, an empty one included"
    ends = [0, 5, 5, 6, 23]
    xs, S = case(op, B=1, T=23, seqs=4)
    o, end = form(op, kind)(*xs, initial_state=S, output_final_state=True, cu_seqlens=torch.tensor(ends), chunk_size=8)
    for i, (a, b) in enumerate(zip(ends, ends[1:])):
        if a == b: assert torch.equal(end[i], S[i]); continue
        oi, si = form(op, 'recurrent')(*(x[:, a:b] for x in xs), initial_state=S[i:i+1], output_final_state=True)
        assert rms_error(o[:, a:b], oi) < 1e-10 and rms_error(end[i:i+1], si) < 1e-10


@pytest.mark.parametrize('op', OPS)
def test_packing_gradients(op):
    xs, S = case(op, B=1, T=23, seqs=3)
    cu = torch.tensor([0, 5, 6, 23])
    assert worst(run(form(op, 'chunk'), xs, S, cu_seqlens=cu, chunk_size=8), run(form(op, 'recurrent'), xs, S, cu_seqlens=cu)) < 1e-10


@pytest.mark.parametrize('op', OPS)
def test_gradcheck(op):
    xs, S = case(op, B=1, T=5, H=1, K=3, V=2)
    leaves = [x.requires_grad_() for x in (*xs, S)]
    f = lambda *a: form(op, 'chunk')(*a[:-1], initial_state=a[-1], output_final_state=True, chunk_size=2)
    assert torch.autograd.gradcheck(f, leaves, fast_mode=False)


@quick
@given(op=st.sampled_from(OPS), T=st.integers(1, 40), C=st.integers(1, 40), cut=st.integers(0, 39), seed=st.integers(0, 99))
def test_future_never_changes_past(op, T, C, cut, seed):
    cut = min(cut, T-1)
    xs, S = case(op, T=T, seed=seed)
    ys = [torch.cat([x[:, :cut], torch.randn_like(x[:, cut:])*(-1 if i > 2 else 1)], 1) for i, x in enumerate(xs)]
    ys = [torch.cat([x[:, :cut], -y[:, cut:].abs()], 1) if OPERATORS[op][1].split()[i] in ('g', 'w') else y for i, (x, y) in enumerate(zip(xs, ys))]
    f = form(op, 'chunk')
    o, p = (f(*z, initial_state=S, chunk_size=C)[0][:, :cut] for z in (xs, ys))
    assert cut == 0 or rms_error(p, o) < 1e-10


@quick
@given(op=st.sampled_from(OPS), T=st.integers(2, 60), C=st.integers(1, 40), cut=st.integers(1, 59), seed=st.integers(0, 99))
def test_state_hand_over(op, T, C, cut, seed):
    cut = min(cut, T-1)
    xs, S = case(op, T=T, seed=seed)
    f = form(op, 'chunk')
    o, end = f(*xs, initial_state=S, output_final_state=True, chunk_size=C)
    o1, mid = f(*(x[:, :cut] for x in xs), initial_state=S, output_final_state=True, chunk_size=C)
    o2, end2 = f(*(x[:, cut:] for x in xs), initial_state=mid, output_final_state=True, chunk_size=C)
    assert rms_error(torch.cat([o1, o2], 1), o) < 1e-10 and rms_error(end2, end) < 1e-10


@quick
@given(op=st.sampled_from(OPS), lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_packing_property(op, lengths, seed):
    ends = torch.tensor([0, *lengths]).cumsum(0)
    T = int(ends[-1])
    if T == 0: return
    xs, S = case(op, B=1, T=T, seqs=len(lengths), seed=seed)
    o, _ = form(op, 'chunk')(*xs, initial_state=S, cu_seqlens=ends, chunk_size=8)
    parts = [form(op, 'chunk')(*(x[:, a:b] for x in xs), initial_state=S[i:i+1])[0] for i, (a, b) in enumerate(zip(ends[:-1], ends[1:])) if b > a]
    assert rms_error(o, torch.cat(parts, 1)) < 1e-10


@quick
@given(op=st.sampled_from(OPS), T=st.integers(1, 80), a=st.integers(1, 80), b=st.integers(1, 80), seed=st.integers(0, 99))
def test_chunk_size_invariance(op, T, a, b, seed):
    xs, S = case(op, T=T, seed=seed)
    x, y = (form(op, 'chunk')(*xs, initial_state=S, chunk_size=C)[0] for C in (a, b))
    assert rms_error(x, y) < 1e-10


@pytest.mark.parametrize('op', ['delta_rule', 'gated_delta_rule', 'kda'])
def test_beta_zero_writes_nothing(op):
    xs, S = case(op, T=30)
    xs[-1] = torch.zeros_like(xs[-1])
    if len(xs) == 5: xs[3] = torch.zeros_like(xs[3])
    for kind in ('recurrent', 'parallel', 'chunk'):
        o, end = form(op, kind)(*xs, initial_state=S, output_final_state=True, chunk_size=8)
        assert torch.equal(end, S)
        assert rms_error(o, torch.einsum('bthk,bhkv->bthv', xs[0]*8**-0.5, S)) < 1e-12


GATED = [op for op in OPS if set(OPERATORS[op][1].split()) & {'g', 'w'}]


@pytest.mark.parametrize('kind', ['recurrent', 'parallel', 'chunk'])
@pytest.mark.parametrize('op', GATED)
def test_no_decay_and_full_decay(op, kind):
    "g = 0 keeps everything; g = -inf at one token forgets all that came before, in values and gradients"
    names = OPERATORS[op][1].split()
    i = names.index('g' if 'g' in names else 'w')
    xs, S = case(op, T=24)
    none = [torch.zeros_like(x) if j == i else x for j, x in enumerate(xs)]
    plain = {'gla': 'linear_attn', 'mamba2': 'linear_attn', 'gated_delta_rule': 'delta_rule', 'kda': 'delta_rule'}.get(op)
    if plain:
        want = form(plain, 'recurrent')(*(x for j, x in enumerate(none) if j != i), initial_state=S)[0]
        assert rms_error(form(op, kind)(*none, initial_state=S, chunk_size=8)[0], want) < 1e-10
    cut = [x.clone() for x in xs]
    cut[i][:, 10] = -torch.inf
    if op == 'rwkv7': cut[4][:, 10] = 0  # this token would read the state before it decays
    got = run(form(op, kind), cut, S, chunk_size=8)
    assert all(torch.isfinite(x).all() for x in got)
    fresh = form(op, 'recurrent')(*(x[:, 10:] for x in cut))[0]
    assert rms_error(got[0][:, 10:], fresh) < 1e-10


@pytest.mark.parametrize('op', ['gla', 'rwkv6', 'kda', 'rwkv7', 'mamba2', 'gated_delta_rule'])
@pytest.mark.parametrize('gate', [0.01, 1., 10., 60., 1000.])
def test_strongest_channel_gates_stay_finite(op, gate):
    xs, S = case(op, B=1, T=64, dtype=torch.float32, gate=gate)
    want = run(form(op, 'recurrent'), [x.double() for x in xs], S.double())
    got = run(form(op, 'chunk'), xs, S)
    assert all(torch.isfinite(x).all() for x in got)
    for x, y in zip(got[:2], want[:2]): assert rms_error(x, y) < 1e-5


@pytest.mark.parametrize('op', ['delta_rule', 'gated_delta_rule', 'kda'])
def test_orthonormal_keys_recall_exactly(op):
    T = K = 32
    k = torch.linalg.qr(torch.randn(K, K, dtype=torch.float64))[0][None, :, None]
    v, one = torch.randn(1, T, 1, 5, dtype=torch.float64), torch.ones(1, T, 1, dtype=torch.float64)
    g = {'delta_rule': (), 'gated_delta_rule': (0*one,), 'kda': (0*k,)}[op]
    for kind in ('recurrent', 'parallel', 'chunk'):
        _, S = form(op, kind)(k, k, v, *g, one, output_final_state=True, chunk_size=8)
        o, _ = form(op, kind)(k.flip(1), k, 0*v, *g, 0*one, scale=1., initial_state=S)
        assert rms_error(o.flip(1), v) < 1e-12


def test_delta_rule_overwrites():
    "The second write to a key replaces the first; linear attention adds them up"
    k = torch.eye(4, dtype=torch.float64)[[0, 1, 0]][None, :, None]
    v, one = torch.randn(1, 3, 1, 5, dtype=torch.float64), torch.ones(1, 3, 1, dtype=torch.float64)
    assert rms_error(form('delta_rule', 'chunk')(k, k, v, one, scale=1.)[0][:, 2], v[:, 2]) < 1e-12
    assert rms_error(form('linear_attn', 'chunk')(k, k, v, scale=1.)[0][:, 2], v[:, 2]+v[:, 0]) < 1e-12


def test_identical_keys_do_not_blow_up():
    "All keys equal is the worst case for the triangular inverse"
    xs, S = case('gated_delta_rule', T=200, dtype=torch.float32)
    xs[1], xs[4], xs[3] = xs[1][:, :1].expand_as(xs[1]), torch.ones_like(xs[4]), torch.zeros_like(xs[3])
    want = run(form('gated_delta_rule', 'recurrent'), [x.double() for x in xs], S.double())
    assert worst(run(form('gated_delta_rule', 'chunk'), xs, S), want) < 1e-5


@pytest.mark.parametrize('dtype, tol', [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize('op', OPS)
def test_number_formats(op, dtype, tol):
    "float32 and bfloat16 inputs against float64 on the same (rounded) numbers; gradients come back in the input's format"
    xs, S = case(op, T=130, dtype=dtype)
    want = run(form(op, 'recurrent'), [x.double() for x in xs], S.double())
    for kind in ('recurrent', 'chunk'):
        got = run(form(op, kind), xs, S)
        assert got[0].dtype == dtype and got[1].dtype == torch.float32
        assert [g.dtype for g in got[2:-1]] == [dtype]*len(xs)
        assert worst(got, want) < tol


def test_bfloat16_products(monkeypatch):
    "Where the CPU multiplies bfloat16 natively the gated delta rule uses it, and stays within bfloat16's tolerance"
    asked = []
    monkeypatch.setattr('hybrid_tutorial.ops.delta.cpu_has_fast_bf16', lambda: asked.append(1) or True)
    xs, S = case('gated_delta_rule', T=300, K=64, V=64, dtype=torch.bfloat16)
    want = run(form('gated_delta_rule', 'recurrent'), [x.double() for x in xs], S.double())
    got = run(form('gated_delta_rule', 'chunk'), xs, S)
    assert asked and worst(got, want) < 0.02
    xs = [x.float() for x in xs]
    assert worst(run(form('gated_delta_rule', 'chunk'), xs, S), want) < 1e-5, "float32 inputs must not be rounded"


@pytest.mark.parametrize('fast', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('op', OPS)
def test_autocast(op, dtype, fast, monkeypatch):
    "Inside autocast operators compute what they compute outside; plain autograd then rounds what it multiplies on the way back"
    monkeypatch.setattr('hybrid_tutorial.ops.delta.cpu_has_fast_bf16', lambda: fast)
    xs, S = case(op, T=130, dtype=dtype)
    for kind in ('recurrent', 'chunk', 'parallel'):
        want = run(form(op, kind), xs, S)
        with torch.autocast('cpu', torch.bfloat16): got = run(form(op, kind), xs, S)
        assert [g.dtype for g in got] == [w.dtype for w in want]
        assert worst(got[:2], want[:2]) < 1e-6 and worst(got, want) < 0.04


@pytest.mark.parametrize('op', OPS)
def test_poisoned_memory(op, monkeypatch):
    "Fresh memory full of NaN must not show"
    xs, S = case(op, T=70)
    want = run(form(op, 'chunk'), xs, S)
    def poisoned(make):
        def f(*a, **k):
            x = make(*a, **k)
            return x.fill_(torch.nan) if x.is_floating_point() else x
        return f
    for name in ('empty', 'empty_like', 'empty_strided'): monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, 'new_empty', poisoned(torch.Tensor.new_empty))
    monkeypatch.setattr(layout, 'STRETCH', 1)
    assert worst(run(form(op, 'chunk'), xs, S), want) < 1e-12


@pytest.mark.parametrize('op', OPS)
def test_inputs_are_left_alone(op):
    xs, S = case(op, B=1, T=64, H=1)
    keep = [x.clone() for x in (*xs, S)]
    for kind in ('recurrent', 'parallel', 'chunk'): run(form(op, kind), xs, S)
    with torch.no_grad(): form(op, 'chunk')(*xs, initial_state=S, output_final_state=True)[1].add_(1)
    assert all(torch.equal(a, b) for a, b in zip(keep, (*xs, S)))


@pytest.mark.parametrize('op', OPS)
def test_wrong_shapes_are_named(op):
    xs, S = case(op)
    with pytest.raises(ShapeError): form(op, 'chunk')(*xs, initial_state=S[:, :1])
    with pytest.raises(ShapeError): form(op, 'chunk')(xs[0], xs[1][:, :-1], *xs[2:])
    with pytest.raises(ShapeError, match='batch size 1'): form(op, 'chunk')(*xs, cu_seqlens=torch.tensor([0, 16]))
    with pytest.raises(ShapeError, match='rise from 0'): form(op, 'chunk')(*(x[:1] for x in xs), cu_seqlens=torch.tensor([0, 15]))
    with pytest.raises(ShapeError, match='chunk_size'): form(op, 'chunk')(*xs, chunk_size=0)


@pytest.mark.parametrize('op', OPS)
def test_attend(op, capsys):
    xs, S = case(op)
    want = form(op, 'recurrent')(*xs, initial_state=S)[0]
    for backend in ('auto', 'recurrent', 'parallel', 'chunk'):
        assert rms_error(attend(op, *xs, backend=backend, initial_state=S)[0], want) < 1e-10
    attend(op, *xs)
    said = capsys.readouterr().out
    assert said.count(f'{op} on cpu: chunk') <= 1
    for backend, text in (('triton', 'no Triton kernel|need a GPU'), ('fla', 'need a GPU'), ('chunck', "Did you mean 'chunk'")):
        with pytest.raises(ConfigError, match=text): attend(op, *xs, backend=backend)
    with pytest.raises(ConfigError, match='takes'): attend(op, *xs[:-1])


def test_attend_one_token_is_recurrent(capsys):
    from hybrid_tutorial.ops import dispatch
    dispatch._told.clear()
    attend('gla', *case('gla', T=1)[0]); attend('gla', *case('gla', T=1)[0])
    assert capsys.readouterr().out == 'gla on cpu: recurrent\n'
    with pytest.raises(ConfigError, match="Did you mean 'gla'"): attend('glaa')


@pytest.mark.parametrize('op', OPS)
def test_arguments_for_fla(op):
    "The keywords we would hand to fla mean the same thing: run them through our own operator under fla's names"
    xs, S = case(op, HV=4)
    want, end = form(op, 'recurrent')(*xs, initial_state=S, output_final_state=True)
    common = dict(scale=None, initial_state=S, output_final_state=True, cu_seqlens=None)
    args, finish = _fla_arguments(op, xs, common)
    args.pop('normalize', None)
    twin = {'rwkv6': 'gla'}.get(op, op)
    xs = [args.pop(k) for k in FLA[op][2].split()]
    o, s = form(twin, 'chunk')(*xs, **args)
    assert rms_error(finish(o), want) < 1e-10 and rms_error(s, end) < 1e-10


@pytest.mark.parametrize('options', [dict(feature_map='elu1'), dict(feature_map='relu', normalize=True), dict(feature_map='hedgehog', normalize=True),
                                     dict(feature_map='elu1', normalize=True)])
def test_linear_attention_options(options):
    xs, _ = case('linear_attn', T=70)
    if options.get('feature_map') == 'relu': xs = [x.abs()+.1 for x in xs[:2]] + xs[2:]
    want = run(form('linear_attn', 'recurrent'), xs, **options)
    for kind in ('parallel', 'chunk'): assert worst(run(form('linear_attn', kind), xs, **options), want) < 1e-10
    f = form('linear_attn', 'chunk')
    _, mid = f(*(x[:, :30] for x in xs), output_final_state=True, **options)
    assert rms_error(f(*(x[:, 30:] for x in xs), initial_state=mid, **options)[0], want[0][:, 30:]) < 1e-10
    if options.get('normalize'):
        ones = [*xs[:2], torch.ones_like(xs[2])]
        assert rms_error(f(*ones, **options)[0], ones[2]) < 1e-8
