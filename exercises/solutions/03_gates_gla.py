# %% setup
import math, torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.gla import recurrent_gla

# %% 1a compute (1 s)
# Return the number of tokens.

# %% solution
def ex03a():
    "Half-life of a gate `logsigmoid(0)/16`, in tokens"
    ### BEGIN SOLUTION
    return 16
    ### END SOLUTION

# %% check
def check_ex03a(f):
    g, n, left = F.logsigmoid(torch.zeros(()))/16, 0, torch.ones(())
    while left > 0.5+1e-4: n, left = n+1, left*g.exp()
    return check_answer(f(), n, [(16*math.log(2), 'logsigmoid(0) is -ln 2, not -1'), (1, 'this is without the 16'), (32, 'sigmoid(0) is one half, its logarithm is not'), (1/16, 'tokens, not the gate')], tol=0.01)

# %% wrong
wrong_ex03a = [(lambda: 16*math.log(2), '-ln 2, not -1'), (lambda: 1, 'without the 16'), (lambda: 32, 'one half'), (lambda: 0.0625, 'not the gate')]

# %% why
# $g = \ln(1/2)/16$, and $e^{16 g} = 1/2$. Dividing a log gate by 16 makes its half-life 16 times as long; that is why GLA starts with this divisor.

# %% 2b implement (1 s)
# One head without batch: `q`, `k`, `g` `(T, K)`, `v` `(T, V)`, T a multiple of C, no scale. Use exactly the two factors that the notebook warns of; the check wants to see it fail at strong gates too.

# %% solution
def ex03b(q, k, v, g, C):
    "GLA by chunks, `exp(G)` on the queries and `exp(-G)` on the keys"
    ### BEGIN SOLUTION
    S, out = torch.zeros(k.shape[1], v.shape[1], dtype=v.dtype), []
    for q, k, v, g in zip(*(x.split(C) for x in (q, k, v, g))):
        G = g.cumsum(0)
        out.append(q*G.exp() @ S + ((q*G.exp()) @ (k*(-G).exp()).T).tril() @ v)
        S = G[-1].exp()[:, None]*S + (k*(G[-1]-G).exp()).T @ v
    return torch.cat(out)
    ### END SOLUTION

# %% check
def inputs_ex03b(strength, T=128, dtype=torch.float64):
    gen = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(T, n, generator=gen, dtype=dtype) for n in (6, 6, 5))
    return q, k, v, -strength*(torch.rand(T, 6, generator=gen, dtype=dtype) if dtype == torch.float64 else torch.ones(T, 6))

def check_ex03b(f):
    def matrix(q, k, v, g, C=0, shift=0, gate=True):
        G = g.cumsum(0)*gate
        D = G[:, None]-G[None]+(shift*g)[None]
        P = torch.einsum('ik,jk,ijk->ij', q, k, D.masked_fill(torch.ones(len(q), len(q)).triu(1)[..., None] > 0, -math.inf).exp())
        if C: P = P*(torch.arange(len(q))[:, None]//C == torch.arange(len(q))//C)
        return P @ v
    x = inputs_ex03b(0.3)
    want = recurrent_gla(*(y[None, :, None] for y in x), scale=1.)[0][0, :, 0]
    check_answer(f(*x, 16), want, [(matrix(*x, C=16), 'nothing passes from one chunk to the next: the state is missing'), (matrix(*x, gate=False), 'the gates are missing'),
        (matrix(*x, shift=1), 'a token is not decayed by its own gate: key j reaches query i with g of j+1 to i'), (want*6**-0.5, 'no scale here')], tol=1e-10)
    if f(*inputs_ex03b(3., dtype=torch.float32), 64).isfinite().all(): raise AssertionError('answer: finite at a gate of -3, so this is not the two-factor form; use exp(G) and exp(-G)')
    return 'ex03b: right'

# %% wrong
def safe_ex03b(q, k, v, g, C, own=True, cut=False, gate=1):
    S, out = torch.zeros(k.shape[1], v.shape[1], dtype=v.dtype), []
    for t in range(len(q)):
        if cut and t % C == 0: S = 0*S
        S = S*(gate*g[t]).exp()[:, None]+k[t][:, None]*v[t] if own else (S+k[t][:, None]*v[t])*g[t].exp()[:, None]
        out.append(q[t] @ S)
    return torch.stack(out)
wrong_ex03b = [(safe_ex03b, 'not the two-factor form'), (lambda *x: safe_ex03b(*x, own=False), 'its own gate'), (lambda *x: safe_ex03b(*x, cut=True), 'the state is missing'),
    (lambda *x: safe_ex03b(*x, gate=0), 'gates are missing'), (lambda *x: safe_ex03b(*x)*6**-0.5, 'no scale')]

# %% why
# In exact arithmetic the two factors are right. In float32 $e^{-G}$ leaves the range when the gates of a chunk sum to about $-88.7$, and infinity times zero is not a number.

# %% 2c explore (1 s)
# The second half of the exercise. Return the constant gate (a negative number, to 2 %) from which on the two-factor form at C = 64 in float32 gives something that is not finite.

# %% solution
def ex03c():
    "The weakest constant gate at which `exp(-G)` overflows"
    ### BEGIN SOLUTION
    return -math.log(torch.finfo(torch.float32).max)/64
    ### END SOLUTION

# %% check
def check_ex03c(f):
    low, high = 0., 10.
    for _ in range(30):
        mid = (low+high)/2
        low, high = (mid, high) if torch.full((64,), mid).cumsum(0).exp().isfinite().all() else (low, mid)
    return check_answer(f(), -high, [(high, 'the gate is a log decay: negative'), (-64*high, 'this is the sum over the chunk; per token it is a 64th'), (-709.78/64, 'this is float64; float32 ends at 3.4e38'),
        (-11.09/64, 'this is float16; float32 ends at 3.4e38')], tol=0.02)

# %% wrong
wrong_ex03c = [(lambda: 1.386, 'negative'), (lambda: -88.72, 'a 64th'), (lambda: -11.09, 'this is float64'), (lambda: -0.1733, 'this is float16')]

# %% why
# $64\,|g| = \ln(3.4\cdot10^{38}) = 88.7$, so $g = -1.386$: a half-life of half a token. One head with such a gate is enough to spoil a whole training run, which is why `DecayedScores` measures both decays from a border between the tokens.

# %% 3d explore (2 s)
# Write the gates: return `g` `(1, T, 1, K)`, channel 0 with a half-life of 5 tokens, the last one with 500, the others between on a logarithmic scale. The check stores the pairs, and tells what is left of the newest and of the oldest.

# %% solution
def ex03d(T, K):
    "Log decays with a half-life per channel, 5 to 500 tokens"
    ### BEGIN SOLUTION
    half = 5*100**torch.linspace(0, 1, K)
    return (-math.log(2)/half).expand(1, T, 1, K)
    ### END SOLUTION

# %% check
def check_ex03d(f):
    T, K, gen = 200, 64, torch.Generator().manual_seed(0)
    t, half = torch.linspace(0, 1, K), 5*100**torch.linspace(0, 1, K)
    full = lambda h: (-math.log(2)/h).expand(1, T, 1, K)
    g = f(T, K)
    check_answer(g, full(half), [(full(5+495*t), 'evenly spaced half-lives; on a logarithmic scale the *ratios* are equal'), (full(half)/math.log(2), 'e^(-1/h) is left after h tokens: a factor ln 2 makes it a half'),
        (full(half.flip(0)), 'channel 0 has the shortest half-life'), (-full(half), 'a log decay is at most 0'), (full(half).exp(), 'this is the decay; g is its logarithm')], tol=1e-4)
    k, v = F.normalize(torch.randn(1, T, 1, K, generator=gen), dim=-1), torch.randn(1, T, 1, K, generator=gen)
    def fit(g):
        S = recurrent_gla(k, k, v, g, output_final_state=True)[1]
        c = F.cosine_similarity(k[0, :, 0] @ S[0, 0], v[0, :, 0], dim=-1)
        return f'{float(c[-20:].mean()):.2f} and {float(c[:20].mean()):.2f}'
    return f'cosine of the newest 20 and the oldest 20: {fit(g)}; half-life 10 everywhere: {fit(full(torch.tensor(10.)))}; ex03d: right'

# %% wrong
wrong_ex03d = [(lambda T, K: (-math.log(2)/torch.linspace(5, 500, K)).expand(1, T, 1, K), 'evenly spaced'), (lambda T, K: ex03d(T, K)/math.log(2), 'makes it a half'), (lambda T, K: ex03d(T, K).flip(-1), 'channel 0'),
    (lambda T, K: -ex03d(T, K), 'at most 0'), (lambda T, K: ex03d(T, K).exp(), 'its logarithm'), (lambda T, K: ex03d(T, K)[0, 0, 0], 'shape')]

# %% why
# A sum of exponentials with half-lives spread on a log scale falls like a power law: no age at which memory ends, but each age is served by only some of the channels. The newest pairs are read less exactly than with half-life 10 everywhere, the oldest not lost.
