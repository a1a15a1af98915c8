# %% setup
import torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.delta import recurrent_delta_rule
from hybrid_tutorial.ops.linear import recurrent_linear_attn

# %% 1a compute (1 s)
# The answer is $x\,a + y\,b$. Return `x` and `y`. The third token only reads.

# %% solution
def ex04a():
    "Shares of the values `a` and `b`"
    ### BEGIN SOLUTION
    return 0.25, 0.5
    ### END SOLUTION

# %% check
def check_ex04a(f):
    k = torch.eye(2)[[0, 0, 0]][None, :, None]; v = torch.tensor([[1., 0], [0, 1], [0, 0]])[None, :, None]
    o = recurrent_delta_rule(k, k, v, torch.tensor([.5, .5, 0])[None, :, None], scale=1.)[0]
    return check_answer(f(), tuple(o[0, 2, 0].tolist()), [((0.5, 0.5), 'this adds; the second write first takes off half of what is known'), ((0.5, 0.25), 'the newer value counts more'),
        ((0., 0.5), 'beta is one half, so half of the old reading stays'), ((0., 1.), 'this is beta = 1'), ((0.125, 0.25), 'the third token writes nothing; it only reads')])

# %% wrong
wrong_ex04a = [(lambda: (.5, .5), 'this adds'), (lambda: (.5, .25), 'newer'), (lambda: (0, .5), 'half of the old'), (lambda: (0, 1), 'beta = 1'), (lambda: (.125, .25), 'only reads')]

# %% why
# After the first token the key reads $a/2$. The second writes half of the difference: $a/2 + \frac12(b - a/2) = a/4 + b/2$. It is an exponential average, with $\beta$ the rate: a constant $\beta < 1$ on one key forgets like a decay, but only there.

# %% 2b implement (1 s)
# One head without batch: `q`, `k` `(T, K)`, `v` `(T, V)`, `beta` `(T,)`, no scale. The state is `(K, V)`.

# %% solution
def ex04b(q, k, v, beta):
    "Delta rule by a matrix in front of the state"
    ### BEGIN SOLUTION
    S, I, out = torch.zeros(k.shape[1], v.shape[1], dtype=v.dtype), torch.eye(k.shape[1], dtype=k.dtype), []
    for q, k, v, b in zip(q, k, v, beta):
        S = (I-b*torch.outer(k, k)) @ S + b*torch.outer(k, v)
        out.append(q @ S)
    return torch.stack(out)
    ### END SOLUTION

# %% check
def check_ex04b(f):
    gen = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(12, n, generator=gen, dtype=torch.float64) for n in (4, 4, 3))
    k, beta = F.normalize(k, dim=-1), torch.rand(12, generator=gen, dtype=torch.float64)
    def rule(write=True, erase=True, late=False, scale=1.):
        S, out = torch.zeros(4, 3, dtype=torch.float64), []
        for t in range(12):
            if late: out.append(q[t] @ S)
            S = S+torch.outer(k[t], (beta[t] if write else 1)*v[t]-(beta[t] if erase else 1)*(k[t] @ S))
            if not late: out.append(q[t] @ S)
        return torch.stack(out)*scale
    want = recurrent_delta_rule(*(x[None, :, None] for x in (q, k, v, beta)), scale=1.)[0][0, :, 0]
    return check_answer(f(q, k, v, beta), want, [(rule(late=True), 'the state is read before the write'), (rule(erase=False), 'beta is missing in I - beta k k^T'), (rule(write=False), 'beta is missing in beta k v^T'),
        ((q @ k.T).tril() @ (beta[:, None]*v), 'nothing is taken off: this is linear attention'), (rule(scale=0.5), 'no scale here')], tol=1e-12)

# %% wrong
def step_ex04b(q, k, v, beta, erase=None, write=None, early=False, add=False):
    S, out = torch.zeros(k.shape[1], v.shape[1], dtype=v.dtype), []
    for t in range(len(q)):
        if early: out.append(q[t] @ S)
        S = S-(0 if add else erase or beta[t])*torch.outer(k[t], k[t]) @ S+(write or beta[t])*torch.outer(k[t], v[t])
        if not early: out.append(q[t] @ S)
    return torch.stack(out)
wrong_ex04b = [(lambda *x: step_ex04b(*x, early=True), 'before the write'), (lambda *x: step_ex04b(*x, erase=1.), 'missing in I'), (lambda *x: step_ex04b(*x, write=1.), 'missing in beta k v'),
    (lambda *x: step_ex04b(*x, add=True), 'linear attention'), (lambda *x: step_ex04b(*x)/2, 'no scale')]

# %% why
# The same rule, but $(I-\beta kk^\top)S$ as a product of matrices costs $K^2V$ per token; reading $S^\top k$ first and writing one outer product costs $2KV$. The form with the matrix is the one to reason with: without writes the state shrinks along $k$ and keeps the rest.

# %% 3c explore (1 s)
# 128 pairs, their keys drawn from 32 unit vectors of width 64, each four times in turn. Return four numbers, the mean cosine of reading and stored value: for linear attention on the newest 32 pairs and on the 96 older ones, then the same two for the delta rule with beta 1. `pairs` makes the text.

# %% solution
def ex04c(pairs):
    "Mean cosines: linear attention new, old; delta rule new, old"
    ### BEGIN SOLUTION
    k, v = pairs()
    x, out = [y[None, :, None] for y in (k, k, v)], []
    for S in (recurrent_linear_attn(*x, output_final_state=True)[1], recurrent_delta_rule(*x, torch.ones(1, 128, 1), output_final_state=True)[1]):
        c = F.cosine_similarity(k @ S[0, 0], v, dim=-1)
        out += [float(c[-32:].mean()), float(c[:-32].mean())]
    return tuple(out)
    ### END SOLUTION

# %% check
def pairs_ex04c(distinct=32):
    gen = torch.Generator().manual_seed(0)
    k, v = F.normalize(torch.randn(distinct, 64, generator=gen), dim=-1)[torch.arange(128) % distinct], torch.randn(128, 64, generator=gen)
    return k, v

def check_ex04c(f):
    def truth(k, v):
        S = k.T @ v
        D = torch.zeros(64, 64)
        for a, b in zip(k, v): D = D+torch.outer(a, b-a @ D)
        return tuple(float(c) for M in (S, D) for x in [F.cosine_similarity(k @ M, v, dim=-1)] for c in (x[-32:].mean(), x[:-32].mean()))
    want, fresh = truth(*pairs_ex04c()), truth(*pairs_ex04c(128))
    return check_answer(f(pairs_ex04c), want, [(fresh, 'these keys are all different; take the 32 of `pairs`'), ((*want[2:], *want[:2]), 'the two rules are exchanged'), ((want[1], want[0], want[3], want[2]), 'new and old are exchanged'),
        ((*want[:2], *want[:2]), 'the delta rule does what linear attention does: does it take off the old reading? beta 1')], tol=0.02)

# %% wrong
wrong_ex04c = [(lambda pairs: ex04c(lambda: pairs(128)), 'all different'), (lambda pairs: ex04c(pairs)[2:]+ex04c(pairs)[:2], 'rules are exchanged'),
    (lambda pairs: (lambda a, b, c, d: (b, a, d, c))(*ex04c(pairs)), 'new and old'), (lambda pairs: ex04c(pairs)[:2]*2, 'does it take off')]

# %% why
# Linear attention answers with the sum of all four values under a key: equally wrong for old and new. The delta rule has room for 32 keys in 64 dimensions, so the newest value of each comes back nearly exactly, and the older three, which were overwritten, not at all. That is the right answer to "what is it now?", and the wrong one to "what was it first?".
