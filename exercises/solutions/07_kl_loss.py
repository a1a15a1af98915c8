# %% setup
import math, torch, torch.nn.functional as F
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.loss import dense_kl

# %% 1a compute (1 s)
# Return the KL from teacher to student in nats, and the KL with the two exchanged (`math.inf` is a number).

# %% solution
def ex07a():
    "KL(teacher, student) and KL(student, teacher)"
    ### BEGIN SOLUTION
    return math.log(2), math.inf
    ### END SOLUTION

# %% check
def check_ex07a(f):
    p, q = torch.tensor([.5, .5, 0]), torch.tensor([.25, .25, .5])
    kl = lambda a, b: float(sum(x*(x/y).log() if y > 0 else math.inf for x, y in zip(a, b) if x > 0))
    one, two = f() or (None, None)
    check_answer(one, kl(p, q), [(1., 'this is bits; nats have the natural logarithm'), (-kl(p, q), 'the teacher over the student inside the logarithm: a KL is never negative'), (math.inf, 'a word to which the teacher gives 0 costs nothing, whatever the student says'), (kl(p, q)/2, 'both words count')], tol=1e-3, name='forward')
    return check_answer(two, kl(q, p), [(kl(p, q), 'a KL is not symmetric'), (-kl(p, q)/2, 'the third word counts: the student says it, the teacher never does'), (0.5*math.log(0.5), 'the third word counts, and it is divided by 0')], tol=1e-3, name='reverse')

# %% wrong
wrong_ex07a = [(lambda: (1., math.inf), 'this is bits'), (lambda: (-.6931, math.inf), 'never negative'), (lambda: (math.inf, math.inf), 'costs nothing'), (lambda: (.3466, math.inf), 'both words'), (lambda: (.6931, .6931), 'not symmetric'), (lambda: (.6931, -.3466), 'the third word')]

# %% why
# $2\cdot\frac12\ln\frac{0.5}{0.25} = \ln 2$; the third word has $p = 0$. Exchanged, the third term is $\frac12\ln\frac{0.5}{0}$. Forward KL only asks what the student says about the words that the teacher uses, so it stays finite for a student that starts far away.

# %% 2b implement (1 s)
# Return the mean loss and its gradients `d_hidden` `(n, D)`, `d_head` `(W, D)`, formed chunk by chunk of `chunk` tokens without autograd. `targets` `(n,)`; n is no multiple of the chunk.

# %% solution
def ex07b(hidden, head, targets, chunk=4):
    "Cross-entropy and its gradients, a chunk of tokens at a time"
    ### BEGIN SOLUTION
    loss, d_hidden, d_head, n = 0., torch.empty_like(hidden), torch.zeros_like(head), len(hidden)
    for i in range(0, n, chunk):
        h, t = hidden[i:i+chunk], targets[i:i+chunk, None]
        logp = (h @ head.T).log_softmax(-1)
        loss = loss-logp.gather(1, t).sum()/n
        grad = logp.exp().scatter_add(1, t, -torch.ones_like(logp[:, :1]))/n
        d_hidden[i:i+chunk] = grad @ head
        d_head += grad.T @ h
    return loss, d_hidden, d_head
    ### END SOLUTION

# %% check
def check_ex07b(f):
    gen = torch.Generator().manual_seed(0)
    h, w = (torch.randn(n, 6, generator=gen, dtype=torch.float64) for n in (10, 12))
    t = torch.randint(12, (10,), generator=gen)
    hr, wr = h.clone().requires_grad_(), w.clone().requires_grad_()
    want = F.cross_entropy(hr @ wr.T, t)
    dh, dw = torch.autograd.grad(want, (hr, wr))
    want = want.detach()
    p = (h @ w.T).softmax(-1)
    each = F.cross_entropy(h @ w.T, t, reduction='none')
    loss, gh, gw = f(h, w, t) or (None, None, None)
    check_answer(loss, want, [(each.sum(), 'this is the sum; divide by the number of tokens'), (sum(c.mean() for c in each.split(4))/3, 'a mean of chunk means: the last chunk is shorter'), (-want, 'minus the log-probability')], tol=1e-10, name='loss')
    check_answer(gh, dh, [(10*dh, 'the gradient of the sum: divide by the number of tokens'), (p @ w/10, 'the gradient of the logits is p minus 1 at the target'), (-dh, 'p minus the target, not the other way round')], tol=1e-10, name='d_hidden')
    last = (p-F.one_hot(t, 12))[8:].T @ h[8:]/10
    return check_answer(gw, dw, [(last, 'this is the last chunk alone: add up'), (10*dw, 'the gradient of the sum: divide by the number of tokens'), (-dw, 'p minus the target, not the other way round')], tol=1e-10, name='d_head')

# %% wrong
def times_ex07b(a, b, c): return lambda h, w, t: tuple(x*y for x, y in zip(ex07b(h, w, t), (a, b, c)))
def means_ex07b(h, w, t): return sum(ex07b(a, w, b)[0] for a, b in zip(h.split(4), t.split(4)))/3, *ex07b(h, w, t)[1:]
def last_ex07b(h, w, t): return *ex07b(h, w, t)[:2], ex07b(h[8:], w, t[8:])[2]*2/10
wrong_ex07b = [(times_ex07b(10, 1, 1), 'loss: this is the sum'), (means_ex07b, 'chunk means'), (times_ex07b(-1, 1, 1), 'minus the log'), (times_ex07b(1, 10, 1), 'd_hidden: the gradient of the sum'), (times_ex07b(1, 1, 10), 'd_head: the gradient of the sum'), (times_ex07b(1, -1, 1), 'd_hidden: p minus'), (last_ex07b, 'last chunk alone'),
    (lambda h, w, t: (ex07b(h, w, t)[0], (h @ w.T).softmax(-1) @ w/10, ex07b(h, w, t)[2]), 'p minus 1')]

# %% why
# The logits of a chunk are alive only while its gradient is formed: memory `chunk x W` in place of `n x W`. The price is that the gradient is computed even if nobody asks for it, and that there is no second derivative.

# %% 3c explore (1 s)
# What the time depends on is the machine; what memory depends on can be counted. `largest(chunk)` is the number of elements of the largest tensor that a forward and backward pass over 512 tokens and 1,000 words of width 16 makes. Return the largest of 1, 8, 64 and 512 at which no temporary is larger than the head itself, and by what factor the largest tensor of chunk 512 exceeds that of this one.

# %% solution
def ex07c(largest):
    "The largest chunk whose logits are no larger than the head; factor of 512 over it"
    ### BEGIN SOLUTION
    best = max(c for c in (1, 8, 64, 512) if largest(c) <= 1000*16)
    return best, largest(512)/largest(best)
    ### END SOLUTION

# %% check
def largest_ex07c(chunk, n=512, W=1000, D=16):
    from torch.utils._python_dispatch import TorchDispatchMode
    from hybrid_tutorial.ops.loss import chunked_kl
    sizes = []
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, torch.Tensor))
            return out
    h, w = torch.randn(n, D, requires_grad=True), torch.randn(W, D)
    with Watch(): chunked_kl(h, torch.randn(n, D), w, w, chunk_size=chunk).backward()
    return max(sizes)

def check_ex07c(f):
    chunk, factor = f(largest_ex07c) or (None, None)
    size = lambda c: max(c*1000, 16000, 512*16)    # logits of a chunk, the head, the hidden states
    check_answer(chunk, max(c for c in (1, 8, 64, 512) if c*1000 <= 16000), [(64, '64,000 logits are more than the 16,000 numbers of the head'), (1, 'larger chunks fit too'), (512, 'this holds all logits at once')], name='chunk')
    return check_answer(factor, size(512)/size(8), [(64, 'below 16 tokens the head itself is the largest tensor, so the ratio is not that of the chunks'), (size(8)/size(512), 'the larger over the smaller')], tol=1e-3, name='factor')

# %% wrong
wrong_ex07c = [(lambda l: (64, 1), 'more than the 16,000'), (lambda l: (1, 1), 'fit too'), (lambda l: (512, 1), 'all logits'), (lambda l: (8, 64), 'is the largest tensor'), (lambda l: (8, l(8)/l(512)), 'the larger over')]

# %% why
# Below `chunk = D` the head decides and a smaller chunk saves nothing, but every chunk still reads the whole head: time grows. Above it memory grows with the chunk. The best chunk is large enough for the matrix product to be efficient and no larger.
