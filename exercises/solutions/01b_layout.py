# %% setup
import torch
from hybrid_tutorial.core import check_answer, rms_error
from hybrid_tutorial.ops.layout import by_stretches, from_chunks, to_chunks

# %% 1a compute (1 s)
# Return four numbers: chunks and zero rows of the one text, then chunks and zero rows of the three documents. Count the rows of one head.

# %% solution
def ex01ba():
    "Chunks and zero rows: one text of 1000 tokens; documents of 100, 100 and 800 tokens"
    ### BEGIN SOLUTION
    chunks, zeros = (lambda T: -(-T//64)), (lambda T: -T % 64)
    return chunks(1000), zeros(1000), sum(map(chunks, (100, 100, 800))), sum(map(zeros, (100, 100, 800)))
    ### END SOLUTION

# %% check
def check_ex01ba(f):
    def count(*lengths):
        cut = [to_chunks(torch.ones(1, T, 1, 1), 64) for T in lengths]
        return sum(len(x) for x in cut), sum(int((x == 0).sum()) for x in cut)
    N, zeros, packed, packed_zeros = f() or [None]*4
    check_answer(N, count(1000)[0], [(15, 'the last 40 tokens need a chunk too'), (15.625, 'a chunk is cut off nowhere: round up')], name='chunks')
    check_answer(zeros, count(1000)[1], [(40, 'these are the tokens of the last chunk; the other rows of its 64 are zeros'), (0, 'the last chunk is not full')], name='zeros')
    check_answer(packed, count(100, 100, 800)[0], [(count(1000)[0], 'each document starts from a state of its own, so it starts a chunk of its own'), (14, 'the end of every document needs a chunk too')], name='packed chunks')
    return check_answer(packed_zeros, count(100, 100, 800)[1], [(count(1000)[1], 'every document fills up its own last chunk'), (104, 'these are the tokens of the three last chunks; count the rows beside them')], name='packed zeros')

# %% wrong
wrong_ex01ba = [(lambda: (15, 40, 15, 40), 'the last 40 tokens'), (lambda: (15.625, 24, 16, 24), 'round up'), (lambda: (16, 40, 17, 88), 'tokens of the last chunk;'), (lambda: (16, 0, 17, 0), 'not full'),
    (lambda: (16, 24, 16, 24), 'a chunk of its own'), (lambda: (16, 24, 14, 88), 'end of every document'), (lambda: (16, 24, 17, 24), 'fills up'), (lambda: (16, 24, 17, 104), 'three last chunks')]

# %% why
# $16\cdot 64 = 1024$ rows for 1000 tokens, 2 % for nothing. Three documents take $2+2+13 = 17$ chunks and 88 empty rows, half a chunk per document on average: many short texts in one row are dear in a chunk form.

# %% 2b implement (1 s)
# `x` is `(N, B*H, C, V)`, the result `(B, N*C, H, V)`. Loop over two of the axes, no `permute`.

# %% solution
def ex01bb(x, B):
    "`from_chunks` with two loops"
    ### BEGIN SOLUTION
    N, rows, C, V = x.shape
    out = x.new_empty(B, N*C, rows//B, V)
    for n in range(N):
        for r in range(rows): out[r//(rows//B), n*C:n*C+C, r % (rows//B)] = x[n, r]
    return out
    ### END SOLUTION

# %% check
def check_ex01bb(f):
    x = torch.arange(4*6*5*2.).view(4, 6, 5, 2)     # 4 chunks, B*H = 2*3
    b, h = x.unflatten(1, (2, 3)), x.unflatten(1, (3, 2))
    return check_answer(f(x, 2), from_chunks(x, 2), [
        (h.permute(2, 0, 3, 1, 4).flatten(1, 2), 'row r belongs to sequence r//H and head r % H: the batch is the outer one'),
        (b.permute(1, 3, 0, 2, 4).flatten(1, 2), 'token i of chunk n stands at n*C+i, not at i*N+n'),
        (b.permute(1, 2, 0, 3, 4).flatten(2, 3), 'time before heads: (B, T, H, V)'),
        (b.flip(0).permute(1, 0, 3, 2, 4).flatten(1, 2), 'the first chunk comes first')], tol=0.)

# %% wrong
wrong_ex01bb = [(lambda x, B: x.unflatten(1, (-1, B)).permute(2, 0, 3, 1, 4).flatten(1, 2), 'the outer one'), (lambda x, B: x.unflatten(1, (B, -1)).permute(1, 3, 0, 2, 4).flatten(1, 2), 'not at i*N+n'),
    (lambda x, B: x.unflatten(1, (B, -1)).permute(1, 2, 0, 3, 4).flatten(2, 3), 'time before heads'), (lambda x, B: from_chunks(x.flip(0), B), 'comes first')]

# %% why
# Chunk $n$, row $bH+h$, place $i$ goes to sequence $b$, time $nC+i$, head $h$. `permute` says the same without copying; only `flatten` moves numbers, once.

# %% 3c explore (2 s)
# The shortest of 8, 16, 32, ... 256 tokens counts. `toy(decay)` is a function of `(S, x)` like the one above, `x` is `(1, 256, 4)` in float64. Return the length for decay 0.5 and the one for 0.8; `rms_error(got, want)` gives the relative error.

# %% solution
def ex01bc(toy, x):
    "Shortest stretch whose cut gradient is right to 10 %, for decays 0.5 and 0.8"
    ### BEGIN SOLUTION
    def cut(f, n):
        S, out = x.new_zeros(1, 4), []
        for part in leaf.split(n, 1):
            o, S = f(S.detach(), part)
            out.append(o)
        return torch.cat(out, 1)
    slope = lambda o: torch.autograd.grad(o.square().sum(), leaf)[0]
    leaf = x.clone().requires_grad_()
    def shortest(f):
        want = slope(by_stretches(f, 64, x.new_zeros(1, 4), (leaf,))[0])
        return next(n for n in (8, 16, 32, 64, 128, 256) if rms_error(slope(cut(f, n)), want) <= 0.1)
    return shortest(toy(0.5)), shortest(toy(0.8))
    ### END SOLUTION

# %% check
def toy_ex01bc(decay):
    def toy(S, x):
        out = []
        for x in x.unbind(1): S = decay*S + x; out.append(S)
        return torch.stack(out, 1), S
    return toy

def check_ex01bc(f):
    x, t = torch.randn(1, 256, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(256)
    def shortest(decay, tol):                       # the same as matrices
        M = torch.where(t[:, None] >= t, decay**(t[:, None]-t).double(), 0.)
        slope = lambda n: (M*(t[:, None]//n == t//n)).T @ M @ x[0]
        return next(n for n in (8, 16, 32, 64, 128, 256) if rms_error(slope(n), slope(256)) <= tol)
    want = shortest(0.5, 0.1), shortest(0.8, 0.1)
    return check_answer(f(toy_ex01bc, x), want, [((8, 8), 'the outputs are right at every length; compare the gradients'), ((256, 256), 'a stretch of 256 is the whole text; shorter ones are within 10 % too'),
        (want[::-1], 'the state that fades faster needs the shorter stretch'), ((shortest(0.5, 0.01), shortest(0.8, 0.01)), '10 %, not 1 %'), ((8, 16), 'not the half-life alone: the last tokens of every stretch are wrong, however fast the state fades')])

# %% wrong
wrong_ex01bc = [(lambda toy, x: (8, 8), 'compare the gradients'), (lambda toy, x: (128, 32), 'the shorter stretch'), (lambda toy, x: (256, 256), 'is the whole text'), (lambda toy, x: (8, 16), 'not the half-life')]

# %% why
# 32 and 128: even where the state halves at every token, stretches of 8 are off by 19 %. The last tokens of a stretch lose the future, a fixed number of them, so the error only falls with the root of the length, and no check of outputs can see it. `by_stretches` hands `dS` on, for one state per stretch.
