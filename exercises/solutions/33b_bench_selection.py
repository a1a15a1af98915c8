# %% setup
import statistics
from hybrid_tutorial.core import check_answer

# %% 1a compute (1 s)
# 30 layers, without the passes of teacher and base. Return two numbers: the share for $c = 0.25$, and the $c$ at which the share is 0.8.

# %% solution
def ex33ba():
    "Share of the work that prefix reuse leaves at c = 0.25; the c for 0.8"
    ### BEGIN SOLUTION
    trunk = 31/60                       # of L trunks, each candidate from its own layer
    return (trunk+0.25)/(1+0.25), (0.8-trunk)/(1-0.8)
    ### END SOLUTION

# %% check
def check_ex33ba(f):
    L, got = 30, f() or (None, None)
    def share(c, trunk=lambda l: (L-l)/L): return sum(trunk(l)+c for l in range(L))/(L*(1+c))
    def meet(share):
        low, high = 0., 100.
        for _ in range(60): mid = (low+high)/2; low, high = (mid, high) if share(mid) < 0.8 else (low, mid)
        return high
    check_answer(got[0], share(0.25), [(share(0.25, lambda l: (L-l-1)/L), 'candidate l runs layer l too: (L+1)/2, not (L-1)/2'), (31/60, 'only the trunk is shared; each candidate has its own head and KL'), (0.6, 'half is nearly right: it is (L+1)/2 of L'), (1/share(0.25), 'this is the speed-up')], tol=1e-4, name='share')
    return check_answer(got[1], meet(share), [(1.5, 'half is nearly right: it is (L+1)/2 of L'), (meet(lambda c: share(c, lambda l: (L-l-1)/L)), 'candidate l runs layer l too'), (0.8-31/60, 'both sides hold c: (31/60 + c)/(1 + c)')], tol=1e-4, name='c')

# %% wrong
wrong_ex33ba = [(lambda: ((29/60+0.25)/1.25, 0), 'not (L-1)/2'), (lambda: (31/60, 0), 'own head and KL'), (lambda: (0.6, 0), 'share: half'), (lambda: (1/ex33ba()[0], 0), 'speed-up'), (lambda: (ex33ba()[0], 1.5), 'c: half'), (lambda: (ex33ba()[0], (0.8-29/60)/0.2), 'c: candidate'), (lambda: (ex33ba()[0], 0.8-31/60), 'both sides')]

# %% why
# $(31/60+0.25)/1.25 = 0.61$, and 0.8 at $c = 1.42$. Reuse saves trunk only; where the head is as dear as the trunk, as in a small model with a large vocabulary, a half becomes three quarters. On the notebook's toy of 12 layers a measured share of 0.69 says that head and bookkeeping weigh about half of a pass.

# %% 2b implement (1 s)
# `a` and `b` are functions without arguments, `clock()` tells the time in seconds. Time each once per round, `b` first in every second round, and return the median over rounds of the ratio of their times, a/b. The check's clock belongs to a machine that grows slower and slower, and that once is busy with something else.

# %% solution
def ex33bb(a, b, rounds, clock):
    "Median over rounds of the time of a over that of b, in turning order"
    ### BEGIN SOLUTION
    def seconds(f): began = clock(); f(); return clock()-began
    ratios = []
    for r in range(rounds):
        if r % 2: y = seconds(b); x = seconds(a)
        else: x = seconds(a); y = seconds(b)
        ratios.append(x/y)
    return statistics.median(ratios)
    ### END SOLUTION

# %% check
class Machine_ex33bb:
    "Each piece of work takes 4 % longer than the one before; the fourth of a takes ten times as long"
    def __init__(self): self.now, self.ran = 0., []
    def clock(self): return self.now
    def work(self, name, size):
        def f():
            self.ran.append(name)
            self.now += size*1.04**len(self.ran)*(10 if self.ran.count('a') == 4 and name == 'a' else 1)
        return f

def by_ex33bb(how, rounds=6):
    "The answer of a way to measure"
    m = Machine_ex33bb()
    a, b = m.work('a', 1.5), m.work('b', 2.)
    return how(a, b, rounds, m.clock), m.ran

def ratio_ex33bb(turn=True, blocks=False, end=statistics.median, whole=False):
    def how(a, b, rounds, clock):
        def seconds(f): began = clock(); f(); return clock()-began
        if blocks: xs = [seconds(a) for _ in range(rounds)]; ys = [seconds(b) for _ in range(rounds)]
        else:
            xs, ys = [], []
            for r in range(rounds):
                for n in ('b', 'a') if turn and r % 2 else ('a', 'b'): (xs if n == 'a' else ys).append(seconds(dict(a=a, b=b)[n]))
        return end(xs)/end(ys) if whole else end([x/y for x, y in zip(xs, ys)])
    return how

def check_ex33bb(f):
    got, ran = by_ex33bb(f)
    want = by_ex33bb(ratio_ex33bb())[0]
    slow = [(by_ex33bb(ratio_ex33bb(end=statistics.fmean))[0], 'one bad round moves a mean; the median of the ratios'),
        (by_ex33bb(ratio_ex33bb(end=sum, whole=True))[0], 'a ratio for each round, not one of the sums: a bad round decides it'), (by_ex33bb(ratio_ex33bb(whole=True))[0], 'a ratio for each round; the medians of a and b come from different moments'), (by_ex33bb(ratio_ex33bb(end=min, whole=True))[0], 'the fastest of a and of b are from different moments'), (1/want, 'a/b, not b/a')]
    if got is not None and len(ran) != 12: raise AssertionError(f'answer: each once per round, 12 calls in 6 rounds; there were {len(ran)}')
    if ran == ['a']*6+['b']*6: raise AssertionError('answer: all of a, then all of b: the machine was slower for b; time them in turn')
    if ran == ['a', 'b']*6: raise AssertionError('answer: a is always first, and b always finds a slower machine; turn the order in every second round')
    return check_answer(got, want, slow, tol=1e-9)

# %% wrong
wrong_ex33bb = [(ratio_ex33bb(blocks=True), 'all of b'), (ratio_ex33bb(turn=False), 'always first'), (ratio_ex33bb(end=statistics.fmean), 'moves a mean'), (ratio_ex33bb(end=sum, whole=True), 'of the sums'), (ratio_ex33bb(whole=True), 'the medians of a'), (ratio_ex33bb(end=min, whole=True), 'the fastest of a'), (lambda *a: 1/ex33bb(*a), 'not b/a'),
    (lambda a, b, n, clock: (a(), b(), ex33bb(a, b, n, clock))[2], '12 calls')]

# %% why
# The true ratio is 0.75. In turning order the median is 0.751; with a always first it is 0.72, one after the other 0.59, and the mean of the same six ratios 1.92, because of one bad round. `kl_removal` toggles as many layers as `kl`, each from its own layer up, and its teacher runs twice, as judge and as base: $2L + L(L+1)/2$ layer evaluations for both.

# %% 3c explore (1 s)
# Times of a GPU or a CPU cannot be checked, so here is a made-up one: `seconds(side, batch_size)` for `"separate"` and `"kl"`, 12 layers, 8 rows of 128 tokens; every call of a layer or of the head costs a fixed time and a time per token. Return three numbers: the fastest batch size for `kl` of 1, 2, 4 and 8, and the ratio kl/separate at batch size 1 and at 8.

# %% solution
def ex33bc(seconds):
    "Fastest batch size; kl over separate passes at 1 and at 8"
    ### BEGIN SOLUTION
    ratio = lambda b: seconds('kl', b)/seconds('separate', b)
    return min((1, 2, 4, 8), key=lambda b: seconds('kl', b)), ratio(1), ratio(8)
    ### END SOLUTION

# %% check
def seconds_ex33bc(side, batch_size, L=12, rows=8, T=128):
    "Counted call by call: 0.4 ms and 1 us per token for a layer, 0.1 ms and 6 us per token for the head with its KL"
    total = 0.
    for part in range(0, rows, batch_size):
        tokens = batch_size*T
        layer, head = 4e-4+1e-6*tokens, 1e-4+6e-6*tokens
        total += L*layer+head*0.5                                       # the teacher and what it leaves behind
        if side == 'kl': total += L*layer                               # the base
        for l in range(L): total += (L-l if side == 'kl' else L)*layer+head
    return total

def check_ex33bc(f):
    best, one, eight = f(seconds_ex33bc) or (None,)*3
    ratio = lambda b: seconds_ex33bc('kl', b)/seconds_ex33bc('separate', b)
    check_answer(best, 8, [(1, 'this has the best ratio and is the slowest: many small calls pay the fixed time many times')], name='fastest')
    check_answer(one, ratio(1), [(1/ratio(1), 'kl over separate'), (ratio(8), 'this is batch size 8'), (13/24, 'head, base and teacher cost something too; ask `seconds`')], tol=1e-6, name='ratio at 1')
    return check_answer(eight, ratio(8), [(ratio(1), 'it is not the same at 8'), (1/ratio(8), 'kl over separate'), (seconds_ex33bc('kl', 8)/seconds_ex33bc('separate', 1), 'both at batch size 8')], tol=1e-6, name='ratio at 8')

# %% wrong
wrong_ex33bc = [(lambda s: (1, 0, 0), 'many times'), (lambda s: (8, 1/ex33bc(s)[1], 0), 'at 1: kl over'), (lambda s: (8, ex33bc(s)[2], 0), 'batch size 8'), (lambda s: (8, 13/24, 0), 'cost something'), (lambda s: (8, ex33bc(s)[1], ex33bc(s)[1]), 'not the same'), (lambda s: (8, ex33bc(s)[1], 1/ex33bc(s)[2]), 'at 8: kl over'), (lambda s: (8, ex33bc(s)[1], s('kl', 8)/s('separate', 1)), 'both at')]

# %% why
# Batch size 8 is the fastest, 0.22 s against 0.52 s, and its ratio is the worse one, 0.74 against 0.69: large batches take the fixed time out of the trunk, which is what reuse saves, and leave the head, which it does not. A ratio belongs to a setting; quote both.
