# %% setup
import functools, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.evaluation.language import estimate, token_scores

# %% 1a compute (1 s)
# Return both, in nats: KL(teacher‖student), KL(student‖teacher).

# %% solution
def ex40a():
    "KL(teacher‖student), KL(student‖teacher)"
    ### BEGIN SOLUTION
    p, q = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])
    got = token_scores(q.log(), torch.tensor([0]), p.log())
    return float(got['kl']), float(got['reverse_kl'])
    ### END SOLUTION

# %% check
def check_ex40a(f):
    p, q = torch.tensor([0.9, 0.1], dtype=torch.double), torch.tensor([0.5, 0.5], dtype=torch.double)
    kl = lambda a, b: float(torch.nn.functional.kl_div(b.log(), a, reduction='sum'))
    cross = lambda a, b: float(-(a*b.log()).sum())
    want, bits = (kl(p, q), kl(q, p)), torch.tensor(2.).log().item()
    return check_answer(f(), want, [(want[::-1], 'exchanged: the first name in the bracket gives the weights'), (tuple(x/bits for x in want), 'these are bits; take the natural logarithm'),
        ((cross(p, q), cross(q, p)), 'these are cross-entropies; the entropy of the one that gives the weights is still in them'), ((0.9*torch.tensor(1.8).log().item(), 0.5*torch.tensor(5/9).log().item()), 'a sum over both words, not the first word alone')], tol=1e-3)

# %% wrong
wrong_ex40a = [(lambda: (0.5108, 0.3681), 'exchanged'), (lambda: (0.5310, 0.7370), 'these are bits'), (lambda: (0.6931, 1.2040), 'cross-entropies'), (lambda: (0.5290, -0.2939), 'both words')]

# %% why
# 0.368 and 0.511 nats. The second is larger because the student puts half of its weight on a word to which the teacher gives 0.1, and pays $\log 5$ for it: KL(student‖teacher) punishes what the student says too often, KL(teacher‖student) what it leaves out.

# %% 2b implement (1 s)
# Here a function of what a column of ranks would be made from: `kl` `(N)`, the teacher's log-probabilities `(N, W)` and the tokens that came `(N)`. Return a list of five averages: rank 1, 2 to 3, 4 to 7, 8 to 15, and the rest. No two words have the same probability.

# %% solution
def ex40b(kl, teacher_logp, targets):
    "Average KL in five bins of the teacher's rank of the token that came"
    ### BEGIN SOLUTION
    came = teacher_logp.gather(-1, targets[:, None])
    rank = 1+(teacher_logp > came).sum(-1)
    edges = [1, 2, 4, 8, 16, teacher_logp.shape[-1]+1]
    return [float(kl[(rank >= a) & (rank < b)].mean()) for a, b in zip(edges, edges[1:])]
    ### END SOLUTION

# %% check
def bins_ex40b(kl, rank, add=torch.mean): return [float(add(kl[(rank >= a) & (rank < b)])) for a, b in zip((1, 2, 4, 8, 16), (2, 4, 8, 16, 999))]

def check_ex40b(f):
    gen = torch.Generator().manual_seed(0)
    logp = (2*torch.randn(600, 40, generator=gen)).log_softmax(-1)
    rank = torch.cat([torch.arange(1, 41).repeat(10), torch.randint(1, 6, (200,), generator=gen)])
    targets = logp.argsort(-1, descending=True).gather(-1, rank[:, None]-1)[:, 0]
    kl = rank.float().sqrt()*(0.5+torch.rand(600, generator=gen))
    order = logp.argsort(-1, descending=True)
    return check_answer(f(kl, logp, targets), bins_ex40b(kl, rank), [(bins_ex40b(kl, rank-1), 'the most probable word has rank 1, not 0'), (bins_ex40b(kl, 41-rank), 'rank 1 is the *most* probable word'),
        (bins_ex40b(kl, rank, torch.sum), 'averages, not totals'), (bins_ex40b(kl, order.gather(-1, targets[:, None])[:, 0]), '`argsort` says which word has a rank; the question is which rank a word has'),
        (bins_ex40b(kl, order.gather(-1, targets[:, None])[:, 0]+1), 'one `argsort` says which word has a rank, not which rank a word has; count the words that are more probable')], tol=1e-4)

# %% wrong
def rank_ex40b(logp, targets): return 1+(logp > logp.gather(-1, targets[:, None])).sum(-1)
wrong_ex40b = [(lambda kl, p, t: bins_ex40b(kl, rank_ex40b(p, t)-1), 'not 0'), (lambda kl, p, t: bins_ex40b(kl, rank_ex40b(-p, t)), '*most* probable'), (lambda kl, p, t: bins_ex40b(kl, rank_ex40b(p, t), torch.sum), 'not totals'),
    (lambda kl, p, t: bins_ex40b(kl, p.argsort(-1, descending=True).gather(-1, t[:, None])[:, 0]), 'which rank a word has'), (lambda kl, p, t: bins_ex40b(kl, p.argsort(-1, descending=True).gather(-1, t[:, None])[:, 0]+1), 'count the words')]

# %% why
# The rank is one more than the number of words that the teacher found more probable. In the check the KL grows with the square root of the rank, so the bins rise; on a real student they say whether it fails where its teacher was surprised too, or on easy tokens.

# %% 3c explore (1 s)
# In small: four layers made by hand, over 24 words. `loss(layer, text)` is the loss with that layer silent (`None`: none is), on `"plain"` text, whose documents stay with six words each, or on the second copies of `"recall"` text. Return a sorted list of the two layers whose silence raises the recall loss most, and the layer whose silence raises the plain loss most.

# %% solution
def ex40c(loss):
    "Two layers that recall needs most, sorted; the one that plain text needs most"
    ### BEGIN SOLUTION
    rank = lambda text: sorted(range(4), key=lambda l: -loss(l, text))
    return sorted(rank('recall')[:2]), rank('plain')[0]
    ### END SOLUTION

# %% check
@functools.cache
def loss_ex40c(layer, text, words=24, T=40):
    "Layer 0 counts words, 1 hands on the word before, 2 finds where the word stood before, 3 adds noise"
    gen = torch.Generator().manual_seed(1)
    ids = torch.randint(words, (64, T), generator=gen)
    if text == 'plain': ids = torch.rand(64, words, generator=gen).argsort(-1)[:, :6].gather(-1, ids % 6)
    else: ids[:, 24:] = ids[:, :16]
    x, on = torch.nn.functional.one_hot(ids, words).float(), [l != layer for l in range(4)]
    count = on[0]*(x.cumsum(1)+0.3).log()
    before = on[1]*torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
    look = (8*x @ before.mT).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    logits = count+3*on[2]*(look @ x)+on[3]*0.3*(x @ torch.randn(words, words, generator=gen))
    each = -logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return float((each if text == 'plain' else each[:, 25:]).mean())

def check_ex40c(f):
    two, plain = f(loss_ex40c) or (None, None)
    rank = {t: sorted(range(4), key=lambda l: -loss_ex40c(l, t)) for t in ('plain', 'recall')}
    best = sorted(rank['recall'][:2])
    check_answer(two, best, [(best[::-1], 'these two, sorted'), (sorted(rank['plain'][:2]), 'this is plain text; ask the second copies'), (sorted(rank['recall'][1:3]), 'one of these two; which one is missed more than both?'), (rank['recall'][:1], 'two layers')], name='recall')
    return check_answer(plain, rank['plain'][0], [(rank['recall'][0], 'this is the layer that recall needs'), (rank['plain'][-1], 'this one is missed least')], name='plain')

# %% wrong
wrong_ex40c = [(lambda loss: (ex40c(loss)[0][::-1], 0), 'these two, sorted'), (lambda loss: (sorted(sorted(range(4), key=lambda l: -loss(l, 'plain'))[:2]), 0), 'this is plain text'), (lambda loss: (sorted(sorted(range(4), key=lambda l: -loss(l, 'recall'))[1:3]), 0), 'one of these two'),
    (lambda loss: (ex40c(loss)[0][:1], 0), 'two layers'), (lambda loss: (ex40c(loss)[0], ex40c(loss)[0][0]), 'that recall needs'), (lambda loss: (ex40c(loss)[0], min(range(4), key=lambda l: loss(l, 'plain'))), 'this one is missed')]

# %% why
# Layers 1 and 2: without either the recall loss rises from 1.53 to 2.9. Only layer 2 looks far, but it searches by what layer 1 wrote, so silence says what is needed, not what looks. Plain text misses layer 0 and even gains without the other two (2.64 becomes 2.41 and 2.32): ranked by plain text they would go first.

# %% 4d implement (1 s)
# ```python
# def interval(loss, unit):
#     e = estimate(loss, torch.ones(len(loss)))
#     return e['low'], e['high']
# ```
# `loss` and `unit` `(N)` are columns of a table: each token's loss, and the number of its document. Return the right interval, low and high, with the same settings of `estimate`.

# %% solution
def ex40d(loss, unit):
    "95 % interval of the average loss over tokens, documents drawn"
    ### BEGIN SOLUTION
    docs, at = unit.unique(return_inverse=True)
    total = lambda x: torch.zeros(len(docs), dtype=torch.double).index_add_(0, at, x.double())
    e = estimate(total(loss), total(torch.ones_like(loss)))
    return e['low'], e['high']
    ### END SOLUTION

# %% check
def ends_ex40d(sums, counts): return tuple(estimate(torch.as_tensor(sums, dtype=torch.double), torch.as_tensor(counts, dtype=torch.double))[k] for k in ('low', 'high'))

def check_ex40d(f):
    gen = torch.Generator().manual_seed(0)
    sizes = torch.randint(5, 80, (25,), generator=gen).tolist()
    hard = 3+torch.randn(25, generator=gen)
    loss = torch.cat([h+0.5*torch.randn(n, generator=gen) for h, n in zip(hard, sizes)])
    unit = torch.cat([torch.full((n,), 7+2*i) for i, n in enumerate(sizes)])
    docs = loss.double().split(sizes)
    return check_answer(f(loss, unit), ends_ex40d([d.sum() for d in docs], sizes), [(ends_ex40d(loss, torch.ones(len(loss))), 'this still draws tokens; those of one document are not independent'),
        (ends_ex40d([d.mean() for d in docs], torch.ones(25)), 'a long document counts as much as a short one here; the average is over tokens')], tol=1e-4)

# %% wrong
wrong_ex40d = [(lambda loss, unit: ends_ex40d(loss, torch.ones(len(loss))), 'still draws tokens'), (lambda loss, unit: ends_ex40d([loss[unit == u].double().mean() for u in unit.unique()], torch.ones(25)), 'as much as a short one')]

# %% why
# 0.91 wide instead of 0.15, six times. Each document is easy or hard as a whole, so a thousand tokens of 25 documents are 25 witnesses and not a thousand.
