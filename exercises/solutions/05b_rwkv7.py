# %% setup
import torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.delta import recurrent_kda
from hybrid_tutorial.ops.rwkv7 import recurrent_rwkv7

# %% 1a compute (1 s)
# The keys are $e_1 = (1, 0)$ and $e_2 = (0, 1)$, nothing new is written. Return `a`, `b` and `w` as three pairs of numbers; there is more than one right answer.

# %% solution
def ex05ba():
    "Directions and log decay that swap two rows of the state"
    ### BEGIN SOLUTION
    return (1., -1.), (-1., 1.), (0., 0.)
    ### END SOLUTION

# %% check
def step_ex05b(S, a, b, w):
    "One token that writes nothing"
    x = lambda y: torch.as_tensor(y, dtype=torch.float64).view(1, 1, 1, -1)
    return recurrent_rwkv7(x(0*S[:, 0]), x(w), x(0*S[:, 0]), x(S[0]), x(a), x(b), initial_state=S[None, None], output_final_state=True)[1][0, 0]

def check_ex05ba(f):
    a, b, w = f() or (None, None, None)
    if a is None: raise AssertionError('swap: nothing was returned')
    S = torch.tensor([[3., -1.], [2., 5.]], dtype=torch.float64)
    got = step_ex05b(S, a, b, w)
    both = S.sum(0)
    return check_answer(got, S.flip(0), [(torch.stack([0*both, both]), 'the value of key 1 moves to key 2, but that of key 2 stays there: read the difference'), (torch.stack([both, 0*both]), 'the value of key 2 moves to key 1, but that of key 1 stays there: read the difference'),
        (2*S-S.flip(0), 'the sign of b: with a = e1-e2 the difference is added once more; it has to be taken off'), (S, 'nothing changed: is a zero, or b?'), ((S+S.flip(0))/2, 'half of the difference makes both values equal; take off the whole'),
        (torch.zeros_like(S), 'the decay empties the state: log decay 0 keeps it')], name='swap')

# %% wrong
wrong_ex05ba = [(lambda: ((1, 0), (-1, 1), (0, 0)), 'of key 2 stays'), (lambda: ((0, 1), (1, -1), (0, 0)), 'of key 1 stays'), (lambda: ((1, -1), (1, -1), (0, 0)), 'the sign of b'), (lambda: ((0, 0), (-1, 1), (0, 0)), 'nothing changed'),
    (lambda: ((1, -1), (-.5, .5), (0, 0)), 'makes both values equal'), (lambda: ((0, 0), (0, 0), (-800, -800)), 'empties the state')]

# %% why
# $I + ba^\top$ with $a = e_1-e_2$ and $b = -a$ is $I - aa^\top$, and $|a|^2 = 2$: the mirror that exchanges $e_1$ and $e_2$. As $b = -\eta\,a$ with a unit $a$ it takes $\eta = 2$, a rate outside (0, 1): models whose rate is a sigmoid can erase a direction, and cannot swap two.

# %% 2b implement (1 s)
# `q`, `k`, `g` are `(B, T, H, K)`, `v` is `(B, T, H, V)`, `beta` is `(B, T, H)`. Return the output.

# %% solution
def ex05bb(q, k, v, g, beta):
    "KDA by one call of `recurrent_rwkv7`"
    ### BEGIN SOLUTION
    b = beta[..., None]*k
    return recurrent_rwkv7(q, g, b, v, -k*g.exp(), b)[0]
    ### END SOLUTION

# %% check
def check_ex05bb(f):
    gen = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(2, 9, 3, n, generator=gen, dtype=torch.float64) for n in (4, 4, 5))
    k, g = F.normalize(k, dim=-1), -torch.rand(2, 9, 3, 4, generator=gen, dtype=torch.float64)
    beta = torch.rand(2, 9, 3, generator=gen, dtype=torch.float64)
    kb = beta[..., None]*k
    of = lambda key, a, b, w=g: recurrent_rwkv7(q, w, key, v, a, b)[0]
    return check_answer(f(q, k, v, g, beta), recurrent_kda(q, k, v, g, beta)[0], [(of(kb, -k, kb), 'RWKV-7 reads the state before it decays: the reader has to carry the decay'), (of(k, -k*g.exp(), kb), 'beta weighs what is written too'), (of(kb, -k*g.exp(), k), 'beta is missing where the reading is taken off'),
        (of(kb, -k*(-g).exp(), kb), 'a faded state is read with k times the decay, not k divided by it'), (of(kb, k*g.exp(), kb), 'what is read has to be taken off: a minus'), (of(kb, -k*g.exp(), kb, 0*g), 'the state itself has to fade: w = g'), (of(kb, -kb*g.exp(), kb), 'beta twice: once in a and once in b')], tol=1e-12)

# %% wrong
def with_ex05bb(change): return lambda q, k, v, g, beta: change(lambda key, a, b, w=g: recurrent_rwkv7(q, w, key, v, a, b)[0], k, g, beta[..., None]*k)
wrong_ex05bb = [(with_ex05bb(lambda of, k, g, kb: of(kb, -k, kb)), 'before it decays'), (with_ex05bb(lambda of, k, g, kb: of(k, -k*g.exp(), kb)), 'what is written too'), (with_ex05bb(lambda of, k, g, kb: of(kb, -k*g.exp(), k)), 'reading is taken off'),
    (with_ex05bb(lambda of, k, g, kb: of(kb, -k*(-g).exp(), kb)), 'not k divided'), (with_ex05bb(lambda of, k, g, kb: of(kb, k*g.exp(), kb)), 'a minus'), (with_ex05bb(lambda of, k, g, kb: of(kb, -k*g.exp(), kb, 0*g)), 'itself has to fade'), (with_ex05bb(lambda of, k, g, kb: of(kb, -kb*g.exp(), kb)), 'beta twice')]

# %% why
# $(\mathrm{diag}(e^g)S)^\top k = S^\top(e^g \odot k)$: reading later is reading with a faded key. With $a = -e^g k$ and $b = \beta k$, KDA is one point in RWKV-7's space, and its kernels can be tested against each other.

# %% 3c explore (2 s)
# `a` is `(1, 1000, 1, 8)`, random unit vectors in float64, `S` a random state `(1, 1, 8, 8)`. Return three numbers: by what factor the norm of the state changes over the 1,000 tokens with $b = -1.9\,a$, $-2\,a$ and $-2.1\,a$.

# %% solution
def ex05bc(a, S):
    "Norm of the last state over that of the first, for rates 1.9, 2 and 2.1"
    ### BEGIN SOLUTION
    def factor(rate):
        end = recurrent_rwkv7(a, 0*a, 0*a, a, a, -rate*a, initial_state=S, output_final_state=True)[1]
        return float(end.norm()/S.norm())
    return factor(1.9), factor(2.), factor(2.1)
    ### END SOLUTION

# %% check
def check_ex05bc(f):
    gen = torch.Generator().manual_seed(0)
    a = F.normalize(torch.randn(1, 1000, 1, 8, generator=gen, dtype=torch.float64), dim=-1)
    S = torch.randn(1, 1, 8, 8, generator=gen, dtype=torch.float64)
    def factor(rate, write=0.):
        M = S[0, 0]
        for x in a[0, :, 0]: M = M+torch.outer(x, write*x-rate*(x @ M))
        return float(M.norm()/S.norm())
    one, two, three = f(a, S) or (None, None, None)
    check_answer(two, 1., [(factor(2., 1.), 'nothing is written here: the key is 0'), (float(S.norm()), 'the norm over that of the first state'), (0., 'does the state start from S, and is it read with a and written with -2a?')], tol=1e-6, name='rate 2')
    check_answer(one, factor(1.9), [(factor(2.1), 'the first and the last are exchanged'), (1., 'one direction shrinks to 0.9 at every token'), (0.9**1000, 'a token changes one direction of eight, not the whole state')], tol=1e-3, name='rate 1.9')
    return check_answer(three, factor(2.1), [(1., 'one direction grows to 1.1 at every token'), (1.1**1000, 'a token changes one direction of eight, not the whole state'), (1/factor(1.9), 'nearly, but run it: 0.9 and 1.1 are not inverse')], tol=1e-3, name='rate 2.1')

# %% wrong
wrong_ex05bc = [(lambda a, S: (1., recurrent_ex05bc(a, S, 1.), 1.), 'nothing is written'), (lambda a, S: (1., float(S.norm()), 1.), 'over that of the first'), (lambda a, S: (0., 0., 0.), 'start from S'), (lambda a, S: (462890.5, 1., 6.0226e-6), 'are exchanged'),
    (lambda a, S: (1., 1., 1.), 'shrinks to 0.9'), (lambda a, S: (0.9**1000, 1., 1.1**1000), '1.9: a token changes'), (lambda a, S: (6.0226e-6, 1., 1.), 'grows to 1.1'), (lambda a, S: (6.0226e-6, 1., 1.1**1000), '2.1: a token changes'),
    (lambda a, S: (6.0226e-6, 1., 1/6.0226e-6), 'not inverse')]
def recurrent_ex05bc(a, S, write): return float(recurrent_rwkv7(a, 0*a, write*a, a, a, -2*a, initial_state=S, output_final_state=True)[1].norm()/S.norm())

# %% why
# $6\cdot10^{-6}$, 1 and $4.6\cdot10^{5}$. With rate 2 every token is a mirror: it turns the state and keeps its norm, to 14 digits. A little less forgets, a little more blows up. Eigenvalues of $-1$ are what lets a state count modulo two, and $\eta \le 2$ is where a model has to stop.
