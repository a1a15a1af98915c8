# %% setup
import torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer, rms_error
from hybrid_tutorial.ops.gla import all_pairs

# %% 1a compute (1 s)
# Tokens count from 0. Return two triples: rung, last token before the border, first token after it; for 13 and 6, and for 13 and 9.

# %% solution
def ex06ba():
    "Rung and border of the pairs (13, 6) and (13, 9)"
    ### BEGIN SOLUTION
    def rung(i, j):
        r = (i ^ j).bit_length()-1
        middle = i >> r << r
        return r, middle-1, middle
    return rung(13, 6), rung(13, 9)
    ### END SOLUTION

# %% check
def check_ex06ba(f):
    def place(i, j):                                # the smallest block of 2, 4, 8, ... tokens that holds both
        size = next(n for n in (2, 4, 8, 16, 32, 64) if i//n == j//n)
        middle = i//size*size+size//2
        return size.bit_length()-2, middle-1, middle
    one, two = f() or (None, None)
    check_answer(one, place(13, 6), [((4, 7, 8), 'the lowest bit is bit 0'), ((0, 7, 8), 'the highest bit in which they differ, not the lowest'), ((3, 8, 9), 'token 8 already lies in the right half'), ((3, 9, 10), 'the border is the middle of the block 0 to 15, not of the pair'), ((2, 7, 8), 'the block of 8 tokens from 8 on holds 13 but not 6')], name='13 and 6')
    return check_answer(two, place(13, 9), [((2, 7, 8), 'both lie after 8; their block is 8 to 15'), ((2, 10, 11), 'the middle of the block 8 to 15, not of the pair'), ((3, 7, 8), 'both lie after 8, so bit 3 is the same'), ((3, 11, 12), 'the lowest bit is bit 0'), ((2, 12, 13), 'the border is the middle of the block, not before the reader')], name='13 and 9')

# %% wrong
wrong_ex06ba = [(lambda: ((4, 7, 8), (3, 11, 12)), '6: the lowest bit'), (lambda: ((0, 7, 8), (2, 11, 12)), 'not the lowest'), (lambda: ((3, 8, 9), (2, 11, 12)), 'right half'), (lambda: ((3, 9, 10), (2, 11, 12)), '0 to 15, not'), (lambda: ((2, 7, 8), (2, 11, 12)), 'but not 6'),
    (lambda: ((3, 7, 8), (2, 7, 8)), 'their block is'), (lambda: ((3, 7, 8), (2, 10, 11)), '8 to 15, not'), (lambda: ((3, 7, 8), (3, 7, 8)), 'bit 3 is the same'), (lambda: ((3, 7, 8), (3, 11, 12)), '9: the lowest'), (lambda: ((3, 7, 8), (2, 12, 13)), 'before the reader')]

# %% why
# $13 = 1101_2$ and $6 = 0110_2$ differ from bit 3 on: rung 3, the block 0 to 15, border between 7 and 8. $9 = 1001_2$ differs first in bit 2: the block 8 to 15, border between 11 and 12. Decays up to the border belong to the key, those after it to the query, and every pair has exactly one rung.

# %% 2b implement (1 s)
# `q`, `k` are `(C, K)` in float64, `g` is `(C,)`; return the scores `(C, C)`, zeros above the diagonal. The check also feeds gates of minus infinity.

# %% solution
def ex06bb(q, k, g):
    "Decayed scores with one decay per head: one product"
    ### BEGIN SOLUTION
    G = g.clamp(min=-800.).cumsum(0)                # exp(-800) is 0
    return (q @ k.T)*(G[:, None]-G).tril().exp().tril()
    ### END SOLUTION

# %% check
def check_ex06bb(f):
    gen = torch.Generator().manual_seed(4)
    q, k = (torch.randn(32, 16, generator=gen, dtype=torch.float64) for _ in range(2))
    g = F.logsigmoid(torch.randn(32, generator=gen, dtype=torch.float64))
    def scores(g, own=0):                           # products of decays, pair by pair
        a, D = g.exp(), torch.zeros(32, 32, dtype=torch.float64)
        for i in range(32):
            for j in range(i+1): D[i, j] = a[j+1-own:i+1-own].prod()
        return (q @ k.T)*D
    G = g.cumsum(0)
    check_answer(f(q, k, g), scores(g), [((q @ k.T).tril(), 'the decay is missing'), (scores(g, 1), "the key's own gate fades what was there before it, not the key: the decays after j, up to i"), ((q @ k.T)*(G[:, None]-G).exp(), 'the future is visible: a lower triangle'), ((q @ k.T).tril()*(G-G[:, None]).exp(), 'decays at most 1: G_i - G_j, not G_j - G_i'),
        (((q @ k.T)*(G[:, None]-G).exp()).tril(-1), 'a token sees itself')], tol=1e-10, name='scores')
    hard = g.clone()
    hard[::4] = -torch.inf
    got = f(q, k, hard)
    if not got.isfinite().all(): raise AssertionError('scores: not a number, from infinity minus infinity; a gate small enough to give 0 is small enough')
    return check_answer(got, scores(hard), [(scores(hard.masked_fill(hard.isinf(), 0.)), 'a closed gate became an open one: a gate of 0 keeps everything'), (scores(hard.clamp(min=-5.)), 'a closed gate lets nothing through; this one leaks')], tol=1e-10, name='closed gates')

# %% wrong
def running_ex06bb(q, k, g, low=-800.): return (q @ k.T)*((G := g.clamp(min=low).cumsum(0))[:, None]-G).tril().exp().tril()
wrong_ex06bb = [(lambda q, k, g: (q @ k.T).tril(), 'the decay is missing'), (lambda q, k, g: (q @ k.T)*((G := g.cumsum(0))[:, None]-G).exp(), 'the future is visible'), (lambda q, k, g: (q @ k.T).tril()*((G := g.cumsum(0))-G[:, None]).exp(), 'G_i - G_j'),
    (lambda q, k, g: running_ex06bb(q, k, torch.cat([0*g[:1], g[:-1]])), 'own gate'), (lambda q, k, g: running_ex06bb(q, k, g).tril(-1), 'sees itself'), (lambda q, k, g: ((q @ k.T)*((G := g.cumsum(0))[:, None]-G).exp()).tril(), 'infinity minus infinity'), (lambda q, k, g: running_ex06bb(q, k, g, -5.), 'this one leaks'),
    (lambda q, k, g: running_ex06bb(q, k, g.masked_fill(g.isinf(), 0.)), 'became an open one')]

# %% why
# The decay does not depend on the channel, so it comes out of the sum: one product and a matrix of decays, whose exponents $G_i-G_j \le 0$ cannot overflow. With a decay per channel the exponential sits inside the sum, and only a border makes it a product of two sides: that is what the rungs are for, and why notebook 06c needs none.

# %% 3c explore (2 s)
# `exact(q, k, g, b)` gives the scores inside blocks of `b` tokens, `(64/b, b, b)`, from float64. Take the short cut in float32 with `q`, `k` `(64, 16)` and a gate that is the same at every token and channel. Return three numbers, the largest `b` of 2, 4, 8, ... 64 whose relative error is below 1e-3, for gates of -1, -6 and -30.

# %% solution
def ex06bc(exact, q, k):
    "Largest block for the short cut, for gates of -1, -6 and -30"
    ### BEGIN SOLUTION
    def error(b, gate):
        g = torch.full_like(q, gate)
        cut = lambda x: x.unflatten(0, (-1, b))
        G = cut(g).cumsum(1)
        got = ((cut(q)*G.exp()) @ (cut(k)*(-G).exp()).mT).tril()
        return rms_error(got, exact(q, k, g, b)) if got.isfinite().all() else float('inf')
    return tuple(max(b for b in (2, 4, 8, 16, 32, 64) if error(b, gate) < 1e-3) for gate in (-1., -6., -30.))
    ### END SOLUTION

# %% check
def exact_ex06bc(q, k, g, b):
    cut = lambda x: x.double().unflatten(0, (-1, b))
    G = cut(g).cumsum(1)
    return all_pairs(cut(q), G, cut(k), G)

def check_ex06bc(f):
    gen = torch.Generator().manual_seed(0)
    q, k = (torch.randn(64, 16, generator=gen) for _ in range(2))
    fits = lambda gate, top: max(b for b in (1, 2, 4, 8, 16, 32, 64) if -gate*b < top or b == 1)
    gates, top = (-1, -6, -30), float(torch.tensor(torch.finfo(torch.float32).max).log())
    want = tuple(fits(g, top) for g in gates)
    return check_answer(f(exact_ex06bc, q, k), want, [((64, 64, 64), 'look at the values: infinity times 0 is not a number, and a comparison with it is never true'), (tuple(2*b for b in want), 'twice these: the last key of a block is multiplied by exp(-G), and float32 ends at exp(88.7)'),
        ((64, 16, 4), 'the exponent of the last token of 16 is 96, and float32 ends at exp(88.7)'), (tuple(fits(g, 709) for g in gates), 'this is float64'), (tuple(fits(g, 11) for g in gates), 'this is float16, which ends at exp(11)')])

# %% wrong
wrong_ex06bc = [(lambda *a: (64, 64, 64), 'is never true'), (lambda *a: (128, 16, 4), 'twice these'), (lambda *a: (64, 16, 4), 'is 96'), (lambda exact, q, k: ex06bc(exact, q.double(), k.double()), 'float64'), (lambda *a: (8, 1, 1), 'float16')]

# %% why
# 64, 8 and 2: the short cut holds while $b\,|g| < 88.7$, so its block depends on the data, and a gate can always be closed further. Starting at 4 saves two of six rungs for gates above -22 and fails below, silently as NaN. The ladder multiplies numbers at most 1 and has no such limit; blocks of 16 (`D`) only choose which product makes a rung.
