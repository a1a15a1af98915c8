"Metrics against dense, brute-force computations and against models whose behaviour is known"
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from hybrid_tutorial.core import ConfigError, DataError, ShapeError
from hybrid_tutorial.evaluation.efficiency import (Peak, cache_bytes, crossover, decode_work, layer_kinds, machine_limits, measure_costs,
                                                   measure_efficiency, predicted_cache_bytes, step_profile, stretch_cache)
from hybrid_tutorial.evaluation.language import (by_bins, estimate, evaluate_language, evaluate_many,
                                                 paired_difference, profile_of, score_tokens, sliding_windows, summarise, targets_of)
from hybrid_tutorial.evaluation.recall import (CHANCE, RecallItem, answer_tokens, encode, evaluate_recall, make_needle,
                                               make_needles, score_items, summarise_items, wilson, wrap)
from hybrid_tutorial.evaluation.suite import evaluate, evaluate_models

W = 96


def llama(seed=0, scale=4., **kw):
    torch.manual_seed(seed)
    cfg = LlamaConfig(**{**dict(vocab_size=W, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                num_key_value_heads=2, max_position_embeddings=4096), **kw})
    model = LlamaForCausalLM(cfg).eval()
    for p in model.parameters(): p.data.mul_(scale)
    return model


class Known(nn.Module):
    "A model whose hidden states are its logits, given by a function of the tokens"
    def __init__(self, f): super().__init__(); self.f, self.head = f, nn.Identity()
    def get_output_embeddings(self): return self.head
    def model(self, input_ids, use_cache=False): return SimpleNamespace(last_hidden_state=self.f(input_ids))


def uniform(ids): return torch.zeros(*ids.shape, W)


def copier(ids, order=6):
    "Predict what followed the last occurrence of the `order` most recent tokens"
    rows = []
    for row in ids.tolist():
        seen, out = {}, []
        for t in range(len(row)):
            key = tuple(row[max(0, t-order+1):t+1])
            out.append(seen.get(key, 0))
            if t+1 < len(row): seen[key] = row[t+1]
        rows.append(out)
    return 50.*nn.functional.one_hot(torch.tensor(rows), W).float()


class Letters:
    "A tokenizer with one token per character"
    chat_template = None
    eos_token_id = 0
    def __call__(self, text, add_special_tokens=True): return dict(input_ids=[(ord(c)-32) % W for c in text])
    def decode(self, ids): return ''.join(chr(i+32) for i in ids)


TOK = Letters()
HAY = torch.tensor(encode(TOK, 'The sea was calm today. A gull cried over the bay. Nobody came to look at it! ' * 40))


@pytest.fixture(scope='module')
def pair(): return llama(0), llama(1)


@pytest.fixture(scope='module')
def batches():
    g = torch.Generator().manual_seed(0)
    out = []
    for b in range(3):
        ids, docs = torch.randint(W, (4, 33), generator=g), torch.zeros(4, 33, dtype=torch.long)
        docs[:, 20:] = 1
        docs[1, 30:] = -1                       # padding
        recall = torch.zeros(4, 33, dtype=torch.bool)
        recall[:, 10:16] = True
        out.append(dict(input_ids=ids, doc_ids=docs, recall_mask=recall))
    return out


def dense(teacher, student, batches):
    "Every counted token, one at a time, in float64"
    rows = []
    for b in batches:
        with torch.no_grad(): t, s = (m(b['input_ids']).logits.double().log_softmax(-1) for m in (teacher, student))
        for i in range(len(b['input_ids'])):
            for j in range(1, b['input_ids'].shape[1]):
                d0, d1 = b['doc_ids'][i, j-1], b['doc_ids'][i, j]
                if d0 != d1 or d1 < 0: continue
                p, q = t[i, j-1], s[i, j-1]
                rows.append((bool(b['recall_mask'][i, j]), -q[b['input_ids'][i, j]].item(), (p.exp()*(p-q)).sum().item(),
                             (q.exp()*(q-p)).sum().item(), float(p.argmax() == q.argmax())))
    return rows


# ---------------------------------------------------------------- language

@pytest.mark.parametrize('chunk', [1, 7, 256, 10**6])
def test_language_equals_dense(pair, batches, chunk):
    teacher, student = pair
    got = evaluate_language(student, batches, teacher=teacher, dtype='float32', chunk_size=chunk, n_boot=20)
    rows = dense(teacher, student, batches)
    for group, flag in (('plain', False), ('recall', True)):
        mine = [r[1:] for r in rows if r[0] == flag]
        assert got[group]['tokens'] == len(mine)
        for k, want in zip(('loss', 'kl', 'reverse_kl', 'agreement'), map(lambda c: sum(c)/len(c), zip(*mine))):
            assert got[group][k]['value'] == pytest.approx(want, rel=1e-5), (group, k)
        assert got[group]['perplexity']['value'] == pytest.approx(math.exp(got[group]['loss']['value']))
        for k in ('loss', 'kl', 'perplexity'): assert got[group][k]['low'] <= got[group][k]['value'] <= got[group][k]['high']
        assert got[group]['kl']['value'] > 0.01


def test_loss_equals_transformers(pair):
    ids = torch.randint(W, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(): want = pair[1](ids, labels=ids).loss.item()
    assert evaluate_language(pair[1], [dict(input_ids=ids)], dtype='float32')['plain']['loss']['value'] == pytest.approx(want, rel=1e-6)


def test_teacher_against_itself_is_exactly_zero(pair, batches):
    teacher = pair[0]
    twin = llama(0)
    for dtype in ('float32', 'bfloat16'):
        got = evaluate_many({'itself': teacher, 'twin': twin}, batches, teacher=teacher, dtype=dtype, chunk_size=17, n_boot=20)
        for r in got.values():
            for g in r.values():
                assert g['kl'] == dict(value=0., low=0., high=0., unit='nats/token', n=g['kl']['n'])
                assert g['reverse_kl']['value'] == 0 and g['agreement']['value'] == 1


def test_many_models_share_one_teacher_pass(pair, batches):
    teacher, student = pair
    calls, forward = [], teacher.model.forward
    teacher.model.forward = lambda *a, **k: (calls.append(1), forward(*a, **k))[1]
    try: many = evaluate_many({'teacher': teacher, 'a': student, 'b': llama(2)}, batches, teacher=teacher, dtype='float32', n_boot=20)
    finally: teacher.model.forward = forward
    assert len(calls) == len(batches)
    alone = evaluate_language(student, batches, teacher=teacher, dtype='float32', n_boot=20)
    assert many['a'] == alone


def test_uniform_model_has_the_vocabulary_as_perplexity(batches):
    got = evaluate_language(Known(uniform), batches)
    for g in got.values():
        assert g['perplexity']['value'] == pytest.approx(W, rel=1e-5) and g['perplexity']['high'] == pytest.approx(W, rel=1e-5)


def test_copier_is_perfect_on_recall_tokens_only():
    g = torch.Generator().manual_seed(0)
    first = torch.randint(1, W, (6, 40), generator=g)
    ids, mask = torch.cat([first, first], 1), torch.zeros(6, 80, dtype=torch.bool)
    mask[:, 46:] = True
    got = evaluate_language(Known(copier), [dict(input_ids=ids, recall_mask=mask)])
    assert got['recall']['loss']['value'] < 1e-6 < 5 < got['plain']['loss']['value']


def test_logit_scaling_is_applied(pair):
    m = llama(1)
    ids = torch.randint(W, (2, 20))
    m.config.logits_scaling = 3.
    with torch.no_grad(): lp = (m(ids).logits/3).log_softmax(-1)
    want = -lp[:, :-1].gather(-1, ids[:, 1:, None]).mean().item()
    assert evaluate_language(m, [dict(input_ids=ids)], dtype='float32')['plain']['loss']['value'] == pytest.approx(want, rel=1e-5)


def test_targets_and_documents(batches):
    info = targets_of(batches[0], start=5)
    assert info['valid'].sum() == 4*31 - 3 and info['unit'].min() == 5 and len(info['unit'].unique()) == 8
    assert 20 not in info['position'].tolist()


def test_training_mode_is_put_back_and_gradients_are_off(pair, batches):
    m = llama(3); m.train()
    evaluate_language(m, batches[:1], n_boot=5)
    assert m.training and all(p.grad is None for p in m.parameters())


def test_language_errors(pair, batches):
    with pytest.raises(DataError, match='embedding rows'): evaluate_language(llama(0, vocab_size=50), batches)
    with pytest.raises(ShapeError, match='one vocabulary'): evaluate_language(llama(0, vocab_size=120), batches, teacher=pair[0])
    with pytest.raises(DataError, match='no token'): evaluate_language(pair[0], [])
    with pytest.raises(ShapeError, match='input_ids'): evaluate_language(pair[0], [dict(input_ids=torch.zeros(3, dtype=torch.long))])


@pytest.mark.parametrize('window, stride, batch_size', [(16, 5, 3), (33, 32, 2), (8, 1, 4), (200, 100, 2)])
def test_sliding_windows_equal_one_token_at_a_time(pair, window, stride, batch_size):
    "Each token once, from the context its window gives it; documents stay the units"
    g = torch.Generator().manual_seed(0)
    docs = [torch.randint(W, (n,), generator=g) for n in (60, 2, 17, 33, 1, 41)]
    table = score_tokens({'m': pair[1]}, sliding_windows(docs, window=window, stride=stride, batch_size=batch_size), teacher=pair[0], dtype='float32')['m']
    want, units = [], []
    for u, ids in enumerate(docs):
        for t in range(1, len(ids)):
            stop = min(len(ids), window if t < window else window+stride*(-(-(t-window+1)//stride)))
            with torch.no_grad(): lp = pair[1](ids[None, max(0, stop-window):t]).logits[0, -1].log_softmax(-1)
            want.append(-lp[ids[t]].item()); units.append(u)
    assert table['unit'].tolist() == units
    assert torch.allclose(table['loss'], torch.tensor(want), atol=1e-5)
    s = summarise(table, n_boot=20)['plain']
    assert s['tokens'] == 59+1+16+32+40 and s['per_document']['document'] == [0, 1, 2, 3, 5]


def test_sliding_windows_errors():
    for stride in (0, 16, 20):
        with pytest.raises(ConfigError, match='stride'): next(sliding_windows([[1, 2, 3]], window=16, stride=stride))


def test_profiles_by_position_and_frequency(pair, batches):
    got = evaluate_language(pair[1], batches, teacher=pair[0], dtype='float32', n_boot=20)['plain']
    t = score_tokens({'s': pair[1]}, batches, teacher=pair[0], dtype='float32')['s']
    t = {k: v[~t['recall']] for k, v in t.items()}
    count = {int(w): int((score_tokens({'s': pair[1]}, batches, dtype='float32')['s']['target'] == w).sum()) for w in t['target'].unique()}
    for kind, value in (('by_position', t['position'].tolist()), ('by_frequency', [count[int(w)] for w in t['target']])):
        p = got[kind]
        assert p['metric'] == 'kl' and p['edges'][0] == 1 and p['edges'][-1] > max(value)
        for low, high, b in zip(p['edges'], p['edges'][1:], p['bins']):
            mine = [k for k, v in zip(t['kl'].tolist(), value) if low <= v < high]
            assert (b is None) == (not mine) and (not mine or b['value'] == pytest.approx(sum(mine)/len(mine), rel=1e-5))
    assert profile_of({k: v for k, v in t.items() if k != 'kl'}, t['position'])['metric'] == 'loss'


# ---------------------------------------------------------------- bootstrap

def test_bootstrap_matches_the_standard_error():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, generator=g, dtype=torch.double)
    e = estimate(x, torch.ones(200), n_boot=4000)
    assert e['value'] == pytest.approx(x.mean().item())
    assert e['high']-e['low'] == pytest.approx(2*1.96*(x.std()/200**.5).item(), rel=.06)
    assert estimate(x, torch.ones(200), n_boot=50, seed=3) == estimate(x, torch.ones(200), n_boot=50, seed=3)
    assert estimate(x[:1], torch.ones(1))['low'] is None


def test_bootstrap_is_weighted_by_tokens():
    assert estimate(torch.tensor([10., 1.]), torch.tensor([100, 1]))['value'] == pytest.approx(11/101)


def test_paired_difference_beats_separate_intervals(pair, batches):
    a, b = (evaluate_language(m, batches, teacher=pair[0], dtype='float32')['plain'] for m in pair)
    d, back = paired_difference(a, b, 'kl'), paired_difference(b, a, 'kl')
    assert d['value'] == pytest.approx(a['kl']['value']-b['kl']['value']) == pytest.approx(-back['value'])
    assert d['separated'] and d['high'] < 0
    same = paired_difference(a, a)
    assert same['value'] == same['low'] == same['high'] == 0 and not same['separated']
    hard = torch.linspace(0, 10, 50)
    doc = lambda x: dict(per_document=dict(document=list(range(50)), tokens=[10]*50, loss=(10*x).tolist()))
    noise = .1*torch.randn(50, generator=torch.Generator().manual_seed(0))
    d = paired_difference(doc(hard+.2+noise), doc(hard))
    assert d['separated'] and d['high']-d['low'] < .1
    assert not paired_difference(doc(hard+noise-noise.mean()), doc(hard))['separated']


def test_paired_difference_refuses_other_documents(pair, batches):
    a, b = (evaluate_language(pair[0], x, dtype='float32')['plain'] for x in (batches, batches[:2]))
    with pytest.raises(DataError, match='same documents'): paired_difference(a, b)
    with pytest.raises(ConfigError, match='unknown metric'): paired_difference(a, a, 'perplexity')


def test_by_bins(pair, batches):
    t = score_tokens({'s': pair[1]}, batches, teacher=pair[0], dtype='float32')['s']
    bins = by_bins(t, [1, 11, 33, 50])
    sel = (t['position'] >= 11) & (t['position'] < 33)
    assert bins[1]['value'] == pytest.approx(t['kl'][sel].mean().item(), rel=1e-5) and bins[2] is None
    assert {'plain', 'recall'} == set(summarise(t, n_boot=5))


# ---------------------------------------------------------------- recall

@pytest.mark.parametrize('length', [200, 256, 777])
@pytest.mark.parametrize('depth', [0., .3, 1.])
def test_needle_is_where_it_should_be(length, depth):
    it = make_needle(TOK, HAY, length, depth, seed=1)
    text = TOK.decode(it.prompt)
    assert len(it.prompt) == length == it.length and TOK.decode(it.answer) == it.text and len(it.text) == 5
    assert text.count(it.text) == 1
    tail = len(wrap(TOK, 'x', 'base')[1])
    at = text.index(' The magic number of')
    hay = length - len(text) + len(text.split('Question')[0]) - 2 - len(text[at:].split('.')[0]) - 1
    assert abs(at/hay - it.depth) < 1e-9 and abs(it.depth-depth) <= 24/hay and tail
    assert at == 0 or text[at-1] in '.!?' or abs(at-round(depth*hay)) == 0


def test_needles_are_deterministic_and_share_columns():
    kw = dict(lengths=(200, 300), depths=(0., .5, 1.), repeats=2)
    a, b, c = (make_needles(TOK, HAY, seed=s, **kw) for s in (0, 0, 1))
    assert a == b != c and len(a) == 12
    assert len({i.text for i in a[:3]}) == 1 and len({i.text for i in a}) == 4


def test_needle_errors():
    with pytest.raises(ConfigError, match='ask for'): make_needle(TOK, HAY, 100, .5)
    with pytest.raises(DataError, match='longer text'): make_needle(TOK, HAY[:100], 400, .5)
    with pytest.raises(ConfigError, match='0..1'): make_needle(TOK, HAY, 400, 1.5)
    with pytest.raises(ConfigError, match='style'): make_needle(TOK, HAY, 400, .5, style='tchat')


def test_chat_template_wraps_the_text():
    class Chat(Letters):
        chat_template = 'yes'
        def apply_chat_template(self, m, tokenize, add_generation_prompt): return f"USER {m[0]['content']} BOT "
    text = TOK.decode(make_needle(Chat(), HAY, 400, .5).prompt)
    assert text.startswith('USER Read') and 'BOT The magic number of' in text


def test_answer_tokens_leave_no_bare_space():
    space, answer = answer_tokens(TOK, '12345')
    assert TOK.decode(space) == ' ' and TOK.decode(answer) == '12345'


def test_copier_finds_everything_and_uniform_nothing():
    items = make_needles(TOK, HAY, lengths=(256, 400), depths=(0., .5, 1.))
    r = summarise_items(items, score_items(Known(copier), items))
    assert r['exact']['value'] == 1 and r['logprob']['value'] > -1e-6 and r['top1']['value'] == 1
    r = summarise_items(items, score_items(Known(uniform), items))
    assert r['exact']['value'] == 0 and r['logprob']['value'] == pytest.approx(-math.log(W), rel=1e-5) and r['logprob']['value'] < CHANCE
    assert r['by_length']['256']['exact']['n'] == 3 and len(r['grid']['exact']) == 3 and len(r['grid']['exact'][0]) == 2


def test_exact_match_is_greedy_decoding():
    model, g = llama(5), torch.Generator().manual_seed(0)
    items = []
    for i in range(6):
        prompt = torch.randint(1, W, (1, 20 + i % 2), generator=g)
        out = model.generate(prompt, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)[0, prompt.shape[1]:].tolist()
        if i >= 3: out[i-3] = (out[i-3]+1) % W
        items.append(RecallItem('t', tuple(prompt[0].tolist()), tuple(out), prompt.shape[1], 0., 0., ''))
    got = score_items(model, items, batch_size=2, dtype='float32')
    assert [s['exact'] for s in got] == [1, 1, 1, 0, 0, 0]
    for it, s in zip(items, got):
        with torch.no_grad(): lp = model(torch.tensor([it.prompt+it.answer])).logits.log_softmax(-1)[0, len(it.prompt)-1:-1]
        assert s['logprob'] == pytest.approx(lp[range(4), list(it.answer)].mean().item(), rel=1e-4)


def test_wilson():
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    for k, n in ((0, 15), (15, 15), (3, 7)):
        for p in wilson(k, n):
            if 0 < p < 1: assert abs(k/n-p) == pytest.approx(1.96*(p*(1-p)/n)**.5)
    assert wilson(0, 15)[0] == 0 and wilson(15, 15)[1] == 1 and wilson(0, 0) == (0., 1.)


# ---------------------------------------------------------------- efficiency

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kw', [{}, dict(num_key_value_heads=1), dict(num_key_value_heads=4, head_dim=16)])
def test_formula_is_measured_bytes(kw, dtype):
    m = llama(**kw).to(dtype)
    with torch.no_grad(): past = m(torch.randint(W, (3, 29)), use_cache=True).past_key_values
    assert cache_bytes(past) == predicted_cache_bytes(m, 29, batch=3, itemsize=dtype.itemsize) > 0


def test_sliding_window_formula():
    torch.manual_seed(0)
    m = Qwen2ForCausalLM(Qwen2Config(vocab_size=W, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                                     use_sliding_window=True, sliding_window=8, max_window_layers=2)).eval()
    assert layer_kinds(m) == ['full_attention']*2 + ['sliding_attention']*2
    with torch.no_grad(): past = m(torch.randint(W, (1, 29)), use_cache=True).past_key_values
    assert cache_bytes(past) == predicted_cache_bytes(m, 29)


def test_linear_layers_are_counted():
    soft, lin = DynamicLayer(), LinearAttentionLayer(number_of_states=2)
    soft.update(torch.zeros(2, 2, 50, 8), torch.zeros(2, 2, 50, 8))
    lin.update_recurrent_state(torch.zeros(2, 4, 8, 8))
    cfg = SimpleNamespace(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32, layer_types=['full_attention', 'linear_attention'])
    hybrid = SimpleNamespace(base=cfg, layer_types=cfg.layer_types)
    assert cache_bytes(Cache(layers=[soft, lin])) == predicted_cache_bytes(hybrid, 50, batch=2)
    lin.update_conv_state(torch.zeros(2, 12, 4), state_idx=1)
    assert cache_bytes(Cache(layers=[soft, lin])) == predicted_cache_bytes(hybrid, 50, batch=2, state_bytes=4*8*8*4 + 12*4*4)
    cfg.layer_types[1] = hybrid.layer_types[1] = 'spectral'
    with pytest.raises(ConfigError, match='spectral'): predicted_cache_bytes(hybrid, 50)


def test_smollm2_at_8k_meets_the_bound():
    cfg = SimpleNamespace(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576)
    kinds = ['full_attention']*8 + ['linear_attention']*22
    hybrid = SimpleNamespace(**vars(cfg), layer_types=kinds)
    ratio = predicted_cache_bytes(hybrid, 8192, itemsize=2)/predicted_cache_bytes(cfg, 8192, itemsize=2)
    assert 8/30 < ratio < .30


def test_stretching_keeps_the_prefix_and_counts_bytes():
    m = llama()
    with torch.no_grad(): past = m(torch.randint(W, (1, 10)), use_cache=True).past_key_values
    keys = past.layers[1].keys.clone()
    stretch_cache(past, 25)
    assert past.get_seq_length() == 25 and torch.equal(past.layers[1].keys[:, :, 10:20], keys)
    assert cache_bytes(past) == predicted_cache_bytes(m, 25)


def test_measure_efficiency():
    got = measure_efficiency({'teacher': llama(), 'small': llama(num_hidden_layers=1)}, (200, 40, 60), decode_tokens=2, rounds=2, prefill_chunk=16, prefill_limit=64)
    rows = got['rows']
    assert [(r['context'], r['model']) for r in rows] == [(c, m) for c in (40, 60, 200) for m in ('teacher', 'small')]
    for r in rows:
        assert r['cache_bytes'] == r['predicted_cache_bytes'] and r['decode']['n'] == 4 and r['decode']['low'] <= r['decode']['value'] <= r['decode']['high']
        assert r['filled_by'] == ('stretched' if r['context'] == 200 else 'prefill') and (r['prefill_s'] is None) == (r['context'] == 200)
    assert rows[0]['cache_bytes'] == 2*rows[1]['cache_bytes']
    with pytest.raises(ConfigError, match='room'): measure_efficiency({'t': llama()}, (40, 41), decode_tokens=4)
    with pytest.raises(ConfigError, match='positive'): measure_efficiency({'t': llama()}, ())


def test_chunked_prefill_fills_the_same_cache():
    m, ids = llama(), torch.randint(W, (1, 40))
    with torch.no_grad():
        whole = m(ids, use_cache=True)
        past = None
        for part in ids.split(16, 1): out = m(part, past_key_values=past, use_cache=True); past = out.past_key_values
    assert torch.allclose(whole.logits[:, -1], out.logits[:, -1], atol=1e-4) and cache_bytes(past) == cache_bytes(whole.past_key_values)


# ---------------------------------------------------------------- the whole

def test_evaluate_end_to_end(pair, batches, monkeypatch):
    from hybrid_tutorial.evaluation import evaluate as public, suite
    monkeypatch.setattr(suite, 'held_out_haystack', lambda tok, n: HAY)
    seen = []
    kw = dict(sets={'text': batches}, lengths=(200, 256), depths=(0., 1.), needles=2, dtype='float32')
    got = evaluate(pair[1], TOK, teacher=pair[0], progress=lambda what, n: seen.append((what, n)), **kw)
    assert public is evaluate and got['sets']['text'] == evaluate_language(pair[1], batches, teacher=pair[0], dtype='float32')
    assert got['needle'] == evaluate_recall(pair[1], TOK, HAY, lengths=(200, 256), depths=(0., 1.), repeats=2, dtype='float32')
    assert got['model'] == dict(parameters=sum(p.numel() for p in pair[1].parameters()), layers=2, keep=[0, 1])
    assert {w for w, _ in seen} == {'text', 'needle'} and got['settings']['seed'] == 0
    import json
    assert json.loads(json.dumps(got)) == got
    assert evaluate_models({'x': pair[1]}, TOK, **{**kw, 'needles': 0})['x']['needle'] is None
    with pytest.raises(ConfigError, match='budget for text'): evaluate(pair[1], TOK, n_tokens={'other': 5}, **kw)


@pytest.mark.parametrize('mixer', ['gdn', 'gdn-paper'])
def test_formula_is_measured_bytes_on_hybrids(mixer):
    from hybrid_tutorial.models.hybrid import build_hybrid, build_student
    teacher = llama(scale=1., num_hidden_layers=3)
    student = build_student(teacher, mixer, settings=dict(window=8) if mixer == 'gdn' else None, verbose=False)
    got = measure_efficiency({'teacher': teacher, 'all-linear': student, 'kl': build_hybrid(student, teacher, [1])}, (20, 40, 200),
                             decode_tokens=1, rounds=2, prefill_chunk=8, prefill_limit=40)
    assert all(r['cache_bytes'] == r['predicted_cache_bytes'] for r in got['rows'])
    assert len({r['cache_bytes'] for r in got['rows'] if r['model'] == 'all-linear'}) == 1
    long = {r['model']: r['cache_bytes'] for r in got['rows'] if r['context'] == 200}
    assert long['kl'] == long['teacher']/3 + long['all-linear']*2/3


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('mixer, settings', [('gdn', dict(window=6, sinks=2)), ('kda', dict(window=3)), ('swa', dict(window=5, sinks=3)), ('hedgehog', dict(features=4)),
                                             ('performer', {}), ('rwkv6', {}), ('rwkv7', {}), ('mamba2', {}), ('gla', dict(window=40))])
def test_formula_is_measured_bytes_with_windows_and_other_states(mixer, settings, dtype):
    from hybrid_tutorial.models.hybrid import build_hybrid, build_student
    teacher = llama(scale=1., num_hidden_layers=3).to(dtype)
    student = build_student(teacher, mixer, settings=settings, verbose=False)
    for m in (student, build_hybrid(student, teacher, [0])):
        for T in (2, 5, 29):
            with torch.no_grad(): past = m(torch.randint(W, (2, T)), use_cache=True).past_key_values
            assert cache_bytes(past) == predicted_cache_bytes(m, T, batch=2, itemsize=dtype.itemsize), T


def test_bytes_and_operations_of_a_step():
    "Counted by hand, and by torch's own counter of operations"
    from torch.utils.flop_counter import FlopCounterMode
    m, T, B = llama(scale=1.), 50, 3
    work = decode_work(m, T, B)
    assert work['bytes'] == sum(p.numel()*4 for p in m.parameters())-W*32*4+B*2*2*2*T*8*4
    m.set_attn_implementation('eager')                    # the counter does not know the fused one of the CPU
    with torch.no_grad():
        past = m(torch.randint(W, (B, T-1)), use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter: m(torch.randint(W, (B, 1)), past_key_values=past, use_cache=True)
    assert work['flops'] == pytest.approx(counter.get_total_flops(), rel=.02)
    tied = llama(scale=1., tie_word_embeddings=True)
    assert decode_work(tied, T, B)['bytes'] == sum(p.numel()*4 for p in tied.parameters())+B*2*2*2*T*8*4
    from hybrid_tutorial.models.hybrid import build_student
    s = build_student(llama(scale=1.), settings=dict(window=0), verbose=False)
    assert decode_work(s, 10)['bytes'] == decode_work(s, 10**6)['bytes'] == sum(p.numel()*4 for p in s.parameters())-W*32*4+2*2*4*8*8*4


def test_costs_of_three_models_in_one_run():
    from hybrid_tutorial.models.hybrid import build_hybrid, build_student
    teacher = llama(scale=1., num_hidden_layers=3)
    student = build_student(teacher, settings=dict(window=0), verbose=False)
    got = measure_costs({'teacher': teacher, 'all-linear': student, 'hybrid': build_hybrid(student, teacher, [1])}, (4, 64, 200), (1, 2), decode_tokens=2, rounds=2, prefill_limit=64)
    assert [(r['batch'], r['context'], r['model']) for r in got['rows']] == [(b, c, m) for b in (1, 2) for c in (4, 64, 200) for m in ('teacher', 'all-linear', 'hybrid')]
    for r in got['rows']:
        assert 0 < r['floor_ms'] and r['share_of_limit'] == pytest.approx(r['floor_ms']/r['decode']['value']) and r['share_of_limit'] < 1
        assert r['tokens_per_s'] == pytest.approx(1e3*r['batch']/r['decode']['value']) and r['work']['bytes'] > r['weight_bytes']-W*32*4
        assert r['peak_bytes'] is None or r['peak_bytes'] >= r['weight_bytes']
    for n in ('all-linear', 'hybrid'):                    # 4*H*K*K = 2*G*K*4*T at T = H*K/(2*G) = 8 tokens, whatever the batch
        for b in ('1', '2'): assert got['crossover'][n][b]['bytes'] == pytest.approx(8.)
    import json; assert json.loads(json.dumps(got)) == got


def test_crossover():
    row = lambda m, c, by, ms: dict(model=m, context=c, batch=1, cache_bytes=by, decode=dict(value=ms))
    rows = [row('t', 0, 0, 1.), row('t', 10, 100, 2.), row('a', 0, 50, .5), row('a', 10, 50, .5), row('b', 0, 200, 5.), row('b', 10, 200, 5.)]
    assert crossover(rows, 'a') == {'1': dict(bytes=5., time=0)} and crossover(rows, 'b') == {'1': dict(bytes=None, time=None)}


def test_limits_and_peak_and_profile():
    limits = machine_limits(seconds=.02)
    assert 1e8 < limits['bytes_per_s'] < 1e13 and 1e8 < limits['flops_per_s'] < 1e16
    with Peak('cpu') as peak: torch.ones(2**23).mul_(2.)                        # 32 MiB, returned at once
    assert peak.bytes is None or 2**24 < peak.bytes < 2**27
    got = step_profile(llama(), steps=3)
    assert got['total'] > 0 and got['products'] > 0 and got['attention'] > 0 and got['calls'] > 20
