# %% setup
import math
from hybrid_tutorial.core import check_answer

# %% 1a compute (1 s)
# Return two numbers: the tokens that go forward and backward in training, and the years of 365.25 days.

# %% solution
def ex30ea():
    "Tokens of all candidates; years at 140 tokens/s"
    ### BEGIN SOLUTION
    tokens = 30*3*200*10**6
    return tokens, tokens/140/(365.25*24*3600)
    ### END SOLUTION

# %% check
def check_ex30ea(f):
    tokens, years = f() or (None, None)
    want = sum(200_000_000 for seed in range(3) for layer in range(30))
    year = lambda n, speed=140: n/speed/86400/365.25
    check_answer(tokens, want, [(want/3, 'every candidate once for each of three seeds'), (want/30, 'thirty candidates, each with a run of its own'), (2*want, 'the same tokens go forward and come back; count them once'), (18*10**6, '200M is 200 million')], name='tokens')
    return check_answer(years, year(want), [(year(want/3), 'this is one seed'), (year(want)*365.25, 'these are days'), (year(3*want), 'the speed is that of a step, forward and backward')], tol=2e-3, name='years')

# %% wrong
wrong_ex30ea = [(lambda: (6*10**9, 0), 'each of three seeds'), (lambda: (6*10**8, 0), 'a run of its own'), (lambda: (36*10**9, 0), 'count them once'), (lambda: (18*10**6, 0), 'million'), (lambda: (18*10**9, 1.358), 'one seed'), (lambda: (18*10**9, 1488.1), 'days'), (lambda: (18*10**9, 12.22), 'of a step')]

# %% why
# 18 billion tokens, 4.07 years without a break. The forward-only selectors of notebook 30b score the same thirty layers on some thousand tokens in a minute; whether that is good enough is what notebook 33 asks.

# %% 2b implement (1 s)
# `records[seed][layer]` is a list as `Probe.records` has it, dicts with `step` and `loss`; `held[seed][layer]` are the KLs of held-out rows; both are by GA-S2, so lower is better. Ties go to the lower layer. Return two numbers: for how many seeds the two rankings differ, and for how many the first two layers differ as a set. (The means are those of ten real runs of the notebook's toy, 1536 tokens each.)

# %% solution
def ex30eb(records, held):
    "Seeds for which training loss and held-out KL rank differently; the same for the first two layers"
    ### BEGIN SOLUTION
    mean = lambda x: sum(x)/len(x)
    rank = lambda values: sorted(range(len(values)), key=lambda l: (values[l], l))
    train = [rank([mean([r['loss'] for r in layer[-10:]]) for layer in seed]) for seed in records]
    other = [rank([mean(rows) for rows in seed]) for seed in held]
    return sum(a != b for a, b in zip(train, other)), sum(set(a[:2]) != set(b[:2]) for a, b in zip(train, other))
    ### END SOLUTION

# %% check
TRAIN_ex30eb = [[0.77, 0.861, 0.8652, 0.6903, 0.8656], [0.8032, 0.8808, 0.8942, 0.6755, 0.8932], [0.781, 0.8577, 0.8704, 0.6514, 0.8731], [0.7565, 0.8534, 0.8495, 0.6388, 0.848], [0.7569, 0.8556, 0.8606, 0.674, 0.8437], [0.7738, 0.8677, 0.8713, 0.6649, 0.874], [0.7873, 0.8532, 0.8697, 0.6568, 0.8775], [0.7728, 0.8704, 0.8653, 0.6822, 0.8643], [0.7718, 0.8434, 0.844, 0.6533, 0.8433], [0.7496, 0.8127, 0.8151, 0.6515, 0.8195]]
HELD_ex30eb = [[0.7251, 0.8111, 0.7951, 0.6676, 0.8329], [0.7652, 0.8358, 0.8443, 0.6333, 0.8502], [0.7497, 0.7951, 0.8325, 0.631, 0.8163], [0.7221, 0.8131, 0.8015, 0.6501, 0.7895], [0.7457, 0.8005, 0.7867, 0.6306, 0.7959], [0.744, 0.8399, 0.8401, 0.6594, 0.8556], [0.7649, 0.82, 0.8166, 0.6608, 0.8529], [0.7172, 0.833, 0.8451, 0.646, 0.8304], [0.7451, 0.8196, 0.8329, 0.6199, 0.8301], [0.7183, 0.807, 0.7928, 0.6509, 0.8208]]

def runs_ex30eb():
    "16 steps and 4 rows around the means of ten runs"
    wave = lambda s, l, n: [0.06*math.sin(7*s+3*l+5*k) for k in range(n)]
    def steps(s, l, mean):
        w = wave(s, l, 16); off = sum(w[-10:])/10
        return [dict(stage='distill', step=k+1, tokens=96*(k+1), loss=mean+w[k]-off+(0.01*((s+2*l) % 5) if k < 6 else 0.)) for k in range(16)]
    rows = lambda s, l, mean: [mean+d for d in (0.1, -0.05, 0.02, -0.07)]
    return [[steps(s, l, m) for l, m in enumerate(x)] for s, x in enumerate(TRAIN_ex30eb)], [[rows(s, l, m) for l, m in enumerate(x)] for s, x in enumerate(HELD_ex30eb)]

def differ_ex30eb(score, first=5, sign=1., kind=list):
    records, held = runs_ex30eb()
    rank = lambda x: sorted(range(5), key=lambda l: (sign*x[l], l))[:first]
    return sum(kind(rank([score([r['loss'] for r in l]) for l in a])) != kind(sorted(range(5), key=lambda l: (sum(b[l]), l))[:first]) for a, b in zip(records, held))

def check_ex30eb(f):
    mean = lambda x: sum(x)/len(x)
    ten = lambda x: mean(x[-10:])
    got, pair = f(*runs_ex30eb()) or (None, None)
    hints = [(differ_ex30eb(lambda x: x[-1]), 'the mean of the last ten steps, not the last step'), (differ_ex30eb(mean), 'the last ten of 16 steps, not all'), (differ_ex30eb(ten, sign=-1.), 'a low loss is the better one'), (differ_ex30eb(ten, first=1), 'all places, not the first one only'), (10-differ_ex30eb(ten), 'this is for how many they agree')]
    check_answer(got, differ_ex30eb(ten), hints, name='rankings')
    return check_answer(pair, differ_ex30eb(ten, 2, kind=set), [(differ_ex30eb(ten), 'the first two layers only'), (10, 'for how many they differ')], name='first two')

# %% wrong
def rank_ex30eb(pick, sign=1, first=5):
    def f(records, held):
        order = lambda x: sorted(range(5), key=lambda l: (sign*x[l], l))[:first]
        n = sum(order([sum(r['loss'] for r in pick(l))/len(pick(l)) for l in a]) != sorted(range(5), key=lambda l: sum(b[l]))[:first] for a, b in zip(records, held))
        return n, 0
    return f
wrong_ex30eb = [(lambda r, h: (differ_ex30eb(lambda x: x[-1]), 0), 'not the last step'), (lambda r, h: (differ_ex30eb(lambda x: sum(x)), 0), 'of 16 steps'), (rank_ex30eb(lambda l: l[-10:], -1), 'the better one'), (rank_ex30eb(lambda l: l[-10:], first=1), 'the first one only'), (lambda r, h: (10-ex30eb(r, h)[0], 0), 'they agree'),
    (lambda r, h: (ex30eb(r, h)[0],)*2, 'the first two layers only'), (lambda r, h: (ex30eb(r, h)[0], 10), 'how many they differ')]

# %% why
# For 8 of ten seeds the rankings differ, and for none the first two layers, 3 and 0: each is at least 0.04 nats ahead of what comes next, while 1, 2 and 4 are within 0.04 of each other and change places with the seed as well. A training loss is measured on the batches just trained on, here 0.01 to 0.05 nats above the held-out KL; it finds what is large, and its order of the rest is noise.

# %% 3c explore (1 s)
# Real runs of the notebook's toy: `kl[budget][seed]` is the held-out KL of the five candidates of GA-S2, three seeds for 96 and 384 tokens, ten for 1536. Rank by the mean over the seeds that there are. Return three things: the smallest budget with the ranking of 1536, the smallest with its first two layers in order, and how many of the ten seeds of 1536 have, each alone, the ranking of their mean.

# %% solution
def ex30ec(kl):
    "Budget that settles the ranking; budget that settles two layers; seeds that agree with their mean"
    ### BEGIN SOLUTION
    rank = lambda x: sorted(range(5), key=lambda l: (x[l], l))
    order = {b: rank([sum(col) for col in zip(*runs)]) for b, runs in kl.items()}
    first = lambda n: min(b for b in kl if order[b][:n] == order[1536][:n])
    return first(5), first(2), sum(rank(x) == order[1536] for x in kl[1536])
    ### END SOLUTION

# %% check
def kl_ex30ec():
    return {96: [[0.5703, 0.6563, 0.6626, 0.4285, 0.6616], [0.5703, 0.6563, 0.6626, 0.4285, 0.6616], [0.5703, 0.6563, 0.6626, 0.4285, 0.6616]],
            384: [[0.657, 0.7612, 0.7559, 0.5635, 0.7593], [0.6566, 0.7865, 0.7832, 0.5599, 0.7935], [0.6579, 0.7652, 0.7584, 0.5703, 0.7599]],
            1536: [list(x) for x in HELD_ex30ec]}
HELD_ex30ec = [[0.7251, 0.8111, 0.7951, 0.6676, 0.8329], [0.7652, 0.8358, 0.8443, 0.6333, 0.8502], [0.7497, 0.7951, 0.8325, 0.631, 0.8163], [0.7221, 0.8131, 0.8015, 0.6501, 0.7895], [0.7457, 0.8005, 0.7867, 0.6306, 0.7959], [0.744, 0.8399, 0.8401, 0.6594, 0.8556], [0.7649, 0.82, 0.8166, 0.6608, 0.8529], [0.7172, 0.833, 0.8451, 0.646, 0.8304], [0.7451, 0.8196, 0.8329, 0.6199, 0.8301], [0.7183, 0.807, 0.7928, 0.6509, 0.8208]]

def check_ex30ec(f):
    kl, got = kl_ex30ec(), f(kl_ex30ec()) or (None,)*3
    place = lambda x: [sorted(x).index(v) for v in x]
    mean = {b: place([sum(x[l] for x in runs)/len(runs) for l in range(5)]) for b, runs in kl.items()}
    want = min(b for b in mean if mean[b] == mean[1536])
    check_answer(got[0], want, [(96, 'there 4 comes before 2'), (384, 'there 2 comes before 1'), (0, 'a budget, 96, 384 or 1536')], name='ranking')
    two = lambda m: [l for p in (0, 1) for l in range(5) if m[l] == p]
    check_answer(got[1], min(b for b in mean if two(mean[b]) == two(mean[1536])), [(384, 'a smaller one has them already'), (1536, 'a smaller one has them already: compare two places only')], name='two layers')
    same = sum(place(x) == mean[1536] for x in kl[1536])
    return check_answer(got[2], same, [(10-same, 'this is how many do not'), (10, 'compare all five places'), (sum(place(x) == place([sum(c) for c in zip(*kl[1536][:3])]) for x in kl[1536][:3]), 'all ten seeds, not three')], name='seeds')

# %% wrong
wrong_ex30ec = [(lambda kl: (96, 0, 0), '4 comes before 2'), (lambda kl: (384, 0, 0), '2 comes before 1'), (lambda kl: (0, 0, 0), 'a budget'), (lambda kl: (1536, 384, 0), 'two layers: a smaller one has them already'), (lambda kl: (1536, 1536, 0), 'two places only'), (lambda kl: (1536, 96, 8), 'do not'), (lambda kl: (1536, 96, 10), 'all five places'), (lambda kl: (1536, 96, 1), 'not three')]

# %% why
# Layers 3 and 0 lead from the first step on; the order of 2, 1 and 4 is never the same, and at 1536 tokens only 2 of ten seeds have the order of their mean. So the question has no answer beyond the second place: no budget settles what seeds do not agree on. (The three seeds of 96 tokens are one run: a single batch has a single order.)
