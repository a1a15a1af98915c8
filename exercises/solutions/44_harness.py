# %% setup
import functools, math, torch
from types import SimpleNamespace
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.evaluation.recall import wilson

# %% 1a compute (1 s)
# With Wilson's interval. Return its width at 60 of 100, and the smallest number of questions, a multiple of 5, at which it is half as wide or less with 60 % right.

# %% solution
def ex44a():
    "Width at 60 of 100; questions that halve it"
    ### BEGIN SOLUTION
    width = lambda n: wilson(3*n//5, n)[1]-wilson(3*n//5, n)[0]
    return width(100), next(n for n in range(100, 9999, 5) if width(n) <= width(100)/2)
    ### END SOLUTION

# %% check
def check_ex44a(f):
    z, p = 1.96, 0.6
    width = lambda n: 2*z*math.sqrt(p*(1-p)/n+z*z/4/n/n)/(1+z*z/n)
    plain = 2*z*math.sqrt(p*(1-p)/100)
    wide, n = f() or (None, None)
    check_answer(wide, width(100), [(width(100)/2, 'this is one side of it'), (plain, 'these are 1.96 standard errors on both sides; Wilson\'s interval is a little narrower'), (plain/2, '1.96 standard errors, and on one side'), (2*math.sqrt(p*(1-p)/100), 'times 1.96')], tol=1e-3, name='width')
    want = next(n for n in range(100, 9999, 5) if width(n) <= width(100)/2)
    return check_answer(n, want, [(400, 'nearly: that halves the standard error; Wilson\'s interval of 100 answers is narrower than that, and half of it takes some more'), (200, 'twice as many make it narrower by the root of two'), (want-5, 'there it is still a little too wide'), (want-100, 'this many *more*; all of them together')], name='questions')

# %% wrong
wrong_ex44a = [(lambda: (ex44a()[0]/2, 0), 'one side'), (lambda: (0.19204, 0), 'a little narrower'), (lambda: (0.09602, 0), 'on one side'), (lambda: (0.09798, 0), 'times 1.96'), (lambda: (ex44a()[0], 400), 'takes some more'), (lambda: (ex44a()[0], 200), 'root of two'),
    (lambda: (ex44a()[0], ex44a()[1]-5), 'too wide'), (lambda: (ex44a()[0], ex44a()[1]-100), 'together')]

# %% why
# 0.189 wide, and 415 questions halve it. Two models of which one answers 55 and the other 65 of 100 are not told apart by these intervals; ask both the same questions and compare question by question.

# %% 2b implement (1 s)
# `model(ids).logits` is `(1, T, W)` and `decode(ids)` the text of a list of ids. Decode greedily from the list `ids` until the text that was *written* contains one of the strings `until`, or `most` tokens are written. Return that text, up to the first of these strings.

# %% solution
@torch.no_grad()
def ex44b(model, decode, ids, until, most):
    "Greedy text until a string comes"
    ### BEGIN SOLUTION
    new = []
    while len(new) < most and not any(u in decode(new) for u in until):
        new.append(int(model(torch.tensor([[*ids, *new]])).logits[0, -1].argmax()))
    text = decode(new)
    return text[:min((text.find(u) for u in until if u in text), default=len(text))]
    ### END SOLUTION

# %% check
class Writer_ex44b:
    "Says a fixed text, some letters at a time, after a prompt of 3 tokens"
    def __init__(self, parts): self.parts = [*parts, '<end>']; self.most = 0
    def __call__(self, ids):
        self.most = max(self.most, ids.shape[1]-3)
        return SimpleNamespace(logits=torch.nn.functional.one_hot((torch.arange(ids.shape[1])-2).clamp(0, len(self.parts)-1), len(self.parts)+3).float()[None])
    def decode(self, ids): return ''.join((*self.parts, 'Q', ':', '\n')[i] for i in ids)

def check_ex44b(f):
    for what, parts, until, most in (('one token stops', ('blue', '.', ' The', ' sea'), ['.'], 9), ('a stop of two tokens', ('blue', ' sea', '\n', '\n', 'Q:', ' why'), ['\n\n'], 9), ('a stop within a token', ('blue', ' sea. The', ' sky'), ['.'], 9),
                                      ('two stops', ('blue', '; or red.', ' no'), ['.', ';'], 9), ('none comes', ('blue', ' sea', ' and', ' sky', ' and'), ['.'], 3), ('the prompt has it', ('blue', ' sea', '\n', ' no'), ['\n'], 9)):
        model = Writer_ex44b(parts)
        n = len(parts)
        got = f(model, model.decode, [n+1, n+2, n+3] if what.startswith('the prompt') else [n+1, n+2, n+2], until, most)
        every = ''.join(parts)
        first = min((every.find(u) for u in until if u in every), default=None)
        want = ''.join(parts[:most]) if first is None else every[:first]
        check_answer(got, want, [(every[:(first or 0)+1], 'the string that stops is not part of the answer'), (''.join(parts[:most-1]), f'{most} tokens may be written'), (''.join(parts[:most+1]), f'{most} tokens, not one more'), (every[:every.find(until[0])], 'the *first* of the strings in the text, not the first of the list'),
            ('', 'only what was written counts: the prompt may contain the string'), ('Q::', 'the answer without the prompt'), ('Q::'+want, 'the answer without the prompt')], name=what)
        need = most if first is None else next(m for m in range(1, n+1) if any(u in ''.join(parts[:m]) for u in until))
        if model.most > need: raise AssertionError(f'{what}: it wrote on after the stop, which may be spread over two tokens or lie within one; look for it in the text, not among tokens')
    return 'ex44b: right'

# %% wrong
def write_ex44b(model, decode, ids, until, most, stop=lambda decode, new, until: any(u in decode(new) for u in until), cut=min, keep=0):
    new = []
    while len(new) < most and not stop(decode, new, until): new.append(int(model(torch.tensor([[*ids, *new]])).logits[0, -1].argmax()))
    text = decode(new)
    return text[:cut([text.find(u)+keep for u in until if u in text] or [len(text)])]
wrong_ex44b = [(lambda *a: write_ex44b(*a, keep=1), 'not part of the answer'), (lambda m, d, i, u, n: write_ex44b(m, d, i, u, n-1), 'tokens may be written'), (lambda m, d, i, u, n: write_ex44b(m, d, i, u, n+1), 'not one more'), (lambda *a: write_ex44b(*a, cut=lambda x: x[0]), 'of the list'),
    (lambda m, d, i, u, n: '' if any(x in d(i) for x in u) else ex44b(m, d, i, u, n), 'only what was written'), (lambda m, d, i, u, n: d(i)+ex44b(m, d, i, u, n), 'without the prompt'), (lambda *a: write_ex44b(*a, stop=lambda d, new, u: bool(new) and d(new[-1:]) in u), 'spread over two')]

# %% why
# A stop is a string, and tokens do not respect it: two line breaks may come as two tokens or one, a full stop may hide inside a piece. Looking at the last token alone lets such a model write on to the limit, which costs time and turns right answers wrong under `exact_match`.

# %% 3c explore (1 s)
# `questions()` gives 400 made-up four-way questions as pairs `(logp, right)`: the log-probabilities of each choice's tokens, a list of four tensors of 1 to 6 numbers, from a model that knows nothing, and which choice is right. Return the share that it answers right by `acc` (the largest sum), by the largest mean per token, and the share of questions on which the sum takes a shortest choice.

# %% solution
def ex44c(questions):
    "Right by sum, right by mean, sum takes a shortest choice"
    ### BEGIN SOLUTION
    best = lambda x: max(range(4), key=x.__getitem__)
    by_sum, by_mean = ([best([float(f(c)) for c in logp]) for logp, _ in questions()] for f in (torch.sum, torch.mean))
    share = lambda hits: sum(hits)/400
    return (share(a == r for a, (_, r) in zip(by_sum, questions())), share(a == r for a, (_, r) in zip(by_mean, questions())),
            share(len(l[a]) == min(map(len, l)) for a, (l, _) in zip(by_sum, questions())))
    ### END SOLUTION

# %% check
@functools.cache
def questions_ex44c():
    gen, out = torch.Generator().manual_seed(0), []
    for _ in range(400):
        sizes = torch.randint(1, 7, (4,), generator=gen)
        right = int((sizes+6*torch.rand(4, generator=gen)).argmax())           # the careful answer is often the long one
        out.append(([-4+torch.randn(int(n), generator=gen) for n in sizes], right))
    return out

def check_ex44c(f):
    got = f(questions_ex44c)
    if got is None: raise AssertionError('answer: nothing was returned')
    share = lambda pick: sum(pick(l, r) for l, r in questions_ex44c())/400
    top = lambda l, g: max(range(4), key=lambda i: float(g(l[i])))
    by = {k: share(lambda l, r: top(l, g) == r) for k, g in dict(sum=torch.sum, mean=torch.mean, low=lambda c: -c.sum()).items()}
    short = share(lambda l, r: len(l[top(l, torch.sum)]) == min(map(len, l)))
    check_answer(got[0], by['sum'], [(by['mean'], 'this is the mean per token'), (0.25, 'a model that knows nothing is not a coin: it has a favourite'), (by['low'], 'log-probabilities are negative; the largest is nearest to 0'), (400*by['sum'], 'a share')], name='sum')
    check_answer(got[1], by['mean'], [(by['sum'], 'this is the sum'), (0.25, 'near it, but not by definition')], name='mean')
    return check_answer(got[2], short, [(1-short, 'this is the share on which it does not'), (share(lambda l, r: len(l[r]) == min(map(len, l))), 'this is how often the *right* choice is a shortest one')], name='shortest')

# %% wrong
wrong_ex44c = [(lambda q: (ex44c(q)[1], 0, 0), 'sum: this is the mean'), (lambda q: (0.25, 0, 0), 'not a coin'), (lambda q: (sum(min(range(4), key=lambda i: float(l[i].sum())) == r for l, r in q())/400, 0, 0), 'negative'), (lambda q: (400*ex44c(q)[0], 0, 0), 'a share'), (lambda q: (ex44c(q)[0],)*3, 'mean: this is the sum'),
    (lambda q: (ex44c(q)[0], 0.25, 0), 'by definition'), (lambda q: (*ex44c(q)[:2], 1-ex44c(q)[2]), 'does not'), (lambda q: (*ex44c(q)[:2], sum(len(l[r]) == min(map(len, l)) for l, r in q())/400), '*right* choice')]

# %% why
# 4 %, 22 % and 98 %: by the sum it takes a shortest choice nearly always, and the right ones are rather long here, so it falls far below the 25 % of chance. That is why the harness also reports `acc_norm`, which divides by the length of the text: a share far from chance may speak of the choices and not of the model.
