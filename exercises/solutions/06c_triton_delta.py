# %% setup
import torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer

# %% 1a compute (1 s)
# Per head. Return four numbers: bytes per token of writing all states once at C = 64, the same at C = 128, then the bytes per token of writing the two `(C, C)` matrices once, at C = 64 and at C = 128.

# %% solution
def ex06ca():
    "Bytes per token and head: states at C = 64 and 128, matrices at C = 64 and 128"
    ### BEGIN SOLUTION
    states, squares = (lambda C: 2*128*128/C), (lambda C: 2*2*C)
    return states(64), states(128), squares(64), squares(128)
    ### END SOLUTION

# %% check
def check_ex06ca(f):
    def size(*shape): return torch.empty(*shape, dtype=torch.bfloat16).nbytes
    states, squares = (lambda C: size(4096//C, 128, 128)/4096), (lambda C: size(2, 4096//C, C, C)/4096)
    a, b, c, d = f() or [None]*4
    check_answer(a, states(64), [(32768, 'this is one state; it serves 64 tokens'), (256, 'two bytes a number'), (1024, 'bfloat16: two bytes, not four; written once')], name='states at 64')
    check_answer(b, states(128), [(1024, 'a longer chunk has fewer states'), (512, 'half as many states as at 64')], name='states at 128')
    check_answer(c, squares(64), [(128, 'there are two, T and A'), (16384, 'for the chunk; divide by its tokens'), (64*64*2*2/128, 'divide by the 64 tokens of the chunk')], name='matrices at 64')
    return check_answer(d, squares(128), [(squares(64), 'a row of each has C numbers'), (128, 'with longer rows it grows'), (4*squares(64), 'C*C numbers for C tokens: it grows like C')], name='matrices at 128')

# %% wrong
wrong_ex06ca = [(lambda: (32768, 0, 0, 0), 'one state'), (lambda: (256, 0, 0, 0), 'two bytes a number'), (lambda: (1024, 0, 0, 0), 'not four'), (lambda: (512, 1024, 256, 512), 'fewer states'), (lambda: (512, 512, 256, 512), 'half as many'), (lambda: (512, 256, 128, 256), 'T and A'), (lambda: (512, 256, 16384, 512), 'for the chunk'),
    (lambda: (512, 256, 256, 256), 'a row of each has C numbers'), (lambda: (512, 256, 256, 128), 'it grows'), (lambda: (512, 256, 256, 1024), 'like C')]

# %% why
# States $2KV/C$: 512 and 256. The matrices $2\cdot2C$: 256 and 512. Their sum is 768 at both, so nothing is won by the longer chunk, while the products inside a chunk and the inverse (one round more, and $C$ numbers per token) grow. And a program that holds 128 rows has no registers left.

# %% 2b implement (1 s)
# The two sums over tokens at the end of `grads_kernel`, for one chunk in torch: `dG` and `written` are `(C,)`, the result is $\sum_{m \ge i} \mathrm{dG}_m + \sum_{j < i} \mathrm{written}_j$ for every $i$. Use a `(C, C)` mask as the kernel does, no `cumsum`.

# %% solution
def ex06cb(dG, written):
    "Sum of what comes from i on, and of what was written before i"
    ### BEGIN SOLUTION
    i = torch.arange(len(dG))
    later, before = i[:, None] >= i, i[:, None] < i # row: what is added; column: where to
    return torch.where(later, dG[:, None], 0.).sum(0)+torch.where(before, written[:, None], 0.).sum(0)
    ### END SOLUTION

# %% check
def check_ex06cb(f):
    gen = torch.Generator().manual_seed(0)
    a, b = (torch.randn(16, generator=gen, dtype=torch.float64) for _ in range(2))
    later, before = a.flip(0).cumsum(0).flip(0), b.cumsum(0)-b
    return check_answer(f(a, b), later+before, [(a.cumsum(0)+b.flip(0).cumsum(0).flip(0)-b, 'both sums run the wrong way: sum over the other axis, or turn the masks around'), (a.cumsum(0)+before, 'dG: these are the tokens up to i; the gate counts from i on'), (later+b.flip(0).cumsum(0).flip(0)-b, 'written: these are the tokens after i; the gate decays what was there before'),
        (later-a+before, 'dG: token i itself counts, its own gate fades what it reads'), (later+before+b, 'written: token i writes after its gate, so only j < i'), (later, 'what was written before i, on its way to the end of the chunk, is missing'), (before, 'the gradients of the running decay are missing'), (later-before, 'the two sums are added')], tol=1e-12)

# %% wrong
def sums_ex06cb(a, b, later=lambda i, j: i >= j, before=lambda i, j: i < j):
    i = torch.arange(len(a))
    return (later(i[:, None], i)*a[:, None]).sum(0)+(before(i[:, None], i)*b[:, None]).sum(0)
wrong_ex06cb = [(lambda a, b: sums_ex06cb(a, b, lambda i, j: i <= j, lambda i, j: i > j), 'both sums'), (lambda a, b: sums_ex06cb(a, b, lambda i, j: i <= j), 'up to i;'), (lambda a, b: sums_ex06cb(a, b, before=lambda i, j: i > j), 'after i;'), (lambda a, b: sums_ex06cb(a, b, lambda i, j: i > j), 'token i itself counts'),
    (lambda a, b: sums_ex06cb(a, b, before=lambda i, j: i <= j), 'writes after its gate'), (lambda a, b: sums_ex06cb(a, 0*b), 'is missing'), (lambda a, b: sums_ex06cb(0*a, b), 'are missing'), (lambda a, b: sums_ex06cb(a, -b), 'are added')]

# %% why
# $g_i$ is part of every $G_m$ with $m \ge i$, its own included; and it fades what the tokens *before* it left in the state, not what it writes itself. A masked sum of 64 by 64 numbers costs a program nothing beside its matrix products, and gives the same result whatever the order.

# %% 3c explore (1 s)
# The inverse of $I+M$ from blocks of `b` by substitution, then rounds that double the blocks, for `M` `(64, 64)`. Return it, and the number of steps that wait for the one before: a row of the substitution after the first is one step, a round is two (its products). The check asks for b = 4, 8, 16 and 64.

# %% solution
def ex06cc(M, b):
    "Inverse of `I + M` from blocks of `b`, and the steps that wait"
    ### BEGIN SOLUTION
    i = torch.arange(len(M))
    D = torch.where(i[:, None]//b == i//b, M, 0.)
    X, steps = torch.eye(len(M), dtype=M.dtype), 0
    for r in range(1, b):                           # row r of every block at once
        X = torch.where((i % b == r)[:, None], X-D @ X, X)
        steps += 1
    while b < len(M):
        below = (i[:, None]//b == i//b+1) & (i//b % 2 == 0)
        X = X-X @ torch.where(below, M, 0.) @ X
        b, steps = 2*b, steps+2
    return X, steps
    ### END SOLUTION

# %% check
def check_ex06cc(f):
    keys = F.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    M, I = (keys @ keys.T).tril(-1), torch.eye(64, dtype=torch.float64)
    want = torch.linalg.inv(I+M)
    def blocks(b):                                  # inverses of the blocks on the diagonal alone
        return torch.block_diag(*[torch.linalg.inv(x) for x in (I+M).unflatten(0, (-1, b)).unflatten(2, (-1, b)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)])
    for b in (4, 8, 16, 64):
        X, steps = f(M, b) or (None, None)
        check_answer(X, want, [(blocks(b), 'these are the blocks on the diagonal; the rounds are missing'), (I-M, 'the first two terms of a series; the rows wait for each other'), (I+M, 'this is the matrix, not its inverse'), (torch.linalg.inv(I-M), 'the sign: row i is e_i minus the sum of M_ij X_j'),
            (blocks(2*b) if b < 64 else I, 'one round is missing at the end: the blocks double until they are the whole')], tol=1e-9, name=f'inverse, b = {b}')
        rounds = (64//b).bit_length()-1
        check_answer(steps, b-1+2*rounds, [(b-1+rounds, 'a round is two products, and the second waits for the first'), (b+2*rounds, 'the first row of a block is that of the identity: no step'), (63, 'all blocks take their row r at the same time'), (b-1, 'the rounds wait too'), (2*rounds, 'the rows of a block wait for each other')], name=f'steps, b = {b}')
    return 'ex06cc: right'

# %% wrong
wrong_ex06cc = [(lambda M, b: (torch.block_diag(*[torch.linalg.inv(torch.eye(b)+M[a:a+b, a:a+b]) for a in range(0, 64, b)]), 0), 'these are the blocks'), (lambda M, b: (torch.eye(64)-M, 0), 'of a series'), (lambda M, b: (torch.eye(64)+M, 0), 'this is the matrix'), (lambda M, b: (ex06cc(-M, b)[0], 0), 'the sign'),
    (lambda M, b: (ex06cc(M, b)[0], b-1+(64//b).bit_length()-1), 'is two products'), (lambda M, b: (ex06cc(M, b)[0], b+2*((64//b).bit_length()-1)), 'no step'), (lambda M, b: (ex06cc(M, b)[0], 63), 'at the same time'), (lambda M, b: (ex06cc(M, b)[0], b-1), 'the rounds wait too'), (lambda M, b: (ex06cc(M, b)[0], 2*((64//b).bit_length()-1)), 'the rows of a block wait')]

# %% why
# 11, 13, 19 and 63 steps for b = 4, 8, 16, 64. Four would wait least, but a row step costs a few operations and a round two 64 by 64 products; from 8 to 4 two waits go and two products, 0.5 million multiplications, come. Which is faster the compiler's `SHFL` and `HMMA` do not say either: that is a measurement.
