# %% setup
import math, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.gla import chunk_gla, recurrent_gla

# %% 1a compute (1 s)
# Return three numbers: the limit with balance, the limit without, and the number of tokens after which the balanced state first holds at least half of its limit.

# %% solution
def ex05a():
    "Limits of a balanced and of a plain state with decay 0.99; tokens until half"
    ### BEGIN SOLUTION
    return 1., 1/(1-0.99), math.ceil(math.log(0.5)/math.log(0.99))
    ### END SOLUTION

# %% check
def check_ex05a(f):
    balanced, plain, half = f() or (None, None, None)
    S, path = 0., []
    for _ in range(5000): S = 0.99*S+0.01; path.append(S)
    check_answer(balanced, path[-1], [(0.01, 'this is what one token writes; the tokens before it are still there')], tol=1e-3, name='balanced')
    check_answer(plain, path[-1]/0.01, [(1., 'without balance every token writes 1 and 1 % is forgotten: they are equal at another size'), (99., 'the newest token counts in full: 1 + 0.99 + 0.99**2 + ...'), (math.inf, 'something is forgotten at every token, so it ends')], tol=1e-3, name='plain')
    return check_answer(half, next(t for t, S in enumerate(path, 1) if S >= 0.5), [(68, '68 tokens leave 0.505 of the old, so hold a little less than half'), (50, 'not half of 1/(1-w): it falls by a factor at every token'), (100, 'this is the time to 63 %')], name='half')

# %% wrong
wrong_ex05a = [(lambda: (0.01, 100, 69), 'one token writes'), (lambda: (1, 1, 69), 'at another size'), (lambda: (1, 99, 69), 'counts in full'), (lambda: (1, math.inf, 69), 'so it ends'),
    (lambda: (1, 100, 68), 'a little less than half'), (lambda: (1, 100, 50), 'by a factor'), (lambda: (1, 100, 100), '63 %')]

# %% why
# $S = wS + (1-w)\cdot 1$ has the fixed point 1 for every $w$; without the factor it is $1/(1-w) = 100$. After $t$ tokens the state holds $1-w^t$ of it, and $0.99^{69} = 0.4998$. Balance changes the size, not the speed.

# %% 2b implement (1 s)
# `r`, `k`, `w` are `(B, T, H, K)`, `v` is `(B, T, H, V)`, `u` is `(H, K)`; no scale, zeros to start with. Return the output. One call of `recurrent_gla` is enough.

# %% solution
def ex05b(r, k, v, w, u):
    "RWKV-6 with bonus: `o_t = (S_{t-1} + (u k_t) v_t^T)^T r_t`"
    ### BEGIN SOLUTION
    later = torch.cat([r[:, 1:], 0*r[:, :1]], 1)    # the state after t is read by the query of t+1
    o = recurrent_gla(later, k, v, w, scale=1.)[0]
    return torch.cat([0*o[:, :1], o[:, :-1]], 1) + (r*u*k).sum(-1, keepdim=True)*v
    ### END SOLUTION

# %% check
def check_ex05b(f):
    gen = torch.Generator().manual_seed(5)
    r, k, v = (torch.randn(2, 9, 3, n, generator=gen, dtype=torch.float64) for n in (4, 4, 5))
    w, u = -torch.rand(2, 9, 3, 4, generator=gen, dtype=torch.float64), torch.rand(3, 4, generator=gen, dtype=torch.float64)
    def loop(bonus=u, decay_first=False, own=False, early=0):
        S, out = torch.zeros(2, 3, 4, 5, dtype=torch.float64), []
        for t in range(9):
            kv = k[:, t, :, :, None]*v[:, t, :, None]
            old = w[:, t].exp()[..., None]*S
            read = (old if decay_first else S)+(kv if own else 0)+bonus[..., None]*kv
            out.append((read*r[:, t-early if t >= early else t, :, :, None]).sum(-2))
            S = old+kv
        return torch.stack(out, 1)
    return check_answer(f(r, k, v, w, u), loop(), [(loop(own=True, decay_first=True), 'recurrent_gla reads after the write: this token counts once too often; shift the queries and the output'), (loop(decay_first=True), 'the query meets the old state before this token fades it'),
        (loop(bonus=0*u), 'the bonus is missing: u weighs the token itself'), (loop(bonus=u**0), 'u is missing in the bonus'), (loop(early=1), 'the queries are one token late: the state after t is read by the query of t+1'), (loop()*0.5, 'no scale here: scale=1.')], tol=1e-12)

# %% wrong
def plain_ex05b(r, k, v, w): return recurrent_gla(r, k, v, w, scale=1.)[0]
def own_ex05b(r, k, v, u=1.): return (r*u*k).sum(-1, keepdim=True)*v
def late_ex05b(r, k, v, w, u):
    past = torch.cat([r[:, :1], r[:, :-1]], 1)
    return ex05b(past, k, v, w, u)
wrong_ex05b = [(lambda r, k, v, w, u: plain_ex05b(r, k, v, w)+own_ex05b(r, k, v, u), 'once too often'), (lambda r, k, v, w, u: plain_ex05b(r, k, v, w)+own_ex05b(r, k, v, u-1), 'before this token fades'),
    (lambda r, k, v, w, u: ex05b(r, k, v, w, 0*u), 'weighs the token itself'), (lambda r, k, v, w, u: ex05b(r, k, v, w, u**0), 'u is missing'), (late_ex05b, 'one token late'), (lambda *x: ex05b(*x)/2, 'no scale')]

# %% why
# Between two writes the state stands still: what token $t+1$ reads before it decays is the state after token $t$. So a shift by one turns "read, then write" into "write, then read", and every kernel of GLA serves RWKV-6. The bonus is the diagonal of the attention matrix, $(r_t \odot u)\cdot k_t$, and needs no state.

# %% 3c explore (2 s)
# `size(power)` is the size of the state after 600 random keys and values, for half-lives of 10 and of 100 tokens, when the keys are multiplied by $(1-w)^{power}$. Return two numbers: the size at 100 over the size at 10 with balanced keys, and the power at which both have one size.

# %% solution
def ex05c(size):
    "Ratio of the sizes with balanced keys; the power that makes it 1"
    ### BEGIN SOLUTION
    ratio = lambda power: (s := size(power))[1]/s[0]
    low, high = 0., 1.
    for _ in range(8):
        mid = (low+high)/2
        low, high = (mid, high) if ratio(mid) > 1 else (low, mid)
    return ratio(1.), mid
    ### END SOLUTION

# %% check
def size_ex05c(power, T=600):
    gen = torch.Generator().manual_seed(0)
    k, v = torch.randn(8, T, 1, 2, generator=gen), torch.randn(8, T, 1, 16, generator=gen)
    w = -math.log(2)/torch.tensor([10., 100.]).expand(8, T, 1, 2)
    S = chunk_gla(k, k*(-torch.expm1(w))**power, v, w, output_final_state=True)[1]
    return S.pow(2).mean((0, 1, 3)).sqrt().tolist()

def check_ex05c(f):
    ratio, power = f(size_ex05c) or (None, None)
    sizes = {p: size_ex05c(p) for p in (0., 1.)}
    of = {p: b/a for p, (a, b) in sizes.items()}
    check_answer(ratio, of[1.], [(of[0.], 'these are plain keys; balanced ones have power 1'), (1/of[1.], 'the size at 100 over the size at 10'), (1., 'that holds for constant keys; random ones partly cancel'), (0.1, 'the sum of n random keys grows like the root of n, not like n')], tol=0.02, name='ratio')
    w10, w100 = (0.5**(1/n) for n in (10, 100))
    exact = math.log(of[0.])/math.log((1-w10)/(1-w100))
    return check_answer(power, exact, [(1., 'power 1 is balance, and that makes them unequal'), (0., 'power 0 leaves the slow channel larger'), (-exact, 'the key gets smaller, so the power is positive')], tol=0.05, name='power')

# %% wrong
wrong_ex05c = [(lambda size: ((s := size(0.))[1]/s[0], 0.5), 'plain keys'), (lambda size: ((s := size(1.))[0]/s[1], 0.5), 'over the size at 10'), (lambda size: (1., 1.), 'partly cancel'), (lambda size: (0.1, 0.5), 'like the root'),
    (lambda size: (ex05c(size)[0], 1.), 'power 1 is balance'), (lambda size: (ex05c(size)[0], 0.), 'slow channel larger'), (lambda size: (ex05c(size)[0], -ex05c(size)[1]), 'is positive')]

# %% why
# With random keys the balanced slow channel is 0.30 times the fast one, near $10^{-1/2}$: a sum of $n$ random terms grows like $\sqrt n$, and balance divides by $n$. The power is one half ($\sqrt{1-w^2}$ exactly, which other gated recurrences use). Real keys are neither constant nor random, so a norm at the output still has work to do.
