# %% setup
import math, torch
import torch.nn.functional as F
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.softmax import attention_mask, attention_weights, softmax_attention

# %% 1a compute (1 s)
# Return two numbers: the yellow cells for T = 100, and the smallest T (at least 4) at which they are at most a tenth of the triangle.

# %% solution
def ex01a():
    "Yellow cells of a `(100, 100)` mask with a window of 4; the smallest T for a tenth"
    ### BEGIN SOLUTION
    T = 100
    return 4*T-6, 78
    ### END SOLUTION

# %% check
def check_ex01a(f):
    cells, T = f() or (None, None)
    count = lambda T, w: int(attention_mask(T, T, w).sum())
    first = next(T for T in range(4, 200) if 10*count(T, 4) <= T*(T+1)//2)
    square = next(T for T in range(4, 200) if 10*count(T, 4) <= T*T)
    check_answer(cells, count(100, 4), [(400, 'rows 0, 1 and 2 have no four tokens to look at'),
        (count(100, 5), 'a window of 4 holds the token itself and three before it, not four before it')], name='cells')
    return check_answer(T, first, [(square, 'a tenth of the triangle T(T+1)/2, not of the square'), (79, 'the corner counts: 4T-6 cells, not 4T'),
        (first-1, 'one less is still a little more than a tenth')], name='T')

# %% wrong
wrong_ex01a = [(lambda: (400, 78), 'rows 0, 1 and 2'), (lambda: (490, 78), 'the token itself'), (lambda: (394, 39), 'not of the square'),
    (lambda: (394, 79), 'the corner counts'), (lambda: (394, 77), 'one less')]

# %% why
# The first three rows have 1, 2 and 3 cells, every other row 4: $4T-6$. The triangle has $T(T+1)/2$, so $10(4T-6) \le T(T+1)/2$, that is $T^2-79T+120 \ge 0$, which holds from $T = 77.45$ on. Work that grows with $T$ beside work that grows with $T^2$: the share halves each time the text doubles.

# %% 2b implement (1 s)
# One pass, no `(T, J)` matrix. Inputs are `(B, T, H, K)`, `(B, T, H, K)` and `(B, T, H, V)` in float64; the check also feeds scores of a thousand.

# %% solution
def ex01b(q, k, v):
    "Causal softmax attention, key by key"
    ### BEGIN SOLUTION
    q, i = q*q.shape[-1]**-0.5, torch.arange(q.shape[1])
    top = torch.full(q.shape[:3], -math.inf, dtype=q.dtype)
    total, out = torch.zeros_like(top), torch.zeros(*q.shape[:3], v.shape[-1], dtype=q.dtype)
    for j in range(k.shape[1]):
        s = (q*k[:, j:j+1]).sum(-1).masked_fill((i < j)[None, :, None], -math.inf)
        new = torch.maximum(top, s)
        shrink, p = (top-new).exp(), (s-new).exp()
        total, out, top = total*shrink+p, out*shrink[..., None]+p[..., None]*v[:, j:j+1], new
    return out/total[..., None]
    ### END SOLUTION

# %% check
def check_ex01b(f):
    gen = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 9, 3, n, generator=gen, dtype=torch.float64) for n in (8, 8, 5))
    full = lambda q: torch.einsum('b t h k, b j h k -> b h t j', q, k)*8**-0.5
    every = torch.einsum('b h t j, b j h v -> b t h v', full(q).softmax(-1), v)
    running = torch.einsum('b h t j, b j h v -> b t h v', full(q).exp().tril(), v)
    check_answer(f(q, k, v), softmax_attention(q, k, v), [(every, 'query i also sees keys after it; key j counts only for i >= j'),
        (softmax_attention(q, k, v, scale=1.), 'the scores lack the factor K**-0.5'),
        (running, 'the running sum is kept but the output is never divided by it')], tol=1e-12)
    big = f(q*1000, k, v)
    if not big.isfinite().all(): raise AssertionError('answer: exp overflows for large scores; subtract the running maximum, and shrink sum and output when it rises')
    return check_answer(big, softmax_attention(q*1000, k, v), tol=1e-12)

# %% wrong
def plain_ex01b(q, k, v, scale=None, causal=True, divide=True):
    s = torch.einsum('b t h k, b j h k -> b h t j', q, k)*(q.shape[-1]**-0.5 if scale is None else scale)
    p = s.exp()*(attention_mask(q.shape[1], k.shape[1]) if causal else 1)
    return torch.einsum('b h t j, b j h v -> b t h v', p/(p.sum(-1, keepdim=True) if divide else 1), v)
wrong_ex01b = [(plain_ex01b, 'exp overflows'), (lambda q, k, v: plain_ex01b(q, k, v, causal=False), 'keys after it'),
    (lambda q, k, v: plain_ex01b(q, k, v, scale=1.), 'lack the factor'), (lambda q, k, v: plain_ex01b(q, k, v, divide=False), 'never divided')]

# %% why
# A sum of exponentials relative to an old maximum becomes one relative to a new maximum by the factor $e^{m_{old}-m_{new}}$. This is how fused kernels never hold the matrix. It is also a recurrence with a state of fixed size, but only for *one* query at a time: another query needs other exponentials.

# %% 3c explore (2 s)
# Do it with the function below on `keys` of width 64, so that one key matches and the others are nearly orthogonal. Return two numbers: by what factor the weight of the right key falls from T = 64 to T = 4096 at sharpness 1, and the sharpness that gives 0.9 at T = 4096, to 10 %.

# %% solution
def ex01c(weight):
    "`weight(T, sharpness)` is the weight of the right key, averaged over 4 draws"
    ### BEGIN SOLUTION
    low, high = 1., 100.
    for _ in range(10):
        mid = (low*high)**0.5
        low, high = (mid, high) if weight(4096, mid) < 0.9 else (low, mid)
    return weight(64, 1.)/weight(4096, 1.), mid
    ### END SOLUTION

# %% check
def weight_ex01c(T, sharpness, K=64):
    gen = torch.Generator().manual_seed(0)
    keys = F.normalize(torch.randn(4, T, 1, K, generator=gen), dim=-1)
    return float(attention_weights(keys[:, 20:21]*sharpness, keys, scale=1.)[:, 0, 0, 20].mean())

def check_ex01c(f):
    fall, sharp = f(weight_ex01c) or (None, None)
    truth = weight_ex01c(64, 1.)/weight_ex01c(4096, 1.)
    check_answer(fall, truth, [(1/truth, 'the factor by which it falls is above 1'), (4032, 'a ratio, not a difference of T'), (math.log(64), 'the weight falls like 1/T, not like 1/log T')], tol=0.05, name='fall')
    if not isinstance(sharp, (int, float)): raise AssertionError('sharpness: nothing was returned')
    w = weight_ex01c(4096, sharp)
    if w < 0.85: raise AssertionError(f'sharpness: {sharp:.1f} gives the right key {w:.2f} of the weight among 4096; it takes about log T more than among a few')
    if w > 0.94: raise AssertionError(f'sharpness: {sharp:.1f} gives {w:.3f}, sharper than asked')
    return 'ex01c: right'

# %% wrong
wrong_ex01c = [(lambda w: (1/64, 11.), 'above 1'), (lambda w: (4032, 11.), 'not a difference'), (lambda w: (math.log(64), 11.), 'like 1/T'),
    (lambda w: (w(64, 1.)/w(4096, 1.), 4.), 'about log T more'), (lambda w: (w(64, 1.)/w(4096, 1.), 64.), 'sharper than asked')]

# %% why
# With a flat softmax every key has its share $1/T$, so 64 times the keys leave a 64th of the weight. To hold 0.9, $e^{s}$ must outweigh $T$ wrong keys: $s \approx \ln(9T) + s^2/2K$. The needed sharpness grows with the *logarithm* of T: softmax can tell one key among very many, at a cost of a few units of score.
