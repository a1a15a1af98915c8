# %% setup
import math, os, shutil, tempfile, torch
from pathlib import Path
from hybrid_tutorial.core import check_answer, rms_error

# %% 1a compute (1 s)
# Return both: `rms_error(2*a, a)`, then `rms_error(a, 2*a)`.

# %% solution
def ex00a():
    "Errors of twice too much, and of half"
    ### BEGIN SOLUTION
    return 1., 0.5
    ### END SOLUTION

# %% check
def check_ex00a(f):
    a = torch.arange(1., 5)
    got = f() or (None, None)
    check_answer(got[0], rms_error(2*a, a), [(2., 'the *difference* over the reference'), (0.5, 'the reference is the second one, a'), (rms_error(2*a, a*0), 'relative: divide by the size of the reference')], name='twice too much')
    return check_answer(got[1], rms_error(a, 2*a), [(1., 'the reference is twice as large here'), (-0.5, 'an error has no sign'), (2., 'the difference a over the reference 2a'), (rms_error(a, a*0), 'relative: divide by the size of the reference')], name='half')

# %% wrong
wrong_ex00a = [(lambda: (2., 0.5), 'the *difference*'), (lambda: (0.5, 1.), 'the second one'), (lambda: (float((4*torch.arange(1., 5)**2).mean().sqrt()), 0), 'twice too much: relative'), (lambda: (1., 1.), 'twice as large'), (lambda: (1., -0.5), 'no sign'), (lambda: (1., 2.), 'over the reference 2a'), (lambda: (1., float((torch.arange(1., 5)**2).mean().sqrt())), 'half: relative')]

# %% why
# The difference is `a` both times, the reference is `a` and then `2*a`: 1 and 0.5. Whoever forgets a factor of two sees an error of 0.5 or 1, whatever the inputs; such a round number in a failing check is a hint.

# %% 2b implement (1 s)
# As `rms_error`, it is absolute where the reference is all zero. Return a float.

# %% solution
def ex00b(got, want):
    "Largest absolute difference over the largest absolute reference"
    ### BEGIN SOLUTION
    diff, base = float((got-want).abs().max()), float(want.abs().max())
    return diff/base if base > 0 else diff
    ### END SOLUTION

# %% check
def check_ex00b(f):
    want = torch.tensor([[1., -8., 2.], [0.5, 4., -1.]], dtype=torch.float64)
    got = want+torch.tensor([[0.5, 1., -0.25], [1.5, 0., -2.]], dtype=torch.float64)
    diff = got-want
    check_answer(f(got, want), 0.25, [(float((diff/want).abs().max()), 'the largest difference over the largest reference, not the largest of the ratios'), (rms_error(got, want), 'this is the root mean square'), (2., 'relative: divide by the largest reference'), (float(diff.max()/want.abs().max()), 'the largest *absolute* difference: too low counts too'), (float(diff.abs().max()/want.max()), 'the largest *absolute* reference'), (float(diff.abs().max()/got.abs().max()), 'divide by the reference, not by the result'), (float(diff.abs().mean()/want.abs().mean()), 'the largest, not the mean')])
    zero = f(torch.tensor([0.1, -0.3]), torch.zeros(2))
    if isinstance(zero, float) and not math.isfinite(zero): raise AssertionError('answer: with a reference of zeros the error is absolute, not infinite')
    return check_answer(zero, 0.3, tol=1e-6, name='zeros')

# %% wrong
wrong_ex00b = [(lambda g, w: float(((g-w)/w).abs().max()), 'largest of the ratios'), (rms_error, 'root mean square'), (lambda g, w: float((g-w).abs().max()), 'relative'), (lambda g, w: float((g-w).max()/w.abs().max()), 'too low counts'), (lambda g, w: float((g-w).abs().max()/w.max()), 'largest *absolute* reference'), (lambda g, w: float((g-w).abs().max()/g.abs().max()), 'not by the result'), (lambda g, w: float((g-w).abs().mean()/w.abs().mean()), 'not the mean'),
    (lambda g, w: float((g-w).abs().max()/w.abs().max()), 'not infinite')]

# %% why
# Divided element by element, an error of 1.5 at a reference of 0.5 would count 3 and hide all others; here it is 0.25 of the largest number. Where references come near zero, and outputs of attention do, ratios of elements are all noise.

# %% 2c explore (1 s)
# Make two results for `want`, a tensor of 100 numbers, on which the two measures disagree: `rms_error` must find the first one better, at most half as far off as the second, and the largest error must find the second one better, again by a factor of two. Return both.

# %% solution
def ex00c(want):
    "A result with one large error, and one with many small ones"
    ### BEGIN SOLUTION
    size = float(want.abs().max())
    one, all_ = want.clone(), want+0.1*size
    one[0] += 0.3*size
    return one, all_
    ### END SOLUTION

# %% check
def check_ex00c(f):
    want = torch.linspace(-1, 1, 100, dtype=torch.float64)
    got = f(want.clone())
    if got is None or len(got) != 2: raise AssertionError('answer: two results, each shaped as want')
    x, y = got
    if x.shape != want.shape or y.shape != want.shape: raise AssertionError('answer: two results, each shaped as want')
    most = lambda g: float((g-want).abs().max()/want.abs().max())
    (rx, ry), (mx, my) = (rms_error(x, want), rms_error(y, want)), (most(x), most(y))
    if min(rx, ry) == 0: raise AssertionError('answer: one of them has no error at all, and both measures agree on that')
    if rx >= ry and mx <= my: raise AssertionError('answer: the other way round; the first one is the better one to `rms_error`')
    if rx < ry and mx <= my: raise AssertionError('answer: the first is better to both; give it one error larger than any of the second')
    if rx >= ry: raise AssertionError('answer: the second is better to both; spread its error over more numbers')
    if ry < 2*rx or mx < 2*my: raise AssertionError(f'answer: they disagree, but not by a factor of two: {ry/rx:.2f} and {mx/my:.2f}')
    return 'ex00c: right'

# %% wrong
def spoilt_ex00c(one, every): return lambda want: (torch.cat([want[:1]+one, want[1:]]), want+every)
wrong_ex00c = [(lambda want: (want.clone(), want+0.1), 'no error at all'), (lambda want: ex00c(want)[::-1], 'the other way round'), (spoilt_ex00c(0.05, 0.1), 'better to both; give'), (spoilt_ex00c(3., 0.1), 'spread its error'), (spoilt_ex00c(0.15, 0.1), 'not by a factor'), (lambda want: (want[:1], want), 'shaped as want')]

# %% why
# One error of 0.3 among 100 numbers weighs $0.3/\sqrt{100} = 0.03$ in the root mean square, a third of an error of 0.1 everywhere, and three times as much in the maximum. Noise of a number format is spread and is what `rms_error` measures well; a mistake in one place, a wrong corner of a mask, is what the maximum sees and a mean can hide.

# %% 3d explore (1 s)
# `crash(how, at)` writes `"new text"` over a file that holds `"old text"` and loses power after `at` of its 8 bytes (`at=8`: just after the last step); `how` is `"replace"`, as `atomic_file` does it, or `"copy"`, which copies the finished temporary file over the final name. It returns what a reader then finds under the final name. Return two numbers: for how many of `at` = 0 to 8 that is neither the old nor the new text, with `"copy"` and with `"replace"`.

# %% solution
def ex00d(crash):
    "Crashes after which a reader finds neither text: with copy, with replace"
    ### BEGIN SOLUTION
    torn = lambda how: sum(crash(how, at) not in ('old text', 'new text') for at in range(9))
    return torn('copy'), torn('replace')
    ### END SOLUTION

# %% check
def crash_ex00d(how, at):
    with tempfile.TemporaryDirectory() as d:
        final, tmp, new = Path(d)/'file', Path(d)/'.file.tmp', 'new text'
        final.write_text('old text')
        def write(path, text):
            with open(path, 'w') as f: f.write(text[:at])
        write(tmp, new) if how == 'replace' else tmp.write_text(new)
        if how == 'copy': write(final, tmp.read_text())
        elif at == len(new): os.replace(tmp, final)
        return final.read_text()

def check_ex00d(f):
    got, seen = f(crash_ex00d) or (None, None), {how: [crash_ex00d(how, at) for at in range(9)] for how in ('copy', 'replace')}
    torn = lambda how, fine=('old text', 'new text'): sum(s not in fine for s in seen[how])
    check_answer(got[0], torn('copy'), [(torn('copy')-1, 'an empty file is neither; opening for writing has emptied it'), (torn('copy')+1, 'after all 8 bytes the new text is there'), (torn('replace'), 'the copy goes to the final name, byte by byte')], name='copy')
    return check_answer(got[1], torn('replace'), [(torn('replace', ('new text',)), 'the old text is a whole file too, and half of the new one has another name')], name='replace')

# %% wrong
wrong_ex00d = [(lambda crash: (7, 0), 'an empty file'), (lambda crash: (9, 0), 'after all 8'), (lambda crash: (0, 0), 'byte by byte'), (lambda crash: (8, sum(crash('replace', at) != 'new text' for at in range(9))), 'a whole file too')]

# %% why
# 8 of 9 with a copy, none with `os.replace`: the old text up to the last byte, then the new one. A name points to one file or to another, and the file system changes that in one step. The temporary file is flushed *before* it gets the name, or the name could reach the disk ahead of the bytes.
