# %% setup
import math, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.loss import dense_kl

# %% 1a compute (1 s)
# Return four numbers: the expectation, the two log-sum-exps (teacher, student), and the divergence.

# %% solution
def ex06fa():
    "Expectation of t-s, lse of the teacher, lse of the student, divergence"
    ### BEGIN SOLUTION
    x, lse_t, lse_s = 0.75*math.log(3), math.log(4), math.log(2)
    return x, lse_t, lse_s, x-lse_t+lse_s
    ### END SOLUTION

# %% check
def check_ex06fa(f):
    s, t = torch.zeros(2), torch.tensor([3., 1.]).log()
    x, lse_t, lse_s, kl = f() or [None]*4
    check_answer(x, float((t.softmax(0)*(t-s)).sum()), [(0.5*math.log(3), "the weights are the teacher's: 3/4 and 1/4"), (math.log(3), 'only 3/4 of the weight is on the first word'), (0.75*math.log(3)-0.25*math.log(3), 'the second word adds 0: there t-s is 0')], tol=1e-3, name='expectation')
    check_answer(lse_t, float(t.logsumexp(0)), [(math.log(3), 'the second word counts: e^0 = 1'), (math.log(3)+1, 'the logarithm of the sum, not the sum of logarithms'), (4., 'the logarithm of it')], tol=1e-3, name='lse of the teacher')
    check_answer(lse_s, float(s.logsumexp(0)), [(0., 'e^0+e^0 = 2'), (2., 'the logarithm of it'), (math.log(4), "this is the teacher's")], tol=1e-3, name='lse of the student')
    return check_answer(kl, float(dense_kl(s[None], t[None])), [(0.75*math.log(3)+math.log(4)-math.log(2), 'minus the lse of the teacher, plus that of the student'), (0.75*math.log(3), 'the two log-sum-exps are part of it'), (0.5*math.log(0.5/0.75)+0.5*math.log(0.5/0.25), 'this is the other direction, from student to teacher')], tol=1e-3, name='divergence')

# %% wrong
wrong_ex06fa = [(lambda: (.5493, 1.3863, .6931, .1308), "the weights are the teacher's"), (lambda: (1.0986, 1.3863, .6931, .1308), 'only 3/4'), (lambda: (.82396, 1.0986, .6931, .1308), 'the second word counts'), (lambda: (.82396, 2.0986, .6931, .1308), 'of the sum'), (lambda: (.82396, 4., .6931, .1308), 'teacher: the logarithm of it'),
    (lambda: (.82396, 1.3863, 0., .1308), 'e^0+e^0'), (lambda: (.82396, 1.3863, 2., .1308), 'student: the logarithm of it'), (lambda: (.82396, 1.3863, 1.3863, .1308), "this is the teacher's"), (lambda: (.82396, 1.3863, .69315, 1.5171), 'minus the lse'), (lambda: (.82396, 1.3863, .69315, .82396), 'part of it'), (lambda: (.82396, 1.3863, .69315, .14384), 'other direction')]

# %% why
# $\frac34\ln3 - \ln4 + \ln2 = 0.131$ nats. The three terms are sums over words that need each other only at the end, so they can be kept as five running numbers per token, whatever the vocabulary.

# %% 2b implement (1 s)
# One pass in torch: `x` is `(n, W)`, walk over blocks of `BW` words (the last one may be shorter), and look at no block twice. Numbers up to 300 occur.

# %% solution
def ex06fb(x, BW):
    "Log-sum-exp of each row, block by block"
    ### BEGIN SOLUTION
    m, l = torch.full_like(x[:, 0], -math.inf), torch.zeros_like(x[:, 0])
    for b in x.split(BW, 1):
        new = m.maximum(b.amax(1))
        l, m = l*(m-new).exp() + (b-new[:, None]).exp().sum(1), new
    return m+l.log()
    ### END SOLUTION

# %% check
def check_ex06fb(f):
    x = torch.randn(4, 75, generator=torch.Generator().manual_seed(0))
    x[1, -1], x[2, 0], x[3] = 300., 300., x[3]-300
    want = x.logsumexp(1)
    got = f(x, 16)
    if isinstance(got, torch.Tensor) and not got.isfinite().all(): raise AssertionError('answer: infinite: exp(300) is too large and exp(-300) is 0; take the maximum so far off before exp')
    blocks = x.split(16, 1)
    def walk(scale):
        m, l = torch.full_like(want, -math.inf), torch.zeros_like(want)
        for b in blocks:
            new = m.maximum(b.amax(1))
            l, m = l*scale(m, new)+(b-new[:, None]).exp().sum(1), new
        return m+l.log()
    return check_answer(got, want, [(blocks[-1].logsumexp(1), 'this is the last block alone'), (x.amax(1), 'this is the maximum; the logarithm of the sum belongs to it'), (walk(lambda m, new: 1.), 'the old sum is relative to the old maximum: scale it by exp(old - new)'), (walk(lambda m, new: (new-m).clamp(max=80).exp()), 'the other way round: exp(old - new), at most 1'),
        (x[:, :64].logsumexp(1), 'the last 11 words are missing: the last block is shorter'), (torch.stack([b.logsumexp(1) for b in blocks]).sum(0), 'log-sum-exps are not added; their exponentials are')], tol=1e-5)

# %% wrong
def walk_ex06fb(x, BW, scale):
    m, l = torch.full_like(x[:, 0], -math.inf), torch.zeros_like(x[:, 0])
    for b in x.split(BW, 1):
        new = m.maximum(b.amax(1))
        l, m = l*scale(m, new)+(b-new[:, None]).exp().sum(1), new
    return m+l.log()
wrong_ex06fb = [(lambda x, BW: x.exp().sum(1).log(), 'infinite'), (lambda x, BW: x.split(BW, 1)[-1].logsumexp(1), 'last block alone'), (lambda x, BW: x.amax(1), 'this is the maximum'), (lambda x, BW: walk_ex06fb(x, BW, lambda m, new: 1.), 'relative to the old'), (lambda x, BW: walk_ex06fb(x, BW, lambda m, new: (new-m).clamp(max=80).exp()), 'the other way round'),
    (lambda x, BW: x[:, :64].logsumexp(1), 'the last 11 words'), (lambda x, BW: sum(b.logsumexp(1) for b in x.split(BW, 1)), 'are not added')]

# %% why
# $\sum e^{x-m'} = e^{m-m'}\sum e^{x-m}$, so a sum can be carried from one maximum to the next by one factor, at most 1. The largest exponential that is ever formed is $e^0$: nothing overflows, wherever the large number stands.

# %% 3c explore (1 s)
# Walk once over blocks of `BW` words of the logits `s` and `t` `(n, W)` and keep a few numbers per token, then form the gradient from these and the logits. Return the divergence of each token `(n,)` and the gradient of their sum at `s`.

# %% solution
def ex06fc(s, t, BW):
    "Reverse divergence, one pass over the words; its gradient at the student's logits"
    ### BEGIN SOLUTION
    ms, ls, mt, lt, x = (torch.full_like(s[:, :1], v) for v in (-math.inf, 0., -math.inf, 0., 0.))
    for a, b in zip(s.split(BW, 1), t.split(BW, 1)):
        m = ms.maximum(a.amax(1, True))
        q, keep = (a-m).exp(), (ms-m).exp()
        ls, x, ms = ls*keep + q.sum(1, True), x*keep + (q*(a-b)).sum(1, True), m
        m = mt.maximum(b.amax(1, True))
        lt, mt = lt*(mt-m).exp() + (b-m).exp().sum(1, True), m
    lse_s, lse_t = ms+ls.log(), mt+lt.log()
    kl = x/ls - lse_s + lse_t
    return kl[:, 0], (s-lse_s).exp()*(s-lse_s-t+lse_t-kl)
    ### END SOLUTION

# %% check
def check_ex06fc(f):
    gen = torch.Generator().manual_seed(0)
    s, t = (3*torch.randn(6, 75, generator=gen, dtype=torch.float64) for _ in range(2))
    leaf = s.clone().requires_grad_()
    with torch.enable_grad():
        q, p = leaf.log_softmax(1), t.log_softmax(1)
        each = (q.exp()*(q-p)).sum(1)
        want, = torch.autograd.grad(each.sum(), leaf)
    q, each = q.detach(), each.detach()
    kl, grad = f(s, t, 16) or (None, None)
    check_answer(kl, each, [(dense_kl(s, t), 'this is KL(p, q); the weights of the reverse one are those of the student'), (-each, 'q log q minus q log p'), (float(each.sum()), 'one number for each token'), ((q.exp()*(s-t)).sum(1), 'the two log-sum-exps are missing')], tol=1e-9, name='divergence')
    inner = q-p
    return check_answer(grad, want, [(q.exp()*inner, 'the divergence itself is missing: without it the gradient of a token does not sum to 0'), (q.exp()-p.exp(), 'this is the gradient of KL(p, q)'), (q.exp()*(s-t-each[:, None]), 'logits in place of log-probabilities: the log-sum-exps are missing'), (want/6, 'of the sum, not of the mean'), (-want, 'the sign'),
        (p.exp()*(inner-each[:, None]), "the student's probabilities weigh, not the teacher's")], tol=1e-9, name='gradient')

# %% wrong
def parts_ex06fc(s, t): return s.log_softmax(1), t.log_softmax(1), ex06fc(s, t, 16)
wrong_ex06fc = [(lambda s, t, BW: (dense_kl(s, t), s), 'this is KL(p, q); the'), (lambda s, t, BW: (-ex06fc(s, t, BW)[0], s), 'minus q log p'), (lambda s, t, BW: (ex06fc(s, t, BW)[0].sum(), s), 'one number for each'), (lambda s, t, BW: ((s.softmax(1)*(s-t)).sum(1), s), 'divergence: the two log-sum-exps'),
    (lambda s, t, BW: (ex06fc(s, t, BW)[0], (q := s.log_softmax(1)).exp()*(q-t.log_softmax(1))), 'itself is missing'), (lambda s, t, BW: (ex06fc(s, t, BW)[0], s.softmax(1)-t.softmax(1)), 'the gradient of KL(p, q)'), (lambda s, t, BW: (ex06fc(s, t, BW)[0], s.softmax(1)*(s-t-ex06fc(s, t, BW)[0][:, None])), 'in place of log-prob'),
    (lambda s, t, BW: (ex06fc(s, t, BW)[0], ex06fc(s, t, BW)[1]/6), 'not of the mean'), (lambda s, t, BW: (ex06fc(s, t, BW)[0], -ex06fc(s, t, BW)[1]), 'the sign'), (lambda s, t, BW: (ex06fc(s, t, BW)[0], ex06fc(s, t, BW)[1]/s.softmax(1)*t.softmax(1)), "not the teacher's")]

# %% why
# The expectation is now under the student, $x = \sum e^{s-m}(s-t)$ with the *student's* maximum, and the divergence of every token is kept beside the two log-sum-exps: three numbers for two. In `logit_slope` the line `dz = ...` becomes $q\,(\log q - \log p - \mathrm{KL})$. Forward KL needs no such number because its gradient, $q-p$, already sums to 0.
