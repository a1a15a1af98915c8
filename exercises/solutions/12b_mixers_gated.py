# %% setup
import functools, math, torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer, rms_error
from hybrid_tutorial.models.gated import GatedLinearAttention, GLASettings
from hybrid_tutorial.models.mixers import AttentionShape, make_mixer
from hybrid_tutorial.ops.delta import recurrent_kda
from hybrid_tutorial.ops.gla import recurrent_gla

SHAPE = AttentionShape(width=24, heads=3, kv_heads=3, head_dim=8, scaling=8**-0.5, qkv_bias=False, o_bias=False, qk_norm='none', norm_eps=1e-6, rope=False, softcap=None)

# %% 1a compute (1 s)
# Return both in tokens, the shortest first; the token itself has no say. The log decay of a channel is $\frac1{16}\log\sigma(b)$.

# %% solution
def ex12ba():
    "Shortest and longest half-life of `gla-official`"
    ### BEGIN SOLUTION
    half = lambda b: 16*math.log(2)/math.log(1+math.exp(-b))
    return half(-1/4), half(1/4)
    ### END SOLUTION

# %% check
def check_ex12ba(f):
    mixer = make_mixer('gla-official', SHAPE, 0)
    with torch.no_grad(): mixer.gk_out.bias.copy_(torch.linspace(-0.25, 0.25, 24))
    half = mixer.half_lives()
    short, long = f() or (None, None)
    ratio = [-math.log(2)/F.logsigmoid(torch.tensor(b)).item() for b in (-0.25, 0.25)]
    check_answer(short, half.min(), [(half.max(), 'the shortest first: a small b is a small sigmoid, and forgets more'), (ratio[0], 'the sixteenth makes it sixteen times longer'), (16*ratio[0]/math.log(2), 'after this time 1/e is left; half is left earlier, by log 2'),
        (16, 'this is b = 0'), (-16*math.log(2)*ratio[0], 'half = decay^n, so n is log 2 over the log decay')], tol=1e-5, name='shortest')
    return check_answer(long, half.max(), [(half.min(), 'twice the same'), (ratio[1], 'the longest too is sixteen times longer'), (16, 'this is b = 0, not 1/4')], tol=1e-5, name='longest')

# %% wrong
wrong_ex12ba = [(lambda: ex12ba()[::-1], 'shortest first'), (lambda: [x/16 for x in ex12ba()], 'sixteen times longer'), (lambda: [x/math.log(2) for x in ex12ba()], '1/e is left'), (lambda: (16, 20), 'shortest: this is b = 0'), (lambda: (ex12ba()[0],)*2, 'twice the same'), (lambda: (ex12ba()[0], 16), 'not 1/4')]

# %% why
# 13.4 and 19.3 tokens: all heads forget on one scale, so none remembers a page and none can be quick. `gla` spreads the heads from 1 to 256 tokens instead.

# %% 2b implement (1 s)
# Write the function that takes the place of `memory` (without `x` and `carry`, and with the decay `g` already made): it returns the operator's inputs `q, k, v, g`. Queries and keys come as `(B, T, H, K)` in the model's number format; lengths are to be computed in float32, and a vector of zeros stays zero.

# %% solution
def ex12bb(q, k, v, g):
    "GLA's inputs with queries and keys of length 1"
    ### BEGIN SOLUTION
    q, k = (F.normalize(y.float(), dim=-1, eps=1e-6).to(v.dtype) for y in (q, k))
    return q, k, v, g
    ### END SOLUTION

# %% check
def check_ex12bb(f):
    gen = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (3*torch.randn(2, 5, 3, 8, generator=gen).to(dtype) for _ in range(3))
        q[0, 0, 0], g = 0, -torch.rand(2, 5, 3, 8, generator=gen)
        got = f(q, k, v, g)
        if got is None or len(got) != 4: raise AssertionError('answer: four tensors are wanted, q, k, v and g')
        for name, x, y in zip('qk', got, (q, k)):
            length = y.double().pow(2).sum(-1, keepdim=True).sqrt()
            want = (y.double()/length.clamp(min=1e-6)).float()
            if not x.isfinite().all(): raise AssertionError(f'{name}: a vector of zeros became {float(x[0, 0, 0, 0])}; give the length a lower end')
            if x.dtype != dtype: raise AssertionError(f'{name}: {x.dtype} comes back, the model computes in {dtype}')
            check_answer(x.float(), want, [(y.float(), f'{name} is as before; both queries and keys'), (want*8**0.5, f'{name}: this is an RMS norm, its length is the root of K'), ((y.double()/y.double().pow(2).sum((-1, -2), keepdim=True).sqrt()).float(), f'{name}: every head by itself'),
                ((y.double()/y.double().pow(2).sum(1, keepdim=True).sqrt()).float(), f'{name}: along the channels, not along the text')], tol=5e-3 if dtype == torch.bfloat16 else 1e-5, name=name)
        check_answer(got[2], v, [(F.normalize(v, dim=-1), 'v: values keep their length, it is what is remembered')], name='v')
        check_answer(got[3], g, name='g')
    return 'ex12bb: right'

# %% wrong
unit_ex12bb = lambda y: F.normalize(y.float(), dim=-1, eps=1e-6).to(y.dtype)
wrong_ex12bb = [(lambda q, k, v, g: (unit_ex12bb(q), k, v, g), 'k is as before'), (lambda q, k, v, g: (q, unit_ex12bb(k), v, g), 'q is as before'), (lambda q, k, v, g: (8**0.5*unit_ex12bb(q), 8**0.5*unit_ex12bb(k), v, g), 'an RMS norm'), (lambda q, k, v, g: (q/q.norm(dim=-1, keepdim=True), k, v, g), 'vector of zeros'),
    (lambda q, k, v, g: (F.normalize(q.flatten(2), dim=-1).view_as(q), k, v, g), 'every head by itself'), (lambda q, k, v, g: (F.normalize(q, dim=1), k, v, g), 'not along the text'), (lambda q, k, v, g: (unit_ex12bb(q), unit_ex12bb(k), unit_ex12bb(v), g), 'keep their length'),
    (lambda q, k, v, g: (unit_ex12bb(q).float(), unit_ex12bb(k).float(), v, g), 'the model computes in')]

# %% why
# One line of `memory`. The RMS norm on the output divides by the length of what is read, and that is proportional to the length of the query: the query's half of the line changes nothing, as the next exercise measures. The keys' half does, since one state holds them all: without it, long keys write more than short ones.

# %% 2c implement (1 s)
# What is left of the output norm's job, measured. `layer(change)` is the output of a GLA layer (with output norm) whose queries and keys went through `change(q, k)`. Return the relative RMS change of the output when the queries are ten times longer, and when the keys of every second token are.

# %% solution
def ex12bc(layer):
    "Change by longer queries; by longer keys at every second token"
    ### BEGIN SOLUTION
    base = layer(lambda q, k: (q, k))
    factor = lambda k: 1+9*(torch.arange(k.shape[1]) % 2)[:, None, None]
    return rms_error(layer(lambda q, k: (10*q, k)), base), rms_error(layer(lambda q, k: (q, k*factor(k))), base)
    ### END SOLUTION

# %% check
class LengthsEx12bc(GatedLinearAttention):
    def memory(self, x, q, k, v, carry):
        q, k, v, g = super().memory(x, q, k, v, carry)
        return *self.change(q, k), v, g

@torch.no_grad()
def layer_ex12bc(change):
    torch.manual_seed(0)
    mixer = LengthsEx12bc(SHAPE, 0, GLASettings())
    for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj): p.weight.normal_()
    mixer.change = change
    return mixer(torch.randn(2, 40, 24))[0]

def check_ex12bc(f):
    same = layer_ex12bc(lambda q, k: (q, k))
    odd = torch.tensor([1., 10.]).repeat(20)[:, None, None]
    keys, all_keys = rms_error(layer_ex12bc(lambda q, k: (q, k*odd)), same), rms_error(layer_ex12bc(lambda q, k: (q, 10*k)), same)
    a, b = f(layer_ex12bc) or (None, None)
    if a is None: raise AssertionError('answer: nothing was returned')
    if a > 0.01: raise AssertionError(f'queries: {a:.2g}, but the norm on the output takes any factor of a query out; is it the relative change, and of the queries alone?')
    return check_answer(b, keys, [(all_keys, 'all keys are longer: one common factor goes through the state to the norm, and out'), (a, 'these are the queries'), (rms_error(layer_ex12bc(lambda q, k: (q, k*odd.flip(0))), same), 'the even tokens are longer here; start to count at 0')], tol=1e-3, name='keys')

# %% wrong
wrong_ex12bc = [(lambda l: (ex12bc(l)[0], rms_error(l(lambda q, k: (q, 10*k)), l(lambda q, k: (q, k)))), 'one common factor'), (lambda l: (9., 1.), 'any factor of a query out'), (lambda l: (ex12bc(l)[0], rms_error(l(lambda q, k: (q, k*(10-9*(torch.arange(40) % 2))[:, None, None])), l(lambda q, k: (q, k)))), 'start to count')]

# %% why
# 2e-7, rounding, against 0.59. The norm takes out what is common to all that a query reads, and the query's length is. Keys of different lengths are different votes in one sum, and no norm behind the sum can count them again.

# %% 3d explore (1 s)
# The delta rule on its own, in small: `stream()` gives `q, k, v` `(B, T, 1, 16)`; 8 keys of length 1 (not quite at right angles) come back again and again, each time with a *new* value, and each query asks what its key was last bound to *before* now. `read(g, beta)` is the relative RMS error with log decay `g`, with the delta rule of strength `beta`, or without it (`beta=None`). Return the best error of GLA and of KDA (`beta=1.`) over the decays `0, -0.01, -0.03, -0.1, -0.3, -1`.

# %% solution
def ex12bd(read):
    "Least error without the delta rule, and with it"
    ### BEGIN SOLUTION
    decays = (0, -0.01, -0.03, -0.1, -0.3, -1)
    return min(read(g, None) for g in decays), min(read(g, 1.) for g in decays)
    ### END SOLUTION

# %% check
@functools.cache
def stream_ex12bd():
    gen = torch.Generator().manual_seed(0)
    keys = F.normalize(torch.randn(8, 16, generator=gen), dim=-1)
    who, v = torch.randint(8, (4, 96), generator=gen), torch.randn(4, 96, 1, 16, generator=gen)
    before, last = torch.zeros_like(v), torch.zeros(4, 8, 1, 16)
    for t in range(96):
        for b in range(4): before[b, t], last[b, who[b, t]] = last[b, who[b, t]], v[b, t]
    k = keys[who][:, :, None]
    return k, k, v, before

@functools.cache
def read_ex12bd(g, beta):
    q, k, v, want = stream_ex12bd()
    q = torch.cat([torch.zeros_like(q[:, :1]), q[:, 1:]], 1)
    late = lambda y: torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)          # read, then write: the writes come one token later
    decay = torch.full_like(k, float(g))
    o = recurrent_gla(q, late(k), late(v), decay, scale=1.)[0] if beta is None else recurrent_kda(q, late(k), late(v), decay, torch.full(k.shape[:3], beta), scale=1.)[0]
    return rms_error(o[:, 48:], want[:, 48:])

def check_ex12bd(f):
    table = {b: [read_ex12bd(g, b) for g in (0, -0.01, -0.03, -0.1, -0.3, -1)] for b in (None, 1.)}
    gla, kda = f(read_ex12bd) or (None, None)
    check_answer(gla, min(table[None]), [(table[None][0], 'this is without decay: everything that a key was ever bound to is added up'), (min(table[1.]), 'this is with the delta rule'), (max(table[None]), 'the worst decay')], tol=1e-4, name='gla')
    return check_answer(kda, min(table[1.]), [(min(table[None]), 'beta=1. is missing'), (max(table[1.]), 'the worst decay with the delta rule')], tol=1e-4, name='kda')

# %% wrong
wrong_ex12bd = [(lambda r: (r(0, None), r(0, 1.)), 'ever bound to'), (lambda r: ex12bd(r)[::-1], 'gla: this is with'), (lambda r: (ex12bd(r)[0],)*2, 'is missing'), (lambda r: (ex12bd(r)[0], max(r(g, 1.) for g in (0, -0.01, -0.03, -0.1, -0.3, -1))), 'the worst decay with')]

# %% why
# 0.81 without the delta rule, at decay -0.3, and 0.54 with it, at -0.01. An outer product leaves the old value beside the new one, so GLA must forget fast, and forgets bindings that are still asked for; without decay its error is 3.48. The delta rule takes out what *this* key held and leaves the others; what remains is that 8 keys in 16 dimensions are not quite at right angles.
