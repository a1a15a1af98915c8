# %% setup
import math, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.feature_maps import hedgehog

# %% 1a compute (1 s)
# `W` is the identity. Return the two numbers.

# %% solution
def ex02ba():
    "Hedgehog's product of a vector with itself: for one channel; for x = (ln 3, 0)"
    ### BEGIN SOLUTION
    return 2., 2*(0.75**2+0.25**2)
    ### END SOLUTION

# %% check
def check_ex02ba(f):
    square = lambda *x: float(hedgehog(torch.tensor(x)).pow(2).sum())
    one, two = f() or (None, None)
    check_answer(one, square(0.7), [(1., 'there are two halves, x and -x')], name='one channel')
    return check_answer(two, square(math.log(3), 0.), [(square(math.log(3), 0.)/2, 'there are two halves, x and -x'), (2., 'each half sums to 1; its squares do not'), (math.log(3)**2, 'this is x with itself, without the feature map'), (10., 'a softmax divides: e^x over the sum')], tol=1e-5, name='two channels')

# %% wrong
wrong_ex02ba = [(lambda: (1., 1.25), 'one channel: there are two'), (lambda: (2., 0.625), 'two channels: there are two'), (lambda: (2., 2.), 'its squares do not'), (lambda: (2., math.log(3)**2), 'without the feature map'), (lambda: (2., 10.), 'a softmax divides')]

# %% why
# A softmax over one channel is 1, whatever $x$ is: $1+1 = 2$, and every key gets the same weight. With two channels it is $2(p^2+(1-p)^2)$, here $2(\frac9{16}+\frac1{16}) = 1.25$: between 1 for a vector that prefers nothing and 2 for one that is sure. The product of features is sharp only where the features are.

# %% 2b implement (1 s)
# `x` is `(B, T, H, K)`, the result `(B, T, H, M)`, so that the products of the rows are $1 + q\cdot k + (q\cdot k)^2/2$. At most $1+K+K^2$ features.

# %% solution
def ex02bb(x):
    "Features of the first three terms of the exponential"
    ### BEGIN SOLUTION
    square = (x[..., :, None]*x[..., None, :]).flatten(-2)
    return torch.cat([torch.ones_like(x[..., :1]), x, square*0.5**0.5], -1)
    ### END SOLUTION

# %% check
def check_ex02bb(f):
    gen = torch.Generator().manual_seed(1)
    q, k = (torch.randn(2, 5, 3, 4, generator=gen, dtype=torch.float64) for _ in range(2))
    s = (q*k).sum(-1)
    a, b = f(q), f(k)
    if a is None or b is None: raise AssertionError('answer: nothing was returned')
    if a.shape[-1] > 21: raise AssertionError(f'answer: {a.shape[-1]} features for K = 4; 1, the vector, and the products of two channels are 21')
    return check_answer((a*b).sum(-1), 1+s+s**2/2, [(1+s+s**2, 'each side brings its share of the 1/2: a factor of the root'), (1+s+s**2/4, 'halving both sides makes a quarter: take the root of 1/2'),
        (s+s**2/2, 'the 1 is missing; it is a channel too'), (1+s, 'the square is missing: all products of two channels'), (1+s+(q**2*k**2).sum(-1)/2, 'the square of a sum has mixed terms: all pairs of channels, not only x_i**2')], tol=1e-12)

# %% wrong
def features_ex02bb(x, one=True, half=0.5**0.5, square=True, mixed=True):
    y = (x[..., :, None]*x[..., None, :]).flatten(-2) if mixed else x**2
    return torch.cat([torch.ones_like(x[..., :one]), x, y[..., :y.shape[-1]*square]*half], -1)
wrong_ex02bb = [(lambda x: features_ex02bb(x, half=1.), 'a factor of the root'), (lambda x: features_ex02bb(x, half=0.5), 'makes a quarter'), (lambda x: features_ex02bb(x, one=False), 'the 1 is missing'), (lambda x: features_ex02bb(x, square=False), 'the square is missing'),
    (lambda x: features_ex02bb(x, mixed=False), 'mixed terms'), (lambda x: torch.cat([features_ex02bb(x), 0*x], -1), '25 features')]

# %% why
# $(q\cdot k)^2 = \sum_{ij} q_iq_j\,k_ik_j$: one feature for every pair, 273 at $K = 16$ and 4,161 at $K = 64$, where a state would be 65 times a linear one (half of the pairs are doubles and can be left out). The series is good near 0 and at $q\cdot k = -1$ still positive, $\frac12$; but at 4 it gives 13 for $e^4 = 55$: flat where attention is sharp.

# %% 3c explore (4 s)
# `kl(W, x)` is the mean divergence from softmax to Hedgehog with `W` `(1, 16, 32)`, for keys and queries `x` `(64, 16)`. Train on `x`, 60 steps of Adam are enough, and return `W` and its divergence on `fresh`. On `x` it should come below 0.8; the start, twice the identity with a little noise, has 1.5.

# %% solution
def ex02bc(kl, x, fresh):
    "Trained `W`, and its divergence on queries that it has not seen"
    ### BEGIN SOLUTION
    gen = torch.Generator().manual_seed(1)
    W = (2*torch.eye(16).repeat(1, 2)[None]+0.1*torch.randn(1, 16, 32, generator=gen)).requires_grad_()
    adam = torch.optim.Adam([W], lr=0.1)
    with torch.enable_grad():
        for _ in range(60):
            adam.zero_grad()
            kl(W, x).backward()
            adam.step()
    return W.detach(), float(kl(W, fresh).detach())
    ### END SOLUTION

# %% check
def kl_ex02bc(W, x):
    y = hedgehog(x[None, :, None], W)[0, :, 0]
    log_p, s = (x @ x.T/4).log_softmax(-1), (y @ y.T).log()
    return (log_p.exp()*(log_p-s+s.logsumexp(-1, keepdim=True))).sum(-1).mean()

def check_ex02bc(f):
    gen = torch.Generator().manual_seed(0)
    x, fresh = (1.5*torch.randn(64, 16, generator=gen) for _ in range(2))
    W, new = f(kl_ex02bc, x, fresh) or (None, None)
    if W is None: raise AssertionError('W: nothing was returned')
    of = lambda W, x: float(kl_ex02bc(W.detach(), x))
    seen = of(W, x)
    if (W.detach()-W[0, 0, 0].detach()*torch.eye(16).repeat(1, 2)).abs().max() < 1e-4: raise AssertionError(f'W: a factor on the identity is a temperature; it gets to {seen:.2f} and no further than 1.5')
    if seen > 0.8: raise AssertionError(f'W: {seen:.2f} on x; train longer or with a larger step')
    return check_answer(new, of(W, fresh), [(seen, 'this is what it was trained on; ask the fresh queries')], tol=1e-3, name='fresh')

# %% wrong
def start_ex02bc(c, noise=0.): return c*torch.eye(16).repeat(1, 2)[None]+noise*torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(1))
wrong_ex02bc = [(lambda kl, x, fresh: (start_ex02bc(4.), 1.5), 'is a temperature'), (lambda kl, x, fresh: (start_ex02bc(2., 0.1), 1.6), 'train longer'),
    (lambda kl, x, fresh: (W := ex02bc(kl, x, fresh)[0], float(kl(W, x))), 'ask the fresh')]

# %% why
# 0.61 on what it has seen, 1.25 on fresh queries; a temperature alone, $4x$, gets 1.47 there, and the untrained map 2.26. Most of what 60 steps found belongs to these 64 vectors, so alignment (notebook 21) needs far more text; and a part of the rest is plain sharpness.
