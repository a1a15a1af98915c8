# %% setup
import contextlib, functools, io, math, tempfile, torch
from pathlib import Path
from hybrid_tutorial.core import CheckpointError, check_answer
from hybrid_tutorial.training.loop import checkpoints, load_state, save_state

# %% 1a compute (1 s)
# Return two tuples of gigabytes (1e9 bytes) that each of the 8 processes holds with `shard` 1, 2 and 8: of the student, of the teacher. All of the teacher is split.

# %% solution
def ex50a():
    "GB per process with shard 1, 2, 8: student, teacher"
    ### BEGIN SOLUTION
    split = lambda gb: tuple(gb/n for n in (1, 2, 8))
    return split(7*16), split(7*2)
    ### END SOLUTION

# %% check
def check_ex50a(f):
    from torch import nn
    layer = nn.Linear(8, 8, bias=False)
    opt = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 8)).sum().backward(); opt.step()
    held = [layer.weight, layer.weight.grad, *(x for s in opt.state.values() for x in s.values() if x.dim())]
    each = sum(x.nbytes for x in held)/64
    want = lambda b: tuple(7*b/n for n in (1, 2, 8))
    student, teacher = f() or (None, None)
    check_answer(student, want(each), [(want(each)[::-1], 'shard=1 splits nothing'), (tuple(7*each*n/8 for n in (1, 2, 8)), '`shard` processes hold one copy between them: divide by it'), ((7*each,)*3, 'this is plain data parallel'), (want(12), 'weights, gradients and two moments'),
        (tuple(x/8 for x in want(each)), 'there are 8/shard copies; each process holds 1/shard of one')], tol=1e-3, name='student')
    return check_answer(teacher, want(torch.zeros(1, dtype=torch.bfloat16).nbytes), [(want(each), 'the teacher is frozen: no gradients, no moments'), (want(4), 'in bfloat16'), ((14.,)*3, 'it is split as the student is'), (want(4+2), 'a frozen model has no gradients')], tol=1e-3, name='teacher')

# %% wrong
wrong_ex50a = [(lambda: ((14, 56, 112), 0), 'splits nothing'), (lambda: ((14, 28, 112), 0), 'divide by it'), (lambda: ((112, 112, 112), 0), 'plain data parallel'), (lambda: ((84, 42, 10.5), 0), 'two moments'), (lambda: ((14, 7, 1.75), 0), '1/shard of one'),
    (lambda: ((112, 56, 14), (112, 56, 14)), 'is frozen'), (lambda: ((112, 56, 14), (28, 14, 3.5)), 'in bfloat16'), (lambda: ((112, 56, 14), (14, 14, 14)), 'as the student is')]

# %% why
# 112, 56 and 14 GB, and 14, 7 and 1.75 for the teacher: with one copy per process an 80 GB GPU holds neither student nor both; in eight parts they take 16 GB, and what is left is for activations.

# %% 2b implement (1 s)
# `losses` are the mean losses per token of each process, `counts` how many tokens each counted. A process whose rows are all padding counts none; its mean is `nan`.

# %% solution
def ex50b(losses, counts):
    "Mean loss per token over all processes"
    ### BEGIN SOLUTION
    return sum(l*n for l, n in zip(losses, counts) if n)/sum(counts)
    ### END SOLUTION

# %% check
def check_ex50b(f):
    gen = torch.Generator().manual_seed(0)
    for name, counts in (('equal counts', [50, 50]), ('two processes', [100, 20]), ('four processes', [512, 300, 7, 64]), ('one without tokens', [90, 0, 30])):
        rows = [1+torch.rand(n, generator=gen)+(n < 50) for n in counts]
        losses = [float(r.mean()) for r in rows]
        have = [l for l in losses if not math.isnan(l)]
        want = float(torch.cat(rows).mean())
        got = f(losses, counts)
        if isinstance(got, float) and math.isnan(got): raise AssertionError(f'{name}: 0 times nan is nan; leave out who counted nothing')
        weighted = sum(l*n for l, n in zip(losses, counts) if n)
        check_answer(got, want, [(sum(losses)/len(losses), 'this is the mean of the means: a process with few tokens has the say of one with many'), (sum(have)/len(have), 'this is the mean of the means, without the empty one'), (weighted, 'per token: divide by all tokens'), (weighted/len(losses), 'divide by the tokens, not by the processes'),
            (sum(l/n for l, n in zip(losses, counts) if n)/sum(1/n for n in counts if n), 'more tokens, more weight')], tol=1e-5, name=name)
    return 'ex50b: right'

# %% wrong
wrong_ex50b = [(lambda l, n: sum(l)/len(l), 'mean of the means: a process'), (lambda l, n: sum(a*b for a, b in zip(l, n))/sum(n), 'is nan'), (lambda l, n: sum(a*b for a, b in zip(l, n) if b), 'divide by all tokens'), (lambda l, n: sum(a*b for a, b in zip(l, n) if b)/len(l), 'not by the processes'),
    (lambda l, n: sum(a/b for a, b in zip(l, n) if b)/sum(1/b for b in n if b), 'more weight'), (lambda l, n: ex50b(l, n) if 0 not in n else sum(a for a, b in zip(l, n) if b)/sum(1 for b in n if b), 'without the empty one')]

# %% why
# With 100 and 20 tokens the mean is 1.63 in the check and the mean of the means 1.97. The loop does it the same way round: `pieces` gives each process its share of the tokens as a weight, and who counts nothing gets weight 0.

# %% 3c explore (1 s)
# In small: `folder` is a run's with checkpoints of steps 1 and 2 of one tiny matrix. `go_on()` does what a restarted run does first; it returns the step it goes on from. Cut a byte off the newer `.safetensors` file, go on; then cut a byte off the other one, go on again. Return the step of the first time, the names of what lies in the folder after it (sorted), and the name of the error of the second time.

# %% solution
def ex50c(folder, go_on):
    "Step; what lies in the folder; name of the error when both are damaged"
    ### BEGIN SOLUTION
    def cut(step):
        file = next((folder/f'step-{step:08d}').glob('*.safetensors'))
        file.write_bytes(file.read_bytes()[:-1])
    cut(2)
    step = go_on()
    names = sorted(p.name for p in folder.iterdir())
    cut(1)
    try: go_on()
    except Exception as e: return step, names, type(e).__name__
    ### END SOLUTION

# %% check
@contextlib.contextmanager
def run_ex50c():
    "A folder with two checkpoints, and what goes on from there"
    p = torch.nn.Parameter(torch.ones(3, 2)); p.grad = torch.ones(3, 2)
    opt = torch.optim.AdamW([p]); opt.step()
    with tempfile.TemporaryDirectory() as d:
        for step in (1, 2): save_state(d, {'w': p}, opt, dict(step=step))
        def go_on():
            with contextlib.redirect_stderr(io.StringIO()): return load_state(d, {'w': p}, opt)['step']
        yield Path(d), go_on

def check_ex50c(f):
    names = ['step-00000001', 'step-00000002']
    with run_ex50c() as (folder, go_on): got = f(folder, go_on)
    if got is None: raise AssertionError('answer: nothing was returned')
    with run_ex50c() as (folder, go_on):
        file = next(checkpoints(folder)[1].glob('*.safetensors')); file.write_bytes(file.read_bytes()[:-1])
        step, left = go_on(), sorted(p.name for p in folder.iterdir())
        file = next(checkpoints(folder)[0].glob('*.safetensors')); file.write_bytes(file.read_bytes()[:-1])
        try: go_on(); error = None
        except CheckpointError as e: error = type(e).__name__
    check_answer(got[0], step, [(2, 'nothing is damaged yet: cut the byte off before you go on'), (0, 'the older checkpoint is whole, and is used')], name='step')
    check_answer(got[1], left, [(names, 'look after going on: a damaged checkpoint is put aside under another name'), (['step-00000001'], 'a damaged checkpoint is kept, for whoever wants to look at it')], name='folder')
    return check_answer(got[2], error, [('SafetensorError', 'the checksum is compared before the file is opened'), ('FileNotFoundError', 'both are there; cut a byte off each'), (None, 'with both damaged there is nothing to go on from, and a run that starts over without saying so would lose the work silently')], name='error')

# %% wrong
wrong_ex50c = [(lambda d, go: (go(), [], ''), 'before you go on'), (lambda d, go: (0, [], ''), 'older checkpoint is whole'), (lambda d, go: (1, sorted(p.name for p in d.iterdir()), ''), 'another name'), (lambda d, go: (1, ['step-00000001'], ''), 'is kept'),
    (lambda d, go: (*ex50c(d, go)[:2], 'SafetensorError'), 'before the file is opened'), (lambda d, go: (*ex50c(d, go)[:2], 'FileNotFoundError'), 'off each')]

# %% why
# Step 1 is used, and the newer folder becomes `damaged-step-00000002`: the manifest's checksums see one missing byte, where a loader might read wrong numbers. With no checkpoint left, the run stops with a `CheckpointError` that says what to delete; it does not start again by itself.
