# %% setup
import math, random, statistics
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.bench import median_ratio

# %% 1a compute (1 s)
# Return two numbers: the bytes, and the milliseconds at $10^{10}$ bytes per second.

# %% solution
def ex08a():
    "Least bytes of a decode step at batch 32; milliseconds at 10 GB/s"
    ### BEGIN SOLUTION
    size = 2*32*8*64*64*4
    return size, size/10e9*1e3
    ### END SOLUTION

# %% check
def check_ex08a(f):
    size, ms = f() or (None, None)
    want = 0
    for sequence in range(32):
        for head in range(8): want += 64*64*4*(1+1)         # read, then written
    check_answer(size, want, [(want//2, 'the state is read *and* written'), (want//4, 'a float32 number has 4 bytes'), (want//32, 'each of the 32 sequences has a state of its own'), (want//8, 'eight heads')], name='bytes')
    return check_answer(ms, want/1e7, [(want/1e7/1000, 'milliseconds, not seconds'), (want/2**30/10*1e3, 'GB/s are powers of ten'), (want/1e7*8, 'bytes, not bits')], tol=1e-3, name='ms')

# %% wrong
wrong_ex08a = [(lambda: (4194304, 0), 'is read *and*'), (lambda: (2097152, 0), '4 bytes'), (lambda: (262144, 0), 'a state of its own'), (lambda: (1048576, 0), 'eight heads'), (lambda: (8388608, 0.00083886), 'not seconds'), (lambda: (8388608, 0.78125), 'powers of ten'), (lambda: (8388608, 6.7109), 'not bits')]

# %% why
# 8,388,608 bytes and 0.84 ms. The notebook's step takes 1.05 ms, 3.9 copies of the state on that machine: memory is what limits it, not arithmetic. At batch 1 the same sum gives 0.03 ms, and the measured 0.19 ms are calls of torch.

# %% 2b implement (1 s)
# `a` and `b` are lists of seconds, one per round, as `median_ratio` takes them.

# %% solution
def ex08b(a, b):
    "Ratio of the fastest rounds"
    ### BEGIN SOLUTION
    return min(a)/min(b)
    ### END SOLUTION

# %% check
def check_ex08b(f):
    a, b = [3.3, 2.5, 2.4, 3.6, 9.], [1.5, 1.2, 1.4, 1.25, 1.6]
    pairs = [x/y for x, y in zip(a, b)]
    return check_answer(f(list(a), list(b)), 2., [(min(pairs), 'the fastest of each, not the smallest ratio'), (median_ratio(a, b), 'this is `median_ratio`'), (0.5, 'a over b'), (sum(a)/sum(b), 'the fastest round, not the sum of all'), (statistics.median(a)/statistics.median(b), 'the fastest round, not the middle one'), (a[1]/b[1], 'the fastest of a may be in another round than that of b'), (max(a)/max(b), 'the fastest takes the fewest seconds')])

# %% wrong
wrong_ex08b = [(lambda a, b: min(x/y for x, y in zip(a, b)), 'smallest ratio'), (median_ratio, '`median_ratio`'), (lambda a, b: min(b)/min(a), 'a over b'), (lambda a, b: sum(a)/sum(b), 'the sum of all'), (lambda a, b: statistics.median(a)/statistics.median(b), 'the middle one'), (lambda a, b: a[b.index(min(b))]/min(b), 'another round'), (lambda a, b: max(a)/max(b), 'fewest seconds')]

# %% why
# The fastest round is the one in which least disturbed it, so it is a fair estimate where disturbances only add time; but it is a single round, and the two fastest ones need not be of the same moment.

# %% 2c explore (1 s)
# Two made-up machines; a always takes twice as long as b. `"drift"`: the clock changes from round to round, for both alike. `"spikes"`: more than half of the calls are interrupted, each for itself. `run(machine, n)` gives the lists `a` and `b` of 21 rounds of run `n`. Over 40 runs, return the standard deviation of the ratio of the fastest, and of `median_ratio`: two numbers for drift, then two for spikes.

# %% solution
def ex08c(run):
    "How much two ratios vary from run to run: fastest and median on drift, fastest and median on spikes"
    ### BEGIN SOLUTION
    fastest = lambda a, b: min(a)/min(b)
    return [statistics.stdev(ratio(*run(m, n)) for n in range(40)) for m in ('drift', 'spikes') for ratio in (fastest, median_ratio)]
    ### END SOLUTION

# %% check
def run_ex08c(machine, n, rounds=21):
    rng, a, b = random.Random(f'{machine} {n}'), [], []
    for _ in range(rounds):
        clock = math.exp(rng.gauss(0, 0.3)) if machine == 'drift' else 1.
        for times, size in ((a, 2.), (b, 1.)):
            late = 1+rng.expovariate(1.) if machine == 'spikes' and rng.random() < 0.6 else 1.
            times.append(size*clock*late*math.exp(rng.gauss(0, 0.04 if machine == 'drift' else 0.01)))
    return a, b

def check_ex08c(f):
    got, names = f(run_ex08c) or (None,)*4, ('fastest on drift', 'median on drift', 'fastest on spikes', 'median on spikes')
    if len(got) != 4: raise AssertionError(f'answer: four numbers, not {len(got)}')
    def spread(m, ratio): x = [ratio(*run_ex08c(m, n)) for n in range(40)]; c = sum(x)/40; return math.sqrt(sum((v-c)**2 for v in x)/39)
    want = [spread(m, r) for m in ('drift', 'spikes') for r in (lambda a, b: min(a)/min(b), lambda a, b: sorted(x/y for x, y in zip(a, b))[10])]
    for i, name in enumerate(names):
        check_answer(got[i], want[i], [(want[i]**2, 'the standard deviation is the root of the variance'), (2., 'this is the ratio itself; how much does it vary?'), *((w, f'this is {names[j]}') for j, w in enumerate(want) if j != i)], tol=1e-6, name=name)
    return 'ex08c: right'

# %% wrong
wrong_ex08c = [(lambda run: [x**2 for x in ex08c(run)], 'root of the variance'), (lambda run: [2.]*4, 'the ratio itself'), (lambda run: [ex08c(run)[i] for i in (1, 0, 3, 2)], 'fastest on drift: this is median on drift'), (lambda run: [ex08c(run)[i] for i in (2, 3, 0, 1)], 'fastest on drift: this is fastest on spikes'), (lambda run: [ex08c(run)[i] for i in (0, 0, 2, 2)], 'median on drift: this is fastest on drift'), (lambda run: ex08c(run)[:2], 'not 2')]

# %% why
# Drift: 0.098 for the fastest, 0.035 for the median; spikes: 0.013 and 0.224. What slows both calls of a round cancels in its ratio and not between two rounds; what hits single calls leaves the fastest ones clean, and moves a median as soon as half of the rounds are hit. A laptop drifts, so the course quotes medians; on a shared server look at both.

# %% 3d explore (1 s)
# The best size on your machine cannot be checked, so here is a made-up one: `ms(C, K, fixed)` is the time of 2048 tokens in chunks of `C` (any whole number), with the operations that notebook 08b counts and `fixed` microseconds for every chunk. Return two things: the list of the fastest of 16, 32, 64, 128 and 256 at K = 32, 64 and 128 with 20 microseconds, and by what factor the best `C` at K = 64, among all whole numbers to 256, grows when a chunk costs four times as much, 80.

# %% solution
def ex08d(ms):
    "Fastest chunk sizes at three widths; growth of the best size when a chunk costs four times as much"
    ### BEGIN SOLUTION
    best = lambda K, fixed, sizes: min(sizes, key=lambda C: ms(C, K, fixed))
    return [best(K, 20, (16, 32, 64, 128, 256)) for K in (32, 64, 128)], best(64, 80, range(1, 257))/best(64, 20, range(1, 257))
    ### END SOLUTION

# %% check
def ms_ex08d(C, K, fixed):
    return 2048*((10*C*K+6*K*K)/50e9+fixed*1e-6/C)*1e3

def check_ex08d(f):
    sizes, growth = f(ms_ex08d) or (None, None)
    ideal = lambda K, fixed: math.sqrt(fixed*1e-6*50e9/(10*K))      # where the slope of 10 C K/P + fixed/C is zero
    at = [min((16, 32, 64, 128, 256), key=lambda C: C/ideal(K, 20)+ideal(K, 20)/C) for K in (32, 64, 128)]
    check_answer(sizes, at, [([16]*3, 'fewer operations, but many chunks: measure the whole time'), ([256]*3, 'few chunks, but 10 C K operations per token'), (at[::-1], 'for K = 32 first'), ([min((16, 32, 64, 128, 256), key=lambda C: ms_ex08d(C, K, 80)) for K in (32, 64, 128)], 'with 20 microseconds for a chunk')], name='sizes')
    return check_answer(growth, ideal(64, 80)/ideal(64, 20), [(4., 'half of it: a larger chunk also has more operations per token'), (0.5, 'dearer chunks should be fewer, and larger'), (1., 'look at all whole numbers, not at powers of two')], tol=0.03, name='growth')

# %% wrong
wrong_ex08d = [(lambda ms: ([16]*3, 0), 'many chunks'), (lambda ms: ([256]*3, 0), '10 C K'), (lambda ms: (ex08d(ms)[0][::-1], 0), 'K = 32 first'), (lambda ms: ([min((16, 32, 64, 128, 256), key=lambda C: ms(C, K, 80)) for K in (32, 64, 128)], 0), 'with 20'), (lambda ms: (ex08d(ms)[0], 4.), 'half of it'), (lambda ms: (ex08d(ms)[0], 0.5), 'should be fewer'), (lambda ms: (ex08d(ms)[0], 1.), 'all whole numbers')]

# %% why
# 64, 32 and 32. The time per token is $10CK/P + f/C$ and a part without $C$, smallest at $C = \sqrt{fP/10K}$: 56, 40 and 28 here. It falls with the square root of the width and grows with that of the fixed cost, so a machine whose calls are dear wants larger chunks, and the valley is flat: a factor of two beside it costs a quarter of this part.
