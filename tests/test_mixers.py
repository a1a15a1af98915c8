"Every mixer on a tiny teacher: decode, padding, packing, saving, gradients, starting values"
import dataclasses, math

import pytest
import torch
from transformers import AutoModelForCausalLM

from hybrid_tutorial.core import ConfigError, assert_close, rms_error
from hybrid_tutorial.models.hybrid import build_hybrid, build_student, decode_stepwise, load_hybrid
from hybrid_tutorial.models.mixers import MIXERS, make_mixer, mixer_kind, read_shape
from hybrid_tutorial.models.window import window_attention
from hybrid_tutorial.ops.softmax import softmax_attention

from helpers import tiny_teacher, tokens

NAMES = [n for n in MIXERS if n not in ('softmax', 'gdn')]                         # gdn's window of 64 is longer than these texts: see WINDOWS and SHARED
WINDOWS = [('gdn', dict(window=5, expand='heads')), ('gdn', dict(window=0, expand='heads')), ('gdn', dict(window=5, sinks=0)), ('gla', dict(window=8, sinks=2)), ('kda', dict(window=5)), ('mamba2', dict(window=1)),
           ('rwkv6', dict(window=5)), ('rwkv7', dict(window=5)), ('hedgehog', dict(window=5)), ('swa', dict(window=6, sinks=2)), ('swa', dict(window=6, sinks=0))]
SHARED = [('gdn', dict(window=5, expand='shared')), ('gdn', dict(window=0, expand='shared')), ('gla', dict(expand='shared')), ('kda', dict(window=5, expand='shared')), ('mamba2', dict(window=1, expand='shared')),
          ('rwkv6', dict(window=5, expand='shared')), ('rwkv7', dict(window=5, expand='shared')), ('hedgehog', dict(window=5, expand='shared')), ('performer', dict(expand='shared'))]
CASES = [(n, None) for n in NAMES] + WINDOWS + SHARED
label = lambda c: c if isinstance(c, str) else '' if c is None else ','.join(f'{k}={v}' for k, v in c.items())
SMALL = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, intermediate_size=32)


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def teacher_of(family='llama'): return tiny_teacher(family, **SMALL)

def shaken(model, seed=3, by=0.1):
    "Nothing new is at its neutral start any more"
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in model.mixers.values():
            for n, p in m.named_parameters():
                if n.split('.')[0][:6] not in ('q_proj', 'k_proj', 'v_proj', 'o_proj'): p.add_(by*torch.randn(p.shape, generator=gen))
    return model


def student_of(name, settings=None, family='llama', keep=None):
    teacher = teacher_of(family)
    s = shaken(build_student(teacher, name, settings=settings, verbose=False))
    return s if keep is None else build_hybrid(s, teacher, keep)


@pytest.mark.parametrize('name, settings', CASES, ids=label)
def test_decode_equals_forward_also_padded(name, settings):
    m, ids = student_of(name, settings), tokens(T=19)
    want = m(ids).logits
    for prefill in (1, 11): assert_close(decode_stepwise(m, ids, prefill), want, 2e-5)
    mask = torch.ones(2, 19, dtype=torch.long); mask[0, :4] = 0
    got = decode_stepwise(m, ids, 12, mask)
    assert_close(got[:1, 4:], m(ids[:1, 4:]).logits, 2e-5)
    assert_close(got[1:], want[1:], 2e-5)


@pytest.mark.parametrize('family', ['llama', 'qwen3', 'olmo2'])       # no norm, per head, over all heads
@pytest.mark.parametrize('name, settings', SHARED, ids=label)
def test_sharing_keys_and_values_changes_nothing_at_the_start(name, settings, family):
    teacher, ids = teacher_of(family), tokens(T=19)
    shared = build_student(teacher, name, settings=settings, verbose=False)
    wide = build_student(teacher, name, settings={**settings, 'expand': 'heads'}, verbose=False)
    assert shared.mixers[0].k_proj.out_features*2 == wide.mixers[0].k_proj.out_features
    for i, m in wide.mixers.items():                                   # what the teacher has no weights for: the same in both
        theirs = dict(shared.mixers[i].named_parameters())
        m.load_state_dict({n: p for n, p in theirs.items() if n.split('.')[0] not in ('k_proj', 'v_proj', 'k_norm')}, strict=False)
    assert_close(shared(ids).logits, wide(ids).logits, 1e-5)


def test_a_cached_window_holds_each_group_once_and_in_the_models_own_type():
    teacher, bytes_of = teacher_of(), {}
    for expand in ('heads', 'shared'):
        m = build_student(teacher, 'gdn', settings=dict(window=5, sinks=2, expand=expand), verbose=False).to(torch.bfloat16)
        layer = m(tokens(T=20), use_cache=True).past_key_values.layers[1]
        assert layer.keys.dtype == torch.bfloat16 and layer.values.dtype == torch.float32
        assert layer.values[0, 0, :, -1].tolist() == [1, 2, 16, 17, 18, 19, 20]           # sinks, then what has not left the window
        bytes_of[expand] = sum(x.numel()*x.element_size() for x in (layer.keys, layer.values))
    K, G, kept = 8, 2, 2*(2+5)                                          # two rows
    assert bytes_of['shared'] == kept*G*(3*K*2+(2*2+1)*4)               # turned keys, plain keys, values; decay and strength of 2 heads, position
    assert bytes_of['heads'] == kept*2*G*(3*K*2+(2+1)*4)


@pytest.mark.parametrize('name, settings', CASES, ids=label)
def test_packed_equals_separate(name, settings):
    m, ids = student_of(name, settings, keep=[1]), tokens(T=20)
    docs = torch.tensor([[0]*7+[1]*2+[2]*11, [5]*20])
    parts = [m(ids[:1, a:b], use_cache=False).logits for a, b in ((0, 7), (7, 9), (9, 20))]
    want = torch.cat([torch.cat(parts, 1), m(ids[1:], use_cache=False).logits])
    assert_close(m(ids, doc_ids=docs).logits, want, 2e-5)


@pytest.mark.parametrize('name, settings', CASES, ids=label)
def test_save_and_reload_is_bit_equal(name, settings, tmp_path):
    m, ids = student_of(name, settings, keep=[0]), tokens(T=12)
    m.save_pretrained(tmp_path)
    again = load_hybrid(tmp_path)
    assert again.config.keep == [0] and again.config.layer_types == m.config.layer_types == ['full_attention']+[mixer_kind(name, settings)[0]]*2
    assert torch.equal(again(ids).logits, m(ids).logits)


@pytest.mark.parametrize('name, settings', CASES, ids=label)
def test_gradient_reaches_all_that_should_learn_and_nothing_else(name, settings):
    s = student_of(name, settings, family='qwen3')
    s.requires_grad_(False)
    for m in s.mixers.values(): m.requires_grad_(True)
    s.model(tokens(T=12), use_cache=False).last_hidden_state.pow(2).mean().backward()
    dead = [f'{i}.{n}' for i, m in s.mixers.items() for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead
    mine = {id(p) for m in s.mixers.values() for p in m.parameters()}
    assert all(p.grad is None for p in s.parameters() if id(p) not in mine)


@pytest.mark.parametrize('name, settings', [('gdn', dict(window=5)), ('rwkv7', None), ('rwkv6', None), ('hedgehog', None), ('swa', dict(window=6, sinks=2))], ids=label)
def test_generate_greedy_and_beams(name, settings):
    ids, how = tokens(T=9), dict(max_new_tokens=7, min_new_tokens=7, pad_token_id=0, do_sample=False)
    for keep in (None, [1]):
        m = student_of(name, settings, keep=keep)
        for beams in (1, 3): assert torch.equal(m.generate(ids, num_beams=beams, **how), m.generate(ids, num_beams=beams, use_cache=False, **how))


def test_cache_has_a_fixed_size_and_is_where_transformers_looks():
    for name, settings, kind in (('gdn', dict(window=5), 'LinearAttentionAndSlidingWindowAttentionLayer'), ('swa', dict(window=6, sinks=2), 'DynamicSlidingWindowLayer'), ('rwkv6', None, 'LinearAttentionLayer')):
        m = student_of(name, settings)
        sizes = []
        for T in (20, 50):
            cache = m(tokens(T=T), use_cache=True).past_key_values
            assert type(cache.layers[1]).__name__ == kind and cache.get_seq_length() == T
            sizes.append(sum(t.numel() for l in cache.layers for t in (getattr(l, 'keys', None), getattr(l, 'values', None), *getattr(l, 'recurrent_states', {}).values(), *getattr(l, 'conv_states', {}).values()) if t is not None))
        assert sizes[0] == sizes[1] > 0


def naive_window(m, x, pos):
    "The delayed state written out: what has left the window is written, one token at a time"
    w, (q, k, v) = m.settings.window, m.split_heads(x, x, x)
    near = softmax_attention(*m.rotated(q, k, pos), v, scale=m.shape.scaling, window=w, sinks=2)
    _, k, v, g = m.memory(dict.fromkeys('qkvwg', x), q, k, v, None)
    out = torch.zeros_like(v)
    for t in range(w, x.shape[1]):
        S = torch.zeros(*v.shape[:1], *v.shape[2:3], k.shape[-1], v.shape[-1])
        for j in range(2, t-w+1): S = g[:, j].exp()[..., None]*S+k[:, j][..., None]*v[:, j][..., None, :]
        out[:, t] = (q[:, t][..., None, :]*m.shape.head_dim**-0.5 @ S)[..., 0, :]
    a, c = m.near_proj(x)[..., None].chunk(2, -2)
    return 2*a.sigmoid()*near+c*m.o_norm(out)


def test_window_reads_exactly_and_the_state_only_what_is_older():
    teacher = teacher_of()
    m = shaken(build_student(teacher, 'gla', settings=dict(window=4, sinks=2, gate='none'), verbose=False)).mixers[1]
    x = torch.randn(2, 13, 32)
    pos = teacher.model.rotary_emb(x, torch.arange(13)[None])
    assert_close(m.read(x, pos), naive_window(m, x, pos).flatten(-2), 1e-5)


def test_window_attention_against_the_dense_form():
    q, k, v = (torch.randn(2, 21, 3, 8, dtype=torch.float64) for _ in range(3))
    for w in (1, 4, 21, 40): assert_close(window_attention(q, k, v, w, scale=0.3), softmax_attention(q, k, v, scale=0.3, window=w), 1e-10)
    assert_close(window_attention(q[:, -3:], k, v, 4, scale=0.3), softmax_attention(q, k, v, scale=0.3, window=4)[:, -3:], 1e-10)


def test_swa_with_a_long_window_is_the_teacher():
    teacher = teacher_of('qwen3')
    m, ids = build_student(teacher, 'swa', verbose=False), tokens(T=40)
    assert_close(m(ids).logits, teacher(ids).logits, 2e-5)
    assert rms_error(build_student(teacher, 'swa', settings=dict(window=4), verbose=False)(ids).logits, teacher(ids).logits) > 0.05


def test_head_order_reaches_every_mixer():
    teacher = teacher_of()
    attn = teacher.model.layers[0].self_attn
    with torch.no_grad(): attn.k_proj.weight.copy_(torch.arange(16.)[:, None].expand(16, 32))     # row number as value
    assert torch.equal(build_student(teacher, 'gdn', verbose=False).mixers[0].k_proj.weight, attn.k_proj.weight)   # shared
    for name in NAMES:
        got = build_student(teacher, name, verbose=False).mixers[0].k_proj.weight[:, 0].view(4, 8)
        rows = getattr(MIXERS[name][1], 'expand', 'heads') == 'rows'
        want = torch.arange(16.).repeat_interleave(2).view(4, 8) if rows else torch.arange(16.).view(2, 8).repeat_interleave(2, 0)
        assert torch.equal(got, want) and rows == name.endswith('-official')


def test_presets_differ_exactly_where_the_table_says():
    diff = lambda a, b: {k for k, v in dataclasses.asdict(MIXERS[a][1]).items() if dataclasses.asdict(MIXERS[b][1]).get(k, v) != v}
    assert diff('gdn-paper', 'gdn') == {'bias', 'qk_norm', 'activation', 'gate', 'decay', 'expand', 'window'}
    assert diff('gdn-official', 'gdn-paper') == {'expand'}
    assert diff('gla-official', 'gla') == {'bias', 'qk_norm', 'gate', 'decay', 'expand'}
    for name in ('gla', 'kda', 'mamba2'): assert diff(name, 'gdn') == {'expand', 'window'}
    assert diff('rwkv6', 'gla') == {'gate', 'out_norm', 'decay'} and diff('rwkv7', 'rwkv6') == {'rope', 'gate'}
    assert diff('hedgehog', 'gla') == {'rope', 'gate', 'out_norm', 'decay'} and diff('performer', 'hedgehog') == {'features'}


def test_starting_values_of_recipe():
    teacher = teacher_of()
    s6, s7 = (build_student(teacher, n, verbose=False) for n in ('rwkv6', 'rwkv7'))
    n = torch.arange(32)/31
    for l in range(3):
        m6, m7 = s6.mixers[l], s7.mixers[l]
        assert_close(m6.time_decay, -6+5*n**(0.7+1.3*l/2), 1e-6)
        assert_close(m7.fade.bias, -6.5+5*n**(0.85+(l/2)**0.5), 1e-6)
        assert m6.shift.A.abs().sum() == m6.shift.mu.abs().sum() == m6.g_proj.weight.abs().sum() == 0
        for part in (m7.rate, m7.fade, m7.gate, *([m7.blend] if l else [])): assert part.A.abs().sum() == 0 and orthogonal(part.B)
        assert m7.rate.bias.abs().sum() == 0 and (not l or bool((m7.blend.bias == 1).all())) and hasattr(m7, 'blend') == (l > 0)
    gla = build_student(teacher, 'gla-official', verbose=False).mixers[0]
    assert gla.gk_in.weight.shape == (16, 32) and ((gla.half_lives() > 13.4) & (gla.half_lives() < 19.3)).all()


def orthogonal(B): return torch.allclose(B@B.T if B.shape[0] <= B.shape[1] else B.T@B, 0.01*torch.eye(min(B.shape)), atol=1e-6)


@pytest.mark.parametrize('name', ['gdn', 'gla', 'kda', 'mamba2', 'rwkv6', 'rwkv7'])
def test_half_lives_are_set_and_read_back(name):
    m = build_student(teacher_of(), name, verbose=False).mixers[1]
    want = torch.tensor([2., 8., 30., 300.])
    m.set_half_lives(want)
    got = m.half_lives()
    assert_close(got if got.dim() == 1 else got.mean(-1), want, 1e-3)
    q = torch.zeros(1, 3, 4, 8)                                                                    # what the operator gets, where the token has no say
    with torch.no_grad():
        if name == 'gdn': g = m.memory(dict.fromkeys('qkvwg', torch.zeros(1, 3, 32)), q, q, q, None)[3]
        elif name == 'mamba2': g = m.memory(dict.fromkeys('qkvwg', torch.zeros(1, 3, 32)), q, q, q, None)[3]
        else: g = m.memory(dict.fromkeys('qkvwg', torch.zeros(1, 3, 32)), q, q, q, None)[1 if name == 'rwkv7' else 3].mean(-1)
    assert_close(-math.log(2)/g[0, 0], want, 1e-3)


def test_value_residual_travels_also_from_a_kept_layer():
    teacher = teacher_of()
    s, ids = build_student(teacher, 'rwkv7', verbose=False), tokens(T=10)
    v0 = lambda m: m.layers[0].self_attn.v_proj(m.layers[0].input_layernorm(m.embed_tokens(ids)))
    for keep in ([], [0]):
        m, seen = build_hybrid(s, teacher, keep), []
        m.mixers[2].register_forward_hook(lambda mod, args, kwargs, out: seen.append(kwargs['carry']['values']), with_kwargs=True)
        with torch.no_grad(): m(ids), m.model(ids)                                                 # through the head, and the trunk alone
        for got in seen: assert_close(got.flatten(-2), v0(m.model), 1e-5)
        assert len(seen) == 2
        assert_close(decode_stepwise(m, ids, 4), m(ids).logits, 2e-5)


def test_float16_and_bfloat16_run():
    for name, settings in (('gdn', dict(window=5)), ('rwkv6', None), ('rwkv7', None), ('swa', dict(window=6)), ('performer', None)):
        m = student_of(name, settings).bfloat16()
        ids = tokens(T=12)
        assert_close(decode_stepwise(m, ids, 6).float(), m(ids).logits.float(), 0.15)


def test_bad_settings():
    t = teacher_of()
    for name, settings, word in (('gla', dict(gate='opne'), 'Did you mean'), ('rwkv6', dict(decay='random'), 'curve'), ('gdn', dict(window=-1), 'window'), ('swa', dict(window=0), 'at least 1'), ('hedgehog', dict(decay='spread'), 'none')):
        with pytest.raises(ConfigError, match=word): build_student(t, name, settings=settings, verbose=False)


@pytest.mark.parametrize('name, settings', [('gla', None), ('rwkv6', None), ('rwkv7', None), ('hedgehog', None), ('swa', dict(window=6)), ('mamba2', dict(window=5))], ids=label)
def test_closed_form_is_the_gradients_fixed_point(name, settings):
    from hybrid_tutorial.training.align import Carry, calibrate, layer_errors, listen
    teacher, batches = teacher_of('llama_bias'), [dict(input_ids=tokens(4, 24, seed=s)) for s in range(3)]
    s = shaken(build_student(teacher, name, settings=settings, verbose=False))
    before = layer_errors(s, teacher, batches)
    left = calibrate(s, teacher, batches, ridge=0.)
    after = layer_errors(s, teacher, batches)
    assert_gradient_is_zero(s, teacher, batches, Carry(s, teacher), listen)
    if not settings or name != 'swa':
        assert all(after[i] < before[i] for i in after)
    assert all(math.isclose(after[i]*norm(teacher, batches)[i][0], left[i]*norm(teacher, batches)[i][1], rel_tol=1e-2, abs_tol=1e-3*norm(teacher, batches)[i][0]) for i in after)


def test_calibration_towards_the_copied_projection():
    from hybrid_tutorial.training.align import calibrate, layer_errors
    teacher, few, fresh = teacher_of(), [dict(input_ids=tokens(4, 24, seed=1))], [dict(input_ids=tokens(4, 24, seed=5))]
    err = {}
    for prior in ('zero', 'copied'):
        s = build_student(teacher, 'swa', settings=dict(window=6), verbose=False)
        calibrate(s, teacher, few, prior=prior)
        err[prior] = sum(layer_errors(s, teacher, fresh).values())
    assert err['copied'] < err['zero']                                            # 96 tokens against a pull of 800
    s = build_student(teacher, 'swa', settings=dict(window=24), verbose=False)    # exact already: nothing to change
    w = s.mixers[1].o_proj.weight.clone()
    assert calibrate(s, teacher, few, prior='copied')[1] < 1e-6 and torch.allclose(s.mixers[1].o_proj.weight, w, atol=1e-3)
    with pytest.raises(ConfigError, match='prior'): calibrate(s, teacher, few, prior='copy')


def norm(teacher, batches):
    "Squared size of each layer's answer, with and without the bias that stays as it is"
    from hybrid_tutorial.training.align import listen
    out = {}
    def visit(i, x, pos, y):
        a, b = out.get(i, (0., 0.)); out[i] = (a+float(y.pow(2).sum()), b+float((y-teacher.model.layers[i].self_attn.o_proj.bias).pow(2).sum()))
    with torch.no_grad(), listen(teacher, visit):
        for b in batches: teacher.model(b['input_ids'], use_cache=False)
    return out


def assert_gradient_is_zero(s, teacher, batches, carry, listen):
    for m in s.mixers.values(): m.o_proj.weight.requires_grad_(True)
    scale = {}
    def visit(i, x, pos, y):
        box = carry(i, x)
        with torch.enable_grad(): (s.mixers[i](x, pos, carry=box)[0]-y).pow(2).sum().backward()
        scale[i] = scale.get(i, 0)+float((s.mixers[i].read(x, pos, carry=box).flatten(0, 1).T@y.flatten(0, 1)).norm())
    with torch.no_grad(), listen(teacher, visit):
        for b in batches: teacher.model(b['input_ids'], use_cache=False)
    for i, m in s.mixers.items(): assert m.o_proj.weight.grad.norm() < 2e-3*scale[i]


def test_decays_from_the_teachers_reach():
    from hybrid_tutorial.training.align import align, attention_distances, decays_from_teacher
    teacher, batch = teacher_of(), dict(input_ids=tokens(3, 40))
    far = attention_distances(teacher, [batch])
    attn = teacher.model.layers[1].self_attn                                      # against weights that transformers itself returns
    teacher.set_attn_implementation('eager')
    p = teacher(batch['input_ids'], output_attentions=True).attentions[1]
    t = torch.arange(40)
    p = p*(t >= 4)
    want = (p*(t[:, None]-t)).sum((0, 2, 3))/p.sum((0, 2, 3))
    assert_close(far[1], want, 1e-4)
    s = build_student(teacher, 'gdn', settings=dict(decay='teacher', window=0), verbose=False)
    half = decays_from_teacher(s, teacher, [batch])
    assert_close(s.mixers[1].half_lives(), (math.log(2)*want).clamp(min=1.), 1e-3)
    near = attention_distances(teacher, [batch], beyond=5)[1]
    assert (near < far[1]).all() and set(half) == {0, 1, 2}
    a = build_student(teacher, 'gdn', settings=dict(decay='teacher', window=0), verbose=False)
    align(a, teacher, [batch['input_ids']]*2, calibrate_tokens=0, lr=1e-9)
    assert_close(a.mixers[1].half_lives(), s.mixers[1].half_lives(), 1e-3)
    with pytest.raises(ConfigError, match='no decay'): decays_from_teacher(build_student(teacher, 'hedgehog', verbose=False), teacher, [batch])


@pytest.mark.parametrize('name, settings', [('rwkv7', None), ('kda', dict(window=5))], ids=label)
def test_align_helps(name, settings):
    from hybrid_tutorial.training.align import align, layer_errors
    teacher, data = teacher_of(), [tokens(4, 32, seed=s) for s in range(6)]
    s = build_student(teacher, name, settings=settings, verbose=False)
    align(s, teacher, data*3, calibrate_tokens=0, lr=5e-3, warmup=0)
    plain = build_student(teacher, name, settings=settings, verbose=False)
    a, b = (layer_errors(m, teacher, [dict(input_ids=tokens(4, 32, seed=9))]) for m in (s, plain))
    assert sum(a.values()) < sum(b.values())


def test_window_blocks_do_not_change_attention():
    "a window wider than the text, and a single step, give what full blocks give"
    r = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 9, 3, 8, generator=r, dtype=torch.float64) for _ in range(3))
    s = (torch.einsum('bthk,bshk->bhts', q, k)*.3).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    for w in (1, 4, 9, 100_000):
        near = s.masked_fill(torch.ones(9, 9).tril(-w).bool(), -torch.inf).softmax(-1)
        want = torch.einsum('bhts,bshv->bthv', near, v)
        assert_close(window_attention(q, k, v, w, scale=.3), want, 1e-12)
        assert_close(window_attention(q[:, -1:], k, v, w, scale=.3), want[:, -1:], 1e-12)


def test_bad_packing_and_settings_are_named():
    from hybrid_tutorial.models.hybrid import packed_documents
    with pytest.raises(ConfigError, match='cu_seqlens must be a tensor'): packed_documents(cu_seqlens=torch.tensor([]))
    with pytest.raises(ConfigError, match='doc_ids must be a tensor'): packed_documents(doc_ids=[[0, 0, 1]])
    from hybrid_tutorial.models.mixers import mixer_settings
    with pytest.raises(ConfigError, match='at least 1'): mixer_settings('gla', dict(rank=-1))
    with pytest.raises(ConfigError, match='unknown mixer'): mixer_settings(['gdn'])
