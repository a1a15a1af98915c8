"Tiny kernels with traffic that can be counted by hand"
import triton
import triton.language as tl


@triton.jit
def copy_rows(x, y, T, K: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0)*BLOCK+tl.arange(0, BLOCK)
    at = rows[:, None]*K+tl.arange(0, K)[None, :]
    tl.store(y+at, tl.load(x+at, mask=(rows < T)[:, None], other=0.), mask=(rows < T)[:, None])


@triton.jit
def triangle(x, y, n: tl.constexpr, K: tl.constexpr):
    "Program i reads the blocks 0 to i, and the first of them twice"
    i, total, cols = tl.program_id(0), tl.zeros([K], tl.float32), tl.arange(0, K)
    for j in range(0, i+1):
        total += tl.load(x+j*K+cols)
        if j == 0: total += tl.load(x+cols)
    tl.store(y+i*K+cols, total)


@triton.jit
def by_table(x, ends, y, K: tl.constexpr):
    "How long a program reads stands in a table"
    i, cols = tl.program_id(0), tl.arange(0, K)
    start, end = tl.load(ends+i), tl.load(ends+i+1)
    if end == start: return
    total = tl.zeros([K], tl.float32)
    for t in range(start, end): total += tl.load(x+t*K+cols)
    tl.store(y+i*K+cols, total)


@triton.jit
def product(a, b, c, N, K: tl.constexpr, C: tl.constexpr):
    rows, cols = tl.arange(0, C), tl.arange(0, K)
    total = tl.zeros([C, C], tl.float32)
    for n in range(0, N):
        at = (n*C+rows)[:, None]*K+cols[None, :]
        total += tl.dot(tl.load(a+at), tl.trans(tl.load(b+at)))
    tl.store(c+rows[:, None]*C+rows[None, :], total)
