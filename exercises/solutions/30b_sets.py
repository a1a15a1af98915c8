# %% setup
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.hybrid import build_student
from hybrid_tutorial.selection.scores import Job
from hybrid_tutorial.selection.sets import KLSets, Ledger, Meter, kl

def toy_job(layers):
    "A random Llama, its student, 12 tokens to score on, an empty ledger"
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=layers, intermediate_size=16)).eval().requires_grad_(False)
    student = build_student(teacher, settings=dict(window=4), verbose=False)
    return Job(student, teacher, [torch.randint(32, (1, 12))], 'kl', tokens=12, dtype='float32', ledger=Ledger(), meter=Meter())

# %% 1a compute (1 s)
# Candidates are numbered from 0, and candidate $l$ starts at its own layer. The passes of teacher and base are left out. Return four things: the list of candidates of process 3, its layer evaluations, the process with the most work, and its layer evaluations.

# %% solution
def ex30ba():
    "Candidates and layer evaluations of process 3 of 16; the busiest process and its evaluations"
    ### BEGIN SOLUTION
    return [3, 19], 27+11, 0, 30+14
    ### END SOLUTION

# %% check
def check_ex30ba(f):
    L, w = 30, 16
    mine = {r: [l for l in range(L) if l % w == r] for r in range(w)}
    work = {r: sum(len(range(l, L)) for l in ls) for r, ls in mine.items()}
    got = f() or (None,)*4
    check_answer(got[0], mine[3], [([6, 7], 'blocks; a process strides: r, r+16, ...'), ([3], 'thirty candidates are more than 16: the processes 0 to 13 have two'), ([2, 18], 'processes count from 0 too')], name='candidates')
    check_answer(got[1], work[3], [(60, 'a candidate starts at its own layer'), (36, 'candidate l runs layer l too: its attention has changed'), (24, 'these are the layers below, which are remembered'), (27, 'this is candidate 3 alone')], name='its work')
    check_answer(got[2], max(work, key=work.get), [(15, 'process 15 has one candidate, of 15 layers'), (13, 'the late layers are the cheap ones')], name='busiest')
    return check_answer(got[3], max(work.values()), [(60, 'a candidate starts at its own layer'), (42, 'candidate l runs layer l too'), (30, 'it has a second candidate'), (59, 'this is with blocks of two')], name='most work')

# %% wrong
wrong_ex30ba = [(lambda: ([6, 7], 0, 0, 0), 'a process strides'), (lambda: ([3], 27, 0, 0), 'more than 16'), (lambda: ([2, 18], 0, 0, 0), 'from 0 too'), (lambda: ([3, 19], 60, 0, 0), 'its work: a candidate starts'), (lambda: ([3, 19], 36, 0, 0), 'has changed'), (lambda: ([3, 19], 24, 0, 0), 'are remembered'),
    (lambda: ([3, 19], 27, 0, 0), 'candidate 3 alone'), (lambda: ([3, 19], 38, 15, 0), 'one candidate'), (lambda: ([3, 19], 38, 13, 0), 'the cheap ones'), (lambda: ([3, 19], 38, 0, 60), 'most work: a candidate'), (lambda: ([3, 19], 38, 0, 42), 'most work: candidate l'), (lambda: ([3, 19], 38, 0, 30), 'a second'), (lambda: ([3, 19], 38, 0, 59), 'blocks of two')]

# %% why
# Process 3 has $27+11 = 38$ of the 465 evaluations, process 0 has 44 and process 15 has 15. With blocks of two, process 0 would have 59 and process 15 nothing, and all wait for the slowest.

# %% 2b implement (1 s)
# `asks` is a list of questions `(keep, layers)`, put one after the other to `sets.around` with one ledger, one text and one batch. Return for each how many of its results the ledger already has. The check asks a model and reads `job.ledger.hits`.

# %% solution
def ex30bb(asks):
    "Ledger hits of each question"
    ### BEGIN SOLUTION
    known, hits = set(), []
    for keep, layers in asks:
        wanted = {frozenset(keep), *(frozenset(keep) ^ {l} for l in layers)}
        hits.append(len(wanted & known)); known |= wanted
    return hits
    ### END SOLUTION

# %% check
def guess_ex30bb(asks, toggle=lambda s, l: s ^ {l}, base=True, memory=True, key=frozenset):
    "A count of hits that may leave something out"
    known, hits = set(), []
    for keep, layers in asks:
        wanted = {*([key(frozenset(keep))] if base else []), *(key(toggle(frozenset(keep), l)) for l in layers)}
        hits.append(len(wanted & known)); known = known | wanted if memory else wanted
    return hits

def check_ex30bb(f):
    asks, job, want = [({0}, [1, 2]), ({1}, [0, 2]), ({0, 1}, [0, 1, 2]), ((), [0, 1, 2]), ({0, 1, 2}, [0, 1])], toy_job(3), []
    check_answer(f([({0}, [1]), ({1}, [0])]), [0, 1], [([0, 0], 'both ask for {0, 1}: a set has no order'), ([0, 2], 'two sets each, one in common'), ([1, 1], 'the first one finds an empty ledger')], name='the two of the question')
    sets = KLSets(job)
    for keep, layers in asks: before = job.ledger.hits; sets.around(keep, layers); want.append(job.ledger.hits-before)
    sums = [sum(want[:i+1]) for i in range(len(want))]
    return check_answer(f(asks), want, [(guess_ex30bb(asks, lambda s, l: s | {l}), 'a toggle takes a layer out that is in'), (guess_ex30bb(asks, base=False), 'the base is measured and remembered too'), (guess_ex30bb(asks, memory=False), 'the ledger remembers all questions, not the last one only'), (sums, 'the hits of each question, not the sum so far'),
        ([len(layers)+1-h for (_, layers), h in zip(asks, want)], 'these are the ones that must be computed')], name='hits')

# %% wrong
wrong_ex30bb = [(lambda asks: guess_ex30bb(asks, toggle=lambda s, l: (*s, l), key=tuple), 'no order'), (lambda asks: [0, 2], 'one in common'), (lambda asks: [1, 1], 'an empty ledger'), (lambda asks: guess_ex30bb(asks, lambda s, l: s | {l}), 'takes a layer out'),
    (lambda asks: guess_ex30bb(asks, base=False) if len(asks) > 2 else [0, 1], 'the base is'), (lambda asks: guess_ex30bb(asks, memory=False), 'remembers all'), (lambda asks: [sum(ex30bb(asks)[:i+1]) for i in range(len(asks))], 'the sum so far'), (lambda asks: [len(l)+1-h for (_, l), h in zip(asks, ex30bb(asks))] if len(asks) > 2 else [0, 1], 'must be computed')]

# %% why
# A result belongs to a set, not to the way that led to it: $\{0\} \triangle \{1\}$ and $\{1\} \triangle \{0\}$ are the same hybrid. Greedy selectors profit most: each of their steps starts from a set that the step before has measured, and the exchange pass walks among known sets.

# %% 3c explore (1 s)
# `found(trunk)` runs `kl` on a toy of two layers, then asks what `kl_removal` asks, on the same ledger, with embedding, norms and MLPs of the `"student"` or the `"teacher"`, and returns how many results the ledger had. Return four things: the sets that `kl` and `kl_removal` both ask for with $L = 2$, as a sorted list of tuples; how many they share with $L = 30$; and what is found with the trunk of the teacher, and with that of the student.

# %% solution
def ex30bc(found):
    "Shared sets for 2 layers; their number for 30; results found with either trunk"
    ### BEGIN SOLUTION
    def asked(L, base): return {tuple(sorted(base))} | {tuple(sorted(base ^ {l})) for l in range(L)}
    both = lambda L: asked(L, set()) & asked(L, set(range(L)))
    return sorted(both(2)), len(both(30)), found('teacher'), found('student')
    ### END SOLUTION

# %% check
def found_ex30bc(trunk):
    job = toy_job(2)
    job.tick = lambda: None
    job.bar = type('Bar', (), dict(update=lambda *a, **k: None, done=0))()
    kl(job)
    before = job.ledger.hits
    KLSets(job, dict(student=job.student, teacher=job.teacher)[trunk]).around(range(2), range(2))
    return job.ledger.hits-before

def check_ex30bc(f):
    got = f(found_ex30bc) or (None,)*4
    check_answer(got[0], [(0,), (1,)], [([(), (0, 1)], 'these are the two bases; each selector asks for its own'), ([(), (0,), (0, 1), (1,)], 'these are all sets; `kl` never asks for (0, 1)'), ([0, 1], 'sets of layers, as tuples: (0,) and (1,)')], name='shared, L = 2')
    check_answer(got[1], 0, [(30, 'one layer softmax is not all but one'), (2, 'that is for two layers, where one and all but one are the same')], name='shared, L = 30')
    check_answer(got[2], found_ex30bc('teacher'), [(found_ex30bc('student'), 'with the norms and MLPs of the teacher; the key of a result names the trunk')], name='teacher trunk')
    return check_answer(got[3], found_ex30bc('student'), [(0, 'here base and candidates have the trunk of `kl`: what was measured there counts'), (3, 'the full set was not asked before')], name='student trunk')

# %% wrong
wrong_ex30bc = [(lambda f: ([(), (0, 1)], 0, 0, 2), 'the two bases'), (lambda f: ([(), (0,), (0, 1), (1,)], 0, 0, 2), 'never asks for'), (lambda f: ([0, 1], 0, 0, 2), 'as tuples'), (lambda f: ([(0,), (1,)], 30, 0, 2), 'not all but one'), (lambda f: ([(0,), (1,)], 2, 0, 2), 'for two layers'),
    (lambda f: ([(0,), (1,)], 0, 2, 2), 'names the trunk'), (lambda f: ([(0,), (1,)], 0, 0, 0), 'what was measured'), (lambda f: ([(0,), (1,)], 0, 0, 3), 'the full set')]

# %% why
# With two layers, one softmax layer is all but one, so both selectors ask for $\{0\}$ and $\{1\}$; from three layers on they share nothing. And even those two are not reused: `kl_removal` runs in the teacher, whose norms and MLPs may differ from a student's that was trained, so ` teacher trunk` is part of its key and the ledger has 0 of 3 results, not 2. A cache that answers too much is worse than none.
