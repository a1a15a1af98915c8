# %% setup
import functools, torch
from hybrid_tutorial.core import check_answer, rms_error

# %% 1a compute (1 s)
# Return three numbers: megabytes of state, megabytes that a token moves, and the most tokens per second that an H100 (3.35 TB per second) can write for one sequence if nothing else moved.

# %% solution
def ex06ea():
    "State in MB, MB per token, tokens per second"
    ### BEGIN SOLUTION
    state = 24*16*128*128*4/1e6
    return state, 2*state, 3.35e6/(2*state)
    ### END SOLUTION

# %% check
def check_ex06ea(f):
    size = torch.empty(24, 16, 128, 128, device='meta').nbytes/1e6
    state, moved, rate = f() or (None, None, None)
    check_answer(state, size, [(size/2, 'float32: four bytes'), (size/4, 'four bytes a number'), (size/16, '16 heads'), (size/24, '24 layers'), (24*16*(128+128)*4/1e6, 'a state is K times V numbers, not K+V')], tol=1e-3, name='state')
    check_answer(moved, 2*size, [(size, 'a step reads the state and writes it')], tol=1e-3, name='moved')
    return check_answer(rate, 3.35e12/(2*size*1e6), [(3.35e12/(size*1e6), 'it is read and written'), (2*size*1e6/3.35e12, 'this is seconds per token'), (3.35e12/(2*size), 'megabytes are 10**6 bytes')], tol=1e-2, name='tokens per second')

# %% wrong
wrong_ex06ea = [(lambda: (12.583, 0, 0), 'float32: four'), (lambda: (6.2915, 0, 0), 'four bytes a number'), (lambda: (1.5729, 0, 0), '16 heads'), (lambda: (1.0486, 0, 0), '24 layers'), (lambda: (0.39322, 0, 0), 'not K+V'), (lambda: (25.166, 25.166, 0), 'reads the state and writes'), (lambda: (25.166, 50.332, 133118), 'read and written'),
    (lambda: (25.166, 50.332, 1.5024e-5), 'seconds per token'), (lambda: (25.166, 50.332, 6.656e10), '10**6 bytes')]

# %% why
# $24\cdot16\cdot128^2\cdot4 = 25.2$ MB, moved twice: 66,600 tokens per second at best, for one sequence or for any, since each has a state of its own. Weights are shared by a batch, states are not: with many sequences it is the state that decides.

# %% 2b implement (1 s)
# The step in torch, cut as the kernel cuts it: for every head and every block of `BV` columns one program, which sees nothing but its own block of the state. `q`, `k` are `(H, K)`, `v` is `(H, V)`, `a` `(H,)` are the decays, `S` is `(H, K, V)`. Return the output `(H, V)` and the new state; leave the old one alone.

# %% solution
def ex06eb(q, k, v, a, S, BV):
    "One token of RetNet, a block of columns at a time"
    ### BEGIN SOLUTION
    o, last = torch.empty_like(v), torch.empty_like(S)
    for h in range(len(q)):
        for c in range(0, v.shape[1], BV):
            block = a[h]*S[h, :, c:c+BV] + k[h, :, None]*v[h, c:c+BV]
            o[h, c:c+BV], last[h, :, c:c+BV] = (q[h, :, None]*block).sum(0), block
    return o, last
    ### END SOLUTION

# %% check
def check_ex06eb(f):
    gen = torch.Generator().manual_seed(0)
    q, k, v, S = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((3, 4), (3, 4), (3, 10), (3, 4, 10)))
    a, kv, before = torch.linspace(0.5, 0.9, 3, dtype=torch.float64)[:, None, None], k[:, :, None]*v[:, None], S.clone()
    read = lambda S: torch.einsum('h k, h k v -> h v', q, S)
    o, last = f(q, k, v, a.flatten(), S, 4) or (None, None)
    if not torch.equal(S, before): raise AssertionError('state: the old state was overwritten; a rejected draft could not go back to it')
    new = a*S+kv
    hidden = lambda x: torch.cat([x[..., :8], 0*x[..., 8:]], -1)
    check_answer(last, new, [(S+kv, 'the state fades first'), (a*(S+kv), 'the new token does not fade yet: decay first, then add'), (a[:1]*S+kv, 'every head has a decay of its own'), (a*S, 'k v^T is not added'), (hidden(new), 'the last two columns are missing: 10 is no multiple of 4')], tol=1e-12, name='state')
    return check_answer(o, read(new), [(read(S), 'the output must see the token that was just written'), (read(a*S), 'the output must see the token that was just written, not only the faded state'), (hidden(read(new)), 'the last two columns are missing: 10 is no multiple of 4'), (read(new)*0.5, 'no scale here')], tol=1e-12, name='output')

# %% wrong
def step_ex06eb(q, k, v, a, S, decay=None, late=False, write=1, early=None):
    new = (a if decay is None else decay)[:, None, None]*(S+write*k[:, :, None]*v[:, None] if late else S)+(0 if late else write*k[:, :, None]*v[:, None])
    return torch.einsum('h k, h k v -> h v', q, new if early is None else early), new
def in_place_ex06eb(q, k, v, a, S, BV):
    S *= a[:, None, None]
    return step_ex06eb(q, k, v, a, S, decay=0*a+1)
wrong_ex06eb = [(in_place_ex06eb, 'overwritten'), (lambda q, k, v, a, S, BV: step_ex06eb(q, k, v, a, S, decay=0*a+1), 'fades first'), (lambda q, k, v, a, S, BV: step_ex06eb(q, k, v, a, S, late=True), 'does not fade yet'), (lambda q, k, v, a, S, BV: step_ex06eb(q, k, v, a, S, decay=a[:1].expand(3)), 'of its own'), (lambda q, k, v, a, S, BV: step_ex06eb(q, k, v, a, S, write=0), 'is not added'),
    (lambda q, k, v, a, S, BV: [torch.cat([x[..., :8], 0*x[..., 8:]], -1) for x in step_ex06eb(q, k, v, a, S)], 'state: the last two'), (lambda q, k, v, a, S, BV: step_ex06eb(q, k, v, a, S, early=S), 'just written'), (lambda q, k, v, a, S, BV: step_ex06eb(q, k, v, a, S, early=a[:, None, None]*S), 'not only the faded'), (lambda q, k, v, a, S, BV: (step_ex06eb(q, k, v, a, S)[0]/2, step_ex06eb(q, k, v, a, S)[1]), 'no scale')]

# %% why
# A column of the state takes one number of `v` and gives one of `o`: columns never meet, so programs need no word from each other. Rows do meet, in the sum over the key channels, and that is why a program holds all of `K` and only a part of `V`.

# %% 3c explore (2 s)
# `k` `(2000, 8)` and `v` `(2000, 8)` are written one after the other with decay `a`: $S \leftarrow aS + kv^\top$, computed in float32. Keep the state in bfloat16 between tokens (round it after every one) and beside it in float32. Return the relative error of the last state (`rms_error`) for decays 0.9, 0.99 and 0.999, then for 0.999 where the state is rounded only after every 64th token.

# %% solution
def ex06ec(k, v):
    "Relative errors for decays 0.9, 0.99, 0.999; for 0.999 rounded after every 64 tokens"
    ### BEGIN SOLUTION
    def error(a, every=1):
        S = low = torch.zeros(8, 8)
        for t, (x, y) in enumerate(zip(k, v), 1):
            S, low = a*S+torch.outer(x, y), a*low+torch.outer(x, y)
            if t % every == 0: low = low.bfloat16().float()
        return rms_error(low, S)
    return error(0.9), error(0.99), error(0.999), error(0.999, 64)
    ### END SOLUTION

# %% check
@functools.cache
def truth_ex06ec():
    gen = torch.Generator().manual_seed(0)
    k, v = torch.randn(2000, 8, generator=gen), torch.randn(2000, 8, generator=gen)
    kv = k[:, :, None]*v[:, None]
    def error(a, every=1):
        low, want = torch.zeros(8, 8), torch.einsum('t, t k v -> k v', a**torch.arange(1999, -1, -1.), kv)
        for part in kv.split(every):
            for x in part: low = a*low+x
            if len(part) == every: low = low.bfloat16().float()
        return rms_error(low, want), rms_error(want.bfloat16(), want)
    return k, v, [error(0.9)[0], error(0.99)[0], error(0.999)[0], error(0.999, 64)[0]], error(0.999)[1]

def check_ex06ec(f):
    k, v, truth, last = truth_ex06ec()
    got = f(k, v) or [None]*4
    for name, mine, want in zip(('decay 0.9', 'decay 0.99', 'decay 0.999', 'every 64 tokens'), got, truth):
        others = [(x, hint) for x, hint in ((last, 'this rounds once, at the end; round after every token'), (truth[2], 'round only where t is a multiple of 64'), (truth[0], 'this is the error of decay 0.9'), (0., 'both are float32: the rounding is missing')) if abs(x-want) > 0.2*want]
        check_answer(mine, want, others, tol=0.1, name=name)
    return 'ex06ec: right'

# %% wrong
def rounded_ex06ec(k, v):
    S = torch.zeros(8, 8)
    for x, y in zip(k, v): S = 0.999*S+torch.outer(x, y)
    return rms_error(S.bfloat16(), S)
wrong_ex06ec = [(lambda k, v: (0., 0., 0., 0.), 'is missing'), (lambda k, v: (*ex06ec(k, v)[:2], rounded_ex06ec(k, v), 0.), 'rounds once'), (lambda k, v: (*ex06ec(k, v)[:3], ex06ec(k, v)[2]), 'multiple of 64'), (lambda k, v: (ex06ec(k, v)[0],)*4, 'of decay 0.9')]

# %% why
# 0.4, 1.3 and 3.8 %: a state that remembers 10, 100 or 1,000 tokens collects as many roundings, and they add up like the root of their number. Rounded after every 64th token it is 0.5 %, once at the end 0.2 %. The channels with the longest memory suffer most: that is why the step keeps its state in float32.
