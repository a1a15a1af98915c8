# %% setup
import functools, itertools, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.hybrid import build_hybrid, build_student
from hybrid_tutorial.ops.loss import dense_kl
from hybrid_tutorial.selection.study import planted_teacher, toy_text
from hybrid_tutorial.training.align import calibrate

# %% 1a compute (1 s)
# The teacher's own pass and that of the base model count too. Return the layer evaluations with the prefix remembered, and without.

# %% solution
def ex30a():
    "Layer evaluations of one scoring of 30 layers: prefix remembered, and not"
    ### BEGIN SOLUTION
    L = 30
    return 2*L+L*(L+1)//2, 2*L+L*L
    ### END SOLUTION

# %% check
def check_ex30a(f):
    L, two = 30, [0, 0]
    for model in ('teacher', 'base', *range(L)):   # a candidate starts at its own layer
        start = model if isinstance(model, int) else 0
        for layer in range(L): two = [two[0]+(layer >= start), two[1]+1]
    fast, slow = f() or (None, None)
    check_answer(fast, two[0], [(465, 'the candidates alone; the teacher and the base run once each'), (495, 'candidate l runs layer l too: its attention has changed'), (435, 'candidate l runs layer l too, and the teacher and the base run once each'), (450, 'half of 900 is nearly right; the triangle has a diagonal')], name='remembered')
    return check_answer(slow, two[1], [(900, 'the candidates alone; the teacher and the base run once each'), (930, 'two passes come before the candidates: the teacher and the base')], name='from the start')

# %% wrong
wrong_ex30a = [(lambda: (465, 960), 'remembered: the candidates alone'), (lambda: (495, 960), 'its attention has changed'), (lambda: (435, 960), 'and the teacher'), (lambda: (450, 960), 'a diagonal'), (lambda: (525, 900), 'start: the candidates alone'), (lambda: (525, 930), 'two passes')]

# %% why
# $L(L+1)/2 + 2L = 525$ against $L^2 + 2L = 960$, for the same numbers to the last bit.

# %% 2b implement (1 s)
# `kl(layers)` is the KL to the teacher with these layers linear, `best` a list of layers. Return the pair `(a, b)`, a before b, whose KL is furthest from the sum of the two single ones.

# %% solution
def ex30b(kl, best):
    "The pair of layers that interact most"
    ### BEGIN SOLUTION
    single = {l: kl((l,)) for l in best}
    return max(itertools.combinations(best, 2), key=lambda p: abs(kl(p)-single[p[0]]-single[p[1]]))
    ### END SOLUTION

# %% check
def kl_ex30b(layers, extra={(3, 7): -0.5, (3, 9): 0.3, (7, 12): 0.2, (9, 12): 0.15}):
    single = {3: 0.6, 7: 0.55, 9: 0.1, 12: 0.05, 20: 0.8}
    return sum(single[l] for l in layers)+sum(v for p, v in extra.items() if set(p) <= set(layers))

def check_ex30b(f):
    best, pairs = [3, 7, 9, 12, 20], list(itertools.combinations([3, 7, 9, 12, 20], 2))
    def most(score): return max(pairs, key=score)
    gain = lambda p: kl_ex30b(p)-kl_ex30b(p[:1])-kl_ex30b(p[1:])
    return check_answer(f(kl_ex30b, best), (3, 7), [(most(gain), 'further *below* the sum counts too: two layers that do the same job'), (most(kl_ex30b), 'this pair has the largest KL; the question is what the pair adds to its parts'),
        (most(lambda p: gain(p)/(kl_ex30b(p[:1])+kl_ex30b(p[1:]))), 'a distance in nats, not a ratio'), ((7, 3), 'a before b')])

# %% wrong
wrong_ex30b = [(lambda kl, b: (3, 9), 'further *below*'), (lambda kl, b: max(itertools.combinations(b, 2), key=kl), 'largest KL'), (lambda kl, b: max(itertools.combinations(b, 2), key=lambda p: kl(p)/(kl(p[:1])+kl(p[1:]))), 'not a ratio'), (lambda kl, b: (7, 3), 'a before b')]

# %% why
# Above the sum: each covers for the other, and a one-shot ranking undervalues both. Below it: they do one job together, and the second adds little once the first is gone; both look important, and one would do. A sum of scores sees neither.

# %% 3c explore (8 s)
# Which layer recalls? In small: a Llama of four layers that has learned to repeat passages, and its aligned student. `kl(keep, text)` is the KL to the teacher of the hybrid that keeps these layers, on the recall tokens (`"recall"`) or on the other text (`"plain"`). Return the layer with the highest `kl_removal` score on recall text, the recall KL of the hybrid that keeps only it, and of the one that keeps all but it.

# %% solution
def ex30c(kl):
    "The layer that recalls; recall KL with only it, and with all but it"
    ### BEGIN SOLUTION
    but = lambda l: [i for i in range(4) if i != l]
    best = max(range(4), key=lambda l: kl(but(l), 'recall'))
    return best, kl([best], 'recall'), kl(but(best), 'recall')
    ### END SOLUTION

# %% check
@functools.cache
def models_ex30c():
    with torch.enable_grad(): teacher = planted_teacher(200, (1, 2), 4)
    student = build_student(teacher, settings=dict(window=4), verbose=False)
    calibrate(student, teacher, [toy_text(5000+i) for i in range(4)], dtype='float32')
    return teacher, student

@torch.no_grad()
def kl_ex30c(keep, text):
    teacher, student = models_ex30c()
    batch = toy_text(8000, rows=32)
    ids, recall = batch['input_ids'], batch['recall_mask'][:, 1:]
    each = dense_kl(build_hybrid(student, teacher, list(keep))(ids).logits, teacher(ids).logits)[:, :-1]
    return float(each[recall if text == 'recall' else (~batch['recall_mask'].any(1))[:, None].expand_as(recall)].mean())

def check_ex30c(f):
    got = f(kl_ex30c)
    layer, only, without = got or (None, None, None)
    but = lambda l: [i for i in range(4) if i != l]
    removal = {t: [kl_ex30c(but(l), t) for l in range(4)] for t in ('recall', 'plain')}
    top = lambda x: max(range(4), key=x.__getitem__)
    best = top(removal['recall'])
    check_answer(layer, best, [(top(removal['plain']), 'this layer matters most on plain text; ask the recall tokens'), (min(range(4), key=removal['recall'].__getitem__), 'this is the layer that is missed least')], name='layer')
    if only is None: raise AssertionError('answer: nothing was returned')
    if without is not None and abs(only-removal['recall'][best]) < 1e-6: raise AssertionError('only: the two hybrids are exchanged')
    check_answer(only, kl_ex30c([best], 'recall'), [(kl_ex30c([best], 'plain'), 'this is plain text'), (kl_ex30c([], 'recall'), 'this keeps no layer at all')], tol=1e-4, name='only it')
    return check_answer(without, removal['recall'][best], [(kl_ex30c([best], 'recall'), 'twice the same hybrid'), (kl_ex30c(range(4), 'recall'), 'this keeps all four')], tol=1e-4, name='all but it')

# %% wrong
wrong_ex30c = [(lambda kl: (1, 0, 0), 'on plain text; ask'), (lambda kl: (3, 0, 0), 'missed least'), (lambda kl: (ex30c(kl)[0], ex30c(kl)[2], ex30c(kl)[1]), 'exchanged'), (lambda kl: (ex30c(kl)[0], kl([ex30c(kl)[0]], 'plain'), 0), 'this is plain'),
    (lambda kl: (ex30c(kl)[0], kl([], 'recall'), 0), 'no layer at all'), (lambda kl: (*ex30c(kl)[:2], ex30c(kl)[1]), 'twice the same'), (lambda kl: (*ex30c(kl)[:2], kl(range(4), 'recall')), 'all four')]

# %% why
# One layer of four, and it beats the three others together by a wide margin on recall, while plain text hardly notices it. Attention was trained in layers 1 and 2, but layer 1 only says what stood one token before, which a window does as well. An average over plain text would have kept the wrong layer.
