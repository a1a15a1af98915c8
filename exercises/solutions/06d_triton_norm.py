# %% setup
import torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer

# %% 1a compute (1 s)
# A block has 16 rows at this width, and at most 264 programs start. Return three numbers: programs, blocks that each walks over, and blocks that the last program still finds.

# %% solution
def ex06da():
    "Programs, blocks for each, blocks for the last"
    ### BEGIN SOLUTION
    blocks = 8192*32//16
    steps = -(-blocks//264)
    programs = -(-blocks//steps)
    return programs, steps, blocks-(programs-1)*steps
    ### END SOLUTION

# %% check
def check_ex06da(f):
    steps = next(n for n in range(1, 10000) if 264*n*16 >= 8192*32)
    owner = torch.arange(8192*32)//16//steps        # program of every row
    programs, last = int(owner.max())+1, int((owner == owner.max()).sum())//16
    got = f() or (None, None, None)
    check_answer(got[1], steps, [(62, '264 programs of 62 blocks leave 16 blocks undone: round up'), (1, 'one block each takes 16,384 programs; at most 264 start'), (63*16, 'these are rows, 16 to a block'), (993, 'these are rows; a block has 16'), (31, 'a block has 16 rows at width 128, not 32')], name='steps')
    check_answer(got[0], programs, [(264, 'with 63 blocks each, fewer programs are enough'), (260, 'a few blocks are left after 260 programs'), (16384, 'at most 264 start')], name='programs')
    return check_answer(got[2], last, [(steps, 'the last one finds what the others leave'), (0, 'a program without blocks is not started')], name='last')

# %% wrong
wrong_ex06da = [(lambda: (264, 62, 62), 'leave 16 blocks'), (lambda: (16384, 1, 1), 'one block each'), (lambda: (261, 1008, 64), 'these are rows, 16'), (lambda: (264, 993, 1), 'a block has 16'), (lambda: (264, 31, 31), 'not 32'), (lambda: (264, 63, 4), 'fewer programs'), (lambda: (260, 63, 63), 'are left'),
    (lambda: (16384, 63, 4), 'at most 264'), (lambda: (261, 63, 63), 'what the others leave'), (lambda: (261, 63, 0), 'is not started')]

# %% why
# 262,144 rows are 16,384 blocks; $\lceil 16384/264\rceil = 63$ each, $\lceil 16384/63\rceil = 261$ programs, and the last one finds 4. The weight's gradient is then a sum of 261 rows in place of 262,144.

# %% 2b implement (1 s)
# The kernel of the notebook as one tile in torch: `x` is `(BR, BK)` as it was loaded, zeros past column `K` and in rows past the end. Return the tile after the layer norm (no weight, eps 1e-5), zeros where `ok` is False.

# %% solution
def ex06db(x, ok, K):
    "Layer norm of the rows of a tile of which `K` columns are real"
    ### BEGIN SOLUTION
    d = torch.where(ok, x-x.sum(1, keepdim=True)/K, 0.)
    return d*torch.rsqrt((d*d).sum(1, keepdim=True)/K+1e-5)
    ### END SOLUTION

# %% check
def check_ex06db(f, K=40, BK=64, rows=3):
    gen = torch.Generator().manual_seed(0)
    ok = (torch.arange(4) < rows)[:, None] & (torch.arange(BK) < K)
    x = torch.where(ok, 3+torch.randn(4, BK, generator=gen), 0.)
    want = F.pad(F.layer_norm(x[:rows, :K], (K,)), (0, BK-K, 0, 1))
    got = f(x, ok, K)
    if isinstance(got, torch.Tensor) and not got.isfinite().all(): raise AssertionError('tile: not a number, in the row past the end: its square is 0, eps keeps it from a division by 0')
    def norm(mean, over, hide, rest=True):
        d = x-(x.sum(1, keepdim=True)/mean if rest else 0)
        d = torch.where(ok, d, 0.) if hide else d
        return torch.where(ok, d*torch.rsqrt((d*d).sum(1, keepdim=True)/over+1e-5), 0.)
    check_answer(torch.where(ok, got, 0.) if isinstance(got, torch.Tensor) else got, want, [(norm(K, K, False), 'the columns past the end are 0 when loaded; after the mean is taken off they are not'), (norm(BK, BK, True), 'divide by K, not by the width of the tile'), (norm(K, BK, True), 'the mean of the squares is over K too'),
        (norm(BK, K, True), 'the mean is over K, not over the width of the tile'), (norm(K, K, True, False), 'the mean is not taken off: this is an RMS norm'), (norm(K, K-1, True), 'the squares are divided by K, not by K-1')], tol=1e-5, name='tile')
    return check_answer(got, want, [(torch.where(ok, want, got), 'right where it counts; outside of `ok` it must be 0')], tol=1e-5, name='tile')

# %% wrong
def norm_ex06db(x, ok, mean, over, hide=True, rest=1, eps=1e-5):
    d = x-rest*x.sum(1, keepdim=True)/mean
    d = torch.where(ok, d, 0.) if hide else d
    return torch.where(ok, d*torch.rsqrt((d*d).sum(1, keepdim=True)/over+eps), 0.) if eps else d*torch.rsqrt((d*d).sum(1, keepdim=True)/over)
wrong_ex06db = [(lambda x, ok, K: norm_ex06db(x, ok, K, K, hide=False), 'they are not'), (lambda x, ok, K: norm_ex06db(x, ok, 64, 64), 'divide by K'), (lambda x, ok, K: norm_ex06db(x, ok, K, 64), 'over K too'), (lambda x, ok, K: norm_ex06db(x, ok, 64, K), 'the mean is over K,'),
    (lambda x, ok, K: norm_ex06db(x, ok, K, K, rest=0), 'an RMS norm'), (lambda x, ok, K: norm_ex06db(x, ok, K, K-1), 'not by K-1'), (lambda x, ok, K: norm_ex06db(x, ok, K, K, eps=0), 'keeps it from'), (lambda x, ok, K: torch.where(ok, ex06db(x, ok, K), 1.), 'it must be 0')]

# %% why
# A mask makes 0 at the load, and 0 is neutral for a sum, not for what comes after: $0-\bar x$ is no longer 0, and 24 columns of $\bar x^2$ join the variance. An RMS norm takes nothing off, so there the zeros stay zeros and one mask is enough.

# %% 3c explore (2 s)
# `shares` is `(4096,)` in float32, `orders` are 20 random orders of its numbers. First all add to one number as they arrive; then program p adds numbers 16p to 16p+15 in order into a place of its own, the programs finish in any order, and at the end the 256 places are added in order. Return how many different sums come out of the 20 orders, for each way.

# %% solution
def ex06dc(shares, orders):
    "Different sums: added as they arrive; by strips"
    ### BEGIN SOLUTION
    def total(x):                                   # one after the other, for all rows at once
        s = torch.zeros_like(x[:, 0])
        for y in x.unbind(1): s = s+y
        return s
    strips = total(shares.view(256, 16))            # whoever finishes first, place p holds the sum of strip p
    return len(total(shares[orders]).unique()), len(total(strips[None]).unique())
    ### END SOLUTION

# %% check
def check_ex06dc(f):
    gen = torch.Generator().manual_seed(0)
    shares = torch.randn(4096, generator=gen)
    orders = torch.stack([torch.randperm(4096, generator=gen) for _ in range(20)])
    sums = [0.]*20
    import numpy as np
    for i, order in enumerate(orders.tolist()):
        s = np.float32(0)
        for x in shares.numpy()[order]: s = s+x
        sums[i] = float(s)
    arrive, strips = f(shares, orders) or (None, None)
    check_answer(arrive, len(set(sums)), [(1, 'compare to the last bit, in float32, one number after the other; `sum` sorts them into blocks of its own'), (20, 'some orders happen to agree'), (2, 'not only right or wrong: count the different values')], name='as they arrive')
    return check_answer(strips, 1, [(len(set(sums)), 'who finishes first does not matter: strip p always stands in place p'), (256, 'there is one sum in the end'), (20, 'who finishes first does not matter: place p is the same every time')], name='strips')

# %% wrong
wrong_ex06dc = [(lambda s, o: (len(s[o].double().sum(1).float().unique()), 1), 'to the last bit'), (lambda s, o: (20, 1), 'happen to agree'), (lambda s, o: (2, 1), 'not only right'), (lambda s, o: (ex06dc(s, o)[0],)*2, 'stands in place p'), (lambda s, o: (ex06dc(s, o)[0], 256), 'one sum'), (lambda s, o: (ex06dc(s, o)[0], 20), 'the same every time')]

# %% why
# 18 different sums from 20 orders, in their last bits; one by strips, whatever finishes first. Runs that differ in the last bit drift apart, and then a bug cannot be told from noise. The price is a small buffer, 256 rows here, and one more sum.
