# %% setup
import contextlib, functools, json, tempfile
from pathlib import Path
from hybrid_tutorial.core import atomic_file, check_answer
from hybrid_tutorial.recipe import Recipe, RunFolder

# %% 1a compute (1 s)
# Return both, for the stage 2 of the default recipe with its two hybrids.

# %% solution
def ex60a():
    "Tokens that the teacher reads in stage 2: with `TeacherStates`, without"
    ### BEGIN SOLUTION
    r = Recipe()
    return r.distill_tokens, 2*r.distill_tokens
    ### END SOLUTION

# %% check
def check_ex60a(f):
    r, read, known = Recipe(), [0, 0], set()
    for hybrid in ('kl', r.baseline):
        for number in range(r.distill_tokens//(r.distill_batch*r.seq_len)):
            read = [read[0]+(number not in known)*r.distill_batch*r.seq_len, read[1]+r.distill_batch*r.seq_len]
            known.add(number)
    shared, alone = f() or (None, None)
    check_answer(shared, read[0], [(read[1], 'both hybrids see the same batches: the teacher answers each once'), (read[0]+r.align_tokens, 'stage 2 only'), (read[0]//r.seq_len, 'tokens, not rows')], name='with')
    return check_answer(alone, read[1], [(read[0], 'the default distils two hybrids: the chosen layers and the uniform ones'), (3*read[0], 'the all-linear student is not distilled')], name='without')

# %% wrong
wrong_ex60a = [(lambda: (8192, 8192), 'answers each once'), (lambda: (32768, 8192), 'stage 2 only'), (lambda: (8, 16), 'not rows'), (lambda: (4096, 4096), 'two hybrids'), (lambda: (4096, 12288), 'is not distilled')]

# %% why
# 4,096 against 8,192 tokens. A step costs 1 for the teacher and 3 for the hybrid (notebook 22), so an eighth of stage 2 is saved; the states that wait in memory are 4,096 x 576 numbers.

# %% 2b implement (1 s)
# Return the result of the stage `name`: from `folder/NAME.json` if it was finished before, else from `work()`, and then it is in that file. Results are whatever JSON can hold, `None` too. A stage that was cut short, at work or while writing, leaves nothing that looks finished (see `atomic_file`).

# %% solution
def ex60b(folder, name, work):
    "Result of a stage, done once"
    ### BEGIN SOLUTION
    file = Path(folder)/f'{name}.json'
    if file.exists(): return json.loads(file.read_text())
    result = work()
    with atomic_file(file) as tmp: tmp.write_text(json.dumps(result))
    return result
    ### END SOLUTION

# %% check
@contextlib.contextmanager
def power_cut_ex60b():
    "While active, a file that is written ends in the middle"
    old = Path.write_text
    def write(self, text, *args, **kwargs):
        old(self, text[:len(text)//2], *args, **kwargs)
        raise OSError('power cut')
    Path.write_text = write
    try: yield
    finally: Path.write_text = old

def check_ex60b(f):
    calls = []
    def work(result, name='work'): calls.append(name); return result
    def fail(): calls.append('fail'); raise ValueError('out of memory')
    with tempfile.TemporaryDirectory() as d:
        got = f(d, 'align', lambda: work(dict(loss=0.5)))
        check_answer(got == dict(loss=0.5), True, [(False, 'the first call returns what the work returned')], name='result')
        if not (Path(d)/'align.json').exists(): raise AssertionError('file: no align.json after the first call')
        again = f(d, 'align', lambda: work(dict(loss=9.)))
        if len(calls) > 1: raise AssertionError('twice: a finished stage is not run again')
        check_answer(again == dict(loss=0.5), True, [(False, 'the second call returns what the first one found')], name='twice')
        for _ in range(2): f(d, 'samples', lambda: work(None, 'none'))
        if calls.count('none') > 1: raise AssertionError('None: a result too; ask whether the file is there')
        with contextlib.suppress(ValueError): f(d, 'score', fail)
        if f(d, 'score', lambda: work([1, 2])) != [1, 2]: raise AssertionError('failed work: the stage is not finished, and must be run again')
        with power_cut_ex60b(), contextlib.suppress(OSError): f(d, 'distill', lambda: work(dict(loss=0.25, keep=[1, 2, 3])))
        try: ok = f(d, 'distill', lambda: work(dict(loss=0.25))) == dict(loss=0.25)
        except ValueError: ok = False
        return check_answer(ok, True, [(False, 'half a file is taken for a finished stage: write beside it, then rename')], name='power cut')

# %% wrong
def stage_ex60b(folder, name, work, done=lambda file: file.exists(), write=lambda file, result: file.write_text(json.dumps(result)), back=lambda result: result, mark=lambda file: None):
    file = Path(folder)/f'{name}.json'
    if done(file): return json.loads(file.read_text())
    mark(file); result = work(); write(file, result)
    return back(result)
wrong_ex60b = [(lambda *a: stage_ex60b(*a, back=lambda r: True), 'first call returns'), (lambda d, n, w: w(), 'no align.json'), (lambda *a: stage_ex60b(*a, done=lambda f: False), 'not run again'), (lambda *a: stage_ex60b(*a, done=lambda f: f.exists() and json.loads(f.read_text())), 'a result too'),
    (lambda *a: stage_ex60b(*a, mark=lambda f: f.write_text('0')), 'is not finished'), (stage_ex60b, 'then rename')]

# %% why
# Three lines, and each order of them but this one loses work or trusts what was never done: look for the file, work, write beside it and rename. The name appears only when everything is on the disk, so "the file is there" and "the stage is finished" are the same sentence.

# %% 3c explore (1 s)
# In small: `go()` runs four stages, align, score, distill and evaluate, through a `RunFolder`; `go("distill")` the same, but that stage fails halfway. `stages` is the folder of its stage files. Start a run that fails in distill, run again, then delete `score.json` and run once more. Return how often each of the four was started: `go()` returns a dict of counts so far.

# %% solution
def ex60c(go, stages):
    "Starts of align, score, distill, evaluate"
    ### BEGIN SOLUTION
    go('distill'); go()
    (stages/'score.json').unlink()
    return tuple(go().values())
    ### END SOLUTION

# %% check
@contextlib.contextmanager
def run_ex60c():
    "A run of four stages, and the folder of its files"
    with tempfile.TemporaryDirectory() as d:
        folder, counts = RunFolder(d, Recipe.tiny()), dict(align=0, score=0, distill=0, evaluate=0)
        def go(fail=None):
            def work(name):
                counts[name] += 1
                if name == fail: raise ValueError(name)
                return dict(number=counts[name])
            with contextlib.suppress(ValueError):
                for name in counts: folder.stage(name, lambda: work(name))
            return dict(counts)
        yield go, folder.stages

def check_ex60c(f):
    def after(*steps):
        with run_ex60c() as (go, stages):
            for s in steps: (stages/'score.json').unlink() if s == 'delete' else go(s)
            return tuple(go().values())
    with run_ex60c() as (go, stages): got = f(go, stages)
    return check_answer(got, after('distill', None, 'delete'), [(after('distill', None), 'score.json is still there: delete it before the last run'), (after(), 'nothing failed in this run'), (after(None, 'delete'), 'the first run fails in distill'), ((1, 2, 3, 2), 'a stage looks for its own file only; it does not know that the scores are new'),
        ((2, 3, 3, 1), 'finished stages are not run again'), (after('distill', 'delete'), 'run again before you delete')])

# %% wrong
def steps_ex60c(go, stages, *steps):
    for s in steps: (stages/'score.json').unlink() if s == 'delete' else go(s)
    return tuple(go().values())
wrong_ex60c = [(lambda go, d: steps_ex60c(go, d, 'distill', None), 'still there'), (lambda go, d: steps_ex60c(go, d), 'nothing failed'), (lambda go, d: steps_ex60c(go, d, None, 'delete'), 'first run fails'), (lambda go, d: (1, 2, 3, 2), 'does not know'), (lambda go, d: (2, 3, 3, 1), 'not run again')]

# %% why
# 1, 2, 2, 1. What was finished stays finished, also when something before it is made anew: distill has kept the layers of the old scores. Whoever deletes a stage's file deletes those of the later ones too.
