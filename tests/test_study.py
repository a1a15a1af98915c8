"The study end to end on a tiny model, the bench of selection, and elastic hybrids"
import json, random

import pytest
import torch

from hybrid_tutorial.core import ConfigError, assert_close
from hybrid_tutorial.evaluation.efficiency import cache_bytes
from hybrid_tutorial.models.elastic import both_forms, build_elastic, kept_layers
from hybrid_tutorial.models.hybrid import build_hybrid, build_student, decode_stepwise, load_hybrid
from hybrid_tutorial.ops.loss import dense_kl
from hybrid_tutorial.selection.agreement import PUBLISHED, Monitor, agreement, kendall, plot_patterns, published_sets, spearman
from hybrid_tutorial.selection.baselines import count_kept, uniform_layers
from hybrid_tutorial.selection.bench import bench_selection, bench_table
from hybrid_tutorial.selection.choose import affordable, cache_cost, choose_layers, knee, time_cost
from hybrid_tutorial.selection.scores import Scores, score_layers
from hybrid_tutorial.selection.study import (BUDGETS, SELECTORS, Study, StudySettings, beaten, difference, draws_of, forecast, label_points, parse_selector, planted_teacher,
    plot_price, plot_quality, plot_ratios, selector_work, spans, study, study_hours, study_settings, study_table, study_work, toy_text)
from hybrid_tutorial.training.elastic import distill_elastic, sandwich
from hybrid_tutorial.training.loop import Metrics

from helpers import NEAR, tiny_teacher, tokens

SMALL = dict(hidden_size=24, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4, intermediate_size=32)
QUIET = dict(say=lambda line: None)


def batches(n, start=0):
    out = []
    for s in range(start, start+n):
        mask = torch.zeros(2, 24, dtype=torch.bool); mask[1, 12:] = True
        out.append(dict(input_ids=tokens(2, 24, seed=s), recall_mask=mask))
    return out

def split(n, start, odd): return [{k: v[odd:odd+1] for k, v in b.items()} for b in batches(n, start)]


# ---- the study

TINY = dict(mixer_settings=NEAR, ratio=0.5, ratios=(0.25,), few=('kl_guided', 'ga_s2'), random_sets=2, seeds=(0, 1), align_tokens=96, score_tokens=24, train_tokens=48, distill_tokens=96, eval_tokens=48, batch_size=2, lr=1e-4, lr_attention=1e-3, dtype='float32')

@pytest.fixture(scope='module')
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp('study')/'s'
    teacher, corpus = tiny_teacher(**SMALL), batches(12)
    held = dict(plain=split(4, 100, 0), recall=split(4, 200, 1))
    settings = StudySettings(selectors=('kl_guided', 'kl', 'kl_removal-2', 'ga_s2', 'ppl', 'uniform', 'uniform-first', 'uniform-last'), **TINY)
    return teacher, corpus, held, settings, out, study(teacher, corpus, held, settings, out=out, **QUIET)


def test_study_has_every_choice_with_quality_cost_and_certainty(done):
    teacher, corpus, held, settings, out, r = done
    names = {(x['name'], x['ratio']) for x in r['rows']}
    assert names == {(n, 0.5) for n in (*settings.selectors, 'random-0', 'random-1')} | {(n, 0.25) for n in ('kl_guided', 'ga_s2', 'uniform', 'random-0', 'random-1')}
    for x in r['rows']:
        assert len(x['keep']) == count_kept(4, x['ratio']) and x['perplexity'] > 1
        for t in ('plain', 'recall'): v = x[f'kl_{t}']; assert v['low'] <= v['value'] <= v['high'] and len(v['seeds']) == 2 and v['value'] < x[f'start_{t}']*1.5
    assert r['ends']['teacher']['kl']['plain'] < 1e-5 < r['ends']['all-linear']['kl']['plain']
    for v in r['verdicts']:
        assert v['low'] <= v['difference'] <= v['high'] and v['says'] in ('better', 'worse', 'within noise', 'same set')
        assert v['says'] != 'same set' or v['difference'] == 0
    assert {'study.json', 'study.md', 'patterns.png', 'quality.png', 'price.png', 'ratios.png', 'texts.png', 'runs.jsonl', 'scores', 'student.safetensors', 'settings.json'} <= {p.name for p in out.iterdir()}
    assert (out/'study.md').read_text() == study_table(r)+'\n' and not list(out.glob('checkpoints/*'))


def test_every_two_sets_are_compared_on_three_measures(done):
    teacher, corpus, held, settings, out, r = done
    at = {0.5: [s for s in r['sets'] if s['ratio'] == 0.5], 0.25: [s for s in r['sets'] if s['ratio'] == 0.25]}
    for ratio, sets in at.items():
        assert [s['number'] for s in sets] == list(range(1, len(sets)+1)) and len({tuple(s['keep']) for s in sets}) == len(sets)
        sums = [sum(x[f'kl_{t}']['value'] for t in ('plain', 'recall')) for s in sets for x in [next(x for x in r['rows'] if x['name'] == s['names'][0] and x['ratio'] == ratio)]]
        assert sums == sorted(sums)
    assert {p['measure'] for p in r['pairs']} == {'KL plain', 'KL recall', 'recall words right'}
    assert len(r['pairs']) == 3*sum(len(s)*(len(s)-1)//2 for s in at.values()) and all(p['low'] <= p['high'] for p in r['pairs'])
    runs = {(tuple(l['key']['keep']), l['key']['seed']): l['value'] for l in map(json.loads, (out/'runs.jsonl').read_text().splitlines()) if 'keep' in l['key']}
    for p in r['pairs'][:12]:
        kind, text = dict([('KL plain', ('kl', 'plain')), ('KL recall', ('kl', 'recall')), ('recall words right', ('right', 'recall'))])[p['measure']]
        a, b = (next(s['keep'] for s in at[p['ratio']] if s['number'] == p[x]) for x in 'ab')
        x, y = (torch.tensor([runs[tuple(k), s][kind][text] for s in (0, 1)]) for k in (a, b))
        assert p['low']-1e-6 <= float((x-y).mean()) <= p['high']+1e-6
        assert p['says'] == ('within noise' if p['low'] <= 0 <= p['high'] else ('better' if (p['low'] > 0) == (kind == 'right') else 'worse'))
    for s in r['sets']:
        for m in ('KL plain', 'recall words right'):
            for loser in beaten(r, s['ratio'], s['number'], m): assert s['number'] not in beaten(r, s['ratio'], loser, m)
    assert 'Who beats whom' in study_table(r) and '| beats on KL plain |' in study_table(r)


def test_equal_sets_are_run_once_and_runs_are_real(done):
    teacher, corpus, held, settings, out, r = done
    lines = [json.loads(l) for l in (out/'runs.jsonl').read_text().splitlines()]
    runs = [l for l in lines if 'keep' in l['key']]
    sets = {tuple(x['keep']) for x in r['rows']}
    assert len(runs) == 2*len(sets) and len(sets) < len(r['rows'])
    assert len([l for l in lines if 'start' in l['key']]) == len(sets)                  # before distillation seeds do not differ
    one = Study(teacher, corpus, held, settings, out, **QUIET)
    from hybrid_tutorial.training.logits import TeacherStates
    keep = tuple(r['rows'][0]['keep'])
    again = one.run(keep, 1, TeacherStates(teacher, 'float32'))
    stored = next(l['value'] for l in runs if tuple(l['key']['keep']) == keep and l['key']['seed'] == 1)
    assert again['kl'] == stored['kl']
    for t in ('plain', 'recall'): assert_close(torch.tensor(one.judge.measure(build_hybrid(one.student, teacher, keep))[t]).mean(), torch.tensor(stored['start'][t]), 1e-5)


def test_a_killed_study_goes_on_and_ends_the_same(done, tmp_path, monkeypatch):
    teacher, corpus, held, settings, out, r = done
    small = StudySettings(**{**TINY, 'selectors': ('kl_guided', 'uniform'), 'few': ('kl_guided',), 'ratios': (), 'random_sets': 1})
    whole = study(teacher, corpus, held, small, out=tmp_path/'a', **QUIET)
    real, calls = Study.run, [0]
    def run(self, *a):
        calls[0] += 1
        if calls[0] == 3: raise KeyboardInterrupt
        return real(self, *a)
    monkeypatch.setattr(Study, 'run', run)
    with pytest.raises(KeyboardInterrupt): study(teacher, corpus, held, small, out=tmp_path/'b', **QUIET)
    monkeypatch.setattr(Study, 'run', real)
    b = study(teacher, corpus, held, small, out=tmp_path/'b', **QUIET)
    strip = lambda r: [{k: v for k, v in x.items() if k != 'cost'} for x in r['rows']]
    assert strip(b) == strip(whole) and b['verdicts'] == whole['verdicts']
    monkeypatch.setattr(Study, 'run', lambda *a: pytest.fail('nothing is left to run'))
    more = study(teacher, corpus, held, StudySettings(**{**TINY, 'selectors': ('kl_guided', 'uniform'), 'few': ('kl_guided',), 'ratios': (), 'random_sets': 0}), out=tmp_path/'b', **QUIET)
    assert len(more['rows']) == 2
    with pytest.raises(ConfigError, match='other settings'): study(teacher, corpus, held, StudySettings(**{**TINY, 'lr': 5e-4}), out=tmp_path/'b', **QUIET)


@pytest.mark.parametrize('make,word', [(lambda: StudySettings(selectors=('kll',)), 'Did you mean'), (lambda: parse_selector('uniform-middel'), 'known variants'), (lambda: parse_selector('random-x'), 'known variants'),
    (lambda: StudySettings(seeds=()), 'at least one'), (lambda: StudySettings(ratio=25), '25 % is 0.25'), (lambda: StudySettings(distill_tokens=0), 'at least 1'),
    (lambda: Study(tiny_teacher(**SMALL), batches(2), dict(recall=split(2, 0, 1)), StudySettings(**TINY), '/nonexistent', **QUIET), "entry 'plain'")])
def test_bad_studies(make, word):
    with pytest.raises(ConfigError, match=word): make()


def test_scores_made_of_others_are_what_they_would_be_alone(done, tmp_path):
    "`avg_s2` and `smart` train and swap nothing themselves, and cost what their parts cost"
    teacher, corpus, held, settings, out, r = done
    one = Study(teacher, corpus, held, StudySettings(selectors=('avg_s2', 'smart'), **TINY), tmp_path/'s', **QUIET)
    how = dict(tokens=24, seeds=(0, 1), batch_size=2, dtype='float32', ratio=0.5, show=False)
    for name, options in (('avg_s2', dict(train_tokens=48, lr=1e-4, lr_attention=1e-3, train_batch=2)), ('smart', {})):
        alone, got = score_layers(one.student, teacher, study_text(corpus), method=name, options=options, **how), one.score(name, 0.5)
        assert got.scores == alone.scores and got.texts == alone.texts and got.method == alone.method and got.unit == alone.unit
        for k in ('tokens', 'trained_tokens', 'candidate_tokens', 'backward_tokens', 'forward_tokens'): assert abs(got.cost[k]-alone.cost[k]) <= 48, k     # the teacher's own passes
    assert {p.name for p in (tmp_path/'s'/'scores').glob('*.json')} == {'avg_s2.json', 'ga_s2.json', 'gr_s2.json', 'kl.json', 'smart@0.500.json'}

def study_text(corpus):
    from hybrid_tutorial.selection.study import text_of
    return text_of(corpus, 1)


def share(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    small = StudySettings(**{**TINY, 'selectors': ('kl_guided', 'smart', 'avg_s2', 'uniform'), 'few': ('kl_guided',), 'ratios': (), 'random_sets': 1, 'early_stop': True})
    r = study(tiny_teacher(**SMALL), batches(12), dict(plain=split(4, 100, 0), recall=split(4, 200, 1)), small, out=f'{folder}/two', **QUIET)
    assert rank == 0 or r['rows']
    torch.distributed.barrier(); torch.distributed.destroy_process_group()


def test_two_workers_give_what_one_gives(tmp_path):
    import torch.multiprocessing as mp
    mp.spawn(share, (str(tmp_path),), nprocs=2)
    small = StudySettings(**{**TINY, 'selectors': ('kl_guided', 'smart', 'avg_s2', 'uniform'), 'few': ('kl_guided',), 'ratios': (), 'random_sets': 1, 'early_stop': True})
    one = study(tiny_teacher(**SMALL), batches(12), dict(plain=split(4, 100, 0), recall=split(4, 200, 1)), small, out=tmp_path/'one', **QUIET)
    two = json.loads((tmp_path/'two'/'study.json').read_text())
    strip = lambda r: json.loads(json.dumps([{k: v for k, v in x.items() if k != 'cost'} for x in r['rows']]))
    assert strip(one) == strip(two) and json.loads(json.dumps(one['pairs'])) == two['pairs']
    sets = {tuple(x['keep']) for x in one['rows']}
    assert len([l for l in (tmp_path/'two'/'runs.jsonl').read_text().splitlines() if l and 'keep' in json.loads(l)['key']]) == 2*len(sets)     # no set twice


def test_a_folder_older_than_a_setting_goes_on(done):
    teacher, corpus, held, settings, out, r = done
    old = json.loads((out/'settings.json').read_text())
    (out/'settings.json').write_text(json.dumps({k: v for k, v in old.items() if k not in ('checks', 'early_stop')}))
    Study(teacher, corpus, held, settings, out, **QUIET)
    with pytest.raises(ConfigError, match='checks: 4 there, 2 now'): Study(teacher, corpus, held, StudySettings(selectors=settings.selectors, checks=2, **TINY), out, **QUIET)


def test_command_line_of_study_and_bench():
    from hybrid_tutorial.cli import make_parser
    a = make_parser().parse_args(['study', '--out', 'x', '--selectors', 'kl', 'uniform', '--seeds', '0', '--distill-tokens', '64'])
    s = study_settings(a)
    assert s.selectors == ('kl', 'uniform') and s.distill_tokens == 64 and set(StudySettings.__dataclass_fields__) <= set(vars(a)) and a.fn
    plain = study_settings(make_parser().parse_args(['study']))
    assert plain == StudySettings(seq_len=512, needles=1)
    small = study_settings(make_parser().parse_args(['study', '--eval-tokens', '8192', '--budget', '3h', '--early-stop']))     # an option goes before the budget, wherever it stands
    assert small.seeds == (0, 1) and small.eval_tokens == 8192 and small.early_stop and small.selectors == SELECTORS
    assert make_parser().parse_args(['bench', 'selection', '--rounds', '1', '--seq-len', '64']).seq_len == 64


def test_budgets_keep_the_questions_and_their_hours():
    for name, hours in (('1h', 1.), ('3h', 3.), ('6h', 6.)):
        s = StudySettings(**BUDGETS[name])
        assert 0.8*hours <= sum(study_hours(study_work(s, 30)[0], workers=2).values()) <= (1.01 if name == '1h' else 1)*hours
        assert '2 workers' in forecast(s, 30, workers=2)
        if name == '1h': assert set(s.selectors) < set(SELECTORS) and s.ratios == () and all(getattr(s, k) == v for k, v in BUDGETS['3h'].items()); continue   # what 3h does first
        assert s.selectors == SELECTORS and s.ratios == (0.125, 1/3, 0.5) and s.few == ('kl_guided', 'ga_s2') and len(s.seeds) > 1 and s.random_sets > 1


def test_forecast_of_tokens_is_what_a_study_did(done):
    teacher, corpus, held, settings, out, r = done
    work, sets = study_work(settings, 4)
    assert len({(x['ratio'], tuple(x['keep'])) for x in r['rows']}) <= sets == len(r['rows'])
    cost = {x['name']: x['cost'] for x in r['rows'] if x['ratio'] == 0.5}
    for name in ('kl', 'ppl', 'ga_s2'):
        told = selector_work(name, StudySettings(**{**TINY, 'score_tokens': 12}), 4, 0.5)             # a list of batches gives one text of 24 tokens here, not two
        assert told.get('trained', 0) == cost[name]['trained_tokens'] and (name == 'ga_s2' or abs(told['forward']-cost[name]['forward_tokens']) <= 24)   # so few tokens are one step, and one check
    assert work['sets']['trained'] == sets*2*96


def test_numbers_in_few_words():
    assert spans([]) == 'none' and spans([3]) == '3' and spans([5, 1, 2, 3, 8, 7]) == '1-3 5 7-8'


def test_difference_says_who_is_better():
    x = torch.linspace(0, 1, 100, dtype=torch.float64)
    assert difference(x, x+1)['says'] == 'better' and difference(x, x+1, more=True)['says'] == 'worse' and difference(x, x.flip(0))['says'] == 'within noise' and difference(x, x, same=True)['says'] == 'same set'


def crowd(names=24, seed=0):
    "A study's result with many sets close together"
    rng = random.Random(seed); rows = []
    for i in range(names):
        near = rng.choice([0.02, 0.021, 0.4]); v = lambda x: dict(value=x, low=0.9*x, high=1.2*x)
        rows.append(dict(name=f'selector_{i}' if i < names-3 else f'random-{i}', ratio=0.25, set=i+1, keep=[i], kl_plain=v(near*(1+0.01*i)), kl_recall=v(3*near*(1+0.005*i)), cost=dict(forward_tokens=rng.choice([0, 5000, 5600, 90000]), backward_tokens=0)))
    rows += [dict(r, ratio=0.5) for r in rows]
    return dict(texts=['plain', 'recall'], rows=rows, sets=[dict(ratio=r['ratio'], number=r['set'], keep=r['keep'], names=[r['name'], 'also_this', 'and_that']) for r in rows])


@pytest.mark.parametrize('plot', [plot_quality, plot_price])
def test_labels_of_figures_do_not_overlap(plot):
    import matplotlib.pyplot as plt
    from matplotlib.text import Text
    for seed in range(2):
        fig = plot(crowd(seed=seed), 0.25); fig.draw_without_rendering()
        boxes = [Text.get_window_extent(a) for a in fig.axes[0].texts if a.get_text() != 'free']            # without their lines
        inside = fig.axes[0].get_window_extent()
        assert len(boxes) >= 20 and all(inside.x0-2 <= b.x0 and b.x1 <= inside.x1+2 and inside.y0-2 <= b.y0 and b.y1 <= inside.y1+2 for b in boxes)
        for i, a in enumerate(boxes):
            for b in boxes[:i]: assert min(a.x1, b.x1)-max(a.x0, b.x0) < 1 or min(a.y1, b.y1)-max(a.y0, b.y0) < 1, plot.__name__
        plt.close(fig)
    plt.close(plot_ratios(crowd(), ['selector_0', 'selector_1']))


def test_draws_of_seeds_and_rows():
    d = draws_of([dict(plain=[1., 3.]), dict(plain=[5., 7.])], 'plain', 2000)
    assert abs(float(d.mean())-4) < 0.15 and float(d.min()) == 1. and float(d.max()) == 7.
    assert float(draws_of([dict(plain=[2., 2.])], 'plain').std()) == 0


def test_planted_text_and_teacher():
    b = toy_text(3)
    assert torch.equal(b['input_ids'], toy_text(3)['input_ids']) and not b['recall_mask'][::2].any()
    odd, half = b['input_ids'][1::2], b['input_ids'].shape[1]//2
    assert torch.equal(odd[:, :half], odd[:, half:]) and not torch.equal(b['input_ids'][::2, :half], b['input_ids'][::2, half:])
    t = planted_teacher(3)
    assert not any(p.requires_grad for p in t.parameters()) and torch.equal(t.model.layers[4].self_attn.q_proj.weight, planted_teacher(1).model.layers[4].self_attn.q_proj.weight)
    assert not torch.equal(t.model.layers[3].self_attn.q_proj.weight, planted_teacher(1).model.layers[3].self_attn.q_proj.weight)


def test_bench_counts_and_agrees():
    teacher = tiny_teacher(**SMALL)
    r = bench_selection(teacher, build_student(teacher, settings=NEAR, verbose=False), batches(4), tokens=48, batch_size=2, rounds=2, dtype='float32', show=False)
    assert r['layer_evaluations'] == r['allowed_evaluations'] == 4*5//2+8 and r['largest_difference'] < 1e-4
    assert all(len(s) == 2 and min(s) > 0 for s in r['seconds'].values()) and 'separate' in bench_table(r) and r['seq_len'] == 24
    with pytest.raises(ConfigError, match='a target'): bench_selection(teacher, None, batches(1), seq_len=1)


# ---- choosing and agreeing

@pytest.mark.parametrize('mixer', ['gdn', 'gla', 'rwkv6'])
def test_cache_budget_is_what_a_hybrid_has(mixer):
    teacher = tiny_teacher(**SMALL); student = build_student(teacher, mixer, settings=NEAR if mixer == 'gdn' else None, verbose=False)
    price = cache_cost(student, 50)
    for k in (0, 1, 3):
        past = build_hybrid(student, teacher, range(k))(tokens(1, 50), use_cache=True).past_key_values
        assert price(k) == cache_bytes(past)
    assert cache_cost(student, 50, batch=3)(2) == 3*price(2)
    scores = [0.3, 0.9, 0.1, 0.5]
    assert choose_layers(scores, cost=price, limit=price(2)) == [1, 3] and choose_layers(scores, cost=price, limit=price(3)-1) == [1, 3] and choose_layers(scores, cost=price, limit=1e12) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match='below the cheapest'): choose_layers(scores, cost=price, limit=1.)


def test_time_budget_lies_between_the_ends():
    teacher = tiny_teacher(**SMALL)
    cost = time_cost(build_student(teacher, settings=NEAR, verbose=False), teacher, 32, rounds=1)
    assert min(cost(0), cost(4)) > 0 and abs(cost(2)-(cost(0)+cost(4))/2) < 1e-9


@pytest.mark.parametrize('call,word', [(lambda: choose_layers([1., 2.], cost=lambda k: k), 'both cost'), (lambda: choose_layers([1., 2.], ratio=0.5, cost=lambda k: k, limit=1), 'either'),
    (lambda: affordable(lambda k: k, 2, float('nan')), 'finite'), (lambda: cache_cost(build_student(tiny_teacher(**SMALL), settings=NEAR, verbose=False), 0), 'at least 1'),
    (lambda: knee([1, 2], [2, 1]), 'three points'), (lambda: knee([1, 1, 2], [3, 2, 1]), 'must rise'), (lambda: Monitor(0), 'at least 1'),
    (lambda: agreement(Scores('a', dict(plain=[1.]), {}, dict(plain=1.)), Scores('b', dict(plain=[1., 2.]), {}, dict(plain=1.)), 1), 'one teacher'), (lambda: plot_patterns(dict(a=[1])), 'how deep')])
def test_bad_choices(call, word):
    with pytest.raises(ConfigError, match=word): call()


def test_knee():
    assert knee([0, 1, 2, 3, 4], [10, 2, 1.5, 1.2, 1]) == 1 and knee([0, 2, 8], [8, 6, 0]) is None and knee([0, 1, 2], [1, 1, 1]) is None and knee([0, 1, 2], [3, 2.9, 0]) is None


def test_rank_correlations_by_their_definitions():
    rng = random.Random(0)
    for _ in range(20):
        a, b = ([rng.randint(0, 5) for _ in range(9)] for _ in range(2))
        pairs = [(i, j) for i in range(9) for j in range(i)]
        sign = lambda x: (x > 0)-(x < 0)
        s = sum(sign(a[i]-a[j])*sign(b[i]-b[j]) for i, j in pairs)
        free = lambda x: sum(x[i] != x[j] for i, j in pairs)
        assert abs(kendall(a, b)-s/(free(a)*free(b))**0.5) < 1e-9
        place = lambda x: torch.tensor([sum(y < v for y in x)+(sum(y == v for y in x)+1)/2 for v in x], dtype=torch.float64)
        assert abs(spearman(a, b)-float(torch.corrcoef(torch.stack([place(a), place(b)]))[0, 1])) < 1e-9
    assert kendall([1, 2, 3], [3, 2, 1]) == -1 and abs(spearman([1, 2, 3], [3, 2, 1])+1) < 1e-9 and kendall([1, 1], [1, 2]) == 0


def noisy(noise, seed, rows=40, layers=10):
    gen, truth = torch.Generator().manual_seed(seed), torch.linspace(1, 0, layers)[:, None]
    r = (truth+noise*torch.randn(layers, rows, generator=gen)).tolist()
    return Scores('x', dict(plain=[sum(x)/rows for x in r]), dict(plain=r), dict(plain=1.))


def test_intervals_are_paired_and_agreement_has_them():
    s = noisy(0.1, 0)
    shared = torch.randn(40, generator=torch.Generator().manual_seed(9))*5               # noise that all layers share cancels in a difference
    both = Scores('x', s.texts, dict(plain=(torch.tensor(s.rows['plain'])+shared).tolist()), dict(plain=1.))
    lo, hi = both.margin(0, 9); wide = both.interval('plain', 0)
    assert 0.9 < lo < hi < 1.1 and wide[1]-wide[0] > 10*(hi-lo)
    assert both.rank_intervals()[0][1] <= 2 and both.rank_intervals()[9][0] >= 7
    a = agreement(noisy(0.05, 1), noisy(0.05, 2), 3)
    assert a['jaccard']['value'] == 1. and a['spearman']['low'] <= a['spearman']['value'] <= 1. and a['kendall']['high'] > 0.8
    assert agreement(noisy(5., 1), noisy(5., 2), 3)['kendall']['high']-agreement(noisy(5., 1), noisy(5., 2), 3)['kendall']['low'] > 0.3


def test_monitor_waits_for_certainty():
    sure, unsure = (noisy(n, 3, 40).rows['plain'] for n in (0.05, 5.))
    stopped = {}
    for name, rows in (('sure', sure), ('unsure', unsure)):
        m = Monitor(3)
        for n in range(1, 41):
            m.update(dict(plain=[r[:n] for r in rows]), dict(plain=1.), at=n)
            if m.stable: stopped[name] = n; break
        assert m.report()['stable'] == (name in stopped) and len(m.undecided) == (0 if name == 'sure' else len(m.undecided))
    assert len(m.undecided) > 3                                                              # noise alone: places cross the cut
    assert 4 <= stopped['sure'] <= 8 and 'unsure' not in stopped
    still = Monitor(3, window=2)
    for _ in range(3): still.update(dict(plain=[[float(l)]*2 for l in range(5)]), dict(plain=1.))
    assert still.still and not still.stable and still.rolling == 1.                          # two rows prove nothing


def test_published_sets_are_in_the_package():
    assert PUBLISHED['n_layers']['Qwen2.5-3B-Instruct'] == 36 and published_sets('Llama-3.2-3B-Instruct')['ga_s2'] == [14, 8, 5, 12, 15, 13, 2]
    assert sorted(published_sets('Llama-3.2-3B-Instruct')['uniform']) == uniform_layers(28, 7, 'last') and published_sets('Llama-3.2-3B-Instruct', 1/3)['smart'] == [0, 3, 6, 9, 12, 15, 19, 23, 26]
    for teacher, by in PUBLISHED['sets'].items():
        for sets in by.values():
            for ratio, methods in sets.items():
                for m, kept in methods.items(): assert len(set(kept)) == len(kept) and max(kept) < PUBLISHED['n_layers'][teacher]


# ---- elastic

@pytest.mark.parametrize('family,mixer', [('llama', 'gdn'), ('qwen3', 'gla'), ('llama_tied', 'rwkv7'), ('qwen2_window', 'gdn'), ('llama', 'swa')])
def test_elastic_is_the_hybrid_of_every_setting(family, mixer, tmp_path):
    teacher = tiny_teacher(family, **({} if family == 'qwen2_window' else SMALL)); student, ids = build_student(teacher, mixer, settings=NEAR if mixer == 'gdn' else None, verbose=False), tokens(2, 20)
    e, sets = build_elastic(student, teacher, [1]), ([], [0], [0, 2], [1])
    for keep in sets:
        want = build_hybrid(student, teacher, keep)
        assert torch.equal(e.set_kept_layers(keep)(ids).logits, want(ids).logits) and e.config.keep == want.config.keep and e.config.layer_types == want.config.layer_types
        assert_close(decode_stepwise(e, ids, 5), e(ids, use_cache=False).logits, 1e-3 if family == 'qwen2_window' else 1e-4)
    e.set_kept_layers([0, 2]).save_pretrained(tmp_path)
    again = load_hybrid(tmp_path)
    for keep in ([0, 2], [], [1]): assert torch.equal(again.set_kept_layers(keep)(ids).logits, e.set_kept_layers(keep)(ids).logits)
    with kept_layers(e, [0]): assert e.config.keep == [0]
    assert e.config.keep == [1]
    with pytest.raises(ConfigError): e.set_kept_layers([99])


def test_elastic_refuses_old_caches_and_plain_hybrids():
    teacher = tiny_teacher(**SMALL); student, ids = build_student(teacher, settings=NEAR, verbose=False), tokens(1, 8)
    e = build_elastic(student, teacher, [1])
    past = e(ids, use_cache=True).past_key_values
    e.set_kept_layers([2])
    with pytest.raises(ConfigError, match='new one'): e(ids[:, :1], past_key_values=past)
    with pytest.raises(ConfigError, match='build_elastic'): build_hybrid(student, teacher, [1]).set_kept_layers([2])
    with pytest.raises(ConfigError, match='already'): build_elastic(e, teacher)
    text = e.generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(text, build_hybrid(student, teacher, [2]).generate(ids, max_new_tokens=4, do_sample=False))


def test_elastic_training_helps_every_setting_and_resumes(tmp_path):
    teacher = tiny_teacher(**SMALL)
    with torch.no_grad():
        for p in teacher.parameters(): p.mul_(0.6)
    student, ranking, held = build_student(teacher, settings=dict(window=0), verbose=False), [1, 3, 0, 2], tokens(4, 24, seed=77)
    text = [tokens(4, 24, seed=s) for s in range(16)]
    kl = lambda m, k: float(dense_kl(m.set_kept_layers(ranking[:k])(held, use_cache=False).logits, teacher(held).logits).mean())
    e = build_elastic(student, teacher); before = [kl(e, k) for k in range(4)]
    how = dict(counts=[0, 1, 2, 3], lr=1e-3, lr_attention=3e-3, dtype='float32', show=False)
    m = distill_elastic(e, teacher, text, ranking, **how)
    after = [kl(e, k) for k in range(4)]
    assert all(a < b for a, b in zip(after, before)) and len(m.records) == 16 and not any(p.requires_grad for p in e.parameters())
    class Stop(Metrics):
        def add(self, **r):
            super().add(**r)
            if r['step'] == 11:
                import os, signal; os.kill(os.getpid(), signal.SIGINT)
    again = build_elastic(student, teacher, [2])
    with pytest.raises(KeyboardInterrupt): distill_elastic(again, teacher, text, ranking, folder=tmp_path/'c', metrics=Stop(), **how)
    fresh = build_elastic(student, teacher)
    distill_elastic(fresh, teacher, text, ranking, folder=tmp_path/'c', **how)
    assert [kl(fresh, k) for k in range(4)] == after
    names = set(both_forms(fresh)); assert set(both_forms(fresh.set_kept_layers([0, 1, 2, 3]))) == names == set(both_forms(fresh.set_kept_layers([])))


def test_sandwich():
    for step in range(30):
        s = sandwich([0, 2, 4], step); assert s == [4, 0, 2]
        assert sandwich([1, 3, 5, 7, 9], step)[:2] == [9, 1] and sandwich([1, 3, 5, 7, 9], step) == sandwich([1, 3, 5, 7, 9], step)
    assert sandwich([3], 0) == [3] and sandwich([1, 2], 0) == [2, 1] and len({tuple(sandwich(range(9), s)) for s in range(40)}) == 7
