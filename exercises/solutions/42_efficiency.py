# %% setup
import torch
from types import SimpleNamespace
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.evaluation.efficiency import predicted_cache_bytes

# %% 1a compute (1 s)
# 9 query heads, 3 key/value heads, width 64, a state in float32. Return two whole numbers of tokens: keys and values in float32, in bfloat16.

# %% solution
def ex42a():
    "First context at which a linear layer holds fewer bytes: float32, bfloat16"
    ### BEGIN SOLUTION
    state = 9*64*64*4
    return state//(2*3*64*4)+1, state//(2*3*64*2)+1
    ### END SOLUTION

# %% check
def check_ex42a(f):
    layer = lambda kind: SimpleNamespace(num_hidden_layers=1, num_attention_heads=9, num_key_value_heads=3, hidden_size=576, layer_types=[kind])
    first = lambda itemsize: next(T for T in range(1, 999) if predicted_cache_bytes(layer('linear_attention'), T, itemsize=itemsize) < predicted_cache_bytes(layer('full_attention'), T, itemsize=itemsize))
    want = first(4), first(2)
    return check_answer(f(), want, [((want[0]-1, want[1]-1), 'there both hold the same; one token more'), (want[::-1], 'exchanged: half the bytes a token take twice as many tokens'), ((want[0], want[0]), 'the state stays float32 when keys and values are bfloat16'),
        ((33, 65), 'the cache holds 3 heads, not 9'), ((193, 385), 'keys and values'), ((289, 577), 'three heads, each with a key and a value')])

# %% wrong
wrong_ex42a = [(lambda: (96, 192), 'hold the same'), (lambda: (193, 97), 'exchanged'), (lambda: (97, 97), 'stays float32'), (lambda: (33, 65), 'not 9'), (lambda: (193, 385), 'keys and values'), (lambda: (289, 577), 'three heads')]

# %% why
# 147,456 bytes of state against 1,536 a token in float32 and 768 in bfloat16: equal at 96 and 192 tokens, smaller from 97 and 193 on. With 9 key/value heads it would be 33 and 65: grouped queries have taken most of the saving already.

# %% 2b implement (1 s)
# Return the number of tokens at which a linear and a softmax layer hold the same, as it comes out, not rounded. A config may lack `head_dim` or `num_key_value_heads`, or hold None there.

# %% solution
def ex42b(config, itemsize):
    "Tokens at which a softmax layer's cache is as large as a linear layer's state"
    ### BEGIN SOLUTION
    H = config.num_attention_heads
    K = getattr(config, 'head_dim', None) or config.hidden_size//H
    G = getattr(config, 'num_key_value_heads', None) or H
    return 4*H*K*K/(2*G*K*itemsize)
    ### END SOLUTION

# %% check
CONFIGS_ex42b = {'SmolLM2': dict(num_attention_heads=9, num_key_value_heads=3, hidden_size=576), 'head_dim of its own': dict(num_attention_heads=8, num_key_value_heads=2, hidden_size=256, head_dim=128),
    'no grouped heads': dict(num_attention_heads=4, hidden_size=64), 'head_dim None': dict(num_attention_heads=6, num_key_value_heads=2, hidden_size=192, head_dim=None)}

def check_ex42b(f):
    for name, c in CONFIGS_ex42b.items():
        H, D = c['num_attention_heads'], c['hidden_size']
        G, K = c.get('num_key_value_heads') or H, c.get('head_dim') or D//H
        config = SimpleNamespace(num_hidden_layers=30, **c)
        for b in (4, 2):
            linear, soft = (predicted_cache_bytes(SimpleNamespace(**vars(config), layer_types=[k]*30), 1, itemsize=b) for k in ('linear_attention', 'full_attention'))
            try: got = f(config, b)
            except (AttributeError, TypeError) as e: raise AssertionError(f'{name}: {e}; a field may be missing or None') from e
            check_answer(got, linear/soft, [(2*H*(D//H)/G/b, 'the width of a head is `head_dim` where there is one'), (2*H*K/b, 'without `num_key_value_heads` there are as many as query heads, not one; where it stands, it counts'), (2*K/b, 'keys and values have `num_key_value_heads` heads'),
                (H*K/2/G, 'the state is float32 whatever the keys are'), (4*H*K/G/b, 'keys and values'), (30*linear/soft, 'one layer, not the model'), (float(linear//soft), 'not rounded')], name=f'{name}, {b} bytes')
    return 'ex42b: right'

# %% wrong
def even_ex42b(c, b, K=lambda c: getattr(c, 'head_dim', None) or c.hidden_size//c.num_attention_heads, G=lambda c: getattr(c, 'num_key_value_heads', None) or c.num_attention_heads, by=1.):
    return 2*c.num_attention_heads*K(c)/G(c)/b*by
wrong_ex42b = [(lambda c, b: even_ex42b(c, b, K=lambda c: c.hidden_size//c.num_attention_heads), '`head_dim` where'), (lambda c, b: even_ex42b(c, b, G=lambda c: getattr(c, 'num_key_value_heads', 1)), 'not one'), (lambda c, b: even_ex42b(c, b, G=lambda c: c.num_attention_heads), 'have `num_key_value_heads`'),
    (lambda c, b: even_ex42b(c, 4), 'whatever the keys are'), (lambda c, b: even_ex42b(c, b, by=2), 'keys and values'), (lambda c, b: even_ex42b(c, b, by=30), 'not the model'), (lambda c, b: even_ex42b(c, b, K=lambda c: c.head_dim), 'missing or None')]

# %% why
# $2HK/(Gb)$: one factor $K$ and both factors of heads but $H/G$ cancel. Wide heads and grouped queries move the crossing to the right, few bytes a number too: with $K=128$, $H/G=4$ and bfloat16 it lies at 512 tokens.

# %% 3c explore (1 s)
# `parts(keep, context)` gives the bytes of a decode step of SmolLM2 in bfloat16 with so many of 30 layers softmax, as (weights, cache and states of one sequence). For the teacher (`keep=30`) return the share of the weights at (16 tokens, 1 sequence), (8,192, 1) and (8,192, 64), then how many times fewer bytes the hybrid with 8 layers moves at (8,192, 1) and at (8,192, 64): five numbers.

# %% solution
def ex42c(parts):
    "Three shares of the floor; two times that the hybrid saves"
    ### BEGIN SOLUTION
    def step(keep, context, batch):
        weights, one = parts(keep, context)
        return weights+batch*one
    floor = [parts(30, c)[0]/step(30, c, b) for c, b in ((16, 1), (8192, 1), (8192, 64))]
    return (*floor, *(step(30, 8192, b)/step(8, 8192, b) for b in (1, 64)))
    ### END SOLUTION

# %% check
def parts_ex42c(keep, context):
    shape = SimpleNamespace(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576, layer_types=['full_attention']*keep+['linear_attention']*(30-keep))
    mixer = 2*(5*576*576-(2*576*576+2*576*192))                    # a gate, and nine heads of keys and values where there were three
    return 2*134_515_008+(30-keep)*mixer, predicted_cache_bytes(shape, context, itemsize=2)+(30-keep)*9*64*64*4     # states are written too

def check_ex42c(f):
    got = f(parts_ex42c)
    if got is None: raise AssertionError('answer: nothing was returned')
    w, long, short, v, mine = *parts_ex42c(30, 8192), parts_ex42c(30, 16)[1], *parts_ex42c(8, 8192)
    share = lambda w, rest: w/(w+rest)
    check_answer(got[0], share(w, short), [(1-share(w, short), 'this is the share of the cache'), (share(w, long), 'this is the longer context')], tol=1e-4, name='16 tokens')
    check_answer(got[1], share(w, long), [(1-share(w, long), 'this is the share of the cache'), (share(w, short), 'this is the shorter context')], tol=1e-4, name='8,192 tokens')
    check_answer(got[2], share(w, 64*long), [(share(w, long), 'one read of the weights serves all 64 sequences; each has a cache of its own'), (share(64*w, long), 'the weights are read once, the caches are 64')], tol=1e-4, name='64 sequences')
    check_answer(got[3], (w+long)/(v+mine), [(long/mine, 'this is the cache alone; the weights are read too'), ((v+mine)/(w+long), 'the other way round'), ((w+long)/(w+mine), 'the hybrid has weights of its own')], tol=1e-4, name='saved, 1 sequence')
    return check_answer(got[4], (w+64*long)/(v+64*mine), [((w+long)/(v+mine), 'this is one sequence'), (long/mine, 'near it, but the weights do not vanish')], tol=1e-4, name='saved, 64 sequences')

# %% wrong
wrong_ex42c = [(lambda p: (1-ex42c(p)[0], *ex42c(p)[1:]), '16 tokens: this is the share'), (lambda p: (ex42c(p)[0], ex42c(p)[0], *ex42c(p)[2:]), 'shorter context'), (lambda p: (*ex42c(p)[:2], ex42c(p)[1], 0, 0), 'each has a cache'), (lambda p: (*ex42c(p)[:2], 64*p(30, 8192)[0]/(64*p(30, 8192)[0]+p(30, 8192)[1]), 0, 0), 'caches are 64'),
    (lambda p: (*ex42c(p)[:3], p(30, 8192)[1]/p(8, 8192)[1], 0), 'cache alone'), (lambda p: (*ex42c(p)[:3], 1/ex42c(p)[3], 0), 'other way'), (lambda p: (*ex42c(p)[:4], ex42c(p)[3]), 'one sequence'), (lambda p: (*ex42c(p)[:4], p(30, 8192)[1]/p(8, 8192)[1]), 'do not vanish')]

# %% why
# For one sequence the weights are 59 % of the bytes at 8,192 tokens, and the hybrid moves 1.27 times fewer; for 64 sequences they are 2 %, and it moves 3.1 times fewer. At 16 tokens nearly everything is floor, which no kind of attention lowers.
