# %% setup
import functools, random, torch
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.elastic import build_elastic
from hybrid_tutorial.models.hybrid import build_student
from hybrid_tutorial.ops.loss import dense_kl
from hybrid_tutorial.training.align import calibrate
from hybrid_tutorial.training.elastic import distill_elastic, sandwich

# %% 1a compute (1 s)
# Return two pairs `(forward, backward)`: passes of one step with `counts=[0, 1, 2, 3, 4]`, and with `counts=[1, 3]`. The teacher's passes count too.

# %% solution
def ex23ba():
    "Forward and backward passes of a step with five counts; with two"
    ### BEGIN SOLUTION
    return (1+3, 3), (1+2, 2)
    ### END SOLUTION

# %% check
def check_ex23ba(f):
    passes = lambda counts: (1+max(len(sandwich(counts, s)) for s in range(50)), max(len(sandwich(counts, s)) for s in range(50)))
    five, two = f() or (None, None)
    check_answer(five, passes([0, 1, 2, 3, 4]), [((3, 3), 'the teacher runs forward once'), ((6, 3), 'the teacher is asked once, not for each setting'), ((4, 4), 'nothing goes backward through the teacher'), ((4, 1), 'each setting goes backward by itself; gradients add up'), ((6, 5), 'three settings a step, not all five'), ((3, 2), 'largest, smallest *and* one between')], name='five counts')
    return check_answer(two, passes([1, 3]), [((4, 3), 'nothing lies between the two, so there are two settings; 2 is not in the list'), ((2, 2), 'here too the teacher runs forward once'), ((2, 1), 'two settings are left')], name='two counts')

# %% wrong
wrong_ex23ba = [(lambda: ((3, 3), 0), 'teacher runs forward once'), (lambda: ((6, 3), 0), 'not for each'), (lambda: ((4, 4), 0), 'backward through'), (lambda: ((4, 1), 0), 'by itself'), (lambda: ((6, 5), 0), 'not all five'), (lambda: ((3, 2), 0), 'one between'),
    (lambda: ((4, 3),)*2, 'not in the list'), (lambda: ((4, 3), (2, 2)), 'here too'), (lambda: ((4, 3), (2, 1)), 'two settings are left')]

# %% why
# Four forward and three backward, however many settings there are: about three times the work of one setting, for all of them. Two when `counts` has nothing between its ends, one when it has a single number.

# %% 2b implement (1 s)
# Return the three sets of a step as lists of layers: the largest and the smallest from the ranking, and between them a random set. Its size is one of the `counts` strictly between, its layers are any of the model's `L`. A resumed run must draw the same, and the generators of everybody else must be left alone.

# %% solution
def ex23bb(counts, ranking, L, step, seed):
    "Largest, smallest, and a random set between"
    ### BEGIN SOLUTION
    rng = random.Random(f'{seed} {step}')
    size = rng.choice([c for c in counts if min(counts) < c < max(counts)])
    return [ranking[:max(counts)], ranking[:min(counts)], sorted(rng.sample(range(L), size))]
    ### END SOLUTION

# %% check
def check_ex23bb(f):
    counts, ranking, L, seen = [1, 2, 3, 5], [4, 0, 2, 5, 1, 3], 6, {}
    random.seed(0)
    before, torch_before = random.getstate(), torch.get_rng_state()
    for step in range(60):
        got = f(counts, list(ranking), L, step, 0)
        if got is None: raise AssertionError('answer: nothing was returned')
        if len(got) != 3: raise AssertionError('answer: three sets, the largest first')
        big, small, mid = (list(x) for x in got)
        if set(big) != set(ranking[:5]) or set(small) != set(ranking[:1]): raise AssertionError(f'step {step}: the ends come from the ranking, {ranking[:5]} and {ranking[:1]}')
        if len(set(mid)) < len(mid): raise AssertionError(f'step {step}: {mid} names a layer twice')
        if len(mid) not in (2, 3): raise AssertionError(f'step {step}: {len(mid)} layers between; the counts strictly between are 2 and 3')
        seen[step] = sorted(mid)
    if random.getstate() != before or not torch.equal(torch.get_rng_state(), torch_before): raise AssertionError('a generator that is not yours was used or seeded: others draw from it too, and after a resume it stands elsewhere')
    if any(sorted(f(counts, list(ranking), L, s, 0)[2]) != seen[s] for s in reversed(range(60))): raise AssertionError('asked again, a step draws another set: it must follow from seed and step alone')
    if len(set(map(tuple, seen.values()))) == 1: raise AssertionError('every step draws the same set')
    if all(m == sorted(ranking[:len(m)]) for m in seen.values()): raise AssertionError('always the first of the ranking: that is the nested set')
    if {len(m) for m in seen.values()} != {2, 3}: raise AssertionError('one of the sizes between never comes')
    if set(sum(seen.values(), [])) != set(range(L)): raise AssertionError('some layers never come; also those outside the largest set may be drawn')
    if all(sorted(f(counts, list(ranking), L, s, 1)[2]) == seen[s] for s in range(60)): raise AssertionError('another seed draws the same sets')
    return 'ex23bb: right'

# %% wrong
own_ex23bb = random.Random(0)
def sets_ex23bb(counts, ranking, L, step, seed, rng=None, pool=None, size=None, sample=None):
    rng = rng or random.Random(f'{seed} {step}')
    n = size or rng.choice([c for c in counts if min(counts) < c < max(counts)])
    mid = sample(rng, pool or range(L), n) if sample else rng.sample(list(pool or range(L)), n)
    return [ranking[:max(counts)], ranking[:min(counts)], mid]
wrong_ex23bb = [(lambda *a: sets_ex23bb(*a, rng=random), 'not yours'), (lambda *a: sets_ex23bb(*a, rng=own_ex23bb), 'asked again'), (lambda *a: sets_ex23bb(*a, rng=random.Random(a[4])), 'the same set'), (lambda *a: sets_ex23bb(*a, rng=random.Random(a[3])), 'another seed'), (lambda *a: sets_ex23bb(*a, sample=lambda r, p, n: [r.choice(p) for _ in range(n)]), 'a layer twice'),
    (lambda *a: sets_ex23bb(*a, pool=a[1][:5]), 'never come; also'), (lambda *a: sets_ex23bb(*a, size=2), 'one of the sizes'), (lambda *a: sets_ex23bb(*a, sample=lambda r, p, n: a[1][:n]), 'nested set'), (lambda *a: sets_ex23bb(*a, size=5), 'strictly between'), (lambda *a: sets_ex23bb(*a)[::-1], 'come from the ranking')]

# %% why
# `random.Random(f'{seed} {step}')` is a generator of its own for each step: no matter how often or where a run was stopped, step 1,000 draws what it always draws. A generator that runs along with the loop would have to be saved with it. Arbitrary sets ask each layer to work in far more companies, and most of them are never used: the nested ones pay for that.

# %% 3c explore (2 s)
# In small: a teacher of 4 layers with sharp attention, its calibrated student, 12 steps. `kl(counts)` trains an elastic hybrid for these counts and gives the held-out KL of its five settings, 0 to 4 softmax layers, as a list; `kl(None)` is before training. Return setting 2's KL before, after `(1, 3)`, for which it was never trained, and after `(1, 2, 3)`.

# %% solution
def ex23bc(kl):
    "KL of setting 2: before, never trained, trained"
    ### BEGIN SOLUTION
    return kl(None)[2], kl((1, 3))[2], kl((1, 2, 3))[2]
    ### END SOLUTION

# %% check
@functools.cache
def parts_ex23bc():
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4, intermediate_size=48)).eval().requires_grad_(False)
    with torch.no_grad(): [p.normal_(0, 0.2) for p in teacher.parameters() if p.dim() > 1]
    student = build_student(teacher, settings=dict(window=0), verbose=False)
    calibrate(student, teacher, [dict(input_ids=text_ex23bc(100))], dtype='float32')
    return teacher, student

def text_ex23bc(seed): return torch.randint(40, (4, 24), generator=torch.Generator().manual_seed(seed))

@functools.cache
def kl_ex23bc(counts):
    teacher, student = parts_ex23bc()
    hybrid, ranking = build_elastic(student, teacher), [0, 2, 1, 3]
    if counts: distill_elastic(hybrid, teacher, [text_ex23bc(s) for s in range(12)], ranking, counts=counts, lr=3e-4, lr_attention=3e-3, dtype='float32', show=False)
    held = text_ex23bc(999)
    with torch.no_grad(): return [float(dense_kl(hybrid.set_kept_layers(ranking[:k])(held, use_cache=False).logits, teacher(held).logits).mean()) for k in range(5)]

def check_ex23bc(f):
    before, two, three = (kl_ex23bc(c) for c in (None, (1, 3), (1, 2, 3)))
    a, b, c = f(kl_ex23bc) or (None,)*3
    check_answer(a, before[2], [(before[1], 'the list starts with setting 0'), (two[2], 'this is after training')], tol=1e-4, name='before')
    check_answer(b, two[2], [(three[2], 'here setting 2 was trained'), ((two[1]+two[3])/2, 'measure it; the mean of its neighbours is a guess'), (before[2], 'this is before training')], tol=1e-4, name='never trained')
    return check_answer(c, three[2], [(two[2], 'counts=(1, 3) again'), (three[1], 'this is setting 1'), (three[3], 'this is setting 3')], tol=1e-4, name='trained')

# %% wrong
wrong_ex23bc = [(lambda kl: (kl(None)[1], 0, 0), 'starts with'), (lambda kl: (kl((1, 3))[2], 0, 0), 'before: this is after'), (lambda kl: (kl(None)[2], kl((1, 2, 3))[2], 0), 'was trained'), (lambda kl: (kl(None)[2], (kl((1, 3))[1]+kl((1, 3))[3])/2, 0), 'is a guess'), (lambda kl: (kl(None)[2],)*3, 'this is before'), (lambda kl: (*ex23bc(kl)[:2], kl((1, 3))[2]), 'again'), (lambda kl: (*ex23bc(kl)[:2], kl((1, 2, 3))[3]), 'setting 3')]

# %% why
# 0.416, 0.336 and 0.304: 72 % of the gain comes to a setting that no step ever saw. Its two softmax layers were trained as softmax in setting 3, its two linear ones as linear in setting 1; only the company is new. Nested sets make the settings between alike, which is why one random one per step is enough. (Twelve large steps are not training: setting 3 itself goes from 0.116 to 0.167.)
