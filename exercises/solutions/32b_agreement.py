# %% setup
import functools, math, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.selection.agreement import Monitor, kendall, spearman
from hybrid_tutorial.selection.baselines import random_layers
from hybrid_tutorial.selection.choose import jaccard

# %% 1a compute (1 s)
# Scores 1, 2, 3, 4 against 4, 3, 2, 1, and then against 4, 3, 1, 1. Return four numbers: Kendall and Spearman of the first pair, Kendall and Spearman of the second.

# %% solution
def ex32ba():
    "Kendall and Spearman of two opposite rankings, without and with a tie"
    ### BEGIN SOLUTION
    return -1., -1., -5/(6*5)**0.5, -4.5/(5*4.5)**0.5
    ### END SOLUTION

# %% check
def check_ex32ba(f):
    a, b, tied = [1, 2, 3, 4], [4, 3, 2, 1], [4, 3, 1, 1]
    got = f() or (None,)*4
    check_answer(got[0], kendall(a, b), [(0., 'no pair is in the same order: (0-6)/6')], tol=1e-4, name='Kendall')
    check_answer(got[1], spearman(a, b), [(0., 'the ranks fall as the others rise')], tol=1e-4, name='Spearman')
    check_answer(got[2], kendall(a, tied), [(-1., 'the tied pair counts in one of the two factors below'), (-5/6, 'the tied pair is taken off in one factor: sqrt(6*5), not 6'), (-5/math.sqrt(5*5), 'the tie is in one ranking, so one factor stays 6'), (-4/math.sqrt(30), 'the tied pair counts for neither; it is not in the same order'), (-6/math.sqrt(30), 'the tied pair counts for neither; it is not in the opposite order')], tol=1e-4, name='Kendall, tied')
    return check_answer(got[3], spearman(a, tied), [(-1., 'the two tied layers share the rank 1.5'), (1-6*18.5/60, '1-6 sum d^2/(n(n^2-1)) holds without ties only; correlate the ranks'), (-4.5/5, 'the tied ranks vary less: their sum of squares is 4.5'), (float(torch.corrcoef(torch.tensor([a, tied], dtype=torch.float64))[0, 1]), 'of the ranks, not of the scores')], tol=1e-4, name='Spearman, tied')

# %% wrong
wrong_ex32ba = [(lambda: (0., 0, 0, 0), 'Kendall: no pair'), (lambda: (-1., 0., 0, 0), 'Spearman: the ranks'), (lambda: (-1., -1., -1., 0), 'one of the two factors'), (lambda: (-1., -1., -5/6, 0), 'sqrt(6*5)'), (lambda: (-1., -1., -4/30**0.5, 0), 'not in the same'), (lambda: (-1., -1., -6/30**0.5, 0), 'not in the opposite'),
    (lambda: (-1., -1., -5/30**0.5, -1.), 'the rank 1.5'), (lambda: (-1., -1., -5/30**0.5, -0.85), 'holds without ties'), (lambda: (-1., -1., -5/30**0.5, -0.9), 'vary less'), (lambda: (-1., -1., -5/30**0.5, -0.9467292624062574), 'not of the scores')]

# %% why
# $-5/\sqrt{6\cdot 5} = -0.913$ and $-4.5/\sqrt{5\cdot 4.5} = -0.949$. A tie is a place where one ranking says nothing; neither measure can reach $-1$ then. Selectors that give a set and not an order have many ties, and their correlations are small for that reason alone.

# %% 2b implement (1 s)
# Return two numbers: the share of 1,000 pairs with an index above 0.4 (pair `s`, from 0, has the seeds `s` and `s+1000`), and the exact chance by counting: $c$ layers in common occur with probability $\binom{8}{c}\binom{22}{8-c}/\binom{30}{8}$.

# %% solution
def ex32bb(layers, keep, level):
    "Chance that two random sets overlap by more than `level`: by drawing, and by counting"
    ### BEGIN SOLUTION
    drawn = [jaccard(random_layers(layers, keep, s), random_layers(layers, keep, s+1000)) for s in range(1000)]
    exact = sum(math.comb(keep, c)*math.comb(layers-keep, keep-c) for c in range(keep+1) if c/(2*keep-c) > level)
    return sum(j > level for j in drawn)/1000, exact/math.comb(layers, keep)
    ### END SOLUTION

# %% check
def count_ex32bb(L, K, ok): return sum(math.comb(K, c)*math.comb(L-K, K-c) for c in range(K+1) if ok(c))/math.comb(L, K)

def check_ex32bb(f):
    for L, K, level in ((30, 8, 0.4), (12, 3, 0.5)):
        drawn, exact = f(L, K, level) or (None, None)
        pairs = [(set(random_layers(L, K, s)), set(random_layers(L, K, s+1000))) for s in range(1000)]
        share = lambda index: sum(index(a, b) > level for a, b in pairs)/1000
        check_answer(drawn, share(lambda a, b: len(a & b)/len(a | b)), [(share(lambda a, b: len(a & b)/K), 'the common layers over the union, not over one set'), (sum(jaccard(random_layers(L, K, s), random_layers(L, K, s+1)) > level for s in range(1000))/1000, 'the seeds `s` and `s+1000`'),
            (sum(len(a & b)/len(a | b) > level for a, b in pairs), 'the share, not the number'), (sum(len(a & b)/len(a | b) for a, b in pairs)/1000, 'this is the mean index')], tol=1e-9, name=f'drawn, {K} of {L}')
        check_answer(exact, count_ex32bb(L, K, lambda c: c/(2*K-c) > level), [(count_ex32bb(L, K, lambda c: c/(2*K-c) >= level), 'above the level, not at it'), (count_ex32bb(L, K, lambda c: c/K > level), 'c layers in common give c/(2K-c), not c/K'),
            (sum(math.comb(K, c)*(K/L)**c*(1-K/L)**(K-c) for c in range(K+1) if c/(2*K-c) > level), 'layers are drawn without putting back'), (1-count_ex32bb(L, K, lambda c: c/(2*K-c) > level), 'above the level, not below')], tol=1e-6, name=f'exact, {K} of {L}')
    return 'ex32bb: right'

# %% wrong
wrong_ex32bb = [(lambda L, K, x: (sum(len(set(random_layers(L, K, s)) & set(random_layers(L, K, s+1000)))/K > x for s in range(1000))/1000, 0), 'not over one set'), (lambda L, K, x: (sum(jaccard(random_layers(L, K, s), random_layers(L, K, s+1)) > x for s in range(1000))/1000, 0), '`s+1000`'),
    (lambda L, K, x: (sum(jaccard(random_layers(L, K, s), random_layers(L, K, s+1000)) > x for s in range(1000)), 0), 'not the number'), (lambda L, K, x: (sum(jaccard(random_layers(L, K, s), random_layers(L, K, s+1000)) for s in range(1000))/1000, 0), 'the mean index'),
    (lambda L, K, x: (ex32bb(L, K, x)[0], count_ex32bb(L, K, lambda c: c/(2*K-c) >= x)), 'not at it'), (lambda L, K, x: (ex32bb(L, K, x)[0], count_ex32bb(L, K, lambda c: c/K > x)), 'not c/K'), (lambda L, K, x: (ex32bb(L, K, x)[0], sum(math.comb(K, c)*(K/L)**c*(1-K/L)**(K-c) for c in range(K+1) if c/(2*K-c) > x)), 'putting back'), (lambda L, K, x: (ex32bb(L, K, x)[0], 1-ex32bb(L, K, x)[1]), 'not below')]

# %% why
# Five or more of eight in common: 1.6 % by counting, 2.3 % of the 1,000 pairs. So an index of 0.4 between two selectors is beyond chance, but with twenty selectors there are 190 pairs, and about three of them would reach it by luck.

# %% 3c explore (2 s)
# `watch(noise, seed)` gives the notebook's toy five more rows at a time until `Monitor.stable`, and returns how many it took and the set of 3 that stands then; `best` is the set of the noiseless scores. Return three numbers, over the seeds 0 to 7: the mean number of rows at noise 4, at noise 8, and how many of these 16 sets are `best`.

# %% solution
def ex32bc(watch, best):
    "Mean rows at noise 4 and at noise 8; right sets"
    ### BEGIN SOLUTION
    got = {noise: [watch(noise, s) for s in range(8)] for noise in (4., 8.)}
    mean = lambda noise: sum(n for n, _ in got[noise])/8
    return mean(4.), mean(8.), sum(kept == best for runs in got.values() for _, kept in runs)
    ### END SOLUTION

# %% check
def truth_ex32bc(): return torch.randn(12, generator=torch.Generator().manual_seed(0))

@functools.cache
def watch_ex32bc(noise, seed, most=500):
    rows, m = (truth_ex32bc()[:, None]+noise*torch.randn(12, most, generator=torch.Generator().manual_seed(seed))).tolist(), Monitor(keep=3)
    for n in range(5, most+1, 5):
        m.update(dict(plain=[r[:n] for r in rows]), dict(plain=1.), at=n)
        if m.stable: break
    return n, m.sets[-1]

def check_ex32bc(f):
    best = sorted(truth_ex32bc().topk(3).indices.tolist())
    got = f(watch_ex32bc, list(best)) or (None,)*3
    runs = {noise: [watch_ex32bc(noise, s) for s in range(8)] for noise in (4., 8.)}
    mean, mid = (lambda n: sum(x for x, _ in runs[n])/8), lambda n: sorted(x for x, _ in runs[n])[4]
    near = lambda least: sum(len(set(k) & set(best)) >= least for r in runs.values() for _, k in r)
    check_answer(got[0], mean(4.), [(mean(8.), 'this is noise 8'), (mid(4.), 'the mean of eight, not the median'), (runs[4.][0][0], 'one seed is luck; take all eight')], name='noise 4')
    check_answer(got[1], mean(8.), [(mean(4.)*4, 'four times as many would be needed for the same certainty; ask the monitor'), (mean(4.), 'this is noise 4'), (mid(8.), 'the mean of eight, not the median'), (runs[8.][0][0], 'one seed is luck')], name='noise 8')
    return check_answer(got[2], near(3), [(near(2), 'the set itself: one that differs in a layer is stable, but not right'), (sum(k == best for _, k in runs[8.]), 'at both noises')], name='right')

# %% wrong
def rows_ex32bc(w, noise, pick=lambda x: sum(x)/8): return pick([w(noise, s)[0] for s in range(8)])
wrong_ex32bc = [(lambda w, b: (rows_ex32bc(w, 8.), 0, 0), 'this is noise 8'), (lambda w, b: (w(4., 0)[0], 0, 0), 'take all eight'), (lambda w, b: (ex32bc(w, b)[0], 4*ex32bc(w, b)[0], 0), 'ask the monitor'), (lambda w, b: (ex32bc(w, b)[0],)*2+(0,), 'this is noise 4'), (lambda w, b: (*ex32bc(w, b)[:2], sum(len(set(w(n, s)[1]) & set(b)) > 1 for n in (4., 8.) for s in range(8))), 'differs in a layer'),
    (lambda w, b: (*ex32bc(w, b)[:2], sum(w(8., s)[1] == b for s in range(8))), 'both noises')]

# %% why
# 48 rows at noise 4 and 119 at noise 8, 2.5 times as many where the same certainty takes four times. The monitor stops at the first moment that looks still, and allows one layer to differ: all 16 sets have two of the three true layers, four have all three, none of these at noise 8. The third and the fourth layer are 0.17 apart, and to separate those takes hundreds of rows.
