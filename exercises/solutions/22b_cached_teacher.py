# %% setup
import functools, math, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.loss import dense_kl
from hybrid_tutorial.training.cached import bucketed

# %% 1a compute (1 s)
# Return $\mathrm{KL}_1$ and $\mathrm{KL}$, from teacher to student, in nats.

# %% solution
def ex22ba():
    "KL with one word and the rest; KL with all words"
    ### BEGIN SOLUTION
    p, one, others = 0.001, 0.05, 0.05/99
    return 0., p*math.log(p/one)+99*p*math.log(p/others)
    ### END SOLUTION

# %% check
def check_ex22ba(f):
    p = torch.tensor([0.9]+[0.001]*100, dtype=torch.float64)
    q = torch.tensor([0.9, 0.05]+[0.05/99]*99, dtype=torch.float64)
    kl = lambda a, b: float((a*(a/b).log()).sum())
    first, full = f() or (None, None)
    check_answer(first, kl(p[:1], q[:1])+kl(p[1:].sum(), q[1:].sum()), [(kl(p, q), 'with one word kept, the hundred others are one event of 0.1 on both sides'), (0.1, 'this is the rest\'s mass; its logarithm is of 0.1/0.1'), (math.inf, 'nothing has probability 0')], name='KL_1')
    return check_answer(full, kl(p, q), [(kl(q, p), 'from teacher to student: the teacher\'s probabilities weigh'), (kl(p, q)/math.log(2), 'nats, not bits'), (-kl(p, q), 'the sign: log p/q, not log q/p'), (-0.001*math.log(50), 'this is the one word; the 99 others count too'), (0.099*math.log(1.98), 'these are the 99 others; the one that got too much counts too')], tol=1e-4, name='KL')

# %% wrong
wrong_ex22ba = [(lambda: (ex22ba()[1], 0), 'one event'), (lambda: (0.1, 0), 'mass'), (lambda: (math.inf, 0), 'probability 0'), (lambda: (0., 0.05*math.log(50)+0.05*math.log(0.05/0.099)), 'probabilities weigh'), (lambda: (0., ex22ba()[1]/math.log(2)), 'not bits'), (lambda: (0., -ex22ba()[1]), 'the sign'),
    (lambda: (0., -0.001*math.log(50)), 'this is the one word'), (lambda: (0., 0.099*math.log(1.98)), 'these are the 99')]

# %% why
# 0 and 0.0637 nats. The gradient of a tail word's logit is $q_w(1-p_{\rm rest}/q_{\rm rest})$: with equal masses it is zero for *each* of them, so nothing moves the word that has fifty times too much. The bucket sees how much tail there is, never whose.

# %% 2b implement (1 s)
# Write the renormalised loss: `student` and `teacher` are logits `(n, W)`, `ids` `(n, k)` the words $S$; both sides' softmax goes over $S$ only. Return the KL of each row.

# %% solution
def ex22bb(student, teacher, ids):
    "KL between the two distributions over S alone"
    ### BEGIN SOLUTION
    s, t = (z.gather(-1, ids).log_softmax(-1) for z in (student, teacher))
    return (t.exp()*(t-s)).sum(-1)
    ### END SOLUTION

# %% check
def logits_ex22b():
    gen = torch.Generator().manual_seed(0)
    teacher = 3*torch.randn(6, 50, generator=gen)
    return teacher+torch.randn(6, 50, generator=gen), teacher, teacher.topk(5).indices

def check_ex22bb(f):
    student, teacher, ids = logits_ex22b()
    cut = lambda z: torch.stack([row[i] for row, i in zip(z, ids)])
    want = dense_kl(cut(student), cut(teacher))
    p, q = teacher.softmax(-1), student.softmax(-1)
    got = f(student, teacher, ids)
    if torch.is_tensor(got) and got.dim() == 0: raise AssertionError('answer: one number per row, not their mean')
    return check_answer(got, want, [(dense_kl(bucketed(student, ids), bucketed(teacher, ids)), 'this has the bucket; the rest is left out here on both sides'), (dense_kl(student, teacher), 'all words; cut both sides to S first'), ((cut(p)*(cut(p)/cut(q)).log()).sum(-1), 'probabilities over all words; the softmax goes over S only'),
        (dense_kl(cut(teacher), cut(student)), 'from teacher to student'), (dense_kl(torch.stack([z[i] for z, i in zip(student, student.topk(5).indices)]), cut(teacher)), 'S is the teacher\'s, for both sides')], tol=1e-5)

# %% wrong
wrong_ex22bb = [(lambda s, t, i: dense_kl(bucketed(s, i), bucketed(t, i)), 'has the bucket'), (lambda s, t, i: dense_kl(s, t), 'all words'), (lambda s, t, i: (t.softmax(-1)*(t.log_softmax(-1)-s.log_softmax(-1))).gather(-1, i).sum(-1), 'over S only'),
    (lambda s, t, i: ex22bb(t, s, i), 'teacher to student'), (lambda s, t, i: ex22bb(s, t, i).mean(), 'one number per row'), (lambda s, t, i: dense_kl(s.topk(5).values, t.gather(-1, i)), 'for both sides')]

# %% why
# It says how a student orders the teacher's favourites, once it has chosen one of them. Whether it ever does, the loss cannot know.

# %% 2c implement (1 s)
# The trap. Return student logits `(n, W)` for which the renormalised loss is 0 (below 1e-5) while the student gives the words of $S$ less than 0.001 together. All logits are finite.

# %% solution
def ex22bc(teacher, ids):
    "A student that renormalising does not see through"
    ### BEGIN SOLUTION
    loud = torch.full_like(teacher, float(teacher.max())+20)
    return loud.scatter(-1, ids, teacher.gather(-1, ids))
    ### END SOLUTION

# %% check
def check_ex22bc(f):
    _, teacher, ids = logits_ex22b()
    z = f(teacher.clone(), ids)
    if z is None: raise AssertionError('answer: nothing was returned')
    if z.shape != teacher.shape: raise AssertionError(f'logits {tuple(z.shape)}, wanted {tuple(teacher.shape)}')
    if not z.isfinite().all(): raise AssertionError('a logit is infinite: then softmax over S is 0/0')
    inside = dense_kl(z.gather(-1, ids), teacher.gather(-1, ids)).max()
    mass = z.softmax(-1).gather(-1, ids).sum(-1).max()
    if inside > 1e-5 and mass > 1e-3: raise AssertionError(f'neither: inside S the KL is {float(inside):.2g}, and S has {float(mass):.2g} of the mass')
    if inside > 1e-5: raise AssertionError(f'inside S the KL is {float(inside):.2g}: keep the *differences* between the logits of S as the teacher has them')
    if mass > 1e-3: raise AssertionError(f'S still has {float(mass):.2g} of the mass; raise all others, or lower S as a whole')
    if dense_kl(bucketed(z, ids), bucketed(teacher, ids)).min() < 1: raise AssertionError('topk_kl should be large here')
    return 'ex22bc: right'

# %% wrong
wrong_ex22bc = [(lambda t, i: t, 'of the mass; raise'), (lambda t, i: t.scatter(-1, i, -30.), 'differences'), (lambda t, i: t.scatter(-1, i, -torch.inf), '0/0'), (lambda t, i: t.scatter(-1, i, 0.), 'neither'), (lambda t, i: t.gather(-1, i)-30, 'logits (6, 5)')]

# %% why
# Softmax over S knows differences only, so S can be lowered as a whole for nothing. With the bucket this student costs 17 to 24 nats a token: nearly all of its mass is in a rest to which the teacher gives little. So a cut needs the bucket, one number a token.

# %% 3d explore (1 s)
# In small: 120 words, and a student whose one matrix is trained for 40 steps on 192 tokens. `train(k)` gives the *full* KL on 192 other tokens after training with `k` words and the rest, `train(None)` after training with all words. Return the smallest k of 1, 2, 4, 8, 16, 32, 64 that ends within 5 % of all words, and the factor by which k = 1 ends above it.

# %% solution
def ex22bd(train):
    "k that is enough; KL with k = 1 over KL with all words"
    ### BEGIN SOLUTION
    full = train(None)
    return next(k for k in (1, 2, 4, 8, 16, 32, 64) if train(k) < 1.05*full), train(1)/full
    ### END SOLUTION

# %% check
@functools.cache
def train_ex22bd(k):
    with torch.enable_grad():
        gen = torch.Generator().manual_seed(0)
        E, h = torch.randn(120, 12, generator=gen), torch.randn(384, 12, generator=gen)
        teacher, words = h@E.T, (h@E.T).topk(k or 120).indices
        A = (torch.eye(12)+0.4*torch.randn(12, 12, generator=gen)).requires_grad_()
        opt = torch.optim.Adam([A], lr=0.02)
        for _ in range(40):
            loss = dense_kl(bucketed((h@A@E.T)[:192], words[:192]), bucketed(teacher[:192], words[:192])).mean()
            opt.zero_grad(); loss.backward(); opt.step()
        return float(dense_kl(h[192:]@A.detach()@E.T, teacher[192:]).mean())

def check_ex22bd(f):
    ks = (1, 2, 4, 8, 16, 32, 64)
    kl, full = {k: train_ex22bd(k) for k in ks}, train_ex22bd(None)
    k, ratio = f(train_ex22bd) or (None, None)
    enough = [n for n in ks if kl[n] < 1.05*full]
    check_answer(k, enough[0], [(64, 'a smaller k does as well'), (next(n for n in ks if kl[n] < 2*full), 'within 5 %, not within a factor of 2'), (1, 'k = 1 ends far above')], name='k')
    return check_answer(ratio, kl[1]/full, [(full/kl[1], 'upside down'), (kl[1]-full, 'a factor, not a difference'), (kl[enough[0]]/full, 'of k = 1, not of the k that is enough')], tol=1e-3, name='factor')

# %% wrong
wrong_ex22bd = [(lambda train: (64, 0), 'a smaller k'), (lambda train: (1, 0), 'far above'), (lambda train: (ex22bd(train)[0], train(None)/train(1)), 'upside down'), (lambda train: (ex22bd(train)[0], train(1)-train(None)), 'not a difference'), (lambda train: (ex22bd(train)[0], train(ex22bd(train)[0])/train(None)), 'of k = 1')]

# %% why
# From 32 of 120 words on it is within 5 %; k = 1 ends 2.2 times above. What `k` words miss is the order within the rest, and that is learned anyway as far as the kept words of *other* tokens teach it: the words that are the rest here are kept elsewhere.
