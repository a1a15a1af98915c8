# %% setup
import torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer, rms_error
from hybrid_tutorial.models.window import bands, window_attention
from hybrid_tutorial.ops.softmax import attention_weights, softmax_attention

# %% 1a compute (1 s)
# Return both numbers for one head. Full attention computes nothing above the diagonal; `window_attention` computes every score of its blocks, also those that the mask hides.

# %% solution
def ex11ba():
    "Multiplications of the scores: in blocks of the window, and of the whole triangle"
    ### BEGIN SOLUTION
    T, w, K = 4096, 64, 64
    return T*(2*w-1)*K, T*(T+1)//2*K
    ### END SOLUTION

# %% check
def check_ex11ba(f):
    from torch.utils.flop_counter import FlopCounterMode
    x = torch.zeros(1, 4096, 1, 64)
    with FlopCounterMode(display=False) as counter: window_attention(x, x, x, 64, scale=1., block=64)
    near, full = f() or (None, None)
    check_answer(near, counter.get_total_flops()/2/2, [(4096*64*64, 'each query counts its 64 keys, but a block of 64 queries computes its scores with 127 keys'), (4096*128*64, 'the block before gives one key less than the window: 127'), (counter.get_total_flops()/2, 'the scores alone; reading the values is as much again'), (127*64*64, 'this is one block of 64')], name='window')
    return check_answer(full, sum(t*64 for t in range(1, 4097)), [(4096**2*64, 'only up to the diagonal'), (4096*4095//2*64, 'a token sees itself too'), (4096**2//2*64, 'the diagonal is missing half')], name='full')

# %% wrong
wrong_ex11ba = [(lambda: (4096*64*64, 1), 'with 127 keys'), (lambda: (4096*128*64, 1), 'one key less'), (lambda: (4096*127*64*2, 1), 'the scores alone'), (lambda: (127*64*64, 1), 'one block of 64'), (lambda: (4096*127*64, 4096**2*64), 'up to the diagonal'),
    (lambda: (4096*127*64, 4096*4095//2*64), 'sees itself'), (lambda: (4096*127*64, 4096**2//2*64), 'missing half')]

# %% why
# 33 million against 537 million, a sixteenth, at the price that half of each block is computed for the mask. Full attention is cheaper only on texts shorter than $4w$: there the mean of $(T+1)/2$ keys is under $2w-1$.

# %% 2b implement (1 s)
# No groups, no padding, no documents, no sinks: `q`, `k`, `v` are `(B, T, H, K)`, and `T` need not be a multiple of `c`. `bands(x, T, w, block=c)` gives each block of `c` queries the `c+w-1` keys that it can see; where there is no such position it puts zeros.

# %% solution
def ex11bb(q, k, v, w, c, scale):
    "Window attention in blocks of `c` queries"
    ### BEGIN SOLUTION
    T = q.shape[1]
    blocks = F.pad(q*scale, (0, 0, 0, 0, 0, -T % c)).unflatten(1, (-1, c))
    a, b = torch.arange(c)[:, None], torch.arange(c+w-1)
    real = bands(torch.ones(q.shape[:2], dtype=torch.bool), T, w, block=c)
    mask = real[:, :, None] & (a <= b) & (b < a+w)
    s = torch.einsum('b n a h k, b n j h k -> b n h a j', blocks, bands(k, T, w, block=c))
    p = s.masked_fill(~mask[:, :, None], -1e30).softmax(-1)
    return torch.einsum('b n h a j, b n j h v -> b n a h v', p, bands(v, T, w, block=c)).flatten(1, 2)[:, :T]
    ### END SOLUTION

# %% check
def blocks_ex11bb(q, k, v, w, c, scale, start=True, low=0, high=0):
    "From scores of all pairs, with the usual mistakes"
    T = q.shape[1]
    t, j = torch.arange(T)[:, None], torch.arange(-w-c, T)
    mask = (j <= t-low) & (j > t-w-high) & ((j >= 0) | start)
    k, v = (F.pad(x, (0, 0, 0, 0, w+c, 0)) for x in (k, v))
    s = torch.einsum('b t h k, b j h k -> b h t j', q*scale, k).masked_fill(~mask, -1e30)
    return torch.einsum('b h t j, b j h v -> b t h v', s.softmax(-1), v)

def check_ex11bb(f):
    torch.manual_seed(0)
    for T, w, c in ((40, 8, 8), (37, 8, 4), (37, 8, 11), (20, 1, 5)):
        q, k, v = (torch.randn(2, T, 3, 8) for _ in range(3))
        bad = lambda **how: blocks_ex11bb(q, k, v, w, c, 0.3, **how)
        unscaled, want = softmax_attention(q, k, v, window=w, scale=1.), softmax_attention(q, k, v, window=w, scale=0.3)
        got = f(q, k, v, w, c, 0.3)
        if torch.is_tensor(got) and got.shape[1] > T: raise AssertionError(f'T = {T}, c = {c}: {got.shape[1]} tokens come back; cut off what filled the last block')
        check_answer(got, want, [(bad(), 'before the start there are no keys: zeros take weight too, exp(0) = 1'), (bad(start=False, high=1), 'one key too far back: the window counts the query itself'), (bad(start=False, high=-1), 'one key too few: the window counts the query itself, and w-1 before it'),
            (unscaled, 'the scale is missing'), (softmax_attention(q, k, v, scale=0.3), 'the band has no lower end: everything before is seen')], tol=1e-5, name=f'T = {T}, w = {w}, c = {c}')
    return 'ex11bb: right'

# %% wrong
wrong_ex11bb = [(lambda *a: blocks_ex11bb(*a), 'exp(0)'), (lambda *a: blocks_ex11bb(*a, start=False, high=1), 'too far back'), (lambda *a: blocks_ex11bb(*a, start=False, high=-1), 'too few'), (lambda q, k, v, w, c, s: ex11bb(q, k, v, w, c, 1.), 'scale is missing'),
    (lambda q, k, v, w, c, s: softmax_attention(q, k, v, scale=s), 'no lower end'), (lambda q, k, v, w, c, s: F.pad(ex11bb(q, k, v, w, c, s), (0, 0, 0, 0, 0, -q.shape[1] % c)), 'filled the last block')]

# %% why
# A block costs $c\,(c+w-1)$ scores, so a token costs $c+w-1$: for `w = 64` these are 127 at `c = 64`, 95 at 32 and 79 at 16. Fewer products, but more and smaller ones; where the quickest `c` lies is a matter of the machine, and it is never far above `w`.

# %% 3c explore (1 s)
# In small: `parts()` gives `q`, `k`, `v` `(1, 256, 2, 16)` of heads that behave like a trained model's: about half of their attention rests on the first token, whose value is small. `softmax_attention(q, k, v, window=32, sinks=...)` is what a window sees. Compare with full softmax on the last 128 tokens and return three relative RMS errors: no sinks, four sinks, and no sinks but multiplied by the one number that fits best.

# %% solution
def ex11bc(parts):
    "Error without sinks, with four, and without but scaled"
    ### BEGIN SOLUTION
    q, k, v = parts()
    want, bare, four = (softmax_attention(q, k, v, **how)[:, 128:] for how in ({}, dict(window=32), dict(window=32, sinks=4)))
    factor = (bare*want).sum()/bare.pow(2).sum()
    return rms_error(bare, want), rms_error(four, want), rms_error(factor*bare, want)
    ### END SOLUTION

# %% check
def parts_ex11bc():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 256, 2, 16) for _ in range(3))
    drift = torch.cumsum(torch.randn(1, 256, 2, 16), 1)                # near tokens resemble each other
    q, k = 0.3*q+drift/drift.norm(dim=-1, keepdim=True)*5, 0.3*k+drift/drift.norm(dim=-1, keepdim=True)*5
    q[..., 0], k[..., 0], k[:, 0], v[:, 0] = 6, 0, 0, 0.05*v[:, 0]
    k[:, 0, :, 0] = 7
    return q, k, v

def check_ex11bc(f):
    q, k, v = parts_ex11bc()
    p = attention_weights(q, k)[:, :, 128:]                            # zero what is not seen, and share out again
    def read(sinks, start=128):
        t, j = torch.arange(128, 256)[:, None], torch.arange(256)
        seen = p*((j > t-32) | (j < sinks))
        return torch.einsum('b h t j, b j h v -> b t h v', seen/seen.sum(-1, keepdim=True), v)
    want = torch.einsum('b h t j, b j h v -> b t h v', p, v)
    bare, four = read(0), read(4)
    best = float(torch.linalg.lstsq(bare.reshape(-1, 1), want.reshape(-1, 1)).solution)
    a, b, c = f(parts_ex11bc) or (None,)*3
    whole = rms_error(softmax_attention(q, k, v, window=32), softmax_attention(q, k, v))
    check_answer(a, rms_error(bare, want), [(rms_error(four, want), 'this is with sinks'), (whole, 'on the last 128 tokens; the first 32 of the text lack nothing'), (rms_error(want, bare), 'relative to full softmax, not to the window')], tol=1e-3, name='no sinks')
    check_answer(b, rms_error(four, want), [(rms_error(bare, want), 'the sinks are not in use'), (rms_error(want, four), 'with sinks, but relative to the window')], tol=1e-3, name='four sinks')
    return check_answer(c, rms_error(best*bare, want), [(rms_error(bare, want), 'as without a factor'), (rms_error(bare/best, want), 'the factor is upside down: the window reads too much, not too little')], tol=1e-3, name='scaled')

# %% wrong
def upside_ex11bc(parts):
    want, bare = softmax_attention(*parts())[:, 128:], softmax_attention(*parts(), window=32)[:, 128:]
    return *ex11bc(parts)[:2], rms_error(bare*bare.pow(2).sum()/(bare*want).sum(), want)
wrong_ex11bc = [(lambda parts: (ex11bc(parts)[1], 0, 0), 'this is with sinks'), (lambda parts: (rms_error(softmax_attention(*parts(), window=32), softmax_attention(*parts())), 0, 0), 'lack nothing'), (lambda parts: (ex11bc(parts)[0],)*3, 'not in use'),
    (lambda parts: (*ex11bc(parts)[:2], ex11bc(parts)[0]), 'without a factor'), (upside_ex11bc, 'upside down')]

# %% why
# 2.72 without sinks, 0.53 with four, 0.75 after scaling. Here 57 % of the attention is on the first token and 20 % in the window. A window without sinks spends all of its weight where a fifth belongs, and reads values where most of the weight rested on almost nothing: it is not wrong words that it reads, but far too much of them. Four more keys give each query its own factor back.
