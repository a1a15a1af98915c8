# %% setup
import torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.selection.choose import choose_layers, jaccard

# %% 1a compute (1 s)
# Return the index, to three digits or as a fraction.

# %% solution
def ex32a():
    "Jaccard index of two sets of 8 that share 4"
    ### BEGIN SOLUTION
    return 4/(8+8-4)
    ### END SOLUTION

# %% check
def check_ex32a(f):
    return check_answer(f(), jaccard(range(8), range(4, 12)), [(1/2, 'this is the share of one set; divide by the union, 12 layers'), (1/4, 'the four common layers are in the union once, not twice'), (2/3, 'this is one minus it, the distance')], tol=2e-3)

# %% wrong
wrong_ex32a = [(lambda: .5, 'divide by the union'), (lambda: .25, 'once, not twice'), (lambda: 2/3, 'the distance')]

# %% why
# $4/12$. Half of the layers in common sounds like 0.5; two random sets of 8 among 30 share 2.1 and have 0.15.

# %% 2b implement (1 s)
# `sets` is a list of layer sets in order. Return two things: the list of indices (one for each set that has one `window` earlier), and the position in that list where the third of three indices above 0.9 in a row stands, or None.

# %% solution
def ex32b(sets, window):
    "Rolling Jaccard index, and where it stops"
    ### BEGIN SOLUTION
    js = [jaccard(a, b) for a, b in zip(sets, sets[window:])]
    return js, next((i for i in range(2, len(js)) if min(js[i-2:i+1]) > 0.9), None)
    ### END SOLUTION

# %% check
def check_ex32b(f):
    sets = [{0, 1}, {0, 2}, {0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 3}, {0, 1}, {0, 3}, {0, 1}, {0, 1}]
    def rolling(index, w):
        js = [index(sets[i], sets[i-w]) for i in range(w, len(sets))]
        return js, next((i for i in range(2, len(js)) if all(x > 0.9 for x in js[i-2:i+1])), None)
    true = lambda a, b: len(a & b)/len(a | b)
    want = rolling(true, 2)
    js, stop = f([set(s) for s in sets], 2) or (None, None)
    check_answer(js, want[0], [(rolling(true, 1)[0], 'each set with its neighbour; `window` says how far back'), ([true(s, sets[0]) for s in sets[2:]], 'each set with the first one; the window moves along'), (rolling(lambda a, b: len(a & b)/len(a), 2)[0], 'divided by one set, not by the union'),
        ([0., 0., *want[0]], 'the first sets have nothing to be compared with: leave them out')], name='indices')
    none = f([{i} for i in range(6)], 2)
    if stop is None or isinstance(stop, int): check_answer(none[1] is None, True, [(False, 'nothing is ever stable there: None')], name='no stop')
    return check_answer(stop if stop is not None else 'None', want[1], [(next(i for i, x in enumerate(want[0]) if x > 0.9), 'the first above 0.9; three in a row are asked for'), (want[1]-2, 'this is where the three begin; you know it only at the third'), (want[1]+2, 'a place in the list of indices, not of sets')], name='stop')

# %% wrong
wrong_ex32b = [(lambda s, w: ex32b(s, 1), 'with its neighbour'), (lambda s, w: ([jaccard(x, s[0]) for x in s[w:]], 0), 'the first one; the window'), (lambda s, w: ([len(a & b)/len(a) for a, b in zip(s, s[w:])], 0), 'not by the union'),
    (lambda s, w: ([0., 0., *ex32b(s, w)[0]], 0), 'leave them out'), (lambda s, w: (ex32b(s, w)[0], next((i for i, x in enumerate(ex32b(s, w)[0]) if x > .9), None)), 'three in a row'),
    (lambda s, w: (ex32b(s, w)[0], None if ex32b(s, w)[1] is None else ex32b(s, w)[1]-2), 'only at the third'), (lambda s, w: (ex32b(s, w)[0], None if ex32b(s, w)[1] is None else ex32b(s, w)[1]+2), 'not of sets'),
    (lambda s, w: (ex32b(s, w)[0], 5), 'None')]

# %% why
# A set that swings between two answers looks stable at an even distance: the rule depends on the window. Asking three times guards a little. `Monitor` of notebook 32b asks the rows themselves instead.

# %% 3c explore (1 s)
# `scores` and `noise` are vectors of 30. Return the smallest factor (to 1 %) at which the top 8 of `scores + factor*noise` is another set, and the pair of layers `(out, in)` that change places there.

# %% solution
def ex32c(scores, noise):
    "Factor at which the top 8 loses its first layer; who leaves, who comes"
    ### BEGIN SOLUTION
    top = lambda s: set(choose_layers((scores+s*noise).tolist(), count=8))
    low, high, first = 0., 10., top(0.)
    for _ in range(40):
        mid = (low+high)/2
        low, high = (mid, high) if top(mid) == first else (low, mid)
    return high, (min(first-top(high)), min(top(high)-first))
    ### END SOLUTION

# %% check
def case_ex32c():
    gen = torch.Generator().manual_seed(0)
    return torch.rand(30, generator=gen, dtype=torch.float64)**2, torch.randn(30, generator=gen, dtype=torch.float64)*0.1

def check_ex32c(f):
    scores, noise = case_ex32c()
    order = scores.argsort(descending=True).tolist()
    meet = {(a, b): float((scores[a]-scores[b])/(noise[b]-noise[a])) for a in order[:8] for b in order[8:] if noise[b] > noise[a]}
    pair = min(meet, key=meet.get)
    a, b = order[7], order[8]
    factor, who = f(scores, noise) or (None, None)
    check_answer(factor, meet[pair], [(float(scores[a]-scores[b]), 'this is the gap between places 8 and 9; noise moves both, and others too'), (float((scores[a]-scores[b])/abs(noise[b]-noise[a])), 'places 8 and 9 are not the first to trade: look at all pairs'),
        (next(s/10 for s in range(1, 200) if (scores+s/10*noise).argsort(descending=True)[:8].tolist() != order[:8]), 'the *order* changed, not the set')], tol=0.01, name='factor')
    return check_answer(tuple(who or ()), pair, [(pair[::-1], 'the one that leaves first'), ((a, b), 'places 8 and 9 are not the first to trade')], name='pair')

# %% wrong
wrong_ex32c = [(lambda s, n: (float(s.sort(descending=True)[0][7]-s.sort(descending=True)[0][8]), ()), 'the gap'), (lambda s, n: ((lambda o: float((s[o[7]]-s[o[8]])/abs(n[o[8]]-n[o[7]])))(s.argsort(descending=True)), ()), 'look at all pairs'),
    (lambda s, n: (next(x/10 for x in range(1, 200) if (s+x/10*n).argsort(descending=True)[:8].tolist() != s.argsort(descending=True)[:8].tolist()), ()), 'the *order*'), (lambda s, n: (ex32c(s, n)[0], ex32c(s, n)[1][::-1]), 'leaves first')]

# %% why
# A pair trades places where the noise between them equals their gap. The layers around place 8 are the first to go, but not always 8 and 9; the top of the list is safe for long. That is why the notebook gives intervals of *places*, and why two selectors can agree on what matters and differ in a set.
