# %% setup
import torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.plots import LOOKS
from hybrid_tutorial.report import recall_kept

# %% 1a compute (1 s)
# Return both shares: of the hybrid with loss 0.33, of the one with 2.84.

# %% solution
def ex61a():
    "Recall kept by two hybrids"
    ### BEGIN SOLUTION
    return tuple((3.35-loss)/(3.35-0.14) for loss in (0.33, 2.84))
    ### END SOLUTION

# %% check
def check_ex61a(f):
    loss = {'teacher': 0.14, 'all-linear': 3.35, 'kl': 0.33, 'uniform': 2.84}
    kept = recall_kept(dict(models={n: dict(sets=dict(echo=dict(recall=dict(loss=dict(value=v))))) for n, v in loss.items()}))
    want = kept['kl'], kept['uniform']
    each = lambda g: tuple(g(loss[n]) for n in ('kl', 'uniform'))
    return check_answer(f(), want, [(each(lambda v: (v-0.14)/3.21), 'this is the share that is lost'), (each(lambda v: 1-v/3.35), 'the teacher has a loss too: it is the 100 %'), (each(lambda v: 0.14/v), 'a quotient of losses has no 0 %: the all-linear student is that'), (tuple(100*w for w in want), 'shares, not per cent'), (want[::-1], 'the hybrid with 0.33 first')], tol=2e-3)

# %% wrong
wrong_ex61a = [(lambda: (0.0592, 0.8411), 'is lost'), (lambda: (0.9015, 0.1522), 'it is the 100 %'), (lambda: (0.4242, 0.0493), 'has no 0 %'), (lambda: (94.08, 15.89), 'not per cent'), (lambda: (0.1589, 0.9408), '0.33 first')]

# %% why
# 94 % and 16 %. Both ends are measured, so the number says how much of what attention adds is still there; a loss of 0.33 alone says neither what the teacher has nor what would be left without any attention.

# %% 2b implement (1 s)
# `run` is what the page takes. Return the tokens that its main hybrid was trained on: those of `align`, of its own `distill-...` stage (`kl`, or `hybrid` where somebody chose the layers) and of `finetune`. A run without `timing` has no number: return the word `'missing'`.

# %% solution
def ex61b(run):
    "Tokens of training behind the main hybrid"
    ### BEGIN SOLUTION
    timing = run.get('timing')
    if not timing: return 'missing'
    return sum(t.get('tokens') or 0 for n, t in timing.items() if n in ('align', 'distill-kl', 'distill-hybrid', 'finetune'))
    ### END SOLUTION

# %% check
def check_ex61b(f):
    row = lambda n: dict(seconds=1., tokens=n)
    first = dict(align=row(28672), evaluate=row(16384), efficiency=row(0), **{'score-kl_removal': row(63488), 'distill-kl': row(4096), 'distill-uniform': row(4096)})
    by_hand = dict(align=row(1000), finetune=row(300), evaluate=row(50), **{'distill-hybrid': row(200), 'teacher-speed': dict(seconds=1., tokens=None)})
    for name, timing in (('default', first), ('layers by hand, stage 3', by_hand)):
        take = lambda ok: sum(t['tokens'] or 0 for n, t in timing.items() if ok(n))
        try: got = f(dict(timing=timing, models={}))
        except TypeError as e: raise AssertionError(f'{name}: {e}; a stage may have no tokens') from e
        want = take(lambda n: n == 'align' or n.startswith('distill') and 'uniform' not in n or n == 'finetune')
        check_answer(got, want, [(take(lambda n: True), 'reading is not training: evaluation and scoring have tokens too'), (take(lambda n: n == 'align' or n.startswith('distill') or n == 'finetune'), 'the uniform hybrid is another model'), (take(lambda n: n.startswith('distill')), 'the mixers were aligned first'),
            (take(lambda n: 'uniform' not in n and n.startswith('distill') or n == 'align'), 'stage 3 trains too'), (take(lambda n: n in ('align', 'distill-kl', 'finetune')), 'a hybrid with layers chosen by hand is called `hybrid`'), (take(lambda n: n.startswith('distill') and 'uniform' not in n), 'the mixers were aligned first: stage 1 counts')], name=name)
    for run in (dict(models={}), dict(timing=None), dict(timing={})):
        try: got = f(run)
        except (KeyError, AttributeError, TypeError) as e: raise AssertionError(f'no timing: every part of a run is optional; {type(e).__name__}') from e
        check_answer(got, 'missing', [(0, 'nought tokens would be a claim; what is not known is called missing')], name='no timing')
    return 'ex61b: right'

# %% wrong
def tokens_ex61b(run, ok, none='missing'): return sum(t.get('tokens') or 0 for n, t in run['timing'].items() if ok(n)) if run.get('timing') else none
names_ex61b = ('align', 'distill-kl', 'distill-hybrid', 'finetune')
wrong_ex61b = [(lambda r: tokens_ex61b(r, lambda n: True), 'reading is not training'), (lambda r: tokens_ex61b(r, lambda n: n[:7] in ('align', 'distill', 'finetun')), 'another model'), (lambda r: tokens_ex61b(r, lambda n: n[:7] == 'distill'), 'aligned first'), (lambda r: tokens_ex61b(r, lambda n: n in names_ex61b[:3]), 'stage 3'),
    (lambda r: tokens_ex61b(r, lambda n: n in ('align', 'distill-kl', 'finetune')), 'called `hybrid`'), (lambda r: sum(t['tokens'] for n, t in r['timing'].items() if n in (*names_ex61b, 'teacher-speed')), 'may have no tokens'), (lambda r: sum(t['tokens'] for n, t in r['timing'].items() if n in names_ex61b), 'is optional'), (lambda r: tokens_ex61b(r, lambda n: n in names_ex61b, 0), 'would be a claim'),
    (lambda r: tokens_ex61b(r, lambda n: n in ('distill-kl', 'distill-hybrid')), 'stage 1 counts')]

# %% why
# 32,768 tokens for the default: 28,672 of alignment and 4,096 of distillation. The 63,488 of scoring are more than both, but nothing learns from them; and an empty cell that says 0 would be read as a result.

# %% 3c explore (1 s)
# `LOOKS` gives the usual four models their colour (`#rrggbb`), line style and marker. A printer makes grey of a colour: 0.299 red + 0.587 green + 0.114 blue, 0 to 255. Return the sorted names of the two models whose greys are nearest, the distance of the greys, and whether style and marker both tell those two apart.

# %% solution
def ex61c():
    "The nearest two in grey; how near; do style and marker differ?"
    ### BEGIN SOLUTION
    grey = {n: sum(w*int(look['color'][i:i+2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5))) for n, look in LOOKS.items()}
    a, b = min(((a, b) for a in grey for b in grey if a < b), key=lambda p: abs(grey[p[0]]-grey[p[1]]))
    return [a, b], abs(grey[a]-grey[b]), all(LOOKS[a][k] != LOOKS[b][k] for k in ('linestyle', 'marker'))
    ### END SOLUTION

# %% check
def check_ex61c(f):
    names, rgb = list(LOOKS), torch.tensor([[int(l['color'][i:i+2], 16) for i in (1, 3, 5)] for l in LOOKS.values()], dtype=torch.double)
    def near(x):
        d = torch.cdist(x, x)+1e9*torch.eye(len(x))
        i, j = divmod(int(d.argmin()), len(x))
        return sorted([names[i], names[j]]), float(d.min())
    want, gap = near(rgb @ torch.tensor([[0.299], [0.587], [0.114]], dtype=torch.double))
    got = f()
    if got is None: raise AssertionError('answer: nothing was returned')
    (color, far), (mean, flat) = near(rgb), near(rgb.mean(1, keepdim=True))
    check_answer(list(got[0]), want, [(color, 'these two are nearest in colour; make grey of both first'), (want[::-1], 'in alphabetical order')], name='models')
    check_answer(got[1], gap, [(gap/255, 'on the scale from 0 to 255'), (flat, 'the eye is most sensitive to green: take the weights'), (float(torch.dist(*(rgb[names.index(n)] for n in want))), 'this is their distance in colour')], tol=1e-6, name='distance')
    a, b = (LOOKS[n] for n in want)
    return check_answer(got[2], a['linestyle'] != b['linestyle'] and a['marker'] != b['marker'], [(False, 'look at `linestyle` and `marker` of these two')], name='told apart')

# %% wrong
wrong_ex61c = [(lambda: (['kl', 'uniform'], 0, True), 'nearest in colour'), (lambda: (ex61c()[0][::-1], 0, True), 'alphabetical'), (lambda: (ex61c()[0], ex61c()[1]/255, True), 'from 0 to 255'), (lambda: (*ex61c()[:2], False), 'look at'),
    (lambda: (ex61c()[0], abs(sum(int(LOOKS[ex61c()[0][0]]['color'][i:i+2], 16)-int(LOOKS[ex61c()[0][1]]['color'][i:i+2], 16) for i in (1, 3, 5)))/3, True), 'sensitive to green')]

# %% why
# All-linear and uniform, 17 of 255 apart, although uniform and KL-guided are the nearest in colour. Dashes and dots, squares and triangles tell the two apart on paper: colour is never the only sign.
