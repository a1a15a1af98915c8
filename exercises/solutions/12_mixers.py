# %% setup
import math, torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.mixers import AttentionShape, GatedDeltaNet, GDNSettings
from hybrid_tutorial.ops.delta import recurrent_gated_delta_rule

# %% 1a compute (1 s)
# Return the numbers in the state, and the number of tokens at which the softmax cache of the layer holds as many. The window of the default is left out.

# %% solution
def ex12a():
    "Numbers in a gdn state of SmolLM2; tokens at which keys and values are as many"
    ### BEGIN SOLUTION
    H, G, K = 9, 3, 64
    return H*K*K, H*K*K//(2*G*K)
    ### END SOLUTION

# %% check
def check_ex12a(f):
    x, one = torch.zeros(1, 1, 9, 64), torch.zeros(1, 1, 9)
    state = recurrent_gated_delta_rule(x, x, x, one, one, output_final_state=True)[1].numel()
    a, b = f() or (None, None)
    check_answer(a, state, [(3*64*64, 'every *query* head has a state, also where keys are shared'), (9*64, 'a state is a matrix, K x V per head'), (2*state, 'the state holds keys and values together: one matrix, not two')], name='state')
    return check_answer(b, state//(2*3*64), [(192, 'the cache holds keys *and* values'), (32, 'the cache holds G heads, not H'), (64, 'the cache holds keys and values, of G heads')], name='tokens')

# %% wrong
wrong_ex12a = [(lambda: (12288, 96), 'every *query* head'), (lambda: (576, 96), 'is a matrix'), (lambda: (73728, 96), 'not two'), (lambda: (36864, 192), 'keys *and* values'), (lambda: (36864, 32), 'G heads, not H'), (lambda: (36864, 64), 'of G heads')]

# %% why
# $HK^2 = 36{,}864$ and $2GK = 384$ per token: 96 tokens. Grouped keys made the teacher's cache small already, so a linear layer pays off later than for a teacher without groups (there 32 tokens).

# %% 2b implement (1 s)
# Write the gate as a function that takes the place of `mixer.gated`: `o` `(B, T, H*V)` is what was read, `x` `(B, T, D)` the layer's input, `mixer.g_proj` starts at 0.

# %% solution
def ex12b(mixer, o, x):
    "Output gate that starts at 1 and cannot be negative"
    ### BEGIN SOLUTION
    return o*mixer.g_proj(x).exp()
    ### END SOLUTION

# %% check
def check_ex12b(f):
    torch.manual_seed(0)
    shape = AttentionShape(width=16, heads=2, kv_heads=2, head_dim=8, scaling=8**-0.5, qkv_bias=False, o_bias=False, qk_norm='none', norm_eps=1e-6, rope=False, softcap=None)
    mixer = GatedDeltaNet(shape, 0, GDNSettings())
    o, x = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    with torch.no_grad():
        check_answer(f(mixer, o, x), o, [(o/2, 'sigmoid starts at one half'), (0*o, 'it starts at 0: nothing would pass, and nothing be learned'), (o.exp(), 'exp of the gate, not of what is read')], name='at the start')
        mixer.g_proj.weight.normal_()
        g = mixer.g_proj(x)
        check_answer(f(mixer, o, x), o*g.exp(), [(o*2*g.sigmoid(), 'this is the open gate; it ends at 2'), (o*(1+g), 'this can be negative'), (o*F.softplus(g+math.log(math.e-1)), 'softplus also starts at 1, but the exercise asks for exp'),
            (o*g.exp()/g.exp().mean(1, keepdim=True), 'a token sees the gates of later ones: prefill and steps would differ')], name='trained')
        steps = torch.cat([f(mixer, o[:, t:t+1], x[:, t:t+1]) for t in range(5)], 1)
    return check_answer(steps, f(mixer, o, x), tol=1e-5, name='token by token')

# %% wrong
wrong_ex12b = [(lambda m, o, x: o*m.g_proj(x).sigmoid(), 'one half'), (lambda m, o, x: o*m.g_proj(x), 'starts at 0'), (lambda m, o, x: o.exp()*m.g_proj(x).exp(), 'not of what is read'), (lambda m, o, x: o*2*m.g_proj(x).sigmoid(), 'ends at 2'),
    (lambda m, o, x: o*(1+m.g_proj(x)), 'can be negative'), (lambda m, o, x: o*F.softplus(m.g_proj(x)+math.log(math.e-1)), 'asks for exp'), (lambda m, o, x: o*m.g_proj(x).exp()/m.g_proj(x).exp().mean(1, keepdim=True), 'later ones')]

# %% why
# The check that prefill plus steps equals the full pass says whether it still decodes: a gate may look at its own token only. Starting at 1 keeps the transferred weights' scale; the `exp` gate has no upper end, which is why `open` stops at 2.

# %% 3c explore (2 s)
# `half_lives(seed)` gives the nine half-lives of a `gdn` with random decays. Return in how many of the seeds 0 to 9 the slowest head forgets half within fewer than 256 tokens, and the median over the seeds of the slowest half-life.

# %% solution
def ex12c(half_lives):
    "Seeds whose slowest head has a half-life under 256 tokens; median of the slowest half-lives"
    ### BEGIN SOLUTION
    slowest = torch.stack([half_lives(seed).max() for seed in range(10)])
    return int((slowest < 256).sum()), float(slowest.median())
    ### END SOLUTION

# %% check
def half_lives_ex12c(seed):
    shape = AttentionShape(width=72, heads=9, kv_heads=3, head_dim=8, scaling=8**-0.5, qkv_bias=False, o_bias=False, qk_norm='none', norm_eps=1e-6, rope=False, softcap=None)
    mixer = GatedDeltaNet(shape, 0, GDNSettings(decay='random'))
    mixer.reset_decay(torch.Generator().manual_seed(seed))
    return mixer.half_lives()

def check_ex12c(f):
    def slow(seed, pick=max):                      # from the rule: rate 0.01 to 16, step 1e-3 to 0.1 on a log scale
        gen = torch.Generator().manual_seed(seed)
        torch.empty(9, 72).normal_(0, 0.02, generator=gen)
        rate, dt = torch.empty(9).uniform_(0.01, 16, generator=gen), torch.empty(9).uniform_(math.log(1e-3), math.log(0.1), generator=gen).exp()
        return pick((math.log(2)/(rate*dt)).tolist())
    far = sorted(slow(s) for s in range(10))
    count, median = f(half_lives_ex12c) or (None, None)
    n = sum(x < 256 for x in far)
    check_answer(count, n, [(10, 'the slowest head has the *largest* half-life')], name='count')
    return check_answer(median, torch.tensor(far).median(), [(torch.tensor([slow(s, min) for s in range(10)]).median(), 'this is the fastest head'), (torch.tensor(far).mean(), 'the mean is ruled by one slow head; take the median')], tol=0.01, name='median')

# %% wrong
wrong_ex12c = [(lambda h: (10, 1.), 'the *largest*'), (lambda h: (ex12c(h)[0], float(torch.stack([h(s).min() for s in range(10)]).median())), 'the fastest head'),
    (lambda h: (ex12c(h)[0], float(torch.stack([h(s).max() for s in range(10)]).mean())), 'ruled by one')]

# %% why
# Nine random draws often hold no head that remembers a page. Spread half-lives put one there for sure, at no cost.
