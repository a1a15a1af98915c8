"Every selector behind `score_layers`: what it finds, what it costs, that it can be stopped, split and trusted"
import itertools, json, os, random
from pathlib import Path

import pytest
import torch

from hybrid_tutorial.core import ConfigError, DataError, assert_close
from hybrid_tutorial.models.hybrid import build_hybrid, build_student
from hybrid_tutorial.ops.loss import dense_kl
from hybrid_tutorial.selection.ablations import TASKS, smart_layers, task_rows
from hybrid_tutorial.selection.choose import choose_layers
from hybrid_tutorial.selection.gates import gate_slopes, gated, random_sets, surrogate_best
from hybrid_tutorial.selection.scores import METHODS, Job, Scores, score_layers, scoring_rows, selector
from hybrid_tutorial.selection.search import drop_blocks, exchange, falling, greedy
from hybrid_tutorial.selection.sets import Judge, KLSets, Ledger, Meter, kl_curve
from hybrid_tutorial.training.align import calibrate

from helpers import NEAR, tiny_teacher, tokens

SMALL = dict(hidden_size=24, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4, intermediate_size=32)
FAST = dict(dtype='float32', show=False)
TRAIN = dict(train_tokens=128, checks=2, lr=1e-4, lr_attention=1e-3)
OPTIONS = {m: TRAIN for m in ('ga_s2', 'gr_s2', 'avg_s2')} | {'kl_supernet': dict(sets=16)} | {t: dict(items=3) for t in TASKS}


def planted(j, layers=4):
    "Only layer `j` mixes over distance"
    teacher = tiny_teacher('llama', **{**SMALL, 'num_hidden_layers': layers})
    with torch.no_grad():
        for i, layer in enumerate(teacher.model.layers):
            layer.self_attn.o_proj.weight.mul_(0. if i != j else 3.)
            layer.self_attn.q_proj.weight.mul_(4.); layer.self_attn.k_proj.weight.mul_(4.)
    return teacher


def aligned(teacher):
    student = build_student(teacher, settings=NEAR, verbose=False)
    calibrate(student, teacher, [dict(input_ids=tokens(4, 40, seed=9))])
    return student.requires_grad_(False)


def texts(n=6, T=32): return [tokens(2, T, seed=s) for s in range(n)]


def mixed(n=6, T=32):
    "Rows that alternate between plain and recall"
    out = []
    for s in range(n):
        mask = torch.zeros(2, T, dtype=torch.bool); mask[1, T//2:] = True
        out.append(dict(input_ids=tokens(2, T, seed=s), recall_mask=mask))
    return out


SOUND = {'kl_greedy': {}, 'kl_guided': {}, 'kl_gradient': {}, 'kl_supernet': dict(sets=16), 'ga_s2': TRAIN, 'gr_s2': TRAIN, 'avg_s2': TRAIN, 'ga_s1': {}, 'act_mse': {}, 'smart': {}}

@pytest.mark.parametrize('method', SOUND)
def test_planted_layer_ranks_first(method):
    for j in (0, 2):
        teacher = planted(j)
        s = score_layers(aligned(teacher), teacher, texts(), method=method, tokens=192, options=SOUND[method], ratio=0.25, **FAST)
        assert s.ranking[0] == j and choose_layers(s, count=1) == [j], (j, s.scores)


def test_gradient_at_every_place_and_after_training_finds_the_planted_layer():
    teacher = planted(1)
    student = aligned(teacher)
    before = {n: p.clone() for n, p in student.named_parameters()}
    for options in (dict(place='half'), dict(place='linear'), dict(train_tokens=256), dict(points=1)):
        assert score_layers(student, teacher, texts(8), method='kl_gradient', tokens=192, options=options, **FAST).ranking[0] == 1, options
    s = score_layers(student, teacher, texts(8), method='kl_supernet', tokens=192, options=dict(sets=16, train_tokens=256), **FAST)
    assert s.ranking[0] == 1 and s.cost['trained_tokens'] == 256 >= s.cost['backward_tokens'] > 0      # below the first linear layer nothing is trained
    assert all(torch.equal(p, before[n]) for n, p in student.named_parameters()) and len(student.mixers) == 4


def test_bypass_costs_most_where_attention_is():
    "On text that the teacher wrote itself, taking its one working layer away raises the loss"
    teacher, gen = planted(2), torch.Generator().manual_seed(0)
    ids = tokens(8, 2)
    for _ in range(38): ids = torch.cat([ids, torch.multinomial(teacher(ids).logits[:, -1].softmax(-1), 1, generator=gen)], 1)
    s = score_layers(None, teacher, [ids], method='ppl', tokens=320, **FAST)
    assert s.ranking[0] == 2 and all(abs(s.scores[l]) < 1e-6 for l in (0, 1, 3))


@pytest.mark.parametrize('task', TASKS)
def test_puzzles_knock_out(task):
    teacher = tiny_teacher(**SMALL)
    s = score_layers(None, teacher, None, method=task, options=dict(items=3), seeds=5, **FAST)
    ids, mask = task_rows(task, 99, items=3, seed=5)
    assert torch.equal(ids, task_rows(task, 99, items=3, seed=5)[0]) and not torch.equal(ids, task_rows(task, 99, items=3, seed=6)[0])
    assert mask.any(1).all() and not mask[:, 0].any() and len(s.rows[task]) == 4 and len(s.rows[task][0]) == 3
    def loss(l=None):
        hook = [] if l is None else [teacher.model.layers[l].self_attn.register_forward_hook(lambda m, a, o: (torch.zeros_like(o[0]), *o[1:]))]
        logp = teacher(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        for h in hook: h.remove()
        return torch.stack([-x[m].mean() for x, m in zip(logp, mask[:, 1:])])
    assert_close(torch.tensor(s.rows[task][2]), loss(2)-loss(), 1e-3)
    a = score_layers(None, teacher, None, method=task, options=dict(items=3, metric='accuracy'), **FAST)
    assert all(x in (-1., 0., 1.) for r in a.rows[task] for x in r)


def test_puzzles_have_the_right_answer():
    rng = random.Random(3)
    for _ in range(20):
        p, a = TASKS['ar'](rng); key = p.split()[-2]; assert f'{key} :{a} ,' in p
        p, a = TASKS['phonebook'](rng); assert f'{p.split()[-2]} :{a}\n' in p+'\n'
        p, a = TASKS['retrieval'](rng); assert f'is{a} .' in p
        p, a = TASKS['cwe'](rng); text, asked = p.split(' . The most common words are '); assert text.split().count(a.strip()) == 2 and a.strip() not in asked.split() and len(asked.split()) == 9
        p, a = TASKS['fwe'](rng); words = p.split(' . ')[0].split(); assert words.count(a.strip()) == max(map(words.count, words))
        for task, sign in (('vt', '='), ('ar_multihop', ':')):
            p, a = TASKS[task](rng); says = dict(x.strip().split(f' {sign} ') for x in p.replace(' .', ',').split(',') if f' {sign} ' in x)
            x = p.split()[-2]
            while x in says: x = says[x]
            assert x == a.strip()


def test_smart_keeps_to_its_spacing_and_maximises_the_sum():
    sens = torch.rand(12, generator=torch.Generator().manual_seed(0)).tolist()
    for K in (2, 3, 4, 6):
        wide = -(-11//(K-1))
        allowed = [s for s in itertools.combinations(range(12), K) if all(b-a in (wide-1, wide) for a, b in zip(s, s[1:])) and s[0] <= wide-1 and 11-s[-1] <= wide-1]
        assert smart_layers(sens, K) == list(max(allowed, key=lambda s: sum(sens[l] for l in s)))
    assert smart_layers(sens, 1) == [sens.index(max(sens))] and smart_layers(sens, 0) == [] and smart_layers(sens, 12) == list(range(12))


def test_halo_is_its_formula():
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    s = score_layers(student, teacher, mixed(), method='halo', tokens=128, **FAST)
    rt, cs = ([-x for x in s.texts[t]] for t in ('recall', 'plain'))            # up to the teacher's own value, which cancels
    want = [min(50., (max(rt)-a)/(max(cs)-b+1e-10)) for a, b in zip(rt, cs)]
    assert_close(torch.tensor(s.scores), torch.tensor(want), 1e-4)
    assert score_layers(student, teacher, texts(), method='halo', tokens=64, options=dict(items=2), **FAST).texts.keys() == {'plain', 'recall'}


def test_untrained_retraining_is_the_forward_score():
    "With a learning rate of almost nothing GA-S2 is `kl` and GR-S2 is `kl_removal`, up to the base"
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    still = dict(train_tokens=64, checks=1, lr=1e-12, lr_attention=1e-12)
    ga, gr = (score_layers(student, teacher, texts(), method=m, tokens=128, options=still, **FAST) for m in ('ga_s2', 'gr_s2'))
    kl, removal = (score_layers(student, teacher, texts(), method=m, tokens=128, **FAST) for m in ('kl', 'kl_removal'))
    base = ga.scores[0]-kl.scores[0]
    assert_close(torch.tensor(ga.scores), torch.tensor(kl.scores)+base, 1e-4)
    assert_close(torch.tensor(gr.scores), torch.tensor(removal.scores), 1e-3)
    assert abs(Judge(teacher, scoring_rows(texts(), 128), dtype='float32').measure(student)['plain'][0]+base) < 10


def test_held_out_rows_are_never_trained_on():
    for corpus, tokens_ in ((texts(10), 128), (mixed(10), 64), (dict(plain=texts(4), long=[tokens(2, 64, seed=50+s) for s in range(4)]), 128)):
        job = Job(None, tiny_teacher(**SMALL), corpus, 'ga_s2', tokens_)
        scored = {tuple(r.tolist()) for ids, _ in job.texts.values() for r in ids}
        trained = [tuple(r.tolist()) for b in job.training(256, 2) for r in b['input_ids']]
        assert trained and not scored & set(trained) and len(set(trained)) == len(trained)
    with pytest.raises(DataError, match='left after'): job.training(10**6, 2)


def test_measure_of_a_model_with_another_head():
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    rows = scoring_rows(mixed(), 64)
    judge = Judge(teacher, rows, 2, 'float32')
    same = judge.measure(student, more=True)
    other = build_hybrid(student, teacher, [1])
    with torch.no_grad(): other.lm_head.weight.mul_(0.9)
    got = judge.measure(other, more=True)
    for t, (ids, mask) in rows.items():
        for m, found in ((student, same), (other, got)):
            logits = m(ids, use_cache=False).logits
            kl = dense_kl(logits, teacher(ids).logits)[:, :-1]
            nll = -logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            for k, x in (('kl', kl), ('loss', nll)): assert_close(torch.tensor(found[k][t]), torch.stack([y[m_].mean() for y, m_ in zip(x, mask[:, 1:])]), 1e-4)


# ---- exactness

@pytest.mark.parametrize('mixer', ['gdn', 'rwkv7'])
def test_any_set_and_any_toggle_to_the_last_bit(mixer):
    teacher = tiny_teacher('llama', **{**SMALL, 'num_hidden_layers': 3 if mixer == 'rwkv7' else 4})
    student, L = build_student(teacher, mixer, verbose=False), 3 if mixer == 'rwkv7' else 4
    how = lambda: KLSets(Job(student, teacher, mixed(2, 12), 'kl', tokens=24, dtype='float32', ledger=Ledger(), meter=Meter()))
    for keep in ((), (1,), tuple(range(L))):
        near = how().around(keep, range(L))
        every = [frozenset(keep), *(frozenset(keep) ^ {l} for l in range(L))]
        assert list(near.values()) == how().values(every)
        built = Judge(teacher, scoring_rows(mixed(2, 12), 24), 4, 'float32')
        for rows, s in zip(near.values(), every):
            for t, r in built.measure(build_hybrid(student, teacher, s)).items(): assert_close(torch.tensor(rows[t]), torch.tensor(r), 1e-3) if max(map(abs, r)) > 1e-5 else None


@pytest.mark.parametrize('mixer', ['gdn', 'rwkv7'])
def test_gates_at_corners_are_hybrids_and_slopes_are_finite_differences(mixer):
    teacher = tiny_teacher('llama', **{**SMALL, 'num_hidden_layers': 3})
    with torch.no_grad():
        for p in teacher.parameters(): p.mul_(0.6)
    student = aligned(teacher) if mixer == 'gdn' else build_student(teacher, mixer, verbose=False).requires_grad_(False)
    judge = Judge(teacher, scoring_rows([tokens(3, 16)], 48), 3, 'float32')
    part = judge.batches[0][0]
    def kl(values):
        with gated(student, teacher) as gates, torch.no_grad():
            for g, v in zip(gates, values): g.gate = v
            return torch.tensor(judge.kl(part, student.model(part.ids, use_cache=False).last_hidden_state))
    for keep in ((), (0,), (1, 2), (0, 1, 2)):
        assert_close(1+kl([float(l in keep) for l in range(3)]), 1+torch.tensor(judge.measure(build_hybrid(student, teacher, keep))['plain']), 1e-4)
    e = 5e-3
    for at in (0.25, 0.5):
        with gated(student, teacher) as gates: _, slopes = gate_slopes(judge, student, gates, part, at, 'float32')
        finite = torch.stack([(kl([at+e*(i == l) for i in range(3)])-kl([at-e*(i == l) for i in range(3)]))/(2*e) for l in range(3)])
        if mixer == 'gdn': assert_close(slopes, finite, 0.02)
    assert len(student.mixers) == 3


def test_gradient_scores_add_up_to_the_fall_of_the_kl():
    teacher = tiny_teacher(**SMALL)
    with torch.no_grad():
        for p in teacher.parameters(): p.mul_(0.6)
    student = aligned(teacher)
    s = score_layers(student, teacher, texts(), method='kl_gradient', tokens=128, options=dict(points=24), **FAST)
    kl = Judge(teacher, scoring_rows(texts(), 128), dtype='float32').measure(student)['plain']
    assert abs(sum(s.scores)-sum(kl)/len(kl)) < 0.05*sum(kl)/len(kl)


# ---- search

def brute(student, teacher, corpus, tokens_):
    sets = KLSets(Job(student, teacher, corpus, 'kl', tokens=tokens_, dtype='float32', ledger=Ledger(), meter=Meter()))
    every = [frozenset(s) for k in range(6) for s in itertools.combinations(range(5), k)]
    return {s: sets.objective(r) for s, r in zip(every, sets.values(every))}


@pytest.mark.parametrize('seed', range(4))
def test_sequential_selectors_against_brute_force_over_all_sets(seed):
    "Greedy with exchange reaches the best set; blocks stay within a tenth of the way to it"
    teacher = tiny_teacher('qwen3', seed=seed, **{**SMALL, 'num_hidden_layers': 5})
    student = aligned(teacher); value = brute(student, teacher, texts(2), 128)
    worst = value[frozenset()]
    for k in (1, 2, 3, 4):
        best = min(v for s, v in value.items() if len(s) == k)
        for method, gap in (('kl_greedy', 0.02), ('kl_guided', 0.1)):
            s = score_layers(student, teacher, texts(2), method=method, tokens=128, ratio=k/5, **FAST)
            keep = choose_layers(s, count=k)
            assert keep == s.notes['set'] and value[frozenset(keep)] <= best+gap*worst, (method, k, keep)
            assert abs(sum(s.notes['kl'].values())-value[frozenset(keep)]) < 1e-4
        s = score_layers(student, teacher, texts(2), method='kl_supernet', tokens=128, ratio=k/5, options=dict(sets=30, pairs=True), **FAST)
        assert value[frozenset(choose_layers(s, count=k))] <= best+0.15*worst
    curve = kl_curve(student, teacher, texts(2), [3, 1, 0, 2, 4], tokens=128, dtype='float32')
    assert [c['kl'] for c in curve] == [value[frozenset(c['keep'])] for c in curve]


def circuit(keep):
    "KL of ten layers of which 2, 5 and 8 work only together"
    cost = [0.5, 0.4, 0.02, 0.3, 0.2, 0.03, 0.1, 0.1, 0.01, 0.15]
    return 3.*(not {2, 5, 8} <= set(keep))+sum(c for l, c in enumerate(cost) if l not in keep)

def asked(value): return lambda keep, layers: (value(keep), {l: value(frozenset(keep) ^ {l}) for l in layers})


def test_a_circuit_that_single_scores_miss_is_found():
    alone = [circuit([])-circuit([l]) for l in range(10)]
    best = set(min(itertools.combinations(range(10), 5), key=circuit))
    assert set(choose_layers(alone, count=5)) != best
    assert greedy(asked(circuit), 10, 5).keep == best and drop_blocks(asked(circuit), circuit, 10, 5).keep == best
    assert exchange(asked(circuit), circuit, {2, 5, 6, 7, 9}, 10, tries=5)[0] == best


def test_blocks_notice_layers_that_stand_in_for_each_other():
    "Layers 1 and 2 hold the same thing: either can go for nothing, both cannot"
    twins = lambda keep: 3.*(not {1, 2} & set(keep))+sum(0.1*(l+3) for l in range(8) if l not in keep and l not in (1, 2))
    for walk in (greedy(asked(twins), 8, 3), drop_blocks(asked(twins), twins, 8, 3, share=1.)):
        assert {1, 2} & walk.keep and sorted(walk.ranking) == list(range(8))


def test_exchange_never_makes_either_half_worse():
    rng = random.Random(0)
    for trial in range(20):
        f, g = ({frozenset(s): rng.random() for s in itertools.combinations(range(6), k)} for k in (3, 3))
        more = {frozenset(s): rng.random() for k in (2, 4) for s in itertools.combinations(range(6), k)}
        keep, made = exchange(asked(lambda s: {**f, **more}[frozenset(s)]), lambda s: g[frozenset(s)], {0, 1, 2}, 6, tries=3)
        assert f[frozenset(keep)] <= f[frozenset({0, 1, 2})] and g[frozenset(keep)] <= g[frozenset({0, 1, 2})] and len(keep) == 3


def test_order_becomes_falling_scores():
    s = falling([2, 0, 1], {0: 5., 1: 1., 2: 3.})
    assert choose_layers(s, count=1) == [2] and choose_layers(s, count=2) == [0, 2] and s[1] == 1. and s[0] == 5.


@pytest.mark.parametrize('end', ['drop', 'add'])
@pytest.mark.parametrize('ratio', [0.1, 0.5, 1.])
def test_greedy_full_orders_everything(end, ratio):
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    s = score_layers(student, teacher, texts(2), method='kl_greedy', tokens=64, ratio=ratio, options=dict(end=end, full=True, swaps=ratio == 0.5), **FAST)
    K = int(ratio*4+0.5)
    assert choose_layers(s, count=K) == s.notes['set'] and sorted(s.ranking) == [0, 1, 2, 3] and len(s.path) >= 4


def test_random_sets_are_balanced_and_the_surrogate_is_searched():
    sets = random_sets(7, 20, 3)
    assert all(a | b == set(range(7)) and not a & b for a, b in zip(sets[::2], sets[1::2])) and sets == random_sets(7, 20, 3) != random_sets(7, 20, 4)
    gen = torch.Generator().manual_seed(0)
    b, c = torch.randn(7, generator=gen), torch.randn(7, 7, generator=gen).tril(-1); c = c+c.T
    f = lambda s: float(sum(b[l]*(0.5 if l in s else -0.5) for l in range(7))+sum(c[i, j]*(0.25 if (i in s) == (j in s) else -0.25) for i in range(7) for j in range(i)))
    assert f(surrogate_best(b, c, 3)) <= f(sorted(range(7), key=lambda l: float(b[l]))[:3])


# ---- stop, resume, split, count

class Killed(Exception): pass

RESUMABLE = ('kl', 'kl_removal', 'kl_greedy', 'kl_guided', 'kl_gradient', 'kl_supernet', 'ga_s2', 'gr_s2', 'avg_s2', 'ppl', 'ar', 'halo', 'smart')

@pytest.mark.parametrize('method', RESUMABLE)
def test_resume_after_a_kill_gives_the_same_scores(method, tmp_path, monkeypatch):
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    how = dict(method=method, tokens=64, batch_size=1, seeds=(0, 1), options=OPTIONS.get(method), **FAST)
    whole = score_layers(student, teacher, texts(8), **how)
    out, ticks, real = tmp_path/'s'/'scores.jsonl', [0], Job.tick
    def tick(self):
        ticks[0] += 1; real(self)
        if ticks[0] == 5: raise Killed
    monkeypatch.setattr(Job, 'tick', tick)
    with pytest.raises(Killed): score_layers(student, teacher, texts(8), out=out, **how)
    monkeypatch.setattr(Job, 'tick', real)
    assert len(student.mixers) == 4 and not any(l._forward_pre_hooks for l in teacher.model.layers)      # a kill leaves the models whole
    out.write_bytes(out.read_bytes()[:-7])                                                               # and may cut a line
    again = score_layers(student, teacher, texts(8), out=out, **how)
    assert again.scores == whole.scores and again.rows == whole.rows
    assert 0 < again.cost['reused'] and again.cost['forward_tokens'] < whole.cost['forward_tokens']
    third = score_layers(student, teacher, texts(8), out=out, **how)
    assert third.scores == whole.scores and third.cost['candidate_tokens'] == 0 and third.cost['backward_tokens'] == 0
    other = score_layers(student, teacher, texts(8)[::-1], out=out, **how)                               # other rows are not taken from there
    assert method == 'ar' or other.cost['candidate_tokens'] > 0


def work(rank, world, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=world)
    teacher = tiny_teacher(**SMALL); student = aligned(teacher); out = {}
    for m in RESUMABLE+('kl_removal 2',):
        method, _, rounds = m.partition(' ')
        s = score_layers(student, teacher, texts(8), method=method, rounds=int(rounds or 1), tokens=64, batch_size=1, options=OPTIONS.get(method), out=f'{folder}/{m}.jsonl' if m == 'kl' else None, **FAST)
        out[m] = [s.scores, s.cost['candidate_tokens']]
    Path(f'{folder}/{rank}.json').write_text(json.dumps(out))
    torch.distributed.barrier(); torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    import torch.multiprocessing as mp
    mp.spawn(work, (2, str(tmp_path)), nprocs=2)
    a, b = (json.loads((tmp_path/f'{r}.json').read_text()) for r in (0, 1))
    assert a == b
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    for m, (scores, candidates) in a.items():
        method, _, rounds = m.partition(' ')
        one = score_layers(student, teacher, texts(8), method=method, rounds=int(rounds or 1), tokens=64, batch_size=1, options=OPTIONS.get(method), **FAST)
        assert one.scores == scores and one.cost['candidate_tokens'] == candidates, m
    assert len((tmp_path/'kl.jsonl').read_text().splitlines()) >= 2*(4+1)


@pytest.mark.parametrize('method', METHODS)
def test_costs_add_up(method, monkeypatch):
    "Against a count of our own: calls of the layer class, wherever the layers are"
    teacher = tiny_teacher(**SMALL); student = aligned(teacher); seen = dict(f=0, b=0)
    kind = type(teacher.model.layers[0]); real = kind.forward
    def forward(self, *a, **k):
        out = real(self, *a, **k); h = out[0] if isinstance(out, tuple) else out
        seen['f'] += h.shape[0]*h.shape[1]; seen['b'] += h.shape[0]*h.shape[1]*h.requires_grad
        return out
    monkeypatch.setattr(kind, 'forward', forward)
    s = score_layers(student, teacher, mixed(8), method=method, tokens=64, options=OPTIONS.get(method), **FAST)
    c = s.cost
    assert set(c) == {'tokens', 'candidate_tokens', 'forward_tokens', 'backward_tokens', 'trained_tokens', 'layer_evaluations', 'seconds', 'reused'}
    assert c['forward_tokens'] == round(seen['f']/4) and c['backward_tokens'] == round(seen['b']/4) and c['seconds'] >= 0 and c['reused'] <= 100
    n = c['tokens']
    if method in ('kl', 'kl_removal', 'smart'): assert n == 128 and c['layer_evaluations'] == 4*5//2+8 and c['candidate_tokens'] == n*4
    if method == 'kl_gradient': assert c['backward_tokens'] == 3*n and c['forward_tokens'] == 4*n
    if method in ('ga_s2', 'gr_s2'): assert c['trained_tokens'] == c['backward_tokens'] == 4*128 and c['candidate_tokens'] == 4*2*n and c['forward_tokens'] == 4*128+128+n*(1+4*2)
    if method in ('ga_s1', 'act_mse'): assert c['forward_tokens'] == n and c['backward_tokens'] == 0
    if method in ('uniform', 'random'): assert c['forward_tokens'] == n == 0
    assert len(s.scores) == 4 and s.direction.startswith('higher') and s.unit and sorted(s.ranking) == [0, 1, 2, 3]


@pytest.mark.parametrize('method', METHODS)
def test_scores_survive_the_disk_and_leave_models_alone(method, tmp_path):
    teacher = tiny_teacher(**SMALL); student = aligned(teacher); ids = tokens()
    a, b = teacher(ids).logits, student(ids).logits
    s = score_layers(student, teacher, mixed(8), method=method, tokens=32, options=OPTIONS.get(method), seeds=(1, 2), **FAST)
    assert torch.equal(a, teacher(ids).logits) and torch.equal(b, student(ids).logits)
    assert len(student.mixers) == 4 and not any(p.requires_grad for m in (student, teacher) for p in m.parameters())
    s.save(tmp_path/'s.json')
    t = Scores.load(tmp_path/'s.json')
    assert t.scores == s.scores and t.rows == s.rows and t.cost == s.cost and t.ranking == s.ranking


def test_weights_and_mixtures_decide():
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    both = score_layers(student, teacher, mixed(8), method='kl', tokens=64, **FAST)
    for t in ('plain', 'recall'): assert score_layers(student, teacher, mixed(8), method='kl', tokens=64, weights={t: 1.}, **FAST).scores == both.texts[t]
    corpus = dict(plain=texts(3), long=[tokens(1, 64, seed=70+s) for s in range(3)], echo=mixed(4))
    s = score_layers(student, teacher, corpus, method='kl_greedy', tokens=64, weights=dict(plain=1., long=2.), **FAST)
    assert set(s.texts) == {'plain', 'long', 'echo', 'echo recall'} and s.weights == {'plain': 1., 'long': 2., 'echo': 0., 'echo recall': 0.}
    assert score_layers(student, teacher, corpus, method='kl', tokens=64, **FAST).weights['echo recall'] == 1.


def test_early_stop_uses_fewer_rows_and_says_so():
    teacher = planted(1, 6); student = aligned(teacher)
    rows = [tokens(1, 32, seed=s) for s in range(24)]
    how = dict(method='kl_removal', tokens=24*32, batch_size=1, ratio=1/6, **FAST)
    whole, short = (score_layers(student, teacher, rows, early_stop=e, **how) for e in (False, True))
    assert whole.monitor['done'] == whole.monitor['of'] == 24 > short.monitor['done'] >= 4 and short.monitor['stable']
    assert short.ranking[0] == whole.ranking[0] == 1 and short.cost['forward_tokens'] < whole.cost['forward_tokens']
    ga = score_layers(student, teacher, rows, method='ga_s2', tokens=8*32, ratio=1/6, seeds=(0, 1, 2), early_stop=True, options=dict(TRAIN, train_batch=1), **FAST)
    assert ga.monitor['done'] == 1 and len(ga.by_seed) == 1 and ga.ranking[0] == 1 and len(ga.notes['curve']) == 2
    assert short.cost['tokens'] == short.monitor['tokens'] == 32*short.monitor['done'] < short.monitor['budget'] == 24*32 == whole.monitor['tokens']
    g = score_layers(student, teacher, rows, **{**how, 'method': 'kl_gradient'}, early_stop=True)
    assert g.monitor['tokens'] == g.cost['tokens'] < 24*32 and g.cost['backward_tokens'] == 3*g.cost['tokens'] and g.ranking[0] == 1


@pytest.mark.parametrize('path', [False, True])
def test_early_stop_inside_the_training_budget(path, tmp_path):
    "All candidates stop at the same measurement, where the full run passed by; a run that is not stopped ends the same"
    teacher = planted(1, 6); student = aligned(teacher)
    rows = [tokens(1, 32, seed=s) for s in range(24)]
    options = dict(train_tokens=256, checks=4, lr=1e-4, lr_attention=1e-3, train_batch=1)
    how = dict(method='ga_s2', tokens=8*32, ratio=1/6, seeds=(0, 1), **FAST)
    whole = score_layers(student, teacher, rows, options=options, **how)
    out = tmp_path/'s.jsonl' if path else None
    short = score_layers(student, teacher, rows, options=options, early_stop=True, out=out, **how)
    n = len(short.notes['curve'])
    assert n < 4 and list(short.by_seed) == [0] and short.monitor['stable'] and short.ranking[0] == 1
    assert short.cost['trained_tokens'] == short.monitor['tokens'] == 6*64*n < short.monitor['budget'] == 6*2*256 == whole.cost['trained_tokens'] == whole.monitor['tokens']
    for a, b in zip(short.notes['curve'], whole.notes['curve']): assert a == b
    assert not list(tmp_path.glob('s.waiting/*'))
    if not path: return
    again = score_layers(student, teacher, rows, options=options, early_stop=True, out=out, **how)
    assert again.scores == short.scores and again.cost['trained_tokens'] == 0


def test_early_stop_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    how = dict(method='gr_s2', tokens=64, seeds=(0,), options=dict(TRAIN, checks=2, train_batch=1), early_stop=True, batch_size=1, **FAST)     # two rows: never certain, so never stopped
    whole = score_layers(student, teacher, texts(8), **how)
    assert whole.scores == score_layers(student, teacher, texts(8), **{**how, 'early_stop': False}).scores
    ticks, real = [0], Job.tick
    def tick(self):
        ticks[0] += 1; real(self)
        if ticks[0] == 6: raise Killed
    monkeypatch.setattr(Job, 'tick', tick)
    with pytest.raises(Killed): score_layers(student, teacher, texts(8), out=tmp_path/'s.jsonl', **how)
    monkeypatch.setattr(Job, 'tick', real)
    assert len(list(tmp_path.glob('s.waiting/*/*'))) == 4
    again = score_layers(student, teacher, texts(8), out=tmp_path/'s.jsonl', **how)
    assert again.scores == whole.scores and again.cost['trained_tokens'] == 2*64 and not list(tmp_path.glob('s.waiting/*'))


# ---- teachers that squash their logits

FULL = dict(num_hidden_layers=4, layer_types=['full_attention']*4)

def test_squashed_logits_are_compared_as_they_are():
    "Gemma-2: attention scores and logits have a soft cap"
    teacher = tiny_teacher('gemma2', **FULL); student = aligned(teacher)
    rows = scoring_rows(mixed(), 64)
    judge = Judge(teacher, rows, 2, 'float32')
    other = build_hybrid(student, teacher, [1])
    with torch.no_grad(): other.lm_head.weight.data = other.lm_head.weight*0.9
    for m in (student, build_hybrid(student, teacher, [2]), other):
        got = judge.measure(m, more=True)
        for t, (ids, mask) in rows.items():
            logits = m(ids, use_cache=False).logits
            assert float(logits.abs().max()) <= 5.
            kl, nll = dense_kl(logits, teacher(ids).logits)[:, :-1], -logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            for k, x in (('kl', kl), ('loss', nll)): assert_close(torch.tensor(got[k][t]), torch.stack([y[m_].mean() for y, m_ in zip(x, mask[:, 1:])]), 1e-4)
    base, one = (judge.measure(build_hybrid(student, teacher, k))['plain'] for k in ([], [2]))
    s = score_layers(student, teacher, mixed(), method='kl', tokens=64, **FAST)
    assert_close(torch.tensor(s.rows['plain'][2]), torch.tensor(base)-torch.tensor(one), 1e-3)


def test_slopes_of_squashed_logits_are_finite_differences():
    teacher = tiny_teacher('gemma2', **FULL)
    with torch.no_grad():
        for p in teacher.parameters(): p.mul_(0.6)
    student = aligned(teacher)
    judge = Judge(teacher, scoring_rows([tokens(3, 16)], 48), 3, 'float32'); part, e = judge.batches[0][0], 5e-3
    def kl(values):
        with gated(student, teacher) as gates, torch.no_grad():
            for g, v in zip(gates, values): g.gate = v
            return torch.tensor(judge.kl(part, student.model(part.ids, use_cache=False).last_hidden_state))
    with gated(student, teacher) as gates: _, slopes = gate_slopes(judge, student, gates, part, 0.5, 'float32')
    finite = torch.stack([(kl([0.5+e*(i == l) for i in range(4)])-kl([0.5-e*(i == l) for i in range(4)]))/(2*e) for l in range(4)])
    assert_close(slopes, finite, 0.02)


@pytest.mark.parametrize('method', ['kl_guided', 'ga_s2', 'ppl', 'ar', 'halo'])
def test_selectors_take_a_teacher_with_soft_caps(method):
    teacher = tiny_teacher('gemma2', **FULL); student = aligned(teacher)
    assert sorted(score_layers(student, teacher, mixed(8), method=method, tokens=64, options=OPTIONS.get(method), **FAST).ranking) == [0, 1, 2, 3]


def test_layers_with_a_window_of_their_own_are_named():
    teacher = tiny_teacher('gemma2'); student = build_student(teacher, settings=NEAR, verbose=False)
    with pytest.raises(ConfigError, match=r'layers \[0, 2, 4\] .* sliding window'): score_layers(student, teacher, mixed(), method='kl', tokens=32, **FAST)
    assert len(score_layers(None, teacher, mixed(), method='ppl', tokens=32, **FAST).scores) == 5


def test_seeds_of_training_differ_and_are_kept():
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    s = score_layers(student, teacher, texts(8), method='ga_s2', tokens=64, seeds=(0, 1), options=dict(TRAIN, lr_attention=1e-2), **FAST)
    assert s.by_seed[0] != s.by_seed[1] and len(s.rows['plain'][0]) == 2*2 and len(s.notes['seed_spread']) == 4
    assert_close(torch.tensor(s.scores), (torch.tensor(s.by_seed[0])+torch.tensor(s.by_seed[1]))/2, 1e-5)


def test_order_of_rows_does_not_matter():
    teacher = tiny_teacher(**SMALL); student = aligned(teacher)
    for method in ('kl_gradient', 'kl_supernet', 'ga_s1', 'act_mse', 'kl_greedy'):
        a, b = (score_layers(student, teacher, [x], method=method, tokens=256, batch_size=n, options=dict(swaps=False) if method == 'kl_greedy' else OPTIONS.get(method), **FAST)
                for x, n in ((tokens(8, 32), 1), (tokens(8, 32).flip(0), 4)))
        assert_close(torch.tensor(a.scores), torch.tensor(b.scores), 1e-3); assert a.ranking == b.ranking


@pytest.mark.parametrize('how,word', [
    (dict(method='kl_greed'), 'Did you mean'), (dict(method='kl', options=dict(end='add')), 'no options'), (dict(method='kl_greedy', options=dict(ends='add')), 'Did you mean'),
    (dict(method='kl', seeds=()), 'seeds is empty'), (dict(method='kl', tokens=0), 'at least 1'), (dict(method='kl', ratio=25), '25 % is 0.25'), (dict(method='kl', ratio=True), 'share'),
    (dict(method='kl', weights=dict(plan=1.)), 'Did you mean'), (dict(method='kl', weights=dict(recall=1.)), 'no text has a weight'), (dict(method='kl', weights=dict(plain=float('nan'))), 'no text|finite'),
    (dict(method='kl_gradient', options=dict(points=0)), 'at least 1'), (dict(method='kl_supernet', options=dict(sets=3)), 'even'), (dict(method='ga_s2', options=dict(checks=0)), 'at least 1'),
    (dict(method='ga_s2', options=dict(train_tokens=10**7)), 'left after'), (dict(method='act_mse', options=dict(of='blok')), 'Did you mean'), (dict(method='ar', options=dict(items=0)), 'at least 1'),
    (dict(method='uniform', options=dict(phase='lst')), 'Did you mean'), (dict(method='kl_guided', options=dict(share=0)), 'share'),
])
def test_bad_input(how, word):
    teacher = tiny_teacher(**SMALL)
    with pytest.raises((ConfigError, DataError), match=word): score_layers(build_student(teacher, settings=NEAR, verbose=False), teacher, texts(3), show=False, **how)


def test_every_selector_is_one_line_and_has_a_docstring():
    for m in METHODS: assert selector(m).__doc__ and METHODS[m].count(':') == 1
