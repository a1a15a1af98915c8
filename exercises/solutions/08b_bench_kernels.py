# %% setup
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.bench_kernels import roof_of, work

# %% 1a compute (1 s)
# Forward pass, chunks of 64 tokens, $K = V$, numbers of 2 bytes. Return the width at which both roofs are equally high, not rounded to a multiple of anything.

# %% solution
def ex08ba():
    "Head width at which gla's forward pass meets both roofs of an H100"
    ### BEGIN SOLUTION
    P, W = roof_of('H100')
    return (12*P/W-256)/4            # (256 K + 4 K^2)/(12 K) = P/W
    ### END SOLUTION

# %% check
def check_ex08ba(f):
    def meet(op='gla', size=2, backward=False, chip='H100'):
        (P, W), low, high = roof_of(chip), 1., 1e5
        for _ in range(80):
            K = (low+high)/2; flops, nbytes = work(op, 1, 4096, 8, K, K, size, backward)
            low, high = (K, high) if flops/P < nbytes/W else (low, K)
        return high
    return check_answer(f(), meet(), [(meet('linear_attn'), 'the gate is read too: 4 K bytes per token'), (meet(size=4), 'numbers of 2 bytes; the gate alone has 4'), (meet(backward=True), 'the forward pass alone'), (meet(chip='A100'), 'this is the A100'), (meet(chip='H200'), 'this is the H200'), (roof_of('H100')[0]/roof_of('H100')[1], 'this is P/W, operations per byte; where does `gla` have as many?'), (3*roof_of('H100')[0]/roof_of('H100')[1], 'the products inside the chunk count too: 256 K operations per token')], tol=2e-3)

# %% wrong
def width_ex08ba(per=256, nbytes=12, chip='H100'): return lambda: (nbytes*roof_of(chip)[0]/roof_of(chip)[1]-per)/4
wrong_ex08ba = [(width_ex08ba(nbytes=8), 'the gate is read'), (width_ex08ba(nbytes=20), 'the gate alone'), (lambda: (34*295.22/3-256)/4, 'forward pass alone'), (width_ex08ba(chip='A100'), 'this is the A100'), (width_ex08ba(chip='H200'), 'this is the H200'), (lambda: 295.22, 'this is P/W'), (width_ex08ba(per=0), 'inside the chunk')]

# %% why
# $(256 K + 4 K^2)/12 K = 295$ gives $K = 822$. Heads are 64 or 128 wide, with 43 and 64 operations per byte, so `gla` waits for memory by a factor of 7 to 5: a kernel for it is good when it moves few bytes, and the faster tensor cores of the next chip will not help it.

# %% 2b implement (1 s)
# `work_decode` for `gla`: one token of B sequences, H heads. As in `work`, reading the state and writing it take $2KV$ operations each, `q`, `k`, `v` and the output have `size` bytes per number, the gate 4; the state, float32, comes from memory and goes back. Return four things: operations, bytes, the roof it is under on an H100 (`"memory"` or `"arithmetic"`), and how many times longer that takes than the other.

# %% solution
def ex08bb(B, H, K, V, size=2):
    "Operations, bytes, roof and factor of one decoded token"
    ### BEGIN SOLUTION
    flops, nbytes = B*H*4*K*V, B*H*(2*4*K*V+size*(2*K+2*V)+4*K)
    P, W = roof_of('H100')
    memory, arithmetic = nbytes/W, flops/P
    return flops, nbytes, 'memory' if memory > arithmetic else 'arithmetic', max(memory, arithmetic)/min(memory, arithmetic)
    ### END SOLUTION

# %% check
def check_ex08bb(f):
    for B, H, K, V in ((1, 8, 64, 64), (32, 4, 64, 128)):
        got = f(B, H, K, V) or (None,)*4
        flops, (_, moved) = 4*B*H*K*V, work('gla', B, 1, H, K, V)     # inputs and output of one token, as in `work`
        state = B*H*K*V*4
        nbytes = moved+2*state
        check_answer(got[0], flops, [(flops/2, 'the state is written *and* read: 2KV each'), (work('gla', B, 1, H, K, V)[0], 'there is no chunk: no scores, no products inside it'), (flops/B/H, 'for all sequences and heads')], name='operations')
        check_answer(got[1], nbytes, [(moved, 'the state comes from memory and goes back'), (moved+state, 'the state comes from memory *and* goes back, 4 bytes per number each time'), (nbytes-4*K*B*H, 'the gate is read too'), (2*state, 'q, k, v, gate and output are moved too'), (nbytes-B*H*V*2, 'the output is moved too'), (moved/B/H+8*K*V, 'for all sequences and heads')], name='bytes')
        check_answer(got[2], 'memory', [('arithmetic', 'about half an operation per byte; the chip has 295 to offer')], name='roof')
        P, W = roof_of('H100')
        check_answer(got[3], nbytes/W/(flops/P), [(flops/P/(nbytes/W), 'the longer over the shorter'), (flops/nbytes, 'these are operations per byte'), (nbytes/flops, 'these are bytes per operation; divide by what the chip can')], tol=1e-6, name='factor')
    return 'ex08bb: right'

# %% wrong
def with_ex08bb(**change):
    at = dict(flops=0, nbytes=1, roof=2, factor=3)
    def f(B, H, K, V, size=2):
        got = list(ex08bb(B, H, K, V, size))
        for k, g in change.items(): got[at[k]] = g(B, H, K, V, *got)
        return got
    return f
wrong_ex08bb = [(with_ex08bb(flops=lambda B, H, K, V, *x: 2*B*H*K*V), 'written *and* read'), (with_ex08bb(flops=lambda B, H, K, V, *x: work('gla', B, 1, H, K, V)[0]), 'no chunk'), (with_ex08bb(flops=lambda B, H, K, V, *x: 4*K*V), 'operations: for all sequences and heads'), (with_ex08bb(nbytes=lambda B, H, K, V, *x: work('gla', B, 1, H, K, V)[1]), 'and goes back'),
    (with_ex08bb(nbytes=lambda B, H, K, V, *x: work('gla', B, 1, H, K, V)[1]+4*B*H*K*V), '*and* goes back'), (with_ex08bb(nbytes=lambda B, H, K, V, f, n, *x: n-4*K*B*H), 'the gate is read'), (with_ex08bb(nbytes=lambda B, H, K, V, *x: 8*B*H*K*V), 'gate and output'), (with_ex08bb(nbytes=lambda B, H, K, V, f, n, *x: n-2*V*B*H), 'the output is moved too'), (with_ex08bb(nbytes=lambda B, H, K, V, f, n, *x: n/B/H), 'bytes: for all sequences and heads'),
    (with_ex08bb(roof=lambda *x: 'arithmetic'), '295 to offer'), (with_ex08bb(factor=lambda *x: 1/x[7]), 'over the shorter'), (with_ex08bb(factor=lambda *x: x[4]/x[5]), 'operations per byte'), (with_ex08bb(factor=lambda *x: x[5]/x[4]), 'bytes per operation')]

# %% why
# Half an operation per byte, where the chip could do 295: memory decides by a factor of 604 at 64 x 64, and the batch does not change that, because every sequence brings its own state. What helps is a smaller state, or one in 16 bits; what a faster multiplier brings is nothing.

# %% 3c explore (1 s)
# `work` and `roof_of` need no GPU. The least time is `max(F/P, M/W)`. Return the number of tokens from which softmax attention, forward, takes at least as long as `gla`, to 1 %, as a list: on an H100 at width 64 and at width 128, on an H200 and on an A100 at width 64.

# %% solution
def ex08bc():
    "Length from which softmax must be slower than gla: H100 at 64 and 128, H200 and A100 at 64"
    ### BEGIN SOLUTION
    def meet(chip, D):
        P, W = roof_of(chip)
        least = lambda op, T: (lambda F, M: max(F/P, M/W))(*work(op, 1, T, 1, D, D))
        return next(T for T in range(64, 10**5) if least('softmax', T) >= least('gla', T))
    return [meet('H100', 64), meet('H100', 128), meet('H200', 64), meet('A100', 64)]
    ### END SOLUTION

# %% check
def check_ex08bc(f):
    got, cases = f() or (None,)*4, (('H100', 64), ('H100', 128), ('H200', 64), ('A100', 64))
    if len(got) != 4: raise AssertionError(f'answer: four lengths, not {len(got)}')
    for (chip, D), T in zip(cases, got):
        P, W = roof_of(chip)
        # per token and head: softmax 2 D T operations, gla 12 D bytes
        check_answer(T, 6*P/W, [(128+2*D, 'here the operations are equally many; but `gla` is not limited by these'), (4*P/W, 'the gate of `gla` is read too'), (3*P/W, 'half of the scores are masked: (K+V) T operations per token'), (P/W, 'this is operations per byte'), *((6*roof_of(c)[0]/roof_of(c)[1], f'this is an {c}') for c in ('H100', 'H200', 'A100') if c != chip)], tol=0.01, name=f'{chip}, {D}')
    return 'ex08bc: right'

# %% wrong
def lengths_ex08bc(g): return lambda: [g(*roof_of(c), D) for c, D in (('H100', 64), ('H100', 128), ('H200', 64), ('A100', 64))]
wrong_ex08bc = [(lengths_ex08bc(lambda P, W, D: 128+2*D), 'equally many'), (lengths_ex08bc(lambda P, W, D: 4*P/W), 'the gate'), (lengths_ex08bc(lambda P, W, D: 3*P/W), 'are masked'), (lengths_ex08bc(lambda P, W, D: P/W), 'operations per byte'), (lambda: [ex08bc()[i] for i in (2, 1, 0, 3)], '64: this is an H200'), (lambda: [ex08bc()[0]]*4, 'H200, 64: this is an H100'), (lambda: ex08bc()[:3], 'not 3')]

# %% why
# 1772, 1772, 1237 and 968 tokens: $2DT/P = 12D/W$ gives $T = 6P/W$, whatever the width. A chip with more memory speed for its arithmetic favours linear attention earlier. This is a bound for perfect kernels; how far both are from it only a GPU tells, with `bench_kernels(D=64)` and `bench_kernels(D=128)`.
