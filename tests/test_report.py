"The report says what it was given, says what is missing, and loads nothing from anywhere"
import base64
import json
import re
from html.parser import HTMLParser

import matplotlib
import pytest

matplotlib.use('Agg')

from hybrid_tutorial import plots, report
from hybrid_tutorial.core import CheckpointError, ConfigError, ShapeError
from hybrid_tutorial.evaluation.language import number
from hybrid_tutorial.report import draw_costs, load_run, read_curves, render_comparison, render_report, show, three, write_comparison, write_report

# FIXTURE: every number below is invented. It only shows that the page repeats what it is given.
NAMES = ('teacher', 'all-linear', 'uniform', 'kl')
VOID = {'meta', 'img', 'br', 'hr', 'link', 'input'}


def group(loss, kl, docs=12, spread=.1):
    n = [100]*docs
    per = dict(document=list(range(docs)), tokens=n, loss=[100*(loss+spread*(i-docs/2+.5)/docs) for i in range(docs)], kl=[100*kl]*docs)
    num = lambda v, u: number(v, u, v*.9, v*1.1, docs)
    return dict(loss=num(loss, 'nats/token'), perplexity=num(2.718**loss, ''), kl=num(kl, 'nats/token'), reverse_kl=num(kl, 'nats/token'),
                agreement=num(.8, 'share of tokens'), tokens=sum(n), per_document=per,
                **{k: dict(edges=[1, 2, 4, 8], metric='kl', bins=[num(kl, 'nats/token'), None, num(2*kl, 'nats/token')]) for k in ('by_position', 'by_frequency')})


def needle(hits, lp):
    one = lambda h, n: dict(exact=number(h/n, 'share of answers', 0, 1, n), logprob=number(lp, 'nats/token', lp-.1, lp+.1, n), top1=number(h/n, 'share of tokens', 0, 1, n))
    return {**one(hits, 15), 'by_length': {str(k): one(hits//3, 5) for k in (256, 512, 1024)},
            'grid': dict(lengths=[256, 512, 1024], depths=[0., .25, .5, .75, 1.], exact=[[hits/15]*3]*5, logprob=[[lp]*3]*5)}


def fixture_run():
    echo, plain = dict(zip(NAMES, (.14, 3.35, 2.84, .33))), dict(zip(NAMES, (0, .67, .57, .46)))
    models = {n: dict(sets=dict(owt_5=dict(plain=group(3.4+plain[n], plain[n])), echo=dict(plain=group(3.+plain[n], plain[n]), recall=group(echo[n], echo[n]))),
                      needle=needle(*dict(zip(NAMES, ((15, -.05), (0, -2.3), (2, -1.9), (13, -.3))))[n]),
                      tasks=dict(multikey=needle(7, -1.23), induction=needle(3, -4.56))) for n in NAMES}
    rows = [dict(model=n, context=c, decode=number(20+c/400*(n == 'teacher'), 'ms/token', 18, 40, 24), cache_bytes=1000*c if n == 'teacher' else 300*c+500000,
                 batch=1, floor_ms=9., share_of_limit=.37, tokens_per_s=41.7, peak_bytes=6.5e8, predicted_cache_bytes=1000*c, prefill_tokens_per_s=None if c > 2048 else 410., filled_by='stretched' if c > 2048 else 'prefill')
            for n in NAMES for c in (256, 1024, 8192)]
    steps = list(range(1000, 81000, 1000))
    return dict(name='FIXTURE RUN, invented numbers', teacher='SmolLM2-135M-Instruct (fixture)', command='hybrid-distill run --seed 0', seed=0, date='2026-01-01', machine='2 CPU cores',
                config=dict(ratio=.25, mixer='gdn', keep=[1, 2]), versions=dict(torch='2.x'), timing={'stage 1': dict(seconds=300., tokens=80000, tokens_per_s=266., ratio_to_teacher_forward=.6), 'scoring': dict(seconds=90.)},
                scores=dict(method='kl', texts=dict(plain=[.1*(i % 7) for i in range(30)], recall=[.9 if i == 18 else .02*(i % 5) for i in range(30)]), keep=dict(kl=[0, 7, 14, 16, 18, 19, 20, 23], uniform=[1, 5, 9, 13, 16, 20, 24, 28]),
                            other=dict(method='kl_removal', texts=dict(plain=[.01*i for i in range(30)], recall=[.3]*30), keep=[0, 1])),
                curves={'stage 1': {'all-linear': dict(tokens=steps, loss=[.5/(1+s/9000) for s in steps], unit='L2 norm')}, 'stage 2': {k: dict(tokens=steps, loss=[o/(1+s/40000) for s in steps]) for k, o in (('uniform', .6), ('kl', .4))}},
                models=models, samples=[dict(prompt='Once upon a time', settings='greedy, 20 tokens', continuations={n: f'there was <script>alert("{n}")</script> & a king' for n in NAMES})],
                efficiency=dict(rows=rows, settings=dict(batch=1, threads=2), crossover={'kl': {'1': dict(bytes=714., time=0)}}), limits=['One seed.', 'Q4_1 teacher.'])


class Page(HTMLParser):
    "Tags, open and close balance, text"
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.stack, self.bad = [], '', [], []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID: self.stack.append(tag)
    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag: self.bad.append(tag)
    def handle_data(self, data): self.text += data
    def all(self, tag): return [a for t, a in self.tags if t == tag]


@pytest.fixture(scope='module')
def run(): return fixture_run()


@pytest.fixture(scope='module')
def text(run): return render_report(run)


@pytest.fixture(scope='module')
def page(text): return Page(text)


@pytest.fixture
def no_pictures(monkeypatch):
    "Build every figure, but save none: saving is most of the time"
    def picture(fig, alt, caption=''):
        matplotlib.pyplot.close(fig)
        return f'<figure><img src="data:," alt="{report.esc(alt)}"></figure>'
    monkeypatch.setattr(report, 'picture', picture)


def test_page_is_self_contained_and_well_formed(run, text, page):
    assert not page.bad and not page.stack
    assert not re.search(r'https?:|//[a-z]|@import|url\(|<link|<script|<iframe|javascript:', re.sub(r'base64,[^"]*', '', text), re.I)
    for img in page.all('img'):
        assert img['src'].startswith('data:image/png;base64,') and len(img['alt']) > 30
        assert base64.b64decode(img['src'].split(',')[1])[:4] == b'\x89PNG'
    assert len(page.all('img')) == 13 and len(text) < 1_500_000


def test_page_is_accessible(page):
    assert page.all('html')[0]['lang'] == 'en' and any(m.get('name') == 'viewport' for m in page.all('meta'))
    assert len(page.all('h1')) == 1 and len(page.all('h2')) == 11 and all(t['aria-label'] for t in page.all('table'))
    assert {th['scope'] for th in page.all('th')} == {'row', 'col'}


def test_headline_comes_first_and_is_computed(run, page):
    kept = lambda x: round(100*(3.35-x)/(3.35-.14))
    assert f'Recall kept: {kept(.33)} % with KL-guided layers, {kept(2.84)} % with uniform layers' in page.text
    assert 'KL-guided layers keep recall better, beyond the interval' in page.text and '−2.51 [' in page.text
    assert page.text.index('needles found') < page.text.index('Which layers stay softmax') < page.text.index('Training') < page.text.index('Memory and speed')
    assert '0.330 [0.297, 0.363]' in page.text and '13 of 15' in page.text


@pytest.mark.parametrize('kl, says', [(3.2, 'Uniform layers keep recall better'), (2.84, 'cannot tell the two choices')])
def test_headline_tells_bad_news_too(kl, says, no_pictures):
    run = fixture_run()
    run['models']['kl']['sets']['echo']['recall'] = group(kl, kl)
    assert says in Page(render_report(run)).text


def test_layers_chosen_by_hand_are_not_called_kl_guided(no_pictures):
    run = fixture_run()
    run['models']['hybrid'] = run['models'].pop('kl')
    run['scores'] = None
    text = Page(render_report(run)).text
    assert 'Chosen layers keep recall better' in text and '94 % with chosen layers' in text
    assert 'KL-guided' not in text.split('Which layers')[0]


def test_every_key_of_the_main_job_is_known(no_pictures):
    run = dict(fixture_run(), teacher_forward_tokens_per_s=431.2, peak_bytes=3.1e9)
    run['scores'].update(weights=dict(plain=1., recall=1.), cost=dict(tokens=4096, layer_evaluations=525, seconds=61.), unit='nats')
    run['scores']['other']['keep'] = dict(kl=[0, 1])
    text = Page(render_report(run)).text
    assert '431' in text and '3.10 GB' in text


def test_no_share_of_recall_without_recall(no_pictures):
    run = fixture_run()
    for n, x in zip(NAMES, (3., 3.002, 3.001, 3.)):
        run['models'][n]['sets']['echo']['recall'] = group(x, x, spread=5. if n == 'teacher' else 0.)
    text = Page(render_report(run)).text
    assert 'Recall kept: ' not in text and 'What this hybrid lost and kept' in text


def test_page_repeats_what_it_was_given(run, page):
    for want in ('hybrid-distill run --seed 0', 'kl_removal', 'One seed.', 'Q4_1 teacher.', '0, 7, 14, 16, 18, 19, 20, 23', 'greedy, 20 tokens', '2 CPU cores', 'KL-guided minus uniform on the same documents', "of the teacher's bytes", 'stage 1', '80,000', 'stretched', '8.2 MB', 'L2 norm'):
        assert want in page.text + ' '.join(i['alt'] + ' ' for i in page.all('img')), want
    assert 'Missing from this run' not in page.text


def test_text_is_escaped(run, page):
    assert '<script>alert("kl")</script> & a king' in page.text and not page.all('script')
    assert page.text.count('Once upon a time') == 1


@pytest.mark.parametrize('part', ['scores', 'curves', 'models', 'samples', 'efficiency', 'limits', 'timing', 'config', 'versions', 'command', 'seed'])
def test_missing_parts_are_named(part, no_pictures):
    run = fixture_run()
    del run[part]
    page = Page(render_report(run))
    assert 'Missing from this run' in page.text and not page.bad and not page.stack


def test_empty_run_and_partial_models(no_pictures):
    page = Page(render_report({}))
    assert page.text.count('Missing from this run') >= 10 and not page.all('img') and 'What this hybrid lost and kept' in page.text
    run = fixture_run()
    run['models'] = {'kl': {'sets': {'owt_5': {'plain': {'loss': number(3., 'nats/token')}}}}, 'my variant': {}}
    page = Page(render_report(run))
    assert 'my variant' in page.text and 'missing' in page.text


def test_unknown_part_is_refused():
    with pytest.raises(ConfigError, match='efficency'): render_report(dict(efficency={}))


def test_write_report_from_a_folder(tmp_path, run, no_pictures):
    with pytest.raises(CheckpointError, match='not a run'): write_report(tmp_path/'nothing')
    with pytest.raises(ConfigError, match='path'): write_report(run)
    assert write_report(run, tmp_path/'a'/'r.html').read_text(encoding='utf-8') == render_report(run)
    folder = tmp_path/'my run'; folder.mkdir()
    (folder/'config.json').write_text(json.dumps(run['config']))
    (folder/'scores.json').write_text(json.dumps(run['scores']))
    (folder/'evaluation.json').write_text(json.dumps(run['models']))
    (folder/'report.json').write_text(json.dumps(dict(seed=7, limits=['x'])))
    lines = [dict(stage='stage 2', model='kl', tokens=10*i, loss=1/(i+1), lr=1e-4) for i in range(5)] + [dict(stage='stage 1', loss=2.)]
    (folder/'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n{"stage": "stage 2", "lo')
    got = load_run(folder)
    assert got['curves']['stage 2']['kl']['tokens'] == [0, 10, 20, 30, 40] and got['curves']['stage 1'] == {'student': dict(loss=[2.])}
    page = Page(write_report(folder).read_text(encoding='utf-8'))
    assert (folder/'report.html').exists() and 'my run' in page.text and '13 of 15' in page.text and not list(folder.glob('.*'))
    (folder/'scores.json').write_text('{')
    with pytest.raises(CheckpointError, match='damaged'): load_run(folder)


@pytest.mark.parametrize('x, want', [(0, '0'), (.3333, '0.333'), (2.836, '2.84'), (27.94, '27.9'), (158.2, '158'), (12345, '12,345'), (.00004, '4.0e-05'), (float('nan'), 'nan'), (-2.3, '-2.30')])
def test_three_digits(x, want): assert three(x) == want


def test_show():
    assert show(None) == 'missing' and show(number(.5, 'share of answers', .2, .8)) == '50 % [20, 80]' and show(-2.) == '−2.00'


def test_new_sections_repeat_their_numbers(page):
    for word in ('smaller than the teacher from 714 tokens on, faster at every context measured', '37 %', '650.0 MB', '41.7', 'multikey', '47 %, −1.23', 'Where a model leaves its teacher'): assert word in page.text, word
    assert any('KL to the teacher along position' in i['alt'] for i in page.all('img')) and any('induction −4.56' in i['alt'] for i in page.all('img'))


def test_throughput_is_drawn_for_several_batches(run):
    rows = [{**r, 'batch': b, 'tokens_per_s': b*r['tokens_per_s']} for r in run['efficiency']['rows'] for b in (1, 4)]
    figs = draw_costs(dict(rows=rows))
    assert set(figs) == {'cache', 'decode', 'throughput'} and len(figs['decode'].axes[0].get_lines()) == len(draw_costs(run['efficiency'])['decode'].axes[0].get_lines())
    assert figs['throughput'].axes[0].get_lines()[0].get_ydata().tolist() == [41.7, 4*41.7] and 'bytes / bandwidth' in [x.get_text() for x in figs['decode'].axes[0].get_legend().get_texts()]
    matplotlib.pyplot.close('all')


def test_runs_side_by_side(tmp_path, no_pictures):
    a, b = fixture_run(), fixture_run()
    b.update(name='SECOND', seed=1, config=dict(a['config'], ratio=.5))
    b['models']['kl']['sets']['echo']['recall'] = group(.93, .33)
    page = Page(render_comparison([a, b]))
    assert not page.bad and not page.stack and not page.all('script') and page.all('h1')
    for word in ('ratio', '0.25', '0.5', 'SECOND: KL-guided', 'SECOND minus FIXTURE RUN', '0.600 [0.600, 0.600]'): assert word in page.text, word
    assert 'mixer' not in page.text.split('Settings that differ')[1].split('Beyond chance')[0]
    one = fixture_run(); one['models']['kl']['sets']['owt_5']['plain'] = group(3., .1, docs=3)
    assert 'other documents' in Page(render_comparison([a, one])).text
    assert 'Missing' in Page(render_comparison([{}, {}])).text
    with pytest.raises(ConfigError, match='two runs'): render_comparison([a])
    with pytest.raises(ConfigError, match='path'): write_comparison([a, b])
    for name, run in (('one', a), ('two', b)): (tmp_path/name).mkdir(); (tmp_path/name/'report.json').write_text(json.dumps(run))
    from hybrid_tutorial.cli import main
    assert main(['report', str(tmp_path/'one'), str(tmp_path/'two')]) == 0 and (tmp_path/'compare.html').exists()
    assert main(['report', str(tmp_path/'one')]) == 0 and (tmp_path/'one'/'report.html').exists()
    assert main(['report', str(tmp_path/'one'), str(tmp_path/'three')]) == 2


# ---------------------------------------------------------------- plots

def test_models_differ_without_colour():
    looks = list(plots.LOOKS.values()) + plots.OTHERS
    assert len({x['marker'] for x in looks}) == len(looks) and len({x['color'] for x in looks}) == len(looks)
    assert plots.look_of('teacher')['color'] == '#000000' and plots.look_of('KL-guided') == plots.look_of('kl') == plots.look_of('hybrid')
    assert plots.look_of('b', ['a', 'b', 'teacher']) != plots.look_of('a', ['a', 'b', 'teacher'])


def test_every_plot_has_size_title_and_units(run):
    import torch
    rows = run['efficiency']['rows']
    figs = [plots.show_attn(torch.rand(5, 5), 'message'), plots.show_attn(torch.rand(3, 5, 5), 'message'), plots.plot_layers([1, 2, 3], [1], 'message'),
            plots.plot_curves({'teacher': [1, 2, 3]}, 'message'), plots.plot_cost(rows, 'cache', 'message'), plots.plot_cost(rows, 'decode', 'message'),
            plots.plot_profile({'kl': group(1., .5)['by_position']}, 'message'), plots.plot_throughput(rows, 'message')]
    for f in figs:
        assert tuple(f.get_size_inches()) == (6, 3)
        assert 'message' in [f.get_suptitle(), *(a.get_title() for a in f.axes)]
        assert f.axes[0].get_xlabel() or f.axes[-1].get_xlabel()
    assert '(MB)' in figs[4].axes[0].get_ylabel() and '(ms)' in figs[5].axes[0].get_ylabel()
    assert figs[4].axes[0].get_yscale() == 'linear'
    with pytest.raises(ShapeError): plots.show_attn(torch.rand(4))
    matplotlib.pyplot.close('all')


def test_log_axis_beyond_a_hundred_times():
    wide = plots.plot_curves({'a': [1000., 10., 1.]})
    assert wide.axes[0].get_yscale() == 'log' and plots.plot_curves({'a': [50., 10., 1.]}).axes[0].get_yscale() == 'linear'
    assert plots.plot_curves({'a': [1000., 10., -1.]}).axes[0].get_yscale() == 'linear'
    matplotlib.pyplot.close('all')


def test_layer_plot_takes_an_object_with_scores():
    from types import SimpleNamespace
    fig = plots.plot_layers(SimpleNamespace(scores=[.1, .2, .3]), [2])
    bars = fig.axes[0].patches
    assert len(bars) == 3 and bars[2].get_facecolor() != bars[0].get_facecolor()
    matplotlib.pyplot.close('all')


def test_smooth():
    assert plots.smooth([1., 2., 3., 4.], 2) == [1., 1.5, 2.5, 3.5]
