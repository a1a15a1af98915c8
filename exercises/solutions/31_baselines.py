# %% setup
import math, random
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.selection.baselines import count_kept, random_layers, uniform_layers

# %% 1a compute (1 s)
# Return three lists, for the phases first, middle and last.

# %% solution
def ex31a():
    "The three uniform sets of 36 layers at 12.5 %"
    ### BEGIN SOLUTION
    return [0, 7, 14, 21, 28], [3, 10, 18, 25, 32], [7, 14, 21, 28, 35]
    ### END SOLUTION

# %% check
def check_ex31a(f):
    got, K = f() or (None,)*3, count_kept(36, 0.125)
    at = {p: [math.floor((i+s)*36/K) for i in range(K)] for p, s in (('first', 0.), ('middle', 0.5))} | dict(last=[math.ceil((i+1)*36/K)-1 for i in range(K)])
    for p, mine in zip(('first', 'middle', 'last'), got):
        eight = list(range(dict(first=0, middle=4, last=7)[p], 36, 8))
        check_answer(mine, at[p], [(uniform_layers(36, 4, p), '12.5 % of 36 is 4.5, and half a layer is rounded up'), (eight, 'stretches of 8 layers leave a rest; a stretch has 36/5 = 7.2'), ([x+1 for x in at[p]], 'layers count from 0'),
            ([7, 15, 22, 29, 36] if p == 'last' else [0, 7, 14, 22, 29] if p == 'first' else [4, 11, 18, 25, 32], 'a place inside a layer is rounded down')], name=p)
    return 'ex31a: right'

# %% wrong
wrong_ex31a = [(lambda: tuple(uniform_layers(36, 4, p) for p in ('first', 'middle', 'last')), 'rounded up'), (lambda: ([0, 8, 16, 24, 32], 0, 0), 'leave a rest'), (lambda: ([1, 8, 15, 22, 29], 0, 0), 'from 0'), (lambda: ([0, 7, 14, 22, 29], 0, 0), 'first: a place'),
    (lambda: (ex31a()[0], [4, 11, 18, 25, 32], 0), 'middle: a place'), (lambda: (*ex31a()[:2], [8, 15, 22, 29, 36]), 'last: layers count'), (lambda: (*ex31a()[:2], [7, 15, 22, 29, 36]), 'last: a place')]

# %% why
# A stretch is 7.2 layers long. Because it is no whole number, *first* and *last* share four of five layers, 7, 14, 21 and 28, though they differ in all of 7 layers out of 28. "Uniform" is a family, and how far its members are apart depends on the rounding.

# %% 2b implement (1 s)
# `kept` is a list of layers in order. Return the mean distance between neighbours and the largest one.

# %% solution
def ex31b(kept):
    "Mean and largest distance between neighbours"
    ### BEGIN SOLUTION
    gaps = [b-a for a, b in zip(kept, kept[1:])]
    return sum(gaps)/len(gaps), max(gaps)
    ### END SOLUTION

# %% check
def check_ex31b(f):
    for kept in ([0, 3, 7, 11, 29], uniform_layers(30, 8), random_layers(30, 8, 3)):
        got, gaps = f(list(kept)) or (None, None), [kept[i]-kept[i-1] for i in range(1, len(kept))]
        mean, most = got
        n = len(kept)
        check_answer(mean, (kept[-1]-kept[0])/(n-1), [((kept[-1]-kept[0])/n, 'between n layers there are n-1 distances'), (30/n, 'this is L/K; measure the set that is given'), (sum(abs(a-b) for a in kept for b in kept)/(n*(n-1)), 'neighbours only, not all pairs'), ((kept[-1]-kept[0])/(n-1)-1, 'the distance of 3 and 4 is 1, not the number of layers between them'), (sorted(gaps)[len(gaps)//2], 'this is the median')], name=f'mean of {kept}')
        check_answer(most, max(gaps), [(max(gaps)-1, 'the distance of 3 and 4 is 1, not the number of layers between'), (kept[-1]-kept[0], 'between neighbours, not from end to end'), (max(max(gaps), kept[0], 29-kept[-1]), 'between two layers of the set; the ends of the model are none')], name=f'largest of {kept}')
    return 'ex31b: right'

# %% wrong
def with_ex31b(mean=None, most=None): return lambda k: (mean(k) if mean else ex31b(k)[0], most(k) if most else ex31b(k)[1])
wrong_ex31b = [(with_ex31b(lambda k: (k[-1]-k[0])/len(k)), 'n-1 distances'), (with_ex31b(lambda k: 30/len(k)), 'L/K'), (with_ex31b(lambda k: sum(abs(a-b) for a in k for b in k)/len(k)/(len(k)-1)), 'not all pairs'), (with_ex31b(lambda k: ex31b(k)[0]-1), 'layers between them'), (with_ex31b(lambda k: sorted(b-a for a, b in zip(k, k[1:]))[(len(k)-1)//2]), 'the median'),
    (with_ex31b(most=lambda k: ex31b(k)[1]-1), 'largest of [0, 3, 7, 11, 29]: the distance'), (with_ex31b(most=lambda k: k[-1]-k[0]), 'end to end'), (with_ex31b(most=lambda k: max(ex31b(k)[1], k[0], 29-k[-1])), 'the ends of the model')]

# %% why
# The mean sees only the ends: all distances inside cancel and $(\text{last}-\text{first})/(K-1)$ is left, 3.71, 3.86 and 3.71 for the three patterns of 8 in 30 and 3.43 for 1,000 random sets ($7\cdot 31/9/7 = 3.44$ expected). The largest distance tells them apart: 4 for every pattern, 8.1 on average for random sets.

# %% 3c explore (1 s)
# Sets of the seeds 0 to 999. Return three numbers: in how many layer 18 is, how many you expect, and by how many standard deviations the first is off (negative if it is fewer).

# %% solution
def ex31c():
    "Sets with layer 18; expected; deviation in standard deviations"
    ### BEGIN SOLUTION
    n, p = 1000, 8/30
    count = sum(18 in random_layers(30, 8, s) for s in range(n))
    return count, n*p, (count-n*p)/(n*p*(1-p))**0.5
    ### END SOLUTION

# %% check
def check_ex31c(f):
    count, expected, off = f() or (None,)*3
    n, p = 1000, math.comb(29, 7)/math.comb(30, 8)
    want = sum(18 in random_layers(30, 8, s) for s in range(n))
    check_answer(count, want, [(sum(random_layers(30, 8, s)[-1] >= 18 for s in range(n)), 'layer 18 itself, not it or a later one'), (want/n, 'how many, not which share')], name='count')
    check_answer(expected, n*p, [(n/30, 'eight layers are drawn, not one'), (n*(1-(29/30)**8), 'no layer is drawn twice: 8 of 30, without putting back'), (p, 'how many of 1,000')], name='expected')
    sd = (n*p*(1-p))**0.5
    return check_answer(off, (want-n*p)/sd, [((n*p-want)/sd, 'fewer than expected is negative'), ((want-n*p)/(n*p)**0.5, 'the variance of a count is np(1-p); np holds for rare events'), (want-n*p, 'in standard deviations'), ((want-n*p)/sd**2, 'the variance is not the standard deviation')], tol=1e-3, name='deviation')

# %% wrong
def off_ex31c(sd): return lambda: (lambda c, e, _: (c, e, (c-e)/sd))(*ex31c())
wrong_ex31c = [(lambda: (sum(max(random_layers(30, 8, s)) >= 18 for s in range(1000)), 0, 0), 'or a later one'), (lambda: (ex31c()[0]/1000, 0, 0), 'not which share'), (lambda: (ex31c()[0], 1000/30, 0), 'not one'), (lambda: (ex31c()[0], 1000*(1-(29/30)**8), 0), 'without putting back'), (lambda: (ex31c()[0], 8/30, 0), 'of 1,000'),
    (lambda: (*ex31c()[:2], -ex31c()[2]), 'is negative'), (off_ex31c((8000/30)**0.5), 'rare events'), (off_ex31c(1), 'in standard'), (off_ex31c(1000*8/30*22/30), 'is not the standard')]

# %% why
# 258 against 266.7 expected, 0.6 standard deviations of 14: nothing to see. With the five random sets of a study, a given layer is in 1.3 of them, give or take 1: five sets say how good chance is, not which layers are good.

# %% 0d implement (1 s)
# **Find the bug.** A learner wrote `random_layers` anew, and a study with it says that random sets are *bad*, worse than any pattern. Its line: `sorted(random.Random(seed).choice(range(layers)) for _ in range(keep))`. It has two faults; one makes the sets too small, the other makes them all equal. Repair it: any correct random set will do, as long as it depends on the seed alone.

# %% solution
def ex31d(layers, keep, seed):
    "A random set of `keep` different layers, in order"
    ### BEGIN SOLUTION
    return sorted(random.Random(seed).sample(range(layers), keep))
    ### END SOLUTION

# %% check
def check_ex31d(f):
    sets = [f(30, 8, s) for s in range(300)]
    if not all(isinstance(s, list) and len(s) == 8 for s in sets): raise AssertionError('answer: a list of 8 layers')
    if sets != [f(30, 8, s) for s in range(300)]: raise AssertionError('answer: the same seed must give the same set')
    if any(len(set(s)) == 1 for s in sets): raise AssertionError('answer: a generator made anew for every draw gives its first number every time')
    if any(len(set(s)) < 8 for s in sets): raise AssertionError('answer: a layer was drawn twice, so fewer than 8 are kept')
    if any(s != sorted(s) or s[0] < 0 or s[-1] > 29 for s in sets): raise AssertionError('answer: layers 0 to 29 in order')
    counts = [sum(l in s for s in sets) for l in range(30)]
    if min(counts) < 40 or max(counts) > 125: raise AssertionError(f'answer: each layer should be in about 80 of 300 sets; layer {counts.index(min(counts))} is in {min(counts)}, layer {counts.index(max(counts))} in {max(counts)}')
    return 'ex31d: right'

# %% wrong
wrong_ex31d = [(lambda L, K, seed: sorted(random.Random(seed).choice(range(L)) for _ in range(K)), 'its first number every time'), (lambda L, K, seed: sorted(random.Random(seed).choices(range(L), k=K)), 'drawn twice'), (lambda L, K, seed: sorted(random.sample(range(L), K)), 'the same seed'), (lambda L, K, seed: random.Random(seed).sample(range(L), K), 'in order'),
    (lambda L, K, seed: sorted(set(random.Random(seed).choices(range(L), k=K))), 'a list of 8'), (lambda L, K, seed: (lambda a: list(range(a, a+K)))(random.Random(seed).randrange(L-K+1)), 'about 80')]

# %% why
# The generator is made inside the loop, so each draw is the first of a new one: one layer, eight times. Made once, `choice` still puts back: eight draws from 30 give 7.1 different layers on average. A baseline with a bug flatters every method that is compared with it.
