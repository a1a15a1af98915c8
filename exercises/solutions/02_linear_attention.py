# %% setup
import torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.feature_maps import elu1, hedgehog, identity
from hybrid_tutorial.ops.linear import recurrent_linear_attn

# %% 1a compute (1 s)
# Count the whole matrix in form 2 and the whole `(C, C)` block in form 3, as the recap does. Return three numbers: multiplications per token and head of form 2 at T = 4096, of form 3 with C = 64, and the T at which both are equal.

# %% solution
def ex02a():
    "Multiplications per token: form 2 at T = 4096, form 3 at C = 64; and the T where they meet"
    ### BEGIN SOLUTION
    K = V = C = 64
    return 4096*(K+V), C*(K+V)+2*K*V, C+2*K*V/(K+V)
    ### END SOLUTION

# %% check
def check_ex02a(f):
    def count(T, C, K=64, V=64):                   # every product of a chunk of C tokens, one by one
        n = {'Q K^T': C*C*K, 'P V': C*C*V, 'Q S': C*K*V, 'K^T V': C*K*V}
        return (n['Q K^T']+n['P V'])/C if C == T else sum(n.values())/C
    two, three, meet = f() or (None, None, None)
    check_answer(two, count(4096, 4096), [(4096*64, 'there are two products, with the keys and with the values (K+V), each of the whole matrix'), (4096**2*128, 'this is the whole text, not one token')], name='form 2')
    check_answer(three, count(4096, 64), [(64*128, 'the state is missing: it is read and written'), (64*128+64*64, 'the state is read and also written: 2KV')], name='form 3')
    return check_answer(meet, next(T for T in range(1, 4096) if T*128 >= count(4096, 64)), [(64, 'at T = C form 3 still pays for the state'), (96, 'the state is read and also written: 2KV')], name='T')

# %% wrong
wrong_ex02a = [(lambda: (4096*64, 16384, 128), 'two products'), (lambda: (4096**2*128, 16384, 128), 'not one token'),
    (lambda: (4096*128, 64*128, 128), 'the state is missing'), (lambda: (4096*128, 12288, 96), 'form 3: the state is read and also'), (lambda: (4096*128, 16384, 64), 'at T = C')]

# %% why
# Form 2: $T(K+V)$. Form 3: $C(K+V)+2KV$, whatever the length. They meet at $T = C + 2KV/(K+V) = 128$: from two chunks on, chunks win.

# %% 2b implement (1 s)
# Inputs are `(B, T, H, K)` and `(B, T, H, V)` with K and V different, feature map `identity`, `scale=1`. Return `dq, dk, dv`. Walk forward once for `dq`, backward once for `dk` and `dv`.

# %% solution
def ex02b(q, k, v, do):
    "Gradients of `o_t = S_t^T q_t`, `S_t = S_{t-1} + k_t v_t^T`"
    ### BEGIN SOLUTION
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    S = R = torch.zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=q.dtype)
    for t in range(q.shape[1]):
        S = S + k[:, t, :, :, None]*v[:, t, :, None]
        dq[:, t] = (S*do[:, t, :, None]).sum(-1)
    for t in reversed(range(q.shape[1])):
        R = R + q[:, t, :, :, None]*do[:, t, :, None]
        dk[:, t], dv[:, t] = (R*v[:, t, :, None]).sum(-1), (R*k[:, t, :, :, None]).sum(-2)
    return dq, dk, dv
    ### END SOLUTION

# %% check
def check_ex02b(f):
    gen = torch.Generator().manual_seed(2)
    q, k, v, do = (torch.randn(2, 7, 3, n, generator=gen, dtype=torch.float64) for n in (4, 4, 5, 5))
    xs = [x.clone().requires_grad_() for x in (q, k, v)]
    want = torch.autograd.grad(recurrent_linear_attn(*xs, scale=1.)[0], xs, do)
    got = f(q, k, v, do) or (None, None, None)
    P, dP = torch.einsum('bthk,bjhk->bhtj', q, k), torch.einsum('bthv,bjhv->bhtj', do, v)
    dk_of = lambda mask: torch.einsum('bhtj,bthk->bjhk', dP*mask, q)
    dv_of = lambda mask: torch.einsum('bhtj,bthv->bjhv', P*mask, do)
    one = torch.ones(7, 7, dtype=torch.float64)
    check_answer(got[0], want[0], [(torch.einsum('bhtj,bjhk->bthk', dP*one.tril(-1), k), 'token t reads the state after its own write; add k v^T first')], tol=1e-12, name='dq')
    for name, x, y, of in (('dk', got[1], want[1], dk_of), ('dv', got[2], want[2], dv_of)):
        check_answer(x, y, [(of(one.triu()), 'the second state runs forward; a key matters to the queries after it, so it runs backward'),
            (of(one.tril(-1)), 'a key also meets its own query: add q do^T before you read the second state'), (of(one), 'queries before the key must not count')], tol=1e-12, name=name)
    return 'ex02b: right'

# %% wrong
def masked_ex02b(q, k, v, do, rows, cols):
    P, dP = torch.einsum('bthk,bjhk->bhtj', q, k), torch.einsum('bthv,bjhv->bhtj', do, v)
    return torch.einsum('bhtj,bjhk->bthk', dP*rows, k), torch.einsum('bhtj,bthk->bjhk', dP*cols, q), torch.einsum('bhtj,bthv->bjhv', P*cols, do)
one_ex02b = torch.ones(7, 7, dtype=torch.float64)
wrong_ex02b = [(lambda *xs: masked_ex02b(*xs, one_ex02b.tril(-1), one_ex02b.tril()), 'after its own write'),
    (lambda *xs: masked_ex02b(*xs, one_ex02b.tril(), one_ex02b.triu()), 'runs forward'),
    (lambda *xs: masked_ex02b(*xs, one_ex02b.tril(), one_ex02b.tril(-1)), 'its own query'),
    (lambda *xs: masked_ex02b(*xs, one_ex02b.tril(), one_ex02b), 'must not count'),
    (lambda *xs: (ex02b(*xs)[0], ex02b(*xs)[1], ex02b(*xs)[1]), 'dv: shape')]

# %% why
# $\mathrm{d}q_t = S_t\,\mathrm{d}o_t$ with the state of the forward pass. A key at $j$ reaches every later output, so $\mathrm{d}k_j = R_j v_j$ and $\mathrm{d}v_j = R_j^\top k_j$ with $R_j = \sum_{t \ge j} q_t\,\mathrm{d}o_t^\top$, the same recurrence from the other end. Memory does not grow with T.

# %% 3c explore (3 s)
# Features are positive, so every stored value answers a little: divide by the sum of the weights. `values(phi, keys, v)` should return what each key reads back from the state, all pairs stored; the experiment then asks it with random unit keys of width 64. Return three numbers of pairs, the first of 2, 4, 8, ... 256 at which the error passes 0.5: for `identity` without division, for `hedgehog`, and for `hedgehog` of `64*keys`.

# %% solution
def ex02c(first):
    "`first(values)` doubles the pairs until the relative error of `values(keys, v)` passes 0.5"
    ### BEGIN SOLUTION
    def read(phi, divide):
        def values(keys, v):
            a = phi(keys)
            S, z = a.mT @ v, a.sum(-2)
            return a @ S/((a @ z[..., None]) if divide else 1)
        return values
    return first(read(identity, False)), first(read(hedgehog, True)), first(read(lambda x: hedgehog(64*x), True))
    ### END SOLUTION

# %% check
def first_ex02c(values, K=64):
    for n in (2, 4, 8, 16, 32, 64, 128, 256):
        gen = torch.Generator().manual_seed(0)
        k, v = F.normalize(torch.randn(16, n, K, generator=gen), dim=-1), torch.randn(16, n, K, generator=gen)
        if float((values(k, v)-v).pow(2).mean().sqrt()) > 0.5: return n
    return 512

def check_ex02c(f):
    got = f(first_ex02c) or (None, None, None)
    weights = lambda phi: lambda k, v: (w := phi(k) @ phi(k).mT) @ v/w.sum(-1, keepdim=True)
    a, b, c = first_ex02c(lambda k, v: k @ (k.mT @ v)), first_ex02c(weights(hedgehog)), first_ex02c(weights(lambda x: hedgehog(64*x)))
    check_answer(got[0], a, [(64, 'at 64 pairs the error is 1; it passes 0.5 at a quarter of them')], name='identity')
    check_answer(got[1], b, [(a, 'this is the plain product; pass the keys through hedgehog'), (512, 'it never passed; ask with the same features that were stored')], name='hedgehog')
    return check_answer(got[2], c, [(b, 'same as without 64: sharpen the keys, not the values'), (a, 'hedgehog(64*keys), not 64*hedgehog(keys)')], name='sharp hedgehog')

# %% wrong
wrong_ex02c = [(lambda first: (64, 2, 64), 'a quarter'), (lambda first: (32, 32, 64), 'the plain product'), (lambda first: (32, 512, 64), 'never passed'),
    (lambda first: (32, 2, 2), 'sharpen the keys')]

# %% why
# Between unit keys of width 64 the softmax inside Hedgehog is nearly flat, so all features look alike and the reading is an average: half wrong at two pairs. Sharpened, the features separate keys and hold more than the plain product, in a state twice as large. A feature map without training is no gift; the temperature is what training has to find.
