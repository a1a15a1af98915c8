# %% setup
import functools, torch
from torch import nn
from hybrid_tutorial.core import ConfigError, check_answer
from hybrid_tutorial.training.align import add_up, solve_output
from hybrid_tutorial.training.bench import T_95, over_seeds, parse_design

# %% 1a compute (1 s)
# Return the two *half* widths, the x of "1.13 ± x": by Student's t as the bench has it, and with 1.96.

# %% solution
def ex24a():
    "Half width by Student's t; with 1.96"
    ### BEGIN SOLUTION
    x = (1.10, 1.16, 1.13)
    error = (sum((v-1.13)**2 for v in x)/2/3)**0.5
    return 4.303*error, 1.96*error
    ### END SOLUTION

# %% check
def check_ex24a(f):
    x = torch.tensor([1.10, 1.16, 1.13], dtype=torch.float64)
    rows = [dict(design='a', tokens=1, kl=v) for v in x.tolist()]
    want, std = over_seeds(rows, 'kl')['a'][1][1], x.std()
    student, normal = f() or (None, None)
    check_answer(student, want, [(2*want, 'the half width'), (T_95[3]*std, 'the error of a mean is smaller by the root of 3'), (T_95[3]*x.std(correction=0)/3**0.5, 'divide the squares by n - 1: the mean was taken from the same numbers'), (T_95[2]*std/3**0.5, 'the table goes by the number of seeds: three'), (T_95[4]*std/3**0.5, 'the table goes by seeds, 3, and not by one more'), (1.96*std/3**0.5, 'this is the normal distribution')], tol=1e-3, name='t')
    return check_answer(normal, 1.96*std/3**0.5, [(want, 'twice Student\'s t'), (1.96*std, 'with 1.96 too the root of 3 belongs there'), (2*1.96*std/3**0.5, 'here too the half width')], tol=1e-3, name='normal')

# %% wrong
wrong_ex24a = [(lambda: (2*ex24a()[0], 0), 't: the half'), (lambda: (4.303*0.03, 0), 'root of 3'), (lambda: (ex24a()[0]*(2/3)**0.5, 0), 'n - 1'), (lambda: (12.71*0.03/3**0.5, 0), 'three'), (lambda: (3.182*0.03/3**0.5, 0), 'one more'), (lambda: ex24a()[::-1], 'this is the normal'), (lambda: (ex24a()[0],)*2, 'twice Student'), (lambda: (ex24a()[0], 1.96*0.03), 'with 1.96 too'), (lambda: (ex24a()[0], 2*ex24a()[1]), 'here too')]

# %% why
# ± 0.075 against ± 0.034. Three numbers say little about how much such numbers scatter, and t pays for that: from the same seeds "1.13 ± 0.03" would be too sure by a factor of 2.2.

# %% 2b implement (1 s)
# Return `(name, settings, ridge)`. `@` and a number may end the line: `gdn@80`, `gdn:window=16,rope=true@2e3`; without it the ridge is 800. A ridge that is no number, or is negative, raises a `ConfigError`. `parse_design` does the rest.

# %% solution
def ex24b(text):
    "A design and the ridge of its closed form"
    ### BEGIN SOLUTION
    design, at, ridge = text.partition('@')
    try: value = float(ridge) if at else 800.
    except ValueError: raise ConfigError(f"{text!r}: the ridge after @ is a number of tokens, got {ridge!r}") from None
    if not value >= 0: raise ConfigError(f"{text!r}: the ridge must be at least 0, got {ridge}")
    return *parse_design(design), value
    ### END SOLUTION

# %% check
def check_ex24b(f):
    for text, ridge in (('gdn', 800.), ('gdn@80', 80.), ('gdn:window=16,rope=true@2e3', 2000.), ('swa:window=64@0', 0.), ('gdn:window=0', 800.)):
        got = f(text)
        if got is None: raise AssertionError('answer: nothing was returned')
        if len(got) != 3: raise AssertionError(f'{text}: three things are wanted, name, settings and ridge')
        if isinstance(got[2], str): raise AssertionError(f'{text}: the ridge is still text')
        name, settings = parse_design(text.split('@')[0])
        check_answer(got[0], name, name=f'{text}, name')
        if got[1] != settings: raise AssertionError(f'{text}: settings {got[1]}, wanted {settings}')
        check_answer(got[2], ridge, [(800., 'the ridge is there and was not read; 0 is a ridge too'), (None, 'without @ the ridge is 800')], name=f'{text}, ridge')
    for text in ('gdn@much', 'gdn@', 'gdn@-5', 'gdn@nan'):
        try: f(text)
        except ConfigError: continue
        except Exception as e: raise AssertionError(f'{text}: {type(e).__name__}; a user\'s mistake raises a ConfigError that says what to do')
        raise AssertionError(f'{text}: accepted')
    return 'ex24b: right'

# %% wrong
def plain_ex24b(text, kind=float, default=800., check=True, catch=(ValueError,)):
    design, at, ridge = text.partition('@')
    try: value = kind(ridge) if at else default
    except catch: raise ConfigError('ridge') from None
    if check and not isinstance(value, str) and not value >= 0: raise ConfigError('ridge')
    return *parse_design(design), value
wrong_ex24b = [(lambda t: plain_ex24b(t, kind=str), 'still text'), (lambda t: parse_design(t.split('@')[0]), 'three things'), (lambda t: (*plain_ex24b(t)[:2], float(t.partition('@')[2] or 0) or 800.), '0 is a ridge too'), (lambda t: plain_ex24b(t, check=False), 'gdn@-5: accepted'), (lambda t: plain_ex24b(t, catch=()), 'gdn@much: ValueError'),
    (lambda t: plain_ex24b(t, kind=lambda x: max(float(x or 0), 0.)), 'gdn@: accepted')]

# %% why
# Cut the new part off, check it, hand the rest on. `not value >= 0` refuses NaN as well, `value < 0` would let it pass; and `or 800` would turn a ridge of 0 into the default.

# %% 3c explore (1 s)
# In small: 32 features, 8 outputs, and twice as much noise as signal. `error(tokens, ridge)` is the relative squared error on new tokens after `solve_output` with that ridge, the mean of 20 draws. Return the best ridge of 0, 4, 16, 64, 256, 1024 for 64 tokens and for 1024 tokens, and how many times larger than the best the error without ridge is at 64.

# %% solution
def ex24c(error):
    "Best ridge at 64 tokens, at 1024; error without ridge over the best at 64"
    ### BEGIN SOLUTION
    grid = (0, 4, 16, 64, 256, 1024)
    few, many = (min(grid, key=lambda r: error(n, r)) for n in (64, 1024))
    return few, many, error(64, 0)/error(64, few)
    ### END SOLUTION

# %% check
@functools.cache
def error_ex24c(tokens, ridge):
    total = 0
    for seed in range(20):
        gen = torch.Generator().manual_seed(seed)
        draw = lambda *s: torch.randn(*s, generator=gen)
        W, Z, noise, new = draw(32, 8)/32**0.5, draw(1, tokens, 32), draw(1, tokens, 8), draw(500, 32)
        linear = nn.Linear(32, 8, bias=False)
        solve_output(linear, add_up(None, Z, Z@W+2**0.5*noise), ridge=float(ridge))
        with torch.no_grad(): total += float((linear(new)-new@W).pow(2).sum()/(new@W).pow(2).sum())/20
    return total

def check_ex24c(f):
    grid = (0, 4, 16, 64, 256, 1024)
    best = {n: min(grid, key=lambda r: error_ex24c(n, r)) for n in (64, 1024)}
    few, many, ratio = f(error_ex24c) or (None,)*3
    check_answer(few, best[64], [(0, 'without a pull 64 tokens fit the noise'), (1024, 'this pulls nearly everything to 0'), (max(grid, key=lambda r: error_ex24c(64, r)), 'this is the worst')], name='64 tokens')
    check_answer(many, best[1024], [(best[1024]*16, 'sixteen times the tokens do not need sixteen times the ridge: its unit is tokens already'), (best[1024]//16, 'a ridge of so many tokens is weaker against 1024 than against 64 by itself'), (0, 'also with 1024 tokens some pull helps')], name='1024 tokens')
    return check_answer(ratio, error_ex24c(64, 0)/error_ex24c(64, best[64]), [(error_ex24c(1024, 0)/error_ex24c(1024, best[1024]), 'this is at 1024'), (error_ex24c(64, best[64])/error_ex24c(64, 0), 'upside down'), (error_ex24c(64, 0)-error_ex24c(64, best[64]), 'how many times, not how much')], tol=1e-3, name='without')

# %% wrong
wrong_ex24c = [(lambda e: (0, 0, 0), 'fit the noise'), (lambda e: (1024, 0, 0), 'nearly everything'), (lambda e: (ex24c(e)[0], 16*ex24c(e)[1], 0), 'sixteen times the ridge'), (lambda e: (ex24c(e)[0], ex24c(e)[1]//16, 0), 'by itself'), (lambda e: (*ex24c(e)[:2], e(1024, 0)/e(1024, ex24c(e)[1])), 'this is at 1024'), (lambda e: (*ex24c(e)[:2], 1/ex24c(e)[2]), 'upside down'), (lambda e: (*ex24c(e)[:2], e(64, 0)-e(64, ex24c(e)[0])), 'not how much')]

# %% why
# 64 for both. A ridge of 64 acts like 64 more tokens that say "no weight": the products of real tokens grow with their number, the pull does not, so the best one is the noise per output over the weights' own size, here 2 x 32, however long the text. At 64 tokens it is half of all evidence, and without it the error is 3.7 times as large; at 1024 it hardly matters.
