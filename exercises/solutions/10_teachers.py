# %% setup
import copy, functools, numpy as np, torch
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.teachers import unpermute

# %% 1a compute (1 s)
# The file has 98,362,432 bytes. The embedding is `Q8_0` now: a block is a scale in float16 and 32 numbers of 8 bits. Return the bytes of the file with a `Q4_1` embedding, and the bits per weight that the embedding has *now*.

# %% solution
def ex10a():
    "Bytes of the file with a 4-bit embedding; bits per weight of the 8-bit one"
    ### BEGIN SOLUTION
    blocks = 49152*576//32
    return 98_362_432-blocks*(34-20), 34*8/32
    ### END SOLUTION

# %% check
def check_ex10a(f):
    now, then = np.dtype([('d', 'f2'), ('q', 'i1', 32)]), np.dtype([('d', 'f2'), ('m', 'f2'), ('q', 'u1', 16)])
    blocks = 49152*576//32
    size, bits = f() or (None, None)
    want = 98_362_432-blocks*now.itemsize+blocks*then.itemsize
    check_answer(size, want, [(98_362_432-blocks*12, 'a Q8_0 block has a scale too: 34 bytes'), (98_362_432-blocks*14*2, 'the head is the same matrix and stands in the file once'), (98_362_432-blocks*16, 'from 8.5 to 5 bits, not from 8 to 4: both have scales, and Q4_1 a minimum'), (blocks*then.itemsize, 'this is the embedding alone')], name='bytes')
    return check_answer(bits, now.itemsize*8/32, [(8, 'the scale is shared by 32 weights: half a bit each'), (5, 'this is Q4_1'), (9, 'one float16 scale for 32 weights; Q8_0 has no minimum'), (34/32, 'bits, not bytes')], name='bits')

# %% wrong
wrong_ex10a = [(lambda: (87745600, 0), 'a scale too'), (lambda: (73589824, 0), 'stands in the file once'), (lambda: (98362432-884736*16, 0), 'a minimum'), (lambda: (884736*20, 0), 'embedding alone'), (lambda: (85976128, 8), 'half a bit'), (lambda: (85976128, 5), 'this is Q4_1'), (lambda: (85976128, 9), 'no minimum'), (lambda: (85976128, 34/32), 'not bytes')]

# %% why
# 85,976,128 bytes, an eighth less, at 5 instead of 8.5 bits. The matrix is used twice: a rounded row is a wrong input *and* a wrong word score, and scores go straight into the softmax, while an error within a layer is added to a residual stream and normed. The price is 12 MB for a fifth of the weights.

# %% 2b implement (1 s)
# `w` has the rows of a query or key matrix as transformers has them (first halves of all pairs first), with any number of further dimensions. Return them as the GGUF file has them: pairs side by side, head by head.

# %% solution
def ex10b(w, heads):
    "Rows with rotary pairs side by side"
    ### BEGIN SOLUTION
    return w.reshape(heads, 2, w.shape[0]//heads//2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
    ### END SOLUTION

# %% check
def check_ex10b(f):
    rng = np.random.default_rng(0)
    for heads, K, more in ((3, 8, (5,)), (1, 6, ()), (9, 10, (4,)), (2, 4, ())):
        w = rng.normal(size=(heads*K, *more))
        want = np.empty_like(w)
        for h in range(heads):
            for i in range(K//2):                  # pair i of head h: channels i and i+K/2
                want[h*K+2*i], want[h*K+2*i+1] = w[h*K+i], w[h*K+i+K//2]
        got, T = f(w.copy(), heads), torch.tensor
        if got is None: raise AssertionError('answer: nothing was returned')
        whole = w.reshape(2, heads*K//2, *more).swapaxes(0, 1).reshape(w.shape)
        check_answer(T(np.asarray(got)), T(want), [(T(unpermute(w, heads)), 'this is unpermute again: with K = 4 it is its own inverse, for wider heads it is not'), (T(whole), 'pairs are found within a head: cut the rows into heads first'), (T(w), 'nothing has moved'), (T(w.reshape(heads, 2, K//2, *more).swapaxes(0, 1).reshape(w.shape)), 'heads and halves are exchanged; exchange halves and pairs')], tol=1e-12, name=f'{heads} heads of {K}')
        check_answer(T(unpermute(np.asarray(got), heads)), T(w), tol=1e-12, name='unpermute(permute(w))')
    return 'ex10b: right'

# %% wrong
wrong_ex10b = [(unpermute, 'its own inverse'), (lambda w, heads: ex10b(w, 1), 'within a head'), (lambda w, heads: w, 'nothing has moved'), (lambda w, heads: w.reshape(heads, 2, len(w)//heads//2, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape), 'heads and halves')]

# %% why
# The inverse of "cut into (pairs, 2) and exchange" is "cut into (2, pairs) and exchange". A test with heads of width 4 cannot tell the two functions apart: there each is the other.

# %% 3c explore (1 s)
# Which check would have seen it? `logits(which)` gives the logits `(24, W)` of a random Llama for one text; the rows of the projections named in `which` (`""`, `"q"`, `"k"`, `"qk"`, `"v"`) have the file's order instead of their own. Return the first position at which `"qk"` changes the logits (by more than rounding), its relative RMS error at the last position, and the one of `"q"`, `"k"`, `"qk"`, `"v"` that a prompt of a single token shows.

# %% solution
def ex10c(logits):
    "First position that changes, error at the last, and what one token shows"
    ### BEGIN SOLUTION
    right = logits('')
    error = lambda which: (logits(which)-right).norm(dim=-1)/right.norm(dim=-1)
    shows = [which for which in ('q', 'k', 'qk', 'v') if error(which)[0] > 1e-4]
    return int((error('qk') > 1e-4).nonzero()[0]), float(error('qk')[-1]), shows[0]
    ### END SOLUTION

# %% check
@functools.cache
@torch.no_grad()
def model_ex10c():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=48)).eval().requires_grad_(False)
    for p in model.parameters(): p.normal_(0, 0.25).add_(1. if p.dim() == 1 else 0.)
    return model, torch.randint(50, (1, 24))

@torch.no_grad()
def logits_ex10c(which):
    model, ids = model_ex10c()
    model = copy.deepcopy(model)
    for layer in model.model.layers:
        for name in which:
            w = getattr(layer.self_attn, f'{name}_proj').weight
            w.copy_(torch.cat([torch.stack([h[i//2+i % 2*4] for i in range(8)]) for h in w.split(8)]))
    return model(ids).logits[0]

def check_ex10c(f):
    got = f(logits_ex10c)
    if got is None: raise AssertionError('answer: nothing was returned')
    right, wrong = logits_ex10c(''), logits_ex10c('qk')
    each = ((wrong-right).norm(dim=-1)/right.norm(dim=-1)).tolist()
    check_answer(got[0], next(i for i, e in enumerate(each) if e > 1e-4), [(0, 'position 0 does not change: it sees one key, and one weight is 1 whatever the scores'), (23, 'long before the last'), (2, 'one position earlier')], name='first')
    check_answer(got[1], each[-1], [(each[1], 'this is position 1'), (float((wrong-right).norm()/right.norm()), 'the last position, not all of them'), (float((wrong-right)[-1].abs().max()), 'relative, not the largest change')], tol=1e-3, name='last')
    return check_answer(got[2], 'v', [('qk', 'no score matters for a single token'), ('q', 'a query alone does nothing where there is one key'), ('k', 'a single key gets the whole weight, whichever it is')], name='one token')

# %% wrong
wrong_ex10c = [(lambda l: (0, 0., 'v'), 'one weight is 1'), (lambda l: (23, 0., 'v'), 'long before'), (lambda l: (1, float((l('qk')-l('')).norm()/l('').norm()), 'v'), 'not all of them'), (lambda l: (1, float(((l('qk')-l(''))[1].norm()/l('')[1].norm())), 'v'), 'this is position 1'), (lambda l: (*ex10c(l)[:2], 'qk'), 'no score'), (lambda l: (*ex10c(l)[:2], 'q'), 'query alone'), (lambda l: (*ex10c(l)[:2], 'k'), 'whole weight')]

# %% why
# From position 1 on, and at the last one the error is 1.32 of the logits themselves. Position 0 is right to the last bit: one key gets the whole weight, whatever its score. Only values would show there. So a converter's test on one token passes, as does every test of shapes and sums; a few words of text, compared in logits, fail it.
