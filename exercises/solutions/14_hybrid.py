# %% setup
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer, rms_error
from hybrid_tutorial.models import mixers
from hybrid_tutorial.models.hybrid import build_hybrid, build_student

def toy(keep=(1,), **settings):
    "A random Llama of 4 layers, 6 heads over 2, width 8, as a hybrid"
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=99, hidden_size=48, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=4, intermediate_size=64)).eval().requires_grad_(False)
    for p in teacher.parameters(): p.normal_(0, 0.25).add_(1. if p.dim() == 1 else 0.)
    return build_hybrid(build_student(teacher, settings=settings, verbose=False), teacher, list(keep))

# %% 1a compute (1 s)
# Return the number of tokens at which both hold the same: keys and values of 3 heads of 64 in bfloat16, a state of 9 heads of 64 x 64 in float32, no window.

# %% solution
def ex14a():
    "Tokens at which keys and values take as many bytes as the state"
    ### BEGIN SOLUTION
    return 9*64*64*4/(2*3*64*2)
    ### END SOLUTION

# %% check
def check_ex14a(f):
    state = torch.zeros(9, 64, 64).nbytes
    token = 2*torch.zeros(3, 64, dtype=torch.bfloat16).nbytes
    return check_answer(f(), state/token, [(96, 'these are numbers; a number of the state has 4 bytes, of a key 2'), (48, 'the state is float32 and the keys bfloat16, not the other way round'), (384, 'keys and values'), (64, 'the cache holds 3 heads, not 9'), (576, 'per layer, not for the 3 heads one by one')])

# %% wrong
wrong_ex14a = [(lambda: 96, 'these are numbers'), (lambda: 48, 'the other way'), (lambda: 384, 'keys and values'), (lambda: 64, '3 heads'), (lambda: 576, 'one by one')]

# %% why
# 147,456 bytes of state against 768 bytes per token: 192 tokens, twice as many as notebook 12 counts in numbers, because a state that is updated thousands of times needs float32.

# %% 2b implement (1 s)
# Here a function of the cache: `past` is `past_key_values` after a forward pass, one entry of `past.layers` per decoder layer. A softmax layer's has `keys` and `values`, a linear one's `recurrent_states`, a dict of tensors. The check uses a model in bfloat16 without window.

# %% solution
def ex14b(past):
    "Share of the cache's bytes that softmax layers hold"
    ### BEGIN SOLUTION
    soft = sum(x.nbytes for l in past.layers if hasattr(l, 'keys') for x in (l.keys, l.values))
    state = sum(x.nbytes for l in past.layers if hasattr(l, 'recurrent_states') for x in l.recurrent_states.values())
    return soft/(soft+state)
    ### END SOLUTION

# %% check
def check_ex14b(f):
    with torch.no_grad(): past = {T: toy((1,), window=0).bfloat16()(torch.ones(2, T, dtype=torch.long), use_cache=True).past_key_values for T in (5, 80)}
    share = lambda a, b: a/(a+b)
    for T in (5, 80):
        soft, state = 2*2*T*2*8, 3*2*6*8*8         # numbers: keys and values, three states, two rows
        want = share(2*soft, 4*state)
        check_answer(f(past[T]), want, [(0.25, 'this is the share of layers, not of bytes'), (share(soft, state), 'these are elements; keys have 2 bytes here, a state 4'), (share(soft, 4*state), 'keys are counted, values are not'),
            (share(2*soft, 4*state/3), 'one state; the model has three linear layers'), (1-want, 'this is what the states hold')], tol=1e-4, name=f'T = {T}')
    return 'ex14b: right'

# %% wrong
def parts_ex14b(past, size, values=True, states=3):
    soft = sum(size(x) for l in past.layers if hasattr(l, 'keys') for x in ((l.keys, l.values) if values else (l.keys,)))
    state = [sum(map(size, l.recurrent_states.values())) for l in past.layers if hasattr(l, 'recurrent_states')][:states]
    return soft/(soft+sum(state))
wrong_ex14b = [(lambda past: sum(hasattr(l, 'keys') for l in past.layers)/len(past.layers), 'share of layers'), (lambda past: parts_ex14b(past, torch.numel), 'these are elements'),
    (lambda past: parts_ex14b(past, lambda x: x.nbytes, False), 'values are not'), (lambda past: parts_ex14b(past, lambda x: x.nbytes, states=1), 'three linear'), (lambda past: 1-ex14b(past), 'what the states hold')]

# %% why
# A quarter of the layers holds 10 % of the bytes at 5 tokens and most of them later: the share of layers is the share of *growth*. A model in bfloat16 still keeps its states in float32.

# %% 3c explore (3 s)
# Instead of exporting again, `broken()` runs a block with that line removed. Return four relative errors, of step-by-step decoding against the full pass (`error(model)`): `toy(window=0)` whole and broken, `toy(window=4)` whole and broken.

# %% solution
def ex14c(error, broken):
    "Decoding errors: no window whole, broken; window whole, broken"
    ### BEGIN SOLUTION
    out = []
    for model in (toy(window=0), toy(window=4)):
        out.append(error(model))
        with broken(): out.append(error(model))
    return tuple(out)
    ### END SOLUTION

# %% check
class broken_ex14c:
    "While active, a state is stored but not marked as present"
    def __enter__(self):
        self.old = mixers.keep_state
        def keep(cache, layer_idx, state, tokens):
            if cache is None: return
            cache.layers[layer_idx].update_recurrent_state(state.detach())
            if hasattr(cache, 'count_tokens'): cache.count_tokens(layer_idx, tokens)
        mixers.keep_state = keep
    def __exit__(self, *args): mixers.keep_state = self.old

@torch.no_grad()
def error_ex14c(model, n=20):
    ids = torch.randint(99, (2, 32), generator=torch.Generator().manual_seed(0))
    out = model(ids[:, :n], use_cache=True); logits = [out.logits]
    for t in range(n, 32):
        out = model(ids[:, t:t+1], past_key_values=out.past_key_values, use_cache=True); logits.append(out.logits)
    return rms_error(torch.cat(logits, 1), model(ids).logits)

def check_ex14c(f):
    got = f(error_ex14c, broken_ex14c)
    if got is None: raise AssertionError('answer: nothing was returned')
    a, b, c, d = got
    with broken_ex14c(): lost = error_ex14c(toy(window=0))
    if max(a, c) > 1e-4: raise AssertionError(f'whole: {max(a, c):.2g}, but nothing is broken yet; leave the block before you measure')
    if b < 1e-4: raise AssertionError('broken, no window: no error. Is the model run inside `with broken():`?')
    check_answer(b, lost, tol=0.01, name='broken, no window')
    if d > 1e-4: raise AssertionError('broken, window: measure the model with the window; its state has no share in the output yet')
    return 'ex14c: right'

# %% wrong
wrong_ex14c = [(lambda error, broken: (0.93, 0.93, 0, 0), 'leave the block'), (lambda error, broken: (error(toy(window=0)),)*4, 'inside `with'), (lambda error, broken: (0, ex14c(error, broken)[1], 0, ex14c(error, broken)[1]), 'no share in the output'),
    (lambda error, broken: (0, 0.5, 0, 0), 'none of the usual')]

# %% why
# "Prefill plus steps equals the full pass" fails by an error of about 1: every step starts from an empty state. But not with a window: the state's share of the output is 0 until `calibrate` or training sets it, so a fresh default student passes the check with a broken cache. A check must run on a model in which the thing it checks has an effect.
