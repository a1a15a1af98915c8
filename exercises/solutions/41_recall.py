# %% setup
import math, torch
from types import SimpleNamespace
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.evaluation.recall import wilson
from hybrid_tutorial.ops.softmax import attention_weights

# %% 1a compute (1 s)
# Return whether the intervals of 13 and 15 of 15 are separate (True or False), and the smallest multiple of 15 needles at which they are, at the same rates.

# %% solution
def ex41a():
    "Are the intervals separate at 15 needles? From which multiple of 15 on?"
    ### BEGIN SOLUTION
    apart = lambda n: wilson(13*n//15, n)[1] < wilson(n, n)[0]
    return apart(15), next(n for n in range(15, 1000, 15) if apart(n))
    ### END SOLUTION

# %% check
def check_ex41a(f):
    z = 1.96
    def high(p, n): return (p+z*z/2/n+z*math.sqrt(p*(1-p)/n+z*z/4/n/n))/(1+z*z/n)
    low = lambda n: n/(n+z*z)                      # Wilson's lower end of n of n
    first = lambda ok: next(n for n in range(15, 2000, 15) if ok(n))
    plain = lambda n: 13/15+z*math.sqrt(13/15*2/15/n)
    apart, n = f() or (None, None)
    check_answer(apart, high(13/15, 15) < low(15), [(True, '13 of 15 reaches up to 0.96, and 15 of 15 down to 0.80')], name='separate')
    return check_answer(n, first(lambda n: high(13/15, n) < low(n)), [(15, 'at 15 they overlap'), (first(lambda n: plain(n) < 1), 'the interval of n of n has a width too: use Wilson for both'), (first(lambda n: high(13/15, n) < 1), 'that 13/15 stays below 1 is not enough: the other interval reaches down')], name='needles')

# %% wrong
wrong_ex41a = [(lambda: (True, 60), 'reaches up'), (lambda: (False, 15), 'they overlap'), (lambda: (False, next(n for n in range(15, 999, 15) if 13/15+1.96*math.sqrt(26/225/n) < 1)), 'has a width')]

# %% why
# Fifteen needles cannot tell 87 % from 100 %. A difference of two answers needs about four times as many. The log-probability of the answer, which is no yes or no, separates models much sooner.

# %% 2b implement (1 s)
# `item` has `prompt` and `answer`, tuples of token ids; `model(ids).logits` is `(1, T, W)`. Return the place of the first digit at which greedy decoding leaves the answer, or `len(item.answer)` if it never does.

# %% solution
@torch.no_grad()
def ex41b(item, model):
    "First digit that greedy decoding gets wrong"
    ### BEGIN SOLUTION
    ids = list(item.prompt)
    for i, digit in enumerate(item.answer):
        if int(model(torch.tensor([ids])).logits[0, -1].argmax()) != digit: return i
        ids.append(digit)
    return len(item.answer)
    ### END SOLUTION

# %% check
class Model_ex41b:
    "Says the last token plus one, modulo 10; after a 7 it says 0"
    def __call__(self, ids):
        return SimpleNamespace(logits=torch.nn.functional.one_hot(torch.where(ids == 7, 0, (ids+1) % 10), 12).float())

def check_ex41b(f):
    model = Model_ex41b()
    for answer, want in (((4, 5, 6, 7, 0), 5), ((4, 5, 8, 9, 0), 2), ((5, 6, 7, 0, 1), 0), ((4, 6, 7, 0, 1), 1)):
        ids = torch.tensor([[9, 3, *answer]])
        said = model(ids).logits[0].argmax(-1)
        hits = [int(a == b) for a, b in zip(said[1:], answer)]
        late = next((i for i, (a, b) in enumerate(zip(said[2:], answer)) if int(a) != b), 5)
        check_answer(f(SimpleNamespace(prompt=(9, 3), answer=answer), model), want, [(sum(hits), 'this counts right digits (`top1` times the length); it goes on after a mistake'), (late, 'the digit at place t is predicted by the logits *before* it'), (want+1, 'places count from 0')] if want < 5 else
            [(0, 'the digit at place t is predicted by the logits *before* it'), (4, 'it never leaves this answer: len(item.answer)'), (-1, 'it never leaves this answer: len(item.answer)')], name=f'answer {answer}')
    return 'ex41b: right'

# %% wrong
def rights_ex41b(item, model, shift=1): return [int(a) == b for a, b in zip(model(torch.tensor([[*item.prompt, *item.answer]])).logits[0].argmax(-1)[len(item.prompt)-shift:], item.answer)]
wrong_ex41b = [(lambda item, m: sum(rights_ex41b(item, m)), 'goes on after a mistake'), (lambda item, m: rights_ex41b(item, m, 0).index(False), 'the logits *before*'), (lambda item, m: ([*rights_ex41b(item, m), False].index(False)+1) if not all(rights_ex41b(item, m)) else 5, 'count from 0'),
    (lambda item, m: min(4, ex41b(item, m)), 'never leaves')]

# %% why
# Up to the first mistake greedy decoding has seen the true digits, so one forward pass over prompt and answer gives the same place. After it the two part: `top1` puts the model back on the right track at every digit, and so can be high where no answer is ever right.

# %% 3c explore (1 s)
# In small, without a trained model: one head that looks for the needle's key (`weight(depth, window, sinks)` is the attention it gives to a needle at that depth of 256 tokens, asked for at the end). Silencing the layers that look far is like giving it a window. Return two lists of the depths 0, 0.25, 0.5, 0.75 and 1 at which it finds the needle (weight above 0.5): without a window, and with a window of 64 and 4 sinks.

# %% solution
def ex41c(weight):
    "Depths found: without a window, and with window 64 and 4 sinks"
    ### BEGIN SOLUTION
    found = lambda **how: [d for d in (0, 0.25, 0.5, 0.75, 1) if weight(d, **how) > 0.5]
    return found(window=None, sinks=0), found(window=64, sinks=4)
    ### END SOLUTION

# %% check
def weight_ex41c(depth, window=None, sinks=0, T=256):
    gen = torch.Generator().manual_seed(0)
    k = torch.nn.functional.normalize(torch.randn(1, T, 1, 64, generator=gen), dim=-1)
    at = round(depth*(T-2))
    return float(attention_weights(16*k[:, at:at+1], k, scale=1., window=window, sinks=sinks)[0, 0, 0, at])

def check_ex41c(f):
    depths = [0, 0.25, 0.5, 0.75, 1]
    find = lambda window, sinks: [d for d in depths if window is None or (at := round(d*254)) > 255-window or at < sinks]
    every, near = f(weight_ex41c) or (None, None)
    check_answer(every, depths, [([], 'a share of the weight above 0.5: without a window nothing is hidden'), (find(64, 4), 'this has the window')], name='no window')
    return check_answer(near, find(64, 4), [(find(64, 0), 'four sinks stay in sight, and the front of the text is where they are'), (depths, 'this has no window'), (find(128, 4), 'a window of 64, not of 128: depth 0.75 is 64 tokens back, one too far')], name='window')

# %% wrong
wrong_ex41c = [(lambda w: ([0, 1], [0, 1]), 'this has the window'), (lambda w: ([], []), 'nothing is hidden'), (lambda w: (ex41c(w)[0], [d for d in (0, .25, .5, .75, 1) if w(d, 64, 0) > .5]), 'four sinks'), (lambda w: (ex41c(w)[0],)*2, 'has no window'), (lambda w: (ex41c(w)[0], [0, 0.75, 1]), 'one too far')]

# %% why
# A model without far-looking layers finds needles at both ends and loses the middle: the same picture that silenced layers give on SmolLM2, and a warning for tests that hide needles only at the front, where the sinks see them.
