# %% setup
import torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.selection.scores import Scores, quantiles
from hybrid_tutorial.selection.study import StudySettings, draws_of

# %% 1a compute (1 s)
# With the default `StudySettings`. Return two numbers: the tokens that the candidates of the three selectors train on, together, and how many runs of stage 2 (one chosen set, one seed) these would pay for.

# %% solution
def ex33a():
    "Trained tokens of `ga_s2`, `gr_s2` and `avg_s2`; the same in runs of stage 2"
    ### BEGIN SOLUTION
    tokens = 4*30*3*8192
    return tokens, tokens/32768
    ### END SOLUTION

# %% check
def check_ex33a(f):
    s, tokens = StudySettings(), 0
    for selector, sides in (('ga_s2', 1), ('gr_s2', 1), ('avg_s2', 2)):
        for side in range(sides):
            for seed in s.seeds:
                for layer in range(30): tokens += s.train_tokens
    got = f() or (None, None)
    check_answer(got[0], tokens, [(3*30*3*8192, '`avg_s2` trains for both of its places, and with a ledger of its own'), (2*30*3*8192, '`avg_s2` does not read what the other two found: its cost must not depend on who came before'), (4*30*8192, 'every candidate once per seed, three seeds'), (4*30*3*32768, 'a candidate trains on `train_tokens`, a chosen set on `distill_tokens`'), (4*3*8192, 'thirty candidates')], name='tokens')
    return check_answer(got[1], tokens/s.distill_tokens, [(tokens/s.distill_tokens/3, 'one run is one set and one seed'), (360, 'this is the number of candidates; a run is four times as long as theirs'), (tokens/40960, 'these are tokens of stage 1')], name='runs')

# %% wrong
wrong_ex33a = [(lambda: (2211840, 0), 'both of its places'), (lambda: (1474560, 0), 'who came before'), (lambda: (983040, 0), 'three seeds'), (lambda: (11796480, 0), '`distill_tokens`'), (lambda: (98304, 0), 'thirty'), (lambda: (2949120, 30), 'one set and one seed'), (lambda: (2949120, 360), 'number of candidates'), (lambda: (2949120, 72), 'stage 1')]

# %% why
# 2,949,120 tokens, 90 runs of 32,768: as many as all thirty sets of the main ratio (25 selectors, five random sets) take with three seeds, if no two of them are equal. The forward-only selectors train on none.

# %% 2b implement (1 s)
# `halo` and `ga` are `Scores`. Return the list of scores (higher: keep) of the vote: minus the mean of the two places, 0 the first; the lower of two layers comes first where they tie, as in `Scores.ranking`.

# %% solution
def ex33b(halo, ga):
    "Scores of a vote of two selectors by their places"
    ### BEGIN SOLUTION
    return [-(halo.ranking.index(l)+ga.ranking.index(l))/2 for l in range(len(ga.scores))]
    ### END SOLUTION

# %% check
def check_ex33b(f):
    scores = lambda name, x: Scores(name, {}, {}, {}, final=x)
    halo, ga = scores('halo', [50., 0.4, 3., 0.1, 9., 0.2]), scores('ga_s2', [-0.31, -0.25, -0.3, -0.27, -0.29, -0.26])
    got = f(halo, ga)
    place = lambda x: [sum(y > v or y == v and j < i for j, y in enumerate(x)) for i, v in enumerate(x)]
    a, b = place(halo.scores), place(ga.scores)
    vote = lambda a, b, sign=-1.: [sign*(x+y)/2 for x, y in zip(a, b)]
    hints = [(vote(halo.ranking, ga.ranking), '`ranking[i]` is the layer at place i; the place of layer l is `ranking.index(l)`'), (vote(a, b, 1.), 'place 0 is the best, and higher scores are kept: minus the mean'), (vote(halo.scores, ga.scores, 1.), 'the mean of the scores; `halo` goes up to 50 and would decide alone'), (vote([5-x for x in a], b), 'one of the two is counted from the end'),
        (vote([x+1 for x in a], [x+1 for x in b]), 'the first place is 0'), ([-x-y for x, y in zip(a, b)], 'the mean, not the sum'), ([float(-max(x, y)) for x, y in zip(a, b)], 'the mean, not the worse place'), (sorted(range(6), key=lambda l: (a[l]+b[l], l)), 'scores, one for each layer; this is the ranking')]
    return check_answer(got, vote(a, b), hints)

# %% wrong
def by_ex33b(g): return lambda halo, ga: [g(halo.ranking.index(l), ga.ranking.index(l)) for l in range(6)]
wrong_ex33b = [(lambda h, g: [-(a+b)/2 for a, b in zip(h.ranking, g.ranking)], 'layer at place i'), (by_ex33b(lambda a, b: (a+b)/2), 'minus the mean'), (lambda h, g: [(a+b)/2 for a, b in zip(h.scores, g.scores)], 'decide alone'), (by_ex33b(lambda a, b: -(5-a+b)/2), 'from the end'), (by_ex33b(lambda a, b: -(a+b)/2-1), 'the first place'), (by_ex33b(lambda a, b: -a-b), 'not the sum'), (by_ex33b(lambda a, b: -float(max(a, b))), 'the worse place'),
    (lambda h, g: Scores('', {}, {}, {}, final=ex33b(h, g)).ranking, 'this is the ranking')]

# %% why
# Run again with the vote among the selectors, only its own parts are computed: its scores, with both of its selectors once more, because a selector in a study has a ledger of its own and pays its whole price; and its set's stage 2, unless somebody has chosen that set before, for equal sets are run once. `claim` lets the list of selectors grow; a changed budget would be refused.

# %% 3c explore (2 s)
# `runs(name)` is what `Study.runs` keeps of a set, here `"default"` and `"rival"`: one `{"plain": rows}` per seed, the same 24 rows and 3 seeds, made up so that seeds and rows both matter. `draws_of(runs, "plain")` draws seeds and rows; `rows_of(runs, "plain")` draws rows only. Return four 95 % intervals of KL(default) - KL(rival), as pairs: rows only and both; each first with the same draw for the two sets (paired), then with the rival's draws shifted by one (not paired: `d.roll(1)`).

# %% solution
def ex33c(runs, draws_of, rows_of):
    "Intervals: rows paired, rows not paired, rows and seeds paired, rows and seeds not paired"
    ### BEGIN SOLUTION
    out = []
    for draw in (rows_of, draws_of):
        mine, rival = (draw(runs(n), 'plain') for n in ('default', 'rival'))
        out += [quantiles(mine-rival), quantiles(mine-rival.roll(1))]
    return out
    ### END SOLUTION

# %% check
def runs_ex33c(name):
    gen = torch.Generator().manual_seed(4)
    rows, each = 0.3+0.1*torch.randn(24, generator=gen), 0.005*torch.randn(2, 3, 24, generator=gen)
    i = ['default', 'rival'].index(name)
    seeds = torch.tensor([[0., 0.015, -0.015], [0.028, 0.014, 0.]])[i]
    return [dict(plain=(rows+s+e).tolist()) for s, e in zip(seeds, each[i])]

def rows_of_ex33c(runs, text, draws=1000):
    x, gen = torch.tensor([r[text] for r in runs], dtype=torch.float64), torch.Generator().manual_seed(0)
    return x.mean(0)[torch.randint(x.shape[1], (draws, x.shape[1]), generator=gen)].mean(1)

def check_ex33c(f):
    got, want = f(runs_ex33c, draws_of, rows_of_ex33c) or (None,)*4, []
    if len(got) != 4: raise AssertionError(f'answer: four intervals, not {len(got)}')
    for draw in (rows_of_ex33c, draws_of):
        a, b = draw(runs_ex33c('default'), 'plain'), draw(runs_ex33c('rival'), 'plain')
        for other in (b, b.roll(1)):
            d = sorted((a-other).tolist()); at = lambda p: (lambda x: d[int(x)]+(x-int(x))*(d[int(x)+1]-d[int(x)]))(p*(len(d)-1))
            want.append((at(0.025), at(0.975)))
    names = ('rows, paired', 'rows, not paired', 'both, paired', 'both, not paired')
    for i, (name, w) in enumerate(zip(names, want)):
        hints = [((-w[1], -w[0]), 'default minus rival: below 0 the default is better')]+[(v, f'this is the interval of {names[j]}') for j, v in enumerate(want) if j != i]
        check_answer(got[i], w, hints, tol=1e-6, name=name)
    return 'ex33c: right'

# %% wrong
def order_ex33c(*order): return lambda *a: [ex33c(*a)[i] for i in order]
wrong_ex33c = [(lambda *a: [(-y, -x) for x, y in ex33c(*a)], 'default minus rival'), (order_ex33c(1, 0, 2, 3), 'rows, paired: this is the interval of rows, not'), (order_ex33c(2, 3, 0, 1), 'rows, paired: this is the interval of both, paired'), (order_ex33c(0, 0, 2, 2), 'not paired: this is the interval of rows, paired'), (order_ex33c(0, 1, 0, 1), 'both, paired: this is the interval of rows, paired'), (order_ex33c(0, 1, 3, 2), 'of both, not paired'), (order_ex33c(0, 1, 2), 'not 3')]

# %% why
# Rows only, in pairs: $-0.015$ to $-0.011$, and the default seems better beyond doubt. With the seeds drawn too it is $-0.024$ to 0.002, within noise. Not in pairs both are 0.14 wide, because rows differ among themselves far more than the two sets do. Pair what both share, and draw anew all that another run would draw anew.
