# %% setup
import functools, random, re, torch
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.selection.ablations import fresh_words, smart_layers
from hybrid_tutorial.selection.baselines import uniform_layers
from hybrid_tutorial.selection.choose import choose_layers
from hybrid_tutorial.selection.scores import score_layers

# %% 1a compute (1 s)
# Return four things: the list of distances for 28 layers and $K = 7$, how many of the three uniform sets (first, middle, last) the rule allows there, and the same two for 30 layers and $K = 8$.

# %% solution
def ex31ba():
    "Distances and allowed uniform sets, for 7 of 28 and for 8 of 30"
    ### BEGIN SOLUTION
    return [4, 5], 3, [4, 5], 0
    ### END SOLUTION

# %% check
def check_ex31ba(f):
    got = f() or (None,)*4
    for (L, K), apart, allowed in (((28, 7), *got[:2]), ((30, 8), *got[2:])):
        g = -(-(L-1)//(K-1))
        ok = sum(smart_layers([float(l in u) for l in range(L)], K) == u for u in (uniform_layers(L, K, p) for p in ('first', 'middle', 'last')))
        check_answer(sorted(apart) if apart else apart, [g-1, g], [([L//K, L//K+1] if L//K != g-1 else [L//K], 'from (L-1)/(K-1): between K layers there are K-1 distances'), ([g], 'two distances: ceil(g)-1 and ceil(g)'), ([g-1, g, g+1], 'two distances: ceil(g)-1 and ceil(g), no third')], name=f'distances, {K} of {L}')
        check_answer(allowed, ok, [(1, 'all three have the same distances; look at the ends too') if L == 28 else (1, 'look at the distances of all three'), (2, 'no end may be further from the set than the shorter distance, 4; none is') if L == 28 else (2, 'a distance of 3 is in all three'), (0, 'in each the layers are 4 apart, which is allowed') if L == 28 else (3, 'they have distances of 3, and the rule wants 4 or 5')], name=f'allowed, {K} of {L}')
    return 'ex31ba: right'

# %% wrong
wrong_ex31ba = [(lambda: ([4], 3, [4, 5], 0), '28: from'), (lambda: ([5], 3, [4, 5], 0), '28: two distances: ceil(g)-1 and ceil(g)'), (lambda: ([4, 5, 6], 3, [4, 5], 0), '28: two distances: ceil(g)-1 and ceil(g), no'), (lambda: ([4, 5], 1, [4, 5], 0), 'the ends too'), (lambda: ([4, 5], 2, [4, 5], 0), 'none is'), (lambda: ([4, 5], 0, [4, 5], 0), 'which is allowed'),
    (lambda: ([4, 5], 3, [3, 4], 0), '30: from'), (lambda: ([4, 5], 3, [5], 0), '30: two'), (lambda: ([4, 5], 3, [4, 5], 3), 'the rule wants'), (lambda: ([4, 5], 3, [4, 5], 1), 'of all three'), (lambda: ([4, 5], 3, [4, 5], 2), 'is in all three')]

# %% why
# $27/6 = 4.5$ allows 4 and 5, and every fourth of 28 layers is among SMART's sets whatever the phase. $29/7 = 4.14$ allows 4 and 5 too, but 8 of 30 laid out evenly are 3 or 4 apart: none of the three is allowed, because SMART stretches its set from end to end and *uniform* leaves half a stretch free at the ends.

# %% 2b implement (1 s)
# `ar_sum_item(rng, pairs)`: as `ar_item` (`fresh_words`, digits as values, `' '.join(f'{k} : {v} ,' ...)`), but the prompt ends with ` {a} + {b} + {c} :` for three different keys, and the answer is a space and the sum. Everything random comes from `rng`.

# %% solution
def ex31bb(rng, pairs=50):
    "Prompt and answer: pairs, then the sum of the values of three keys"
    ### BEGIN SOLUTION
    keys = fresh_words(rng, pairs); values = [rng.randint(0, 9) for _ in keys]
    asked = rng.sample(range(pairs), 3)
    return ' '.join(f'{k} : {v} ,' for k, v in zip(keys, values))+' '+' + '.join(keys[i] for i in asked)+' :', f' {sum(values[i] for i in asked)}'
    ### END SOLUTION

# %% check
def check_ex31bb(f):
    made, early = [f(random.Random(s), 6) for s in range(60)], 0
    if any(not isinstance(m, tuple) or len(m) != 2 for m in made): raise AssertionError('answer: a prompt and its answer')
    if made[0] != f(random.Random(0), 6): raise AssertionError('answer: the same `rng` must give the same item; draw from it alone')
    for prompt, answer in made:
        book, m = dict(re.findall(r'(\w+) : (\d) ,', prompt)), re.search(r', (\w+) \+ (\w+) \+ (\w+) :$', prompt)
        if len(book) != 6: raise AssertionError(f'answer: 6 pairs `key : value ,` were asked for, {len(book)} are there')
        if not m: raise AssertionError("answer: the prompt ends with ' a + b + c :', and nothing after it")
        if len(set(m.groups())) < 3: raise AssertionError('answer: three different keys')
        if not set(m.groups()) <= set(book): raise AssertionError('answer: a key is asked that is not in the text')
        digits = [int(book[k]) for k in m.groups()]; early += list(m.groups()) == list(book)[:3]
        if answer == f' {"".join(map(str, digits))}' != f' {sum(digits)}': raise AssertionError('answer: the sum of the values, not one after the other')
        if answer == f' {sum(digits) % 10}' != f' {sum(digits)}': raise AssertionError('answer: the whole sum, up to 27')
        if answer == str(sum(digits)): raise AssertionError('answer: it begins with a space, as the next word of the text does')
        check_answer(answer, f' {sum(digits)}')
    if early > 10: raise AssertionError('answer: always the first three; ask at random places')
    return 'ex31bb: right'

# %% wrong
def item_ex31bb(pick=lambda rng, n: rng.sample(range(n), 3), say=lambda d: f' {sum(d)}', end=' :', give=lambda rng: rng):
    def f(rng, pairs=50):
        rng = give(rng); keys = fresh_words(rng, pairs); values = [rng.randint(0, 9) for _ in keys]; asked = pick(rng, pairs)
        return ' '.join(f'{k} : {v} ,' for k, v in zip(keys, values))+' '+' + '.join(keys[i] for i in asked)+end, say([values[i] for i in asked])
    return f
wrong_ex31bb = [(item_ex31bb(lambda rng, n: rng.choices(range(n), k=3)), 'three different'), (item_ex31bb(lambda rng, n: [0, 1, 2]), 'at random places'), (item_ex31bb(say=lambda d: ' '+''.join(map(str, d))), 'one after the other'), (item_ex31bb(say=lambda d: f' {sum(d) % 10}'), 'up to 27'), (item_ex31bb(say=lambda d: f'{sum(d)}'), 'begins with a space'),
    (item_ex31bb(end=' ='), 'nothing after it'), (item_ex31bb(give=lambda rng: random.Random()), 'from it alone'), (lambda rng, pairs=50: item_ex31bb()(rng, pairs-1), '6 pairs'), (lambda rng, pairs=50: item_ex31bb()(rng, pairs)[0], 'a prompt and its answer')]

# %% why
# A teacher that recalls but cannot add has its answer's log-probability at the level of a guess, about $-\ln 28$ over the 28 sums at worst; knocking out the layer that recalls cannot make it much worse, so all scores are near 0 and their order is noise. A knock-out measures the last link that holds: test the teacher on the task first (`notes["teacher_accuracy"]`).

# %% 3c explore (2 s)
# `score(metric)` gives the `Scores` of a random toy of five layers by `ar`, with `metric="accuracy"` or `"logprob"`. Return three things: how many layers share the most common accuracy score, what `choose_layers` keeps of them at `count=2`, and what it keeps by log-probability.

# %% solution
def ex31bc(score):
    "Layers that tie by accuracy; two layers by accuracy; two by log-probability"
    ### BEGIN SOLUTION
    acc, log = score('accuracy').scores, score('logprob').scores
    return max(acc.count(x) for x in acc), choose_layers(acc, count=2), choose_layers(log, count=2)
    ### END SOLUTION

# %% check
@functools.cache
def score_ex31bc(metric):
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=99, hidden_size=24, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=5, intermediate_size=32)).eval().requires_grad_(False)
    for l, layer in enumerate(teacher.model.layers): layer.self_attn.o_proj.weight.mul_(20.*(5-l))
    return score_layers(None, teacher, [torch.zeros(1, 8, dtype=torch.long)], method='ar', dtype='float32', options=dict(items=4, metric=metric), show=False)

def check_ex31bc(f):
    got = f(score_ex31bc) or (None,)*3
    acc, log = (score_ex31bc(m).scores for m in ('accuracy', 'logprob'))
    low = lambda x: sorted(sorted(range(5), key=lambda l: (x[l], l))[:2])
    check_answer(got[0], max(map(acc.count, acc)), [(max(map(log.count, log)), 'by accuracy; log-probabilities do not tie'), (4, 'the first layer has the same score as the others')], name='ties')
    check_answer(got[1], choose_layers(acc, count=2), [(choose_layers(log, count=2), 'this is by log-probability; by accuracy all tie, and a tie goes to the lower layer')], name='by accuracy')
    return check_answer(got[2], choose_layers(log, count=2), [(choose_layers(acc, count=2), 'this is by accuracy'), (low(log), 'higher scores are kept')], name='by log-probability')

# %% wrong
wrong_ex31bc = [(lambda s: (1, 0, 0), 'do not tie'), (lambda s: (4, 0, 0), 'as the others'), (lambda s: (ex31bc(s)[0], ex31bc(s)[2], 0), 'the lower layer'), (lambda s: (*ex31bc(s)[:2], ex31bc(s)[1]), 'this is by accuracy'), (lambda s: (*ex31bc(s)[:2], sorted(sorted(range(5), key=lambda l: s('logprob').scores[l])[:2])), 'higher scores')]

# %% why
# All five tie at 0, because the teacher never had an answer right (log-probability $-4.66$, a guess among 99 words is $-4.60$), and `choose_layers` takes 0 and 1, the first of a list. By log-probability the two last layers lead, with $-0.002$ and 0.001 nats: without them nothing changes either. A set that begins with layer 0 may be a finding or a sort order; the number of ties tells which.
