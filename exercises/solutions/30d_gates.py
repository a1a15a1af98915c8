# %% setup
import functools, itertools, math, torch
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.hybrid import build_student
from hybrid_tutorial.selection.agreement import spearman
from hybrid_tutorial.selection.gates import design, random_sets, ridge
from hybrid_tutorial.selection.scores import Job
from hybrid_tutorial.selection.sets import KLSets, Ledger, Meter

# %% 1a compute (1 s)
# Passes of the student with its gates, or of the base and its candidates; the teacher answers each batch once in both, leave that out. Candidates of `kl` start at their own layer, so count layers and divide by 30. Return three numbers: forward and backward passes of `kl_gradient`, and forward passes of `kl`.

# %% solution
def ex30da():
    "Forward and backward passes of `kl_gradient`, whole-model forward passes of `kl`"
    ### BEGIN SOLUTION
    batches = 1024//4
    return 3*batches, 3*batches, batches*(1+31/2)
    ### END SOLUTION

# %% check
def check_ex30da(f):
    rows, batch, points, L, ran = 1024, 4, 3, 30, dict(forward=0, backward=0, layers=0)
    for _ in range(0, rows, batch):
        for _ in range(points): ran['forward'] += 1; ran['backward'] += 1
        for start in (0, *range(L)): ran['layers'] += L-start
    got = f() or (None,)*3
    check_answer(got[0], ran['forward'], [(3072, 'four rows go through together'), (256, 'each batch is run at three points'), (23040, 'one pass scores all 30 layers')], name='forward')
    check_answer(got[1], ran['backward'], [(3072, 'four rows go back together'), (256, 'each point has a backward pass'), (23040, 'one backward pass gives the slopes of all 30 gates'), (0, 'a derivative needs a backward pass')], name='backward')
    return check_answer(got[2], ran['layers']/L, [(256*30, 'a candidate starts at its own layer'), (256*31, 'a candidate starts at its own layer, only the base runs whole'), (256*31/2, 'the base runs too'), (256*16, 'candidate l runs layer l too'), (16.5, 'this is one batch; there are 256')], name='kl')

# %% wrong
wrong_ex30da = [(lambda: (3072, 0, 0), 'through together'), (lambda: (256, 0, 0), 'at three points'), (lambda: (23040, 0, 0), 'scores all 30'), (lambda: (768, 3072, 0), 'back together'), (lambda: (768, 256, 0), 'each point'), (lambda: (768, 23040, 0), 'slopes of all'), (lambda: (768, 0, 0), 'needs a backward'),
    (lambda: (768, 768, 7680), 'kl: a candidate starts at its own layer'), (lambda: (768, 768, 7936), 'only the base'), (lambda: (768, 768, 3968), 'runs too'), (lambda: (768, 768, 4096), 'runs layer l too'), (lambda: (768, 768, 16.5), 'one batch')]

# %% why
# 768 passes forward and 768 back against $256 \cdot 16.5 = 4224$ forward. With a backward pass at the price of two forward ones that is 2304 against 4224, and it does not grow with the number of layers. (At a point between 0 and 1 both attentions run in every layer, so the passes are somewhat dearer.)

# %% 2b implement (2 s)
# `value` gives the KL of every set of softmax layers, a `frozenset`, of `layers` layers. Return two things: the list of Shapley values of the *fall* of the KL, and `"kl"` or `"kl_removal"`, whichever ranks the layers more like them by `spearman`.

# %% solution
def ex30db(value, layers):
    "Shapley value of each layer; the selector whose ranking is nearest"
    ### BEGIN SOLUTION
    every = frozenset(range(layers))
    weight = lambda s: math.factorial(len(s))*math.factorial(layers-len(s)-1)/math.factorial(layers)
    fair = [sum(weight(s)*(value[s]-value[s | {l}]) for s in value if l not in s) for l in range(layers)]
    near = dict(kl=[value[frozenset()]-value[frozenset({l})] for l in range(layers)], kl_removal=[value[every-{l}]-value[every] for l in range(layers)])
    return fair, max(near, key=lambda m: spearman(near[m], fair))
    ### END SOLUTION

# %% check
@functools.cache
def value_ex30db(L=5):
    "KL of all 32 sets of a random toy"
    torch.manual_seed(2)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=L, intermediate_size=16)).eval().requires_grad_(False)
    for p in teacher.parameters(): p.normal_(0, 0.3).add_(1. if p.dim() == 1 else 0.)
    student = build_student(teacher, settings=dict(window=4), verbose=False)
    sets = KLSets(Job(student, teacher, [torch.randint(32, (4, 24))], 'kl', tokens=96, dtype='float32', ledger=Ledger(), meter=Meter()))
    every = [frozenset(s) for k in range(L+1) for s in itertools.combinations(range(L), k)]
    return {s: sets.objective(r) for s, r in zip(every, sets.values(every))}

def orders_ex30db(value, L):
    "By definition: what a layer brings when it comes, over all orders"
    out, orders = [0.]*L, list(itertools.permutations(range(L)))
    for order in orders:
        for i, l in enumerate(order): out[l] += (value[frozenset(order[:i])]-value[frozenset(order[:i+1])])/len(orders)
    return out

def check_ex30db(f):
    value, L = value_ex30db(), 5
    got, near = f(dict(value), L) or (None, None)
    want, every = orders_ex30db(value, L), frozenset(range(L))
    alone, last = [value[frozenset()]-value[frozenset({l})] for l in range(L)], [value[every-{l}]-value[every] for l in range(L)]
    mean = lambda rise: [sum(rise(s, l) for s in value if l not in s)/2**(L-1) for l in range(L)]
    check_answer(got, want, [([-x for x in want], 'how much the KL *falls* when the layer comes'), (mean(lambda s, l: value[s]-value[s | {l}]), 'a mean over all sets, as `effect` in the notebook; over orders, small and large sets weigh more than those in the middle'), ([x/2 for x in mean(lambda s, l: value[s]-value[s | {l}])], 'half of the sets have the layer already: no change there, and no weight'), (alone, 'the layer alone; it may come later too'), (last, 'the layer as the last to come; it may come earlier too')], tol=1e-5, name='values')
    other = dict(kl='kl_removal', kl_removal='kl')
    best = 'kl' if spearman(alone, want) > spearman(last, want) else 'kl_removal'
    return check_answer(near, best, [(other[best], 'compare the two rankings by `spearman`')], name='nearest')

# %% wrong
def mean_ex30db(value, L): return [sum(value[s-{l}]-value[s | {l}] for s in value)/2**L for l in range(L)]
wrong_ex30db = [(lambda v, L: ([-x for x in ex30db(v, L)[0]], ''), 'the KL *falls*'), (lambda v, L: (mean_ex30db(v, L), ''), 'over orders'), (lambda v, L: ([x/2 for x in mean_ex30db(v, L)], ''), 'no weight'),
    (lambda v, L: ([v[frozenset()]-v[frozenset({l})] for l in range(L)], ''), 'the layer alone'), (lambda v, L: ([v[frozenset(range(L))-{l}]-v[frozenset(range(L))] for l in range(L)], ''), 'the last to come'),
    (lambda v, L: (ex30db(v, L)[0], dict(kl='kl_removal', kl_removal='kl')[ex30db(v, L)[1]]), 'compare the two')]

# %% why
# The values add up to the whole fall of the KL, 0.370, to the last digit. Here `kl` ranks exactly as they do and `kl_removal` does not (Spearman 1.0 and 0.6); against the mean effect on the notebook's toy it is 0.7 and 1.0. Which company is the fairer one to judge a layer in depends on the model, and asking all of them takes $2^L$ sets.

# %% 3c explore (1 s)
# `fit(kl)` measures a function of sets of five layers, `kl(keep)`, on 64 random sets and returns `(b, c)`, `b` one number per layer and `c` a `(5, 5)` tensor. Write two such functions, each 1 or 0: layers 3 and 4 need each other (0 with both), and layers 3 and 4 stand in for each other (0 with either). Return for each the effect $-b_3$ and $c_{34}$: two pairs of numbers.

# %% solution
def ex30dc(fit):
    "Effect of layer 3 and its interaction with layer 4: needing each other, and standing in"
    ### BEGIN SOLUTION
    read = lambda b, c: (-float(b[3]), float(c[3, 4]))
    return read(*fit(lambda keep: float(not {3, 4} <= set(keep)))), read(*fit(lambda keep: float(not {3, 4} & set(keep))))
    ### END SOLUTION

# %% check
def fit_ex30dc(kl, L=5):
    sets = random_sets(L, 64)
    x = design(sets, L, True)
    w = ridge(x, torch.tensor([[float(kl(s))] for s in sets], dtype=torch.float64), torch.full((x.shape[1],), 1e-9, dtype=torch.float64))[1][:, 0]
    c, (i, j) = torch.zeros(L, L, dtype=w.dtype), torch.triu_indices(L, L, 1)
    c[i, j] = c[j, i] = w[L:]
    return w[:L], c

def check_ex30dc(f):
    got = f(fit_ex30dc) or (None, None)
    # (x+1/2)(y+1/2) is 1 with both, 0 otherwise; (1/2-x)(1/2-y) is 1 with neither
    both, either = (0.5, -1.), (0.5, 1.)
    hints = [((-0.5, both[1]), 'the effect is what the layer brings: minus b'), ((0., 0.), 'this is a pair of other layers, or no circuit'), ((0.5, 0.), 'c of layers 3 and 4, not of a layer and itself')]
    check_answer(got[0], both, [*hints, (either, 'here one of the two is enough; both must be there'), ((-0.5, 1.), 'the KL is 0 with both, not 1')], tol=1e-3, name='needing')
    return check_answer(got[1], either, [((-0.5, either[1]), 'minus b here too'), (both, 'here both must be there; one of the two is to be enough'), ((-0.5, -1.), 'the KL is 0 with either, not 1')], tol=1e-3, name='standing in')

# %% wrong
def read_ex30dc(fit, kl, sign=-1., other=4): return (lambda b, c: (sign*float(b[3]), float(c[3, other])))(*fit(kl))
def both_ex30dc(keep): return not {3, 4} <= set(keep)
def either_ex30dc(keep): return not {3, 4} & set(keep)
wrong_ex30dc = [(lambda fit: (read_ex30dc(fit, both_ex30dc, 1.), None), 'needing: the effect'), (lambda fit: ((0., 0.), None), 'other layers'), (lambda fit: (read_ex30dc(fit, both_ex30dc, other=3), None), 'and itself'), (lambda fit: (read_ex30dc(fit, either_ex30dc), None), 'both must be there'), (lambda fit: (read_ex30dc(fit, lambda k: not both_ex30dc(k)), None), 'with both, not 1'),
    (lambda fit: (ex30dc(fit)[0], read_ex30dc(fit, either_ex30dc, 1.)), 'here too'), (lambda fit: (ex30dc(fit)[0],)*2, 'to be enough'), (lambda fit: (ex30dc(fit)[0], read_ex30dc(fit, lambda k: not either_ex30dc(k))), 'with either')]

# %% why
# The effects are the same, 0.5 each; only the sign of $c$ tells, $-1$ for two that need each other and $+1$ for two that do one job. A budget of one layer should go to one of the second pair and to none of the first, and no ranking of single effects can know that.
