# %% setup
import functools, random, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.evaluation.recall_tasks import TASKS, Kit, Scene, Task, listing, make_item, scatter, spaced
from hybrid_tutorial.ops.delta import chunk_delta_rule
from hybrid_tutorial.ops.softmax import attention_weights

class Letters:
    "A tokenizer with one token per character"
    chat_template = None
    def __call__(self, text, add_special_tokens=True): return dict(input_ids=[ord(c)-32 if ord(c) > 31 else 0 for c in text])
    def decode(self, ids): return ''.join(chr(i+32) for i in ids)

letters = Letters()
hay = torch.tensor(letters('The sea was calm. A gull cried over the bay. Nobody came to look. '*20)['input_ids'])

# %% 1a compute (1 s)
# Return the number of lines, and the chance as a share.

# %% solution
def ex41ba():
    "Lines of 11 tokens in 4,096 tokens; chance to guess the right one"
    ### BEGIN SOLUTION
    lines = 4096//11
    return lines, 1/lines
    ### END SOLUTION

# %% check
def check_ex41ba(f):
    kit = Kit(letters, hay, random.Random(0))
    ids, _ = listing(kit, ('0123456789' for _ in range(999)), ['abcdefghij'], 0.5)(4096)     # ten letters and the line break
    want = letters.decode(ids).count('0123456789')+1
    lines, chance = f() or (None, None)
    check_answer(lines, want, [(want+1, 'the last line does not fit whole; the rest is running text in front'), (4096/11, 'whole lines'), (want-1, 'the line that is asked for is one of them'), (409, '11 tokens a line, the line break among them')], name='lines')
    return check_answer(chance, 1/want, [(1/90000, 'this is a guess among all numbers of five digits; whoever reads the list guesses among its lines'), (1e-5, 'five digits, but only those of the list come into question'), (want, 'a share')], name='chance')

# %% wrong
wrong_ex41ba = [(lambda: (373, 0), 'does not fit whole'), (lambda: (4096/11, 0), 'whole lines'), (lambda: (371, 0), 'is one of them'), (lambda: (409, 0), 'line break among them'), (lambda: (372, 1/90000), 'among its lines'), (lambda: (372, 1e-5), 'only those of the list'), (lambda: (372, 372), 'a share')]

# %% why
# 372 lines, so a reader that copies any line is right once in 372, and nearly always writes five valid digits. That is why the log-probability of such a model lies far above that of five random digits: compare with other models, not with 0.00001.

# %% 2b implement (1 s)
# `ex41bb(kit, depth)` returns the `Scene`; the check puts it into `TASKS`. The text has one sentence at `depth`, ` The words are a, b, c, d, e.` with five words of `kit.words`. The answer begins with `Backwards, the words are`, and only the words are scored, not the commas between them (see `spaced`).

# %% solution
def ex41bb(kit, depth):
    "Five words, to be said backwards"
    ### BEGIN SOLUTION
    words = kit.words(5)
    return Scene(scatter(kit, [(f" The words are {', '.join(words)}.", depth)]), spaced(words[::-1], ','), 'What are the five words, said backwards?', 'Backwards, the words are')
    ### END SOLUTION

# %% check
def check_ex41bb(f):
    def item(depth):
        TASKS['reverse'] = Task(f, True, 'a list, said backwards')
        try: return make_item('reverse', letters, hay, 500, depth, seed=5)
        finally: del TASKS['reverse']
    if f(Kit(letters, hay, random.Random(0)), 0.5) is None: raise AssertionError('reverse: nothing was returned')
    one, two = item(0.5), item(0.5)
    if one.prompt != two.prompt: raise AssertionError('reverse: the same seed gives two questions; all dice are in the kit')
    text = letters.decode(one.prompt)
    if ' The words are ' not in text: raise AssertionError('reverse: the prompt has no sentence " The words are ..."')
    words = text.split(' The words are ')[1].split('.')[0].split(', ')
    say = lambda ws: ', '.join(ws)
    check_answer(len(words), 5, [(4, 'five words')], name='words')
    check_answer(one.text, say(words[::-1]), [(say(words), 'this is the list as it stands'), (say(words)[::-1], 'the words backwards, not their letters'), (say(w[::-1] for w in words[::-1]), 'the order is turned round; each word stays as it is'), (say(sorted(words)[::-1]), 'turned round, not sorted')], name='answer')
    check_answer(len(one.counted), sum(map(len, words)), [(len(say(words)), 'the commas are scored too; hand the answer over in parts')], name='scored')
    return check_answer([item(d).depth > 0.5 for d in (0.1, 0.9)], [False, True], [([one.depth > 0.5]*2, 'the sentence stands at the same place whatever the depth'), ([True, False], 'depth 0 is the front')], name='depth')

# %% wrong
def scene_ex41bb(kit, depth, answer=lambda w: spaced(w[::-1], ','), n=5, words=None):
    words = words or kit.words(n)
    return Scene(scatter(kit, [(f" The words are {', '.join(words)}.", depth)]), answer(words), 'Backwards?', 'Backwards, the words are')
wrong_ex41bb = [(lambda kit, d: scene_ex41bb(kit, d, words=[str(random.random()) for _ in range(5)]), 'dice are in the kit'), (lambda kit, d: scene_ex41bb(kit, d, n=4), 'five words'), (lambda kit, d: scene_ex41bb(kit, d, lambda w: spaced(w, ',')), 'as it stands'),
    (lambda kit, d: scene_ex41bb(kit, d, lambda w: (', '.join(w)[::-1],)), 'not their letters'), (lambda kit, d: scene_ex41bb(kit, d, lambda w: spaced([x[::-1] for x in w[::-1]], ',')), 'stays as it is'), (lambda kit, d: scene_ex41bb(kit, d, lambda w: spaced(sorted(w)[::-1], ',')), 'not sorted'),
    (lambda kit, d: scene_ex41bb(kit, d, lambda w: (', '.join(w[::-1]),)), 'commas are scored'), (lambda kit, d: scene_ex41bb(kit, 0.5), 'whatever the depth')]

# %% why
# Copying needs one pointer that moves on by one; here it moves back, so what followed a word is no help, and the copier of this notebook fails. The body, the length and the scoring come from what all tasks share.

# %% 3c explore (1 s)
# In small: one head that looks for the needle's key among `distractors` keys that resemble it (cosine 0.95), all of them before the needle, and `text` keys that do not, half of them behind it. `read(kind, distractors, text)` is the cosine of what it reads with the needle's value, for `kind` `"softmax"` and for `"state"`, a delta rule with keys of width 64. Start from 1 distractor and 32 tokens of text, then let one of the two grow sixteenfold. Return a list of the pairs `(kind, what)`, `what` being `"text"` or `"distractors"`, whose growth hides the needle (cosine below 0.6), softmax first, text first.

# %% solution
def ex41bc(read):
    "Pairs of kind and growth that hide the needle"
    ### BEGIN SOLUTION
    grown = dict(text=(1, 512), distractors=(16, 32))
    return [(kind, what) for kind in ('softmax', 'state') for what in grown if read(kind, *grown[what]) < 0.6]
    ### END SOLUTION

# %% check
@functools.cache
def read_ex41bc(kind, distractors, text, K=64, draws=16):
    gen, out = torch.Generator().manual_seed(0), []
    unit = lambda *shape: torch.nn.functional.normalize(torch.randn(*shape, generator=gen), dim=-1)
    for _ in range(draws):
        key, n = unit(K), distractors+text
        like = torch.nn.functional.normalize(unit(distractors, K)*0.312+key*0.95, dim=-1)
        k, v, at = unit(text, K), torch.randn(n+1, K, generator=gen), n-text//2
        k = torch.cat([torch.cat([like, k[text//2:]])[torch.randperm(at, generator=gen)], key[None], k[:text//2]])
        if kind == 'softmax': got = attention_weights(8*key[None, None, None], k[None, :, None], scale=1.)[0, 0, 0] @ v
        else: got = chunk_delta_rule(key.expand(1, n+1, 1, K).contiguous(), k[None, :, None], v[None, :, None], torch.ones(1, n+1, 1), scale=1.)[0][0, -1, 0]
        out.append(torch.cosine_similarity(got, v[at], dim=0))
    return float(torch.stack(out).mean())

def check_ex41bc(f):
    pairs = lambda grown: [(k, w) for k in ('softmax', 'state') for w in ('text', 'distractors') if read_ex41bc(k, *grown[w]) < 0.6]
    want, every = pairs(dict(text=(1, 512), distractors=(16, 32))), [(k, w) for k in ('softmax', 'state') for w in ('text', 'distractors')]
    return check_answer(f(read_ex41bc), want, [([p for p in every if p not in want], 'these still find the needle; or is the text not the second number of `read`?'), (pairs(dict(text=(16, 512), distractors=(16, 512))), 'let one of the two grow and leave the other'), ([w for _, w in want], 'pairs of kind and growth'), ([], 'a cosine below 0.6 hides the needle')])

# %% wrong
def pairs_ex41bc(read, grown): return [(k, w) for k in ('softmax', 'state') for w in ('text', 'distractors') if read(k, *grown[w]) < 0.6]
wrong_ex41bc = [(lambda read: pairs_ex41bc(read, dict(text=(16, 32), distractors=(1, 512))), 'still find'), (lambda read: pairs_ex41bc(read, dict(text=(16, 512), distractors=(16, 512))), 'leave the other'), (lambda read: [w for _, w in ex41bc(read)], 'pairs of kind'), (lambda read: [], 'below 0.6')]

# %% why
# Both, but of different memories. The softmax head falls from 0.83 to 0.26 among 16 keys that resemble the needle, and does not notice the text; the state reads 0.82 among them, because the delta rule overwrites what came before, and 0.06 behind 256 more keys of any kind. `multikey` asks the first question, a longer prompt the second.
