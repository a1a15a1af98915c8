# %% setup
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer, rms_error
from hybrid_tutorial.models.mixers import make_mixer, read_shape
from hybrid_tutorial.models.transfer import expand_heads, expand_rows, transfer
from hybrid_tutorial.training.align import add_up, listen, solve_output

# %% 1a compute (1 s)
# Return two teacher rows: for heads repeated, for rows repeated. Rows count from 0.

# %% solution
def ex13a():
    "Teacher row in row 9: heads repeated, rows repeated"
    ### BEGIN SOLUTION
    return 1, 3
    ### END SOLUTION

# %% check
def check_ex13a(f):
    K, row = 4, 9
    head, channel = row//K, row % K                # a student head, and a channel of it
    heads, rows = f() or (None, None)
    check_answer(heads, head//3*K+channel, [(9//3, 'this is the row order: 3 copies of each row'), (head*K+channel, 'the teacher has only 8 rows: student head 2 shares key head 0'), (2*K+1, 'student head 2 shares key head 0, not 2'),
        (head % 2*K+channel+4, 'three *consecutive* heads share a key head')], name='heads')
    return check_answer(rows, row//3, [(row % 8, 'this is tiling: whole copies after one another'), (row//2, '3 query heads per key head, so 3 copies, not 2')], name='rows')

# %% wrong
wrong_ex13a = [(lambda: (3, 1), 'the row order'), (lambda: (9, 3), 'only 8 rows'), (lambda: (5, 3), 'consecutive'), (lambda: (1, 1), 'tiling'), (lambda: (1, 4), '3 copies, not 2')]

# %% why
# Heads: rows 0 to 11 are three copies of key head 0, so row 9 is channel 1 of the third copy. Rows: every teacher row stands three times in a row, and row 9 is the first copy of row 3. Student head 2, which should hold channels 0 1 2 3, then holds 2 3 3 3.

# %% 2b implement (1 s)
# Find the bug. In a pull request stands
#
#     def expand(w, kv_heads, group): return w.repeat_interleave(group, 0)
#
# for key weights `(G*K, D)` and biases `(G*K,)`. Shapes are right, training runs, the loss falls. Write what it should be, without `expand_heads`.

# %% solution
def ex13b(w, kv_heads, group):
    "Give each of `group` consecutive query heads its copy of the key head it shares"
    ### BEGIN SOLUTION
    heads = w.view(kv_heads, -1, *w.shape[1:])
    return torch.stack([heads[h//group] for h in range(kv_heads*group)]).flatten(0, 1)
    ### END SOLUTION

# %% check
def check_ex13b(f):
    for G, r, K, D in ((2, 3, 4, 5), (3, 2, 4, 5), (2, 2, 3, 0)):
        w = torch.arange(G*K*(D or 1)).float().view(G*K, D) if D else torch.arange(G*K).float()
        want = torch.cat([w[h//r*K:(h//r+1)*K] for h in range(G*r)])
        check_answer(f(w, G, r), want, [(w.repeat_interleave(r, 0), 'these are rows, not heads: each row stands `group` times before the next. Cut the rows into heads first'),
            (torch.cat([w]*r), 'these are tiles: query head h would look at key head h % G. Repeat each head before the next comes'),
            (w, 'nothing is repeated')], name=f'{G} key heads, {r} query heads each')
    return 'ex13b: right'

# %% wrong
wrong_ex13b = [(lambda w, G, r: w.repeat_interleave(r, 0), 'these are rows, not heads'), (lambda w, G, r: w.repeat(r, *[1]*(w.dim()-1)), 'these are tiles'), (lambda w, G, r: w, 'nothing is repeated'),
    (lambda w, G, r: w.repeat_interleave(G, 0)[:G*r*(len(w)//G)] if G != r else w[:0], 'shape')]

# %% why
# `w.unflatten(0, (kv_heads, -1)).repeat_interleave(group, 0).flatten(0, 1)`: the same call, on heads. Every shape check passes with rows too; only comparing numbers with the teacher shows it, which is what the identity test is for.

# %% 2c implement (1 s)
# The test that the exercise asks for. `expand(w, kv_heads, group)` is one of three candidates; say which: `"heads"`, `"rows"` or `"tiles"`. And a fourth answer, `"unclear"`, is not allowed: choose the input so that the three differ.

# %% solution
def ex13c(expand):
    "Which order is this?"
    ### BEGIN SOLUTION
    got = expand(torch.arange(4), 2, 2).tolist()   # two heads of two rows
    return {(0, 1, 0, 1, 2, 3, 2, 3): 'heads', (0, 0, 1, 1, 2, 2, 3, 3): 'rows', (0, 1, 2, 3, 0, 1, 2, 3): 'tiles'}[tuple(got)]
    ### END SOLUTION

# %% check
def check_ex13c(f):
    tile = lambda w, G, r: torch.cat([w]*r)
    got = tuple(f(e) for e in (expand_heads, expand_rows, tile))
    return check_answer(got, ('heads', 'rows', 'tiles'), [(('heads',)*3, 'it always says heads: with one head (G = 1), or no repetition, some orders agree'), (('tiles', 'rows', 'tiles'), 'heads and tiles look the same with one key head; use two'),
        (('heads', 'rows', 'heads'), 'heads and tiles look the same with one key head; use G = 2'), (('rows', 'rows', 'tiles'), 'heads and rows look the same with heads of one row; use K = 2'), (('heads', 'heads', 'tiles'), 'heads and rows look the same where a head is one row; use K of 2')])

# %% wrong
wrong_ex13c = [(lambda e: 'heads', 'always says heads'), (lambda e: 'rows' if e(torch.arange(2), 1, 2).tolist() == [0, 0, 1, 1] else 'tiles', 'with one key head; use two'),
    (lambda e: 'rows' if e(torch.arange(2), 1, 2).tolist() == [0, 0, 1, 1] else 'heads', 'use G = 2'), (lambda e: 'rows' if e(torch.arange(2), 2, 2).tolist() == [0, 0, 1, 1] else 'tiles', 'use K = 2'),
    (lambda e: 'heads' if e(torch.arange(2), 2, 2).tolist() == [0, 0, 1, 1] else 'tiles', 'K of 2')]

# %% why
# Two heads of two rows are the smallest case. Tiling would be right for a teacher whose query head $h$ looks at key head $h \bmod G$; the families here group neighbours. With one key head (multi-query attention) tiles and heads are the same, and with as many key heads as query heads all three are: a test on such a model proves nothing.

# %% 3d explore (3 s)
# In small: one layer of a random Llama and the mixer that computes softmax, so that nothing but the transfer can differ. `parts()` gives the attention layer, its input, positions and output. Return three relative RMS errors of the mixer's output: heads repeated; key and value rows repeated; rows repeated, after the closed form (`solve_output` with `ridge=1.`) of the output projection.

# %% solution
def ex13d(parts):
    "Error with heads, with rows, and with rows after the closed form"
    ### BEGIN SOLUTION
    attn, x, pos, y = parts()
    mixer = make_mixer('softmax', read_shape(attn), 0)
    transfer(attn, mixer)
    error = lambda: rms_error(mixer(x, pos)[0], y)
    heads = error()
    for name in ('k_proj', 'v_proj'): getattr(mixer, name).weight.data = expand_rows(getattr(attn, name).weight.data, 2, 3)
    rows = error()
    solve_output(mixer.o_proj, add_up(None, mixer.read(x, pos), y), ridge=1.)
    return heads, rows, error()
    ### END SOLUTION

# %% check
@torch.no_grad()
def parts_ex13d():
    torch.manual_seed(0)
    tiny = dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=1, intermediate_size=64, vocab_size=50)
    model, seen = LlamaForCausalLM(LlamaConfig(**tiny)).eval().requires_grad_(False), []
    for p in model.parameters(): p.normal_(0, 0.3)
    with listen(model, lambda i, *xs: seen.append(xs)): model(torch.randint(50, (8, 40)))
    return model.model.layers[0].self_attn, *seen[0]

@torch.no_grad()
def check_ex13d(f):
    heads, rows, fitted = f(parts_ex13d) or (None, None, None)
    attn, x, pos, y = parts_ex13d()
    q, k, v = (p(x) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
    order = [i//3 for i in range(48)]              # rows instead of heads: the mistake, written on the activations
    split = lambda t: t.unflatten(-1, (6, 8)).transpose(1, 2)
    cos, sin = (p.unsqueeze(1) for p in pos)
    turn = lambda t: t*cos+torch.cat([-t[..., 4:], t[..., :4]], -1)*sin
    z = torch.nn.functional.scaled_dot_product_attention(turn(split(q)), turn(split(k[..., order])), split(v[..., order]), is_causal=True).transpose(1, 2).flatten(-2)
    bad = rms_error(attn.o_proj(z), y)
    Z, Y = z.flatten(0, 1).double(), y.flatten(0, 1).double()
    best = rms_error(Z @ torch.linalg.lstsq(Z, Y, driver='gelsd').solution, Y)
    if heads is None: raise AssertionError('answer: nothing was returned')
    if heads > 1e-5: raise AssertionError(f'heads: {heads:.2g}, but a softmax mixer with the right copies *is* the teacher; transfer() into a fresh mixer first')
    check_answer(rows, bad, [(heads, 'the rows never got into the mixer: set k_proj and v_proj after transfer()')], tol=0.01, name='rows')
    if fitted < best*0.99: raise AssertionError('fitted: better than least squares can be; is the mixer still the one with rows?')
    return check_answer(fitted, best, [(bad, 'as before the closed form: solve_output must change this mixer')], tol=0.05, name='fitted')

# %% wrong
wrong_ex13d = [(lambda parts: (1.2, 1.2, 0.5), 'is* the teacher'), (lambda parts: (ex13d(parts)[0],)*3, 'never got into the mixer'), (lambda parts: (*ex13d(parts)[:2], 0.), 'better than least squares'), (lambda parts: (*ex13d(parts)[:2], ex13d(parts)[1]), 'as before')]

# %% why
# Heads: rounding only. Rows: worse than answering zero. The closed form hides part of it, and gradients hide more: the loss falls from a bad start and nobody looks for the reason. A bug that training repairs costs tokens in every run, in silence.
