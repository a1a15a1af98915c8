# %% setup
import torch
from hybrid_tutorial.core import check_answer

# %% 1a compute (1 s)
# Return three numbers: the bytes of the stored states, the bytes of `q`, both per token and head, and the chunk at which they are equal.

# %% solution
def ex06a():
    "Bytes per token and head of the states and of q; the chunk at which both are equal"
    ### BEGIN SOLUTION
    K = V = 128
    return 2*K*V/64, 2*K, V
    ### END SOLUTION

# %% check
def check_ex06a(f):
    states, q, chunk = f() or (None, None, None)
    def size(*shape): return torch.empty(*shape, dtype=torch.float16).nbytes
    h = lambda C: size(4096//C, 1, 128, 128)/4096
    check_answer(states, h(64), [(h(64)*64, 'this is a state; one is stored per chunk of 64 tokens'), (h(64)/2, 'two bytes a number'), (h(64)*2, 'half precision: two bytes, not four'), (h(64)*4096, 'per token, not for the text')], name='states')
    check_answer(q, size(1, 4096, 1, 128)/4096, [(128, 'two bytes a number'), (512, 'half precision: two bytes, not four')], name='q')
    return check_answer(chunk, next(C for C in (16, 32, 64, 128, 256) if h(C) <= 256), [(64, 'at 64 the states take twice as much'), (32, 'a longer chunk stores fewer states'), (256, 'this halves it once too often')], name='chunk')

# %% wrong
wrong_ex06a = [(lambda: (32768, 256, 128), 'this is a state'), (lambda: (256, 256, 128), 'states: two bytes'), (lambda: (1024, 256, 128), 'not four'), (lambda: (512*4096, 256, 128), 'not for the text'), (lambda: (512, 128, 128), 'q: two bytes'),
    (lambda: (512, 512, 128), 'q: half precision'), (lambda: (512, 256, 64), 'twice as much'), (lambda: (512, 256, 32), 'fewer states'), (lambda: (512, 256, 256), 'once too often')]

# %% why
# A state has $KV$ numbers for $C$ tokens: $2\cdot128\cdot128/64 = 512$ bytes per token, twice `q`; they meet at $C = V = 128$. Longer chunks store less and compute more inside the chunk, $C(K+V)$ products per token, and there are fewer programs: 64 is a compromise.

# %% 2b implement (1 s)
# The block of one program, in torch: `(B, T, H, K)` lies in memory row by row. For program `pid` of `B*H` (the heads of a sequence stand next to each other) and chunk `n`, return the positions of the numbers it loads, `(C, K)` integers, and the mask, True where there is a token. A position that is masked off may be anything.

# %% solution
def ex06b(pid, n, T, H, K, C):
    "Positions and mask of a block of `linear_scan`"
    ### BEGIN SOLUTION
    b, head, u = pid//H, pid % H, n*C+torch.arange(C)
    return ((b*T+u)*H+head)[:, None]*K+torch.arange(K), (u < T)[:, None].expand(C, K)
    ### END SOLUTION

# %% check
def check_ex06b(f, B=2, T=10, H=3, K=2, C=4):
    x, N = torch.arange(1., B*T*H*K+1).view(B, T, H, K), 3
    memory = torch.cat([x.flatten(), torch.full((64,), 1e6)])       # what lies behind is somebody else's
    def load(f):
        out = []
        for pid in range(B*H):
            for n in range(N):
                at, mask = f(pid, n) or (None, None)
                if at is None or mask is None: raise AssertionError('block: nothing was returned; positions and a mask')
                if tuple(at.shape) != (C, K): raise AssertionError(f'block: positions are {tuple(at.shape)}, wanted (C, K) = {(C, K)}')
                mask = torch.as_tensor(mask).expand(C, K)
                if ((at < 0) | (at >= len(memory)))[mask].any(): raise AssertionError('block: a position outside of the memory, on a GPU a crash')
                out.append(torch.where(mask, memory[at.clamp(0, len(memory)-1)], 0.))
        return torch.stack(out)
    def variant(pid, n, batch=True, split='head', stride='head', mask=True):
        b, h = (pid//H, pid % H) if split == 'head' else (pid % B, pid//B)
        u, c = n*C+torch.arange(C), torch.arange(K)
        at = ((b*T*batch+u)*H+h)[:, None]*K+c if stride == 'head' else ((b*H+h)*T+u)[:, None]*K+c
        return at, (u < T)[:, None] if mask else torch.ones(C, 1, dtype=torch.bool)
    like = lambda **kw: load(lambda pid, n: variant(pid, n, **kw))
    want = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, N*C-T)).view(B, N, C, H, K).permute(0, 3, 1, 2, 4).reshape(-1, C, K)
    return check_answer(load(lambda pid, n: f(pid, n, T, H, K, C)), want, [(like(mask=False), "the last chunk is not full: without a mask it holds another sequence's tokens"), (like(batch=False), 'every sequence reads the first one: b*T tokens lie before it'),
        (like(stride='time'), 'from one token of a head to its next are H*K numbers: heads lie inside time'), (like(split='batch'), 'program pid is head pid % H of sequence pid//H')], name='block')

# %% wrong
def variant_ex06b(pid, n, T, H, K, C, batch=1, split='head', inside=True, mask=True):
    b, h = (pid//H, pid % H) if split == 'head' else (pid % 2, pid//2)
    u = n*C+torch.arange(C)
    row = (b*T*batch+u)*H+h if inside else (b*H+h)*T+u
    return row[:, None]*K+torch.arange(K), (u < T)[:, None] if mask else torch.tensor(True)
wrong_ex06b = [(lambda *a: variant_ex06b(*a, mask=False), 'is not full'), (lambda *a: variant_ex06b(*a, batch=0), 'lie before it'), (lambda *a: variant_ex06b(*a, inside=False), 'heads lie inside'), (lambda *a: variant_ex06b(*a, split='batch'), 'is head pid % H'),
    (lambda *a: (variant_ex06b(*a)[0]+1000, variant_ex06b(*a)[1]), 'a crash'), (lambda *a: (variant_ex06b(*a)[0][:, 0], variant_ex06b(*a)[1]), 'positions are')]

# %% why
# Token $u$ of head $h$ in sequence $b$ begins at $((bT+u)H+h)K$. A kernel has no shapes, so this line is the shape: a wrong stride or a missing mask reads valid memory of somebody else, and only a comparison with torch finds it.

# %% 3c explore (1 s)
# `K = V = 64`, half precision, and the model of the question. Return four numbers: bytes per token and head of the scan with blocks of 32 columns and with blocks of 16, then the smallest number of heads (all sequences together) at which the scan with one block, and with blocks of 32, takes less time than the split.

# %% solution
def ex06c():
    "Bytes with blocks of 32 and 16 columns; heads from which one block, and blocks of 32, beat the split"
    ### BEGIN SOLUTION
    moved = lambda BV: 2*(64//BV*2*64+2*64)         # q and k once per block, v and o once
    first = lambda BV: next(n for n in range(1, 200) if moved(BV)/min(1, n*(64//BV)/132) < 1024)
    return moved(32), moved(16), first(64), first(32)
    ### END SOLUTION

# %% check
def check_ex06c(f):
    def moved(BV, again='qk'):
        total = dict.fromkeys('qkvo', 0)
        for part in range(64//BV):                  # every program of one head, one token
            for x in 'qk': total[x] += 2*64 if x in again or part == 0 else 0
            for x in 'vo': total[x] += 2*BV
        return sum(total.values())
    first = lambda BV, count=True: next(n for n in range(1, 500) if moved(BV)/min(1, n*(64//BV if count else 1)/132) < 1024)
    wide, narrow, one, two = f() or [None]*4
    check_answer(wide, moved(32), [(512, 'two programs share a head: each reads all of q and k'), (1024, 'v and o are cut into the blocks: they move once'), (moved(32, 'k'), 'q is read again too'), (384, 'two bytes a number')], name='blocks of 32')
    check_answer(narrow, moved(16), [(moved(32), 'four blocks now'), (2048, 'v and o are cut into the blocks: they move once')], name='blocks of 16')
    check_answer(one, first(64), [(132, 'half the bytes may take twice the time: half of the chip is enough'), (66, 'at 66 both take the same')], name='one block')
    return check_answer(two, first(32), [(first(32, False), 'two blocks start two programs per head'), (first(64), 'more programs reach the bandwidth with fewer heads'), (49, 'at 49 the scan is still a little slower')], name='heads with blocks of 32')

# %% wrong
wrong_ex06c = [(lambda: (512, 1280, 67, 50), 'share a head'), (lambda: (1024, 1280, 67, 50), '32: v and o are cut'), (lambda: (640, 1280, 67, 50), 'q is read again'), (lambda: (384, 0, 0, 0), 'two bytes'), (lambda: (768, 768, 67, 50), 'four blocks now'), (lambda: (768, 2048, 67, 50), '16: v and o are cut'),
    (lambda: (768, 1280, 132, 50), 'half of the chip'), (lambda: (768, 1280, 66, 50), 'take the same'), (lambda: (768, 1280, 67, 100), 'two programs per head'), (lambda: (768, 1280, 67, 67), 'with fewer heads'), (lambda: (768, 1280, 67, 49), 'a little slower')]

# %% why
# With two blocks `q` and `k` are read twice, 768 bytes for 512, and 50 heads are enough to beat the split where one block needs 67. Blocks of 16 move 1,280 bytes and never win. Real heads meet in the L2 cache, so the second read may be free; the model only says where to measure.

# %% 4d explore (1 s)
# Return three numbers: where the sum of ones stops in float16, where in bfloat16, and where in bfloat16 if 64 ones are added up exactly first, as one `tl.sum` of a float32 block does.

# %% solution
def ex06d():
    "Where a running sum of ones stops: float16, bfloat16, bfloat16 in blocks of 64"
    ### BEGIN SOLUTION
    def stop(dtype, step):
        s, step = torch.tensor(0., dtype=dtype), torch.tensor(step, dtype=dtype)
        while s+step != s: s = s+step
        return float(s)
    return stop(torch.float16, 1.), stop(torch.bfloat16, 1.), stop(torch.bfloat16, 64.)
    ### END SOLUTION

# %% check
def check_ex06d(f):
    half, brain, blocks = f() or (None, None, None)
    stop = lambda dtype, step: step*2/torch.finfo(dtype).eps        # beyond, the gap between two numbers is twice the step
    check_answer(half, stop(torch.float16, 1), [(65504., 'this is the largest number; it stops long before'), (1024., 'here the gap between numbers is 1, so a one still counts'), (4096., 'from 2048 on the gap is 2, and half of a gap is rounded to even')], name='float16')
    check_answer(brain, stop(torch.bfloat16, 1), [(2048., 'bfloat16 has three bits fewer'), (128., 'here the gap between numbers is 1, so a one still counts'), (float(torch.finfo(torch.bfloat16).max), 'a large range, few digits')], name='bfloat16')
    return check_answer(blocks, stop(torch.bfloat16, 64), [(256., 'a block counts as 64, not as 1'), (320., '64 times later, not 64 more')], name='blocks')

# %% wrong
wrong_ex06d = [(lambda: (65504., 256., 16384.), 'the largest number'), (lambda: (1024., 256., 16384.), 'float16: here the gap'), (lambda: (4096., 256., 16384.), 'rounded to even'), (lambda: (2048., 2048., 16384.), 'three bits fewer'), (lambda: (2048., 128., 16384.), 'bfloat16: here the gap'), (lambda: (2048., 3.3895313892515355e38, 16384.), 'a large range'),
    (lambda: (2048., 256., 256.), 'counts as 64'), (lambda: (2048., 256., 320.), '64 times later')]

# %% why
# float16 has 11 significant bits, bfloat16 8: at 2048 and at 256 the gap to the next number is 2, and $256+1$ is rounded back to 256, for ever. Blocks move the wall to 16,384, they do not take it away. The sum of a state over a long text is such a sum: `acc` is float32, which stops at 16.8 million.
