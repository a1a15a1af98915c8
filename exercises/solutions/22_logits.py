# %% setup
import copy, functools, torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.hybrid import build_hybrid, build_student
from hybrid_tutorial.ops.loss import dense_kl
from hybrid_tutorial.selection.study import planted_teacher, toy_text
from hybrid_tutorial.training.logits import distill

# %% 1a compute (1 s)
# A backward pass costs 2. Return the teacher's share of one step, and the share of the work of two hybrids that is saved if they share the states.

# %% solution
def ex22a():
    "Share of the teacher in a step; share saved by two hybrids that share its states"
    ### BEGIN SOLUTION
    return 1/4, 1/8
    ### END SOLUTION

# %% check
def check_ex22a(f):
    teacher, forward, backward = 1, 1, 2
    step = teacher+forward+backward
    share, saved = f() or (None, None)
    check_answer(share, teacher/step, [(1/3, 'a backward pass costs two forward passes: for the inputs and for the weights'), (1/2, 'the backward pass counts too'), (1/5, 'nothing goes backward through the teacher: 1 + 1 + 2')], tol=1e-3, name='share')
    return check_answer(saved, 1-(teacher+2*(forward+backward))/(2*step), [(1/4, 'one of *two* teacher passes is saved, of eight units'), (1/7, 'of what two runs cost without sharing: eight units'), (7/8, 'this is what is left')], tol=1e-3, name='saved')

# %% wrong
wrong_ex22a = [(lambda: (1/3, 1/8), 'two forward passes'), (lambda: (1/2, 1/8), 'counts too'), (lambda: (1/5, 1/8), 'nothing goes backward'), (lambda: (.25, .25), 'of eight units'), (lambda: (.25, 1/7), 'without sharing'), (lambda: (.25, 7/8), 'what is left')]

# %% why
# With $n$ hybrids, $(n-1)/4n$ is saved: an eighth for two, at most a quarter. A selector that trains many candidates on the same text comes near that.

# %% 2b implement (1 s)
# Return three dicts with `name` (`"attention"`, `"rest"`, `"norms"`), `params` (name to parameter) and `lr`; norms are the modules whose class name ends in `RMSNorm`, also those inside a mixer, and get rate 0.

# %% solution
def ex22b(model, lr, lr_attention):
    "Attention, rest and norms, every parameter in exactly one group"
    ### BEGIN SOLUTION
    norms = {id(p) for m in model.modules() if type(m).__name__.endswith('RMSNorm') for p in m.parameters()}
    attention = {id(p) for layer in model.model.layers for p in layer.self_attn.parameters()}-norms
    group = lambda name, lr, take: dict(name=name, lr=lr, params={n: p for n, p in model.named_parameters() if take(id(p))})
    return [group('attention', lr_attention, lambda i: i in attention), group('rest', lr, lambda i: i not in attention | norms), group('norms', 0., lambda i: i in norms)]
    ### END SOLUTION

# %% check
def model_ex22b():
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=24, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=48, tie_word_embeddings=True))
    return build_hybrid(build_student(teacher, verbose=False), teacher, [1])

def check_ex22b(f):
    model = model_ex22b()
    groups = f(model, 1e-5, 1e-4)
    if groups is None: raise AssertionError('answer: nothing was returned')
    got = {g['name']: g for g in groups}
    check_answer({n: g['lr'] for n, g in got.items()} == dict(attention=1e-4, rest=1e-5, norms=0.), True, [(False, 'names or rates differ: attention 1e-4, rest 1e-5, norms 0')], name='rates')
    where = {}
    for g in groups:
        for p in g['params'].values(): where.setdefault(id(p), []).append(g['name'])
    for n, p in model.named_parameters():
        owner, here = model.get_submodule(n.rpartition('.')[0]), where.get(id(p), [])
        norm, attn = type(owner).__name__.endswith('RMSNorm'), '.self_attn.' in n
        want = 'norms' if norm else 'attention' if attn else 'rest'
        if not here: raise AssertionError(f'{n} is in no group: it would never be trained')
        if len(here) > 1: raise AssertionError(f'{n} is in {" and ".join(here)}: it would be stepped twice')
        if here[0] != want and norm and attn: raise AssertionError(f'{n} is a norm inside attention; it is in {here[0]}')
        if here[0] != want: raise AssertionError(f'{n} is in {here[0]}; a name is not a module, look at what owns it')
    return 'ex22b: right'

# %% wrong
def groups_ex22b(model, kind, rates=(1e-4, 1e-5, 0.)):
    put = dict(attention={}, rest={}, norms={})
    for n, p in model.named_parameters():
        for k in kind(n): put[k][n] = p
    return [dict(name=k, params=v, lr=r) for (k, v), r in zip(put.items(), rates)]
wrong_ex22b = [(lambda m, a, b: groups_ex22b(m, lambda n: ['attention' if '.self_attn.' in n else 'norms' if 'norm' in n else 'rest']), 'a norm inside attention'),
    (lambda m, a, b: groups_ex22b(m, lambda n: ['attention'] if '.self_attn.' in n and 'norm' not in n else ['rest', 'norms'] if 'norm' in n else ['rest']), 'stepped twice'),
    (lambda m, a, b: groups_ex22b(m, lambda n: ['norms'] if 'norm' in n else ['attention'] if 'attn' in n else ['rest'] if 'mlp' in n else []), 'in no group'),
    (lambda m, a, b: groups_ex22b(m, lambda n: ['norms'] if 'norm' in n else ['attention'] if 'att' in n or 'mlp' in n else ['rest']), 'look at what owns it'),
    (lambda m, a, b: groups_ex22b(m, lambda n: ['norms'], (1e-5, 1e-5, 0.)), 'names or rates')]

# %% why
# Sets of `id(p)`, by module. The official code groups by `"attn" in name`, and so puts the norm `attn_norm` of some families into the fast group.

# %% 3c explore (4 s)
# In small: a hybrid of two layers, 20 steps. `held_out(lr_attention)` distils a copy with that rate and gives the KL on rows that nobody trained on; `held_out(None)` the KL before. Try 1e-5, 1e-4, 1e-3, 1e-2 and 1e-1. Return the best rate, and the share of the KL at the start that 1e-5 removes.

# %% solution
def ex22c(held_out):
    "Best rate of five; share of the KL that 1e-5 takes away"
    ### BEGIN SOLUTION
    return min((1e-5, 1e-4, 1e-3, 1e-2, 1e-1), key=held_out), 1-held_out(1e-5)/held_out(None)
    ### END SOLUTION

# %% check
@functools.cache
def held_out_ex22c(lr_attention):
    teacher, hybrid = pair_ex22c()
    hybrid = copy.deepcopy(hybrid)
    if lr_attention: distill(hybrid, teacher, [toy_text(i, rows=8) for i in range(20)], lr_attention=lr_attention, lr=7e-6, dtype='float32', show=False)
    ids = toy_text(9000, rows=32)['input_ids']
    with torch.no_grad(): return float(dense_kl(hybrid(ids).logits, teacher(ids).logits).mean())

@functools.cache
def pair_ex22c():
    teacher = planted_teacher(100, (0, 1), 2)
    return teacher, build_hybrid(build_student(teacher, settings=dict(window=0), verbose=False), teacher, [1])

def check_ex22c(f):
    best, share = f(held_out_ex22c) or (None, None)
    kl = {r: held_out_ex22c(r) for r in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}
    start = held_out_ex22c(None)
    check_answer(best, min(kl, key=kl.get), [(1e-1, 'the largest rate overshoots: it ends above smaller ones'), (max(kl, key=kl.get), 'this is the worst; the smallest KL is wanted')], name='rate')
    return check_answer(share, 1-kl[1e-5]/start, [(kl[1e-5]/start, 'this is the share that is left'), (start-kl[1e-5], 'a share, not nats'), (1-min(kl.values())/start, 'this is the share of the best rate')], tol=0.02, name='share')

# %% wrong
wrong_ex22c = [(lambda h: (1e-1, 0), 'overshoots'), (lambda h: (1e-5, 0), 'the worst'), (lambda h: (ex22c(h)[0], h(1e-5)/h(None)), 'is left'), (lambda h: (ex22c(h)[0], h(None)-h(1e-5)), 'not nats'), (lambda h: (ex22c(h)[0], 1-h(ex22c(h)[0])/h(None)), 'of the best rate')]

# %% why
# At 20 steps a hundred-fold larger rate than the official 1e-4 is best, and at 1e-5 hardly anything happens. A rate is right for a *budget*: the official one is for hundreds of millions of tokens.
