# %% setup
import math, torch
from hybrid_tutorial.core import check_answer, rms_error
from hybrid_tutorial.ops.mamba2 import recurrent_mamba2

# %% 1a compute (1 s)
# Return three numbers: the half-life, the $\Delta$ for a half-life of 1,000 tokens, and the limit of the state for the first $\Delta$.

# %% solution
def ex05ca():
    "Half-life for a step of 0.05; step for a half-life of 1,000; limit of the state"
    ### BEGIN SOLUTION
    return math.log(2)/0.05, math.log(2)/1000, 0.05/(1-math.exp(-0.05))
    ### END SOLUTION

# %% check
def check_ex05ca(f):
    tokens, step, limit = f() or (None, None, None)
    one = lambda x: torch.full((1, 600, 1, 1), x, dtype=torch.float64)
    S = recurrent_mamba2(one(1.), one(1.), one(0.05), one(-0.05)[..., 0], scale=1.)[0]
    check_answer(tokens, math.log(0.5)/-0.05, [(20., 'in 20 tokens it falls to 1/e'), (10., 'not half of 1/Delta: it falls by a factor at every token'), (math.log(0.5)/math.log(1-0.05), 'the decay is exp(Delta A), not 1 + Delta A')], tol=1e-3, name='half-life')
    check_answer(step, -math.log(0.5**(1/1000)), [(0.001, 'this falls to 1/e in 1,000 tokens'), (0.5**(1/1000), 'this is the decay; Delta is minus its logarithm')], tol=1e-3, name='step')
    return check_answer(limit, float(S[0, -1, 0, 0]), [(1/(1-math.exp(-0.05)), 'the value that is written is Delta times x'), (1., 'nearly; the sum of a geometric series, exactly'), (math.inf, 'something is forgotten at every token')], tol=1e-4, name='limit')

# %% wrong
wrong_ex05ca = [(lambda: (20, 0, 0), 'half-life: in 20'), (lambda: (10., 0, 0), 'not half of'), (lambda: (13.51, 0, 0), 'not 1 + Delta A'), (lambda: (13.863, 0.001, 1.0252), 'in 1,000 tokens'), (lambda: (13.863, 0.99931, 0), 'minus its logarithm'),
    (lambda: (13.863, 6.9315e-4, 20.504), 'is Delta times x'), (lambda: (13.863, 6.9315e-4, 1.), 'nearly'), (lambda: (13.863, 6.9315e-4, math.inf), 'is forgotten')]

# %% why
# $\ln 2/0.05 = 13.9$ tokens, $\Delta = 0.00069$ for 1,000. The limit is $\Delta/(1-e^{-\Delta}) = 1.025$: one number sets how long a token is kept *and* how much of it is written, so the state stays near 1 for every half-life. It is the balance of notebook 05, to first order.

# %% 2b implement (1 s)
# All four are `(B, T, H, K)`, as many query heads as value heads; the result is `(B, T, H)`. `dq` and `dk` are the finished gradients of queries and keys.

# %% solution
def ex05cb(q, dq, k, dk):
    "Gradient of the log decays of a run from an empty state"
    ### BEGIN SOLUTION
    dG = (q*dq-k*dk).sum(-1)
    return dG.flip(1).cumsum(1).flip(1)
    ### END SOLUTION

# %% check
def check_ex05cb(f):
    gen = torch.Generator().manual_seed(3)
    q, k, v, do = (torch.randn(2, 11, 3, n, generator=gen, dtype=torch.float64) for n in (4, 4, 5, 5))
    g = -torch.rand(2, 11, 3, generator=gen, dtype=torch.float64)
    xs = [x.clone().requires_grad_() for x in (q, k, v, g)]
    with torch.enable_grad(): dq, dk, _, dg = torch.autograd.grad(recurrent_mamba2(*xs)[0], xs, do)
    dG = (q*dq-k*dk).sum(-1)
    later = lambda x: x.flip(1).cumsum(1).flip(1)
    return check_answer(f(q, dq, k, dk), dg, [(dG, 'this is the gradient of the running sum G; a gate is in the G of every later token'), (dG.cumsum(1), 'a gate counts for the tokens after it: sum from the end'), (-dg, 'queries gain by G, keys lose: q dq minus k dk'),
        (later(dG)-dG, 'the gate of token t also fades what query t reads'), (later((q*dq+k*dk).sum(-1)), 'queries gain by G, keys lose: a minus between them'), (later((q*dq).sum(-1)), 'k dk is missing: what is written late fades less'), (later(dG)/4, 'a sum over the channels, not a mean')], tol=1e-10)

# %% wrong
def later_ex05cb(x): return x.flip(1).cumsum(1).flip(1)
wrong_ex05cb = [(lambda q, dq, k, dk: (q*dq-k*dk).sum(-1), 'of the running sum'), (lambda q, dq, k, dk: (q*dq-k*dk).sum(-1).cumsum(1), 'sum from the end'), (lambda q, dq, k, dk: later_ex05cb((k*dk-q*dq).sum(-1)), 'q dq minus k dk'),
    (lambda q, dq, k, dk: later_ex05cb((q*dq-k*dk).sum(-1))-(q*dq-k*dk).sum(-1), 'what query t reads'), (lambda q, dq, k, dk: later_ex05cb((q*dq+k*dk).sum(-1)), 'a minus between'), (lambda q, dq, k, dk: later_ex05cb((q*dq).sum(-1)), 'k dk is missing'), (lambda q, dq, k, dk: later_ex05cb((q*dq-k*dk).mean(-1)), 'not a mean')]

# %% why
# The pair $(i, j)$ holds $e^{G_i-G_j}$, so each pair adds the same number to $G_i$ that it takes from $G_j$, and the sums over pairs are already there: $\mathrm{d}G_t = q_t\cdot\mathrm{d}q_t - k_t\cdot\mathrm{d}k_t$. $G_t$ is a running sum, so its gradient runs back. No $T \times T$ matrix is formed, which is how the kernels do it.

# %% 3c explore (1 s)
# Steps are 0.01 but for tokens 20, 40 and 60 (the first token is 0), where they are `big`; A = -1, the values are written as they are. `read(big)` is the output for 80 tokens, `read(0.01, borders)` that of four packed texts. Return the `borders` that large steps stand for, as a list, and the smallest whole `big` at which the two outputs agree to 1 %.

# %% solution
def ex05cc(read):
    "Borders of the packed texts, and the smallest step that separates them"
    ### BEGIN SOLUTION
    borders = [0, 20, 40, 60, 80]
    apart = read(0.01, borders)
    return borders, next(big for big in range(1, 100) if rms_error(read(big), apart) <= 0.01)
    ### END SOLUTION

# %% check
def read_ex05cc(big, borders=None):
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 80, 1, 8, generator=gen, dtype=torch.float64) for _ in range(3))
    dt = torch.full((1, 80, 1), 0.01, dtype=torch.float64)
    dt[:, 20::20] = big
    return recurrent_mamba2(q, k, v, -dt, cu_seqlens=None if borders is None else torch.tensor(borders))[0]

def check_ex05cc(f):
    borders, big = f(read_ex05cc) or (None, None)
    if borders is None: raise AssertionError('borders: nothing was returned')
    check_answer([int(b) for b in borders], [0, 20, 40, 60, 80], [([20, 40, 60], 'borders include 0 and the end'), ([0, 21, 41, 61, 80], 'a token fades the state first and writes then: token 20 begins a text'),
        ([0, 19, 39, 59, 80], 'token 19 still sees the first text; its own step is small'), ([0, 20, 40, 60], 'the last border is the end, 80')], name='borders')
    apart = read_ex05cc(0.01, [0, 20, 40, 60, 80])
    first = lambda tol: next(b for b in range(1, 100) if rms_error(read_ex05cc(b), apart) <= tol)
    return check_answer(big, first(0.01), [(first(0.1), '1 %, not 10 %'), (first(0.001), 'this is enough for 0.1 %'), (100, 'the step is in the exponent: it need not be so large'), (first(0.02), 'nearly: this leaves 1.9 %')], name='big')

# %% wrong
wrong_ex05cc = [(lambda read: ([20, 40, 60], 5), 'include 0'), (lambda read: ([0, 21, 41, 61, 80], 5), 'writes then'), (lambda read: ([0, 19, 39, 59, 80], 5), 'still sees'), (lambda read: ([0, 20, 40, 60], 5), 'the last border'),
    (lambda read: ([0, 20, 40, 60, 80], 3), 'not 10 %'), (lambda read: ([0, 20, 40, 60, 80], 4), 'nearly'), (lambda read: ([0, 20, 40, 60, 80], 7), 'for 0.1 %'), (lambda read: ([0, 20, 40, 60, 80], 100), 'need not be so large')]

# %% why
# $e^{-5} = 0.7$ % of the state survives a step of 5, and the decay matrix falls into four triangles: the model itself says "a new text begins here", token by token, where softmax attention needs a mask from outside. The same step multiplies what is written there in Mamba-2, so the first token of a text also weighs most.
