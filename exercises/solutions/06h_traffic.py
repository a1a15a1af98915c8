# %% setup
import torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.kernels.aot import CHIPS
from hybrid_tutorial.ops.kernels.traffic import past_cache

# %% 1a compute (1 s)
# Count the causal half of the two products, two operations (one product, one sum) each, and nothing else. Return the bytes, the operations per token and head at 4096 tokens, to 1 %, and the length at which softmax attention reaches the corner of 295 operations per byte.

# %% solution
def ex06ha():
    "Bytes and operations per token and head at 4096 tokens; length at the corner"
    ### BEGIN SOLUTION
    size, per = 4*64*2, lambda T: 2*2*64*T/2        # half of the keys on average
    return size, per(4096), 295*size/per(1)
    ### END SOLUTION

# %% check
def check_ex06ha(f):
    size = torch.empty(4, 64, dtype=torch.bfloat16).nbytes
    per = lambda T: 4*64*sum(range(1, T+1))/T
    moved, work, corner = f() or (None, None, None)
    check_answer(moved, size, [(size/2, 'two bytes a number'), (3*128, 'the output is written too'), (128, 'q, k, v and o'), (2*size, 'bfloat16: two bytes'), (size*4096, 'per token')], name='bytes')
    check_answer(work, per(4096), [(2*per(4096), 'query i sees i keys, half of the text on average'), (per(4096)/2, 'two products, with the keys and with the values; or the sums do not count'), (per(4096)*4096, 'per token'), (4*per(4096), 'query i sees i keys, and a product and its sum are two operations')], tol=0.01, name='operations')
    first = next(T for T in range(1, 5000) if 2*64*(T+1) >= 295*size)
    return check_answer(corner, first, [(first/2, 'half of the keys: it takes twice the length'), (295, 'this is the corner in operations per byte'), (2*first, 'per token and head: 128 operations for every token behind')], tol=0.01, name='length')

# %% wrong
wrong_ex06ha = [(lambda: (256, 0, 0), 'two bytes a number'), (lambda: (384, 0, 0), 'is written too'), (lambda: (128, 0, 0), 'q, k, v and o'), (lambda: (1024, 0, 0), 'bfloat16: two'), (lambda: (512*4096, 0, 0), 'bytes: per token'), (lambda: (512, 1048576, 0), 'half of the text'), (lambda: (512, 262144, 0), 'two products'),
    (lambda: (512, 524288*4096, 0), 'operations: per token'), (lambda: (512, 2097152, 0), 'are two operations'), (lambda: (512, 524288, 590), 'twice the length'), (lambda: (512, 524288, 295), 'in operations per byte'), (lambda: (512, 524288, 2360), 'for every token behind')]

# %% why
# 512 bytes and $2\cdot2\cdot64\cdot2048 = 524{,}288$ operations: 1,024 per byte, far to the right of 295. The bytes per token do not grow with the text and the work does, so from 1,180 tokens on softmax attention is bound by arithmetic, and linear attention (13 to 124 operations per byte) by memory, at every length.

# %% 2b implement (1 s)
# `rows` is a list of rows of the table (forward, backward), each a dict with `bytes` per token and head. Return bytes per token of the model, and the seconds they take at 3.35e12 bytes per second.

# %% solution
def ex06hb(rows, heads, layers):
    "Bytes per token of a model, and seconds per token on an H100"
    ### BEGIN SOLUTION
    moved = sum(row['bytes'] for row in rows)*heads*layers
    return moved, moved/3.35e12
    ### END SOLUTION

# %% check
def check_ex06hb(f):
    rows = [dict(bytes=1000., least=600., device=700.), dict(bytes=2500., least=2000., device=2100.)]
    moved, seconds = f(rows, 2, 3) or (None, None)
    check_answer(moved, 21000., [(3500., 'a row is per token and head; multiply by heads and layers'), (6000., 'this is the first row; forward and backward both move'), (15000., 'this is the second row; forward and backward both move'), (7000., 'layers count too'), (10500., 'heads count too'), (15600., '`least` is with a perfect cache; `bytes` is asked for'), (17500., 'heads times layers, not their sum')], name='bytes')
    return check_answer(seconds, 21000/3.35e12, [(21000/989e12, '989e12 are operations per second; bytes go at 3.35e12'), (3.35e12/21000, 'this is tokens per second'), (21000/3.35e9, 'a TB is 10**12 bytes')], name='seconds')

# %% wrong
def of_ex06hb(key='bytes', rows=slice(None), count=lambda h, l: h*l, per=lambda n: n/3.35e12): return lambda r, heads, layers: (n := sum(x[key] for x in r[rows])*count(heads, layers), per(n))
wrong_ex06hb = [(of_ex06hb(count=lambda h, l: 1), 'per token and head'), (of_ex06hb(rows=slice(1)), 'the first row'), (of_ex06hb(rows=slice(1, 2)), 'the second row'), (of_ex06hb(count=lambda h, l: h), 'layers count'), (of_ex06hb(count=lambda h, l: l), 'heads count'), (of_ex06hb('least'), 'perfect cache'), (of_ex06hb(count=lambda h, l: h+l), 'not their sum'),
    (of_ex06hb(per=lambda n: n/989e12), 'are operations'), (of_ex06hb(per=lambda n: 3.35e12/n), 'tokens per second'), (of_ex06hb(per=lambda n: n/3.35e9), '10**12')]

# %% why
# For our GLA, 1,536 bytes forward and 3,328 backward: with 32 layers of 32 heads 4.98 MB per token and 1.49 µs, so no more than 0.67 million tokens per second through the forward and backward pass of this operator on one H100, whatever the arithmetic.

# %% 3c explore (1 s)
# By hand, for width 64 and bfloat16, the gates in float32: `gla_states` reads k, v and the gates and stores a state per chunk; `gla_output` reads q, k, v, the gates and the states, and writes o. Return three numbers: bytes per token and head of `gla_states` with chunks of 32, of both kernels with chunks of 32, and the largest chunk of 16, 32, 64, 128 at which states take at least as many bytes as the gates.

# %% solution
def ex06hc():
    "Bytes of `gla_states` and of both kernels at C = 32; the chunk at which states weigh as much as gates"
    ### BEGIN SOLUTION
    x, gate, state = 2*64, 4*64, lambda C: 2*64*64/C
    states, output = (lambda C: 2*x+gate+state(C)), (lambda C: 3*x+gate+state(C)+x)
    return states(32), states(32)+output(32), max(C for C in (16, 32, 64, 128) if state(C) >= gate)
    ### END SOLUTION

# %% check
def check_ex06hc(f):
    def size(dtype, *shape): return torch.empty(*shape, dtype=dtype, device='meta').nbytes/4096
    half = torch.bfloat16
    def count(C):
        row, gate, state = size(half, 4096, 64), size(torch.float32, 4096, 64), size(half, 4096//C, 64, 64)
        return dict(states=2*row+gate+state, output=4*row+gate+state, gate=gate, state=state)
    of = {C: count(C) for C in (16, 32, 64, 128)}
    states, both, chunk = f() or (None, None, None)
    check_answer(states, of[32]['states'], [(of[64]['states'], 'this is a chunk of 64'), (of[128]['states'], 'half the chunk has twice as many states, not half'), (of[32]['states']-128, 'the gates are float32'), (of[32]['states']+128, 'q is read by the other kernel')], name='gla_states')
    check_answer(both, of[32]['states']+of[32]['output'], [(of[64]['states']+of[64]['output'], 'this is a chunk of 64'), (of[32]['states']+of[64]['output'], 'gla_output reads the states too, and there are twice as many'), (of[32]['output'], 'this is the second kernel alone'), (2*of[32]['states'], 'gla_output also reads q and writes o')], name='both')
    return check_answer(chunk, max(C for C in of if of[C]['state'] >= of[C]['gate']), [(64, 'at 64 a state is 128 bytes per token, the gates are 256'), (16, 'at 16 the states are twice the gates; 32 is enough'), (128, 'a longer chunk has fewer states')], name='chunk')

# %% wrong
wrong_ex06hc = [(lambda: (640, 0, 0), 'gla_states: this is a chunk'), (lambda: (576, 0, 0), 'not half'), (lambda: (896, 0, 0), 'the other kernel'), (lambda: (768, 1536, 0), 'both: this is a chunk'), (lambda: (768, 1664, 0), 'reads the states too'), (lambda: (768, 1024, 0), 'second kernel alone'),
    (lambda: (768, 1792, 64), 'at 64'), (lambda: (768, 1792, 16), 'at 16'), (lambda: (768, 1792, 128), 'fewer states')]

# %% why
# 640 bytes become 768, and 1,536 for both become 1,792: only the states grow, $2KV/C$, once written and once read. Everything else is per token. At $C = 32$ they weigh as much as the float32 gates; in exchange the products inside a chunk halve. At 128 it is the other way round, and the registers do not hold it.

# %% 4d explore (1 s)
# `device(size)` are the bytes through device memory, by the model of the notebook, of a launch of 1,056 programs on an H100: each reads all of one matrix of `size` bytes and writes 64,000 bytes of its own. Return the largest whole number of megabytes (10⁶ bytes) that the cache holds, and by what factor the traffic jumps from there to one megabyte more.

# %% solution
def ex06hd(device):
    "Largest matrix in MB that is fetched once per wave; the jump to the next"
    ### BEGIN SOLUTION
    jump = lambda n: device((n+1)*10**6)/device(n*10**6)
    best = max(range(1, 60), key=jump)
    return best, jump(best)
    ### END SOLUTION

# %% check
def device_ex06hd(size, programs=1056, own=64000):
    total = {('matrix', 'load'): programs*size, ('out', 'store'): programs*own}
    return past_cache(total, dict(matrix=size, out=programs*own), programs, CHIPS[90])

def check_ex06hd(f):
    chip, n = CHIPS[90], 1056
    best = (chip['l2']-chip['sms']*64000)//10**6    # a wave touches the matrix and its share of the output
    jump = (n*(best+1)*10**6+n*64000)/(-(-n//chip['sms'])*best*10**6+n*64000)
    got, factor = f(device_ex06hd) or (None, None)
    check_answer(got, best, [(50, 'a wave also writes: 132 programs of 64,000 bytes'), (best+1, 'this one no longer fits'), (59, 'look where the traffic jumps')], name='MB')
    return check_answer(factor, jump, [(1/jump, 'the larger over the smaller'), (132., 'nearly: one fetch for 132 programs, but the output moves anyway, and the matrix is larger'), (1056., 'the matrix is fetched again for each of 8 waves'), ((best+1)/best, 'this is the ratio of the sizes; what does device give?')], tol=1e-3, name='factor')

# %% wrong
wrong_ex06hd = [(lambda d: (50, 1.), 'a wave also writes'), (lambda d: (ex06hd(d)[0]+1, 1.), 'no longer fits'), (lambda d: (59, 1.), 'where the traffic jumps'), (lambda d: (ex06hd(d)[0], 1/ex06hd(d)[1]), 'larger over'), (lambda d: (ex06hd(d)[0], 132.), 'nearly'), (lambda d: (ex06hd(d)[0], 1056.), '8 waves'), (lambda d: (ex06hd(d)[0], (ex06hd(d)[0]+1)/ex06hd(d)[0]), 'ratio of the sizes')]

# %% why
# 41 MB and a factor of 112: a wave touches the matrix and 8.4 MB of its own output. Up to there 8 waves fetch it 8 times, 0.4 GB; one megabyte more and each of 1,056 programs fetches it, 44 GB. A real cache does not fall off a cliff, but the two ends are real, and the loss of notebook 06f stands between them: with a head of 8,192 words it fits at a width of 512 and not at 1,024.
