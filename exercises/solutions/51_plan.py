# %% setup
import functools, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.plan import GPUS, USABLE

# %% 1a compute (1 s)
# The hybrid of Qwen2.5-3B with 9 softmax layers has 3,399,070,432 parameters. Return gigabytes (1e9 bytes), and the sorted list of the names in `GPUS` on which that is within the usable memory (`USABLE`).

# %% solution
def ex51a():
    "GB of weights, gradients and moments; the GPUs that hold them"
    ### BEGIN SOLUTION
    need = 16*3_399_070_432
    return need/1e9, sorted(n for n, g in GPUS.items() if need <= g.memory*USABLE)
    ### END SOLUTION

# %% check
def check_ex51a(f):
    n = 3_399_070_432
    p = torch.nn.Parameter(torch.ones(1, 1)); p.grad = torch.ones(1, 1)
    opt = torch.optim.AdamW([p]); opt.step()
    each = p.nbytes+p.grad.nbytes+sum(x.nbytes for x in opt.state[p].values() if x.dim())
    holds = lambda b, usable=USABLE: sorted(k for k, g in GPUS.items() if b*n <= g.memory*usable)
    gb, names = f() or (None, None)
    check_answer(gb, each*n/1e9, [(12*n/1e9, 'a weight, a gradient and *two* moments, four bytes each'), (8*n/1e9, 'all of them are float32'), (4*n/1e9, 'these are the weights'), (each*n/2**30, 'these are GiB; 1e9 bytes'), (18*n/1e9, 'without the teacher'), (16*3.085938688, 'the hybrid is larger than its teacher')], tol=1e-4, name='GB')
    return check_answer(names, holds(each), [(holds(12), 'with 12 bytes a parameter these would do'), (holds(8), 'these hold half of it'), (sorted(set(GPUS)-set(holds(each))), 'these do not hold them'), (sorted(k for k in GPUS if GPUS[k].memory > GPUS['h100'].memory), '80 GB are enough')], name='GPUs')

# %% wrong
wrong_ex51a = [(lambda: (40.789, []), '*two* moments'), (lambda: (27.193, []), 'all of them are float32'), (lambda: (13.596, []), 'these are the weights'), (lambda: (50.650, []), 'GiB'), (lambda: (61.183, []), 'without the teacher'), (lambda: (49.375, []), 'larger than its teacher'),
    (lambda: (ex51a()[0], sorted(n for n, g in GPUS.items() if 8*3.4e9 <= g.memory*USABLE)), 'half of it'), (lambda: (ex51a()[0], sorted(set(GPUS)-set(ex51a()[1]))), 'do not hold'), (lambda: (ex51a()[0], ['b200', 'h200', 'mi300x']), 'are enough')]

# %% why
# 54.4 GB before the first token is read, on every GPU of 80 GB or more. The teacher in bfloat16 adds 6.2, and then activations of one row of 4,096 tokens would take 35: a single GPU of 80 GB holds the parameters and not the step.

# %% 2b implement (1 s)
# Here with what the plan counts for Qwen2.5-72B (RADLADS, FSDP2, checkpoints, one row at a time): `parts(stage, gpus)` is what `stage_memory` returns for `"distill"` and `"finetune"`, with 8 bytes of moments a parameter. Return the fewest GPUs, a power of two from 8 on, on which both stages stay within `limit` bytes a GPU when the optimizer keeps `optimizer_bytes` a parameter.

# %% solution
def ex51b(parts, optimizer_bytes, limit):
    "Fewest GPUs that hold both stages"
    ### BEGIN SOLUTION
    def need(stage, gpus):
        p = parts(stage, gpus)
        return sum(p.values())+p['optimizer']*(optimizer_bytes/8-1)
    n = 8
    while max(need(s, n) for s in ('distill', 'finetune')) > limit: n *= 2
    return n
    ### END SOLUTION

# %% check
def parts_ex51b(stage, gpus):
    hybrid, rest = 78_373_101_568, dict(distill=dict(activations=0.474e9, working=0.034e9, copies=12.571e9), finetune=dict(activations=15.157e9, working=1.074e9, copies=12.571e9))
    teacher = 2*72_706_203_648/gpus if stage == 'distill' else 0.
    return dict(teacher=teacher, weights=4*hybrid/gpus, optimizer=8*hybrid/gpus, gradients=4*hybrid/gpus, **rest[stage])

def check_ex51b(f):
    def fewest(need, limit): return next(n for n in (8, 16, 32, 64, 128, 256) if max(need(parts_ex51b(s, n), s) for s in ('distill', 'finetune')) <= limit)
    total = lambda p, b: sum(v*b/8 if k == 'optimizer' else v for k, v in p.items())
    for name in ('h100', 'h200', 'b200'):
        for b in (8, 2):
            limit = GPUS[name].memory*USABLE
            wrong = [(lambda p, s: total(p, b) if s == 'distill' else 0, 'stage 3 must fit too: its rows have 16,384 tokens'), (lambda p, s: total(p, b) if s == 'finetune' else 0, 'stage 2 must fit too: the teacher stands beside the hybrid'), (lambda p, s: total(p, 8), 'the moments take fewer bytes now'),
                     (lambda p, s: total(p, 8*b), 'the part of the plan has 8 bytes a parameter already: divide by 8'), (lambda p, s: total(p, 0), 'an 8-bit optimizer still has moments'), (lambda p, s: sum(v*b/8 if k != 'activations' else v for k, v in p.items()), 'weights and gradients stay float32')]
            check_answer(f(parts_ex51b, b, limit), fewest(lambda p, s: total(p, b), limit), [(fewest(need, limit), hint) for need, hint in wrong]+[(4, 'from 8 on')], name=f'{name}, {b} bytes')
    return 'ex51b: right'

# %% wrong
def least_ex51b(need, limit): return next(n for n in (8, 16, 32, 64, 128, 256) if need(n) <= limit)
def sum_ex51b(p, by): return sum(v*by if k == 'optimizer' else v for k, v in p.items())
wrong_ex51b = [(lambda p, b, limit: least_ex51b(lambda n: sum_ex51b(p('distill', n), b/8), limit), 'stage 3 must fit'), (lambda p, b, limit: least_ex51b(lambda n: max(sum_ex51b(p(s, n), 1) for s in ('distill', 'finetune')), limit), 'fewer bytes now'),
    (lambda p, b, limit: least_ex51b(lambda n: max(sum_ex51b(p(s, n), b) for s in ('distill', 'finetune')), limit), 'divide by 8'), (lambda p, b, limit: least_ex51b(lambda n: max(sum(v*b/8 if k != 'activations' else v for k, v in p(s, n).items()) for s in ('distill', 'finetune')), limit), 'stay float32')]

# %% why
# 32 H100, 16 H200 and 16 B200 with 8 bytes; 32, 8 and 8 with 2. On H100s nothing is gained: 16 of them would hold stage 2 (71 of 73.6 GB), but stage 3 reads rows of 16,384 tokens and needs 78.

# %% 3c explore (1 s)
# The plan for 8 MI300X at $3 an hour: `price(efficiency)` is what the three stages cost, each step bound by its products, its memory or the link, whichever is slowest. Return the efficiency at which it comes to $2,000 (to 1 %), and the price at efficiency 1.

# %% solution
def ex51c(price):
    "Efficiency at which it costs $2,000; price at efficiency 1"
    ### BEGIN SOLUTION
    low, high = 0.01, 1.
    while high-low > 1e-5: low, high = ((low+high)/2, high) if price((low+high)/2) > 2000 else (low, (low+high)/2)
    return high, price(1.)
    ### END SOLUTION

# %% check
STAGES_ex51c = dict(align=(6103.5, 0.3515, 0.0796, 0.5613), distill=(10172.5, 3.5731, 3.2294, 21.7768), finetune=(63.58, 93.115, 3.1852, 18.3687))   # steps; seconds of products at efficiency 1, of memory, of the link
def price_ex51c(efficiency): return 8*3/3600*sum(n*max(p/efficiency, m, l) for n, p, m, l in STAGES_ex51c.values())

def check_ex51c(f):
    got = f(price_ex51c)
    if got is None: raise AssertionError('answer: nothing was returned')
    grid = [i/10000 for i in range(100, 10001)]
    want = next(e for e in grid if price_ex51c(e) <= 2000)
    products = 8*3/3600*sum(n*p for n, p, _, _ in STAGES_ex51c.values())
    check_answer(got[0], want, [(100*want, 'a share, not per cent'), (1., 'that is cheaper than need be'), (0.14, 'this is the default of the plan'), (0.4, 'a well-tuned pretraining reaches that; less is enough')], tol=0.01, name='efficiency')
    return check_answer(got[1], price_ex51c(1.), [(products, 'this is 1/efficiency carried on; it holds only as long as products bind, and the link does not become faster with them'), (2000, 'this is the other price')], tol=0.01, name='price')

# %% wrong
wrong_ex51c = [(lambda p: (100*ex51c(p)[0], 0), 'not per cent'), (lambda p: (1., 0), 'need be'), (lambda p: (0.14, 0), 'default of the plan'), (lambda p: (0.4, 0), 'less is enough'), (lambda p: (ex51c(p)[0], 2000*ex51c(p)[0]), 'does not become faster'), (lambda p: (ex51c(p)[0], 2000.), 'the other price')]

# %% why
# At 0.148, hardly above the default of 0.14, which costs $2,115. At efficiency 1 it would still cost $1,539: from 0.164 on stage 2 waits for the link, so the rest is paid for traffic, and larger batches between two exchanges save more than faster kernels.
