# %% setup
import torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.mixers import AttentionShape, make_mixer
from hybrid_tutorial.models.rwkv import RWKV7, TokenShift

def shape(width=32, heads=4, kv_heads=2, head_dim=8):
    return AttentionShape(width=width, heads=heads, kv_heads=kv_heads, head_dim=head_dim, scaling=head_dim**-0.5, qkv_bias=False, o_bias=False, qk_norm='none', norm_eps=1e-6, rope=False, softcap=None, layers=4)

# %% 1a compute (1 s)
# Return the number of parameters, and their share of the layer's five projections (q, k, v, o and the gate, each 576 x 576, as a mixer has all heads).

# %% solution
def ex12ca():
    "Parameters of the token shift; as a share of five projections"
    ### BEGIN SOLUTION
    D, rank, names = 576, 32, 5
    n = D+names*D+D*names*rank+names*rank*D
    return n, n/(5*D*D)
    ### END SOLUTION

# %% check
def check_ex12ca(f):
    with torch.device('meta'): shift = TokenShift(576, 'qkvwg', 32)
    n = sum(p.numel() for p in shift.parameters())
    count, share = f() or (None, None)
    check_answer(count, n, [(n-6*576, 'the plain amounts are missing: one mu_x and five mu'), (n-5*576, 'five mu, one for each of r, k, v, w and g'), (n-576, 'mu_x is missing: the mix that the low-rank part reads'), (576*(1+5+10*32)-2*32*576, 'five things are mixed: the decay w is one of them'),
        (6*576+576*32+5*32*576, 'A too has its own 32 columns for each of the five'), (6*576+5*32*576, 'a low-rank pair has two matrices')], name='parameters')
    return check_answer(share, n/(5*576**2), [(n/(4*576**2), 'the gate is a projection too'), (n/(2*576**2+2*576*192), 'this is the teacher with its 3 key heads; a mixer has 9'), (n/(2*576**2+2*576*192+576**2), 'a mixer has all 9 heads of keys and values'), (5*576**2/n, 'upside down')], tol=1e-3, name='share')

# %% wrong
wrong_ex12ca = [(lambda: (184320, 0), 'one mu_x and five mu'), (lambda: (184896, 0), 'five mu, one'), (lambda: (187200, 0), 'mu_x is missing'), (lambda: (150912, 0), 'the decay w'), (lambda: (114048, 0), 'A too'), (lambda: (95616, 0), 'two matrices'),
    (lambda: (187776, 187776/(4*576**2)), 'gate is a projection'), (lambda: (187776, 187776/884736), 'with its 3 key heads'), (lambda: (187776, 8.83), 'upside down')]

# %% why
# 187,776 numbers, 11.3 % of the projections' 1,658,880. They start without effect; what they buy is that a layer can look at the token before without spending a head on it.

# %% 2b implement (1 s)
# Write it as a function: `v` `(B, T, H, K)` are a layer's own values, `first` `(B, T, G, K)` those of layer 0, whose `G` heads are each shared by `H/G` neighbours, `logit` `(B, T, H, K)` decides how much of layer 0 comes in.

# %% solution
def ex12cb(v, first, logit):
    "Values mixed with those of layer 0"
    ### BEGIN SOLUTION
    first = first.repeat_interleave(v.shape[2]//first.shape[2], 2)
    return v+(first-v)*logit.sigmoid()
    ### END SOLUTION

# %% check
@torch.no_grad()
def check_ex12cb(f):
    torch.manual_seed(0)
    mixer, x = make_mixer('rwkv7', shape(), 1), torch.randn(2, 6, 32)
    mixer.blend.A.normal_()
    q, v, first = torch.randn(2, 6, 4, 8), torch.randn(2, 6, 4, 8), torch.randn(2, 6, 2, 8)
    logit = mixer.blend(x).unflatten(-1, (4, 8))
    want = RWKV7.memory(mixer, dict(g=x), q, q, v, dict(values=first))[3]
    tiles, heads, s = first.repeat(1, 1, 2, 1), first[:, :, [0, 0, 1, 1]], logit.sigmoid()
    rows = first.repeat_interleave(2, -1).flatten(2).unflatten(2, (4, 8))
    check_answer(f(v, first, logit), want, [(v+(tiles-v)*s, 'tiled: head 1 got the values of key head 1, but it shares key head 0 with its neighbour'), (v+(rows-v)*s, 'channels are repeated, not heads'), (heads+(v-heads)*s, 'the other way round: this is the share of the own values'),
        (v+heads*s, 'added, not mixed: the own values must make room'), (v+(heads-v)*logit, 'the logit is no share yet'), (v, 'nothing of layer 0')], tol=1e-5)
    return check_answer(f(v, first, torch.full_like(v, -4.)), 0.982*v+0.018*heads, tol=1e-3, name='at -4')

# %% wrong
wrong_ex12cb = [(lambda v, f, z: v+(f.repeat(1, 1, 2, 1)-v)*z.sigmoid(), 'tiled'), (lambda v, f, z: v+(f.repeat_interleave(2, -1).flatten(2).unflatten(2, (4, 8))-v)*z.sigmoid(), 'channels are repeated'), (lambda v, f, z: ex12cb(v, f, -z), 'other way round'),
    (lambda v, f, z: v+f.repeat_interleave(2, 2)*z.sigmoid(), 'added, not mixed'), (lambda v, f, z: v+(f.repeat_interleave(2, 2)-v)*z, 'no share yet'), (lambda v, f, z: v, 'nothing of layer 0')]

# %% why
# $\sigma(-4) = 1.8\,\%$ of layer 0 instead of 73 %. At the start of stage 1 it hardly matters: notebook 24 measures 0.545 of the error with either, because the output projection is solved for afterwards. It matters for the copied weights, which were made for a layer's own values.

# %% 3c explore (2 s)
# `layer()` gives a fresh RWKV-6 layer, `loss(layer)` its loss. Take plain gradient steps, `p -= 0.1*grad` for every parameter. Return three sets of names (as in `named_parameters()`) of parameters whose gradient is None or all zero: at the first step; at the second; and at the fifth, if you set `shift.B` to zero before the first.

# %% solution
def ex12cc(layer, loss):
    "Names without gradient at step 1, at step 2, and at step 5 from `shift.B = 0`"
    ### BEGIN SOLUTION
    def without(m, steps):
        for _ in range(steps):
            m.zero_grad()
            loss(m).backward()
            still = {n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()}
            with torch.no_grad(): [p.sub_(0.1*p.grad) for p in m.parameters() if p.grad is not None]
        return still
    dead = layer()
    with torch.no_grad(): dead.shift.B.zero_()
    return without(layer(), 1), without(layer(), 2), without(dead, 5)
    ### END SOLUTION

# %% check
def layer_ex12cc():
    torch.manual_seed(0)
    return make_mixer('rwkv6', shape(), 1, dict(shift_rank=4, decay_rank=4))

def loss_ex12cc(m):
    gen = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 12, 32, generator=gen), torch.randn(2, 12, 32, generator=gen)
    return (m(x)[0]-y).pow(2).mean()

def check_ex12cc(f):
    got = f(layer_ex12cc, loss_ex12cc)
    if got is None: raise AssertionError('answer: nothing was returned')
    one, two, five = (set(x) for x in got)
    # by hand: a factor that is zero hides the others of its product
    products = dict(A=('shift.A', 'shift.B'), x=('shift.mu_x', 'shift.A', 'shift.B'), w=('w_in', 'w_out'))
    def hidden(zero):
        names, seen = {n for p in products.values() for n in p}, set()
        for p in products.values(): seen |= {n for n in p if not (set(p)-{n}) & zero}
        return names-seen
    start = {'shift.A', 'shift.mu_x', 'w_in'}
    want = hidden(start)
    if one != want:
        if one >= {'shift.A', 'w_in'}: raise AssertionError('step 1: these are the parameters that *are* zero; ask for their gradients')
        if 'shift.mu_x' not in one: raise AssertionError('step 1: one more: mu_x is read through A, and A is zero')
        raise AssertionError(f'step 1: {sorted(one ^ want)} is wrong')
    if two == one: raise AssertionError('step 2: as at the first step; the parameters have to be changed in between, and gradients cleared')
    if two: raise AssertionError(f'step 2: {sorted(two)} does get a gradient, now that A and w_in have moved')
    want = {'shift.A', 'shift.B', 'shift.mu_x'}
    if five != want:
        if not five: raise AssertionError('step 5: B was not zero at the start')
        raise AssertionError(f'step 5: {sorted(five ^ want)} is wrong; which products have two factors that are zero?')
    return 'ex12cc: right'

# %% wrong
wrong_ex12cc = [(lambda l, loss: ({n for n, p in l().named_parameters() if not p.any()}, set(), set()), 'that *are* zero'), (lambda l, loss: ({'shift.B', 'w_out'}, set(), set()), 'through A'), (lambda l, loss: (ex12cc(l, loss)[0],)*3, 'changed in between'),
    (lambda l, loss: (ex12cc(l, loss)[0], {'shift.mu_x'}, set()), 'now that A'), (lambda l, loss: (*ex12cc(l, loss)[:2], set()), 'was not zero'), (lambda l, loss: (*ex12cc(l, loss)[:2], {'shift.A', 'shift.B', 'w_in'}), 'two factors')]

# %% why
# A low-rank pair is a product, and the gradient of one factor passes through the other. With $A = 0$ only $A$ learns at the first step; it moves, and from the second step on `B`, `w_out` and `mu_x` learn too. With both factors at zero neither ever moves: that is why the second matrix starts random, or orthogonal, and never at zero.
