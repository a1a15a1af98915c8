# %% setup
import argparse, contextlib, functools, importlib.util, io, json, sys, tempfile
from pathlib import Path
from unittest import mock
from hybrid_tutorial import cli, recipe
from hybrid_tutorial.core import ConfigError, check_answer
from hybrid_tutorial.evaluation.language import paired_difference

# %% 1a compute (1 s)
# Return the four exit codes, in that order, and whether a script under `set -e` goes on with its next line after the last of them (True or False).

# %% solution
def ex62a():
    "Exit codes of success, a mistake, an unknown option, Ctrl-C; does `set -e` go on?"
    ### BEGIN SOLUTION
    return [0, 2, 2, 128+2], False
    ### END SOLUTION

# %% check
def code_ex62a(argv, does=lambda args: None):
    "Exit code of `hybrid-distill`, as the shell sees it, when `doctor` does this"
    with mock.patch.object(cli, 'cmd_doctor', does), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try: return cli.main(argv)
        except SystemExit as e: return e.code

@functools.cache
def codes_ex62a():
    def mistake(args): raise ConfigError('ratio lies in 0..1')
    def ctrl_c(args): raise KeyboardInterrupt
    return [code_ex62a(['doctor']), code_ex62a(['doctor'], mistake), code_ex62a(['doctor', '--nonsense']), code_ex62a(['doctor'], ctrl_c)]

def check_ex62a(f):
    want = codes_ex62a()
    codes, on = f() or (None, None)
    put = lambda i, v: want[:i]+[v]+want[i+1:]
    check_answer(codes, want, [(put(3, 2), 'SIGINT is signal 2, and a shell reports 128 more'), (put(3, 137), 'that is SIGKILL, signal 9'), (put(3, 1), 'an unhandled KeyboardInterrupt would also end in 130, not in 1'), (put(1, 1), 'a mistake with a message is 2; 1 is what a traceback gives'), (put(2, 1), 'argparse ends with 2'), ([1, *want[1:]], 'success is 0')], name='codes')
    return check_answer(on, want[3] == 0, [(True, '`set -e` ends the script at the first code that is not 0')], name='set -e')

# %% wrong
wrong_ex62a = [(lambda: ([0, 2, 2, 2], False), 'signal 2'), (lambda: ([0, 2, 2, 137], False), 'SIGKILL'), (lambda: ([0, 2, 2, 1], False), 'not in 1'), (lambda: ([0, 1, 2, 130], False), 'a traceback gives'), (lambda: ([0, 2, 1, 130], False), 'argparse'), (lambda: ([1, 2, 2, 130], False), 'success'), (lambda: ([0, 2, 2, 130], True), 'first code')]

# %% why
# 0, 2, 2 and 130 = 128 + 2. A script that wants to go on after a mistake but stop at Ctrl-C can tell them apart, and a traceback (1) is neither: it is a bug.

# %% 2b implement (1 s)
# `commands` is what `add_subparsers` returned, `measure(path)` evaluates a folder and gives its `plain` summary. Add the command `compare A B` with an option `--metric` (default `loss`) whose `fn(args)` prints the `paired_difference` of A minus B as one line of JSON.

# %% solution
def ex62b(commands, measure):
    "Add `compare A B [--metric NAME]`"
    ### BEGIN SOLUTION
    c = commands.add_parser('compare', help='difference of two models on the same documents')
    c.add_argument('a', metavar='A'); c.add_argument('b', metavar='B'); c.add_argument('--metric', default='loss', metavar='NAME')
    c.set_defaults(fn=lambda args: print(json.dumps(paired_difference(measure(args.a), measure(args.b), args.metric))))
    return c
    ### END SOLUTION

# %% check
def measure_ex62b(path):
    rows = dict(good=[3.1, 2.9, 3.5, 2.2], bad=[3.3, 3.0, 3.6, 2.5])[path]
    return dict(per_document=dict(document=[0, 1, 2, 3], tokens=[10, 40, 20, 30], loss=[l*n for l, n in zip(rows, (10, 40, 20, 30))], kl=[0.1*l*n for l, n in zip(rows, (10, 40, 20, 30))]))

def check_ex62b(f):
    parser = argparse.ArgumentParser('hybrid-distill')
    f(parser.add_subparsers(), measure_ex62b)
    def said(*argv):
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try: args = parser.parse_args(argv)
            except SystemExit: raise AssertionError(f"parsing {' '.join(argv)}: {err.getvalue().strip().splitlines()[-1]}") from None
        if not callable(getattr(args, 'fn', None)): raise AssertionError('fn: the command has none; `main` calls `args.fn(args)`, so set_defaults(fn=...)')
        with contextlib.redirect_stdout(io.StringIO()) as out: args.fn(args)
        try: return json.loads(out.getvalue())
        except ValueError: raise AssertionError(f'printed: not one line of JSON: {out.getvalue()[:80]!r}') from None
    for words, metric in ((('compare', 'bad', 'good'), 'loss'), (('compare', 'bad', 'good', '--metric', 'kl'), 'kl')):
        a, b = measure_ex62b('bad'), measure_ex62b('good')
        want, got = paired_difference(a, b, metric), said(*words)
        get = lambda d: d['value'] if isinstance(d, dict) and 'value' in d else d
        plain = sum(x/n-y/n for x, y, n in zip(a['per_document'][metric], b['per_document'][metric], (10, 40, 20, 30)))/4
        check_answer(get(got), want['value'], [(-want['value'], 'A minus B'), (plain, 'long documents weigh more: take `paired_difference`'), (paired_difference(a, b)['value'], 'the option `--metric` is not used')], tol=1e-6, name=' '.join(words))
        check_answer(isinstance(got, dict) and got.get('low') == want['low'], True, [(False, 'print all of it: a difference without its interval cannot be read')], name='interval')
    return 'ex62b: right'

# %% wrong
def add_ex62b(commands, measure, say=lambda m, args: print(json.dumps(paired_difference(m(args.a), m(args.b), args.metric))), fn=True, option=True):
    c = commands.add_parser('compare'); c.add_argument('a'); c.add_argument('b')
    if option: c.add_argument('--metric', default='loss')
    if fn: c.set_defaults(fn=lambda args: say(measure, args))
wrong_ex62b = [(lambda c, m: add_ex62b(c, m, option=False, say=lambda m, args: print(json.dumps(paired_difference(m(args.a), m(args.b))))), 'unrecognized arguments'), (lambda c, m: add_ex62b(c, m, fn=False), 'set_defaults'), (lambda c, m: add_ex62b(c, m, lambda m, args: print(paired_difference(m(args.a), m(args.b)))), 'not one line of JSON'),
    (lambda c, m: add_ex62b(c, m, lambda m, args: print(json.dumps(paired_difference(m(args.b), m(args.a), args.metric)))), 'A minus B'), (lambda c, m: add_ex62b(c, m, lambda m, args: print(json.dumps(paired_difference(m(args.a), m(args.b))))), 'is not used'),
    (lambda c, m: add_ex62b(c, m, lambda m, args: print(json.dumps(paired_difference(m(args.a), m(args.b), args.metric)['value']))), 'without its interval'), (lambda c, m: None, 'invalid choice'),
    (lambda c, m: add_ex62b(c, m, lambda m, args: print(json.dumps(sum((x-y)/n for x, y, n in zip(*(m(p)['per_document'][args.metric] for p in (args.a, args.b)), m('bad')['per_document']['tokens']))/4))), 'long documents')]

# %% why
# Four lines: two places, an option, what to do. In the check the difference is 0.17 nats a token; the intervals of the two models alone would overlap widely, since the documents differ by more than a nat.

# %% 3c explore (1 s)
# Return the one line that you added (text, as it stands in the class): after it `hybrid-distill run` shall have an option `--patience N`, a whole number, default 3, whose help begins `checks without progress before a stage stops`.

# %% solution
def ex62c():
    "A line of `Recipe`"
    ### BEGIN SOLUTION
    return '    patience:int = 3                       # checks without progress before a stage stops'
    ### END SOLUTION

# %% check
def parser_ex62c(line):
    "The options that a small recipe with this line gives"
    text = 'from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Recipe:\n    "A conversion"\n    seed:int = 0  # of everything random\n'+line.rstrip('\n')+'\n'
    with tempfile.TemporaryDirectory() as d:
        file = Path(d)/'small_recipe.py'; file.write_text(text)
        spec = importlib.util.spec_from_file_location('small_recipe', file)
        module = importlib.util.module_from_spec(spec)
        with mock.patch.dict(sys.modules, small_recipe=module), mock.patch.object(sys, 'dont_write_bytecode', True):
            spec.loader.exec_module(module)
            parser = argparse.ArgumentParser()
            with mock.patch.object(recipe, 'Recipe', module.Recipe): cli.add_recipe_options(parser)
    return {o: a for a in parser._actions for o in a.option_strings}

def check_ex62c(f):
    line = f()
    if not isinstance(line, str): raise AssertionError('line: return the text of one line')
    if '\n' in line.strip('\n'): raise AssertionError('line: one line is enough')
    if not line.startswith('    ') or line[4:5].isspace(): raise AssertionError('line: a field stands four spaces in')
    try: options = parser_ex62c(line)
    except (SyntaxError, NameError) as e: raise AssertionError(f'line: Python does not take it ({type(e).__name__}: {e})') from e
    except TypeError as e: raise AssertionError(f'line: {e}: a field of a recipe has a default') from e
    if '--patience' not in options: raise AssertionError('option: there is no --patience; only names with a type become fields of a dataclass')
    a = options['--patience']
    check_answer(a.type is int, True, [(False, 'a whole number: the option converts with the type of the field')], name='type')
    check_answer('(default: 3)' in a.help, True, [(False, 'the default of the field is the one that the help shows')], name='default')
    return check_answer(a.help.startswith('checks without progress before a stage stops'), True, [(False, 'the comment behind the field is the help text')], name='help')

# %% wrong
wrong_ex62c = [(lambda: 1, 'return the text'), (lambda: ex62c()+'\n    more:int = 1', 'one line is enough'), (lambda: ex62c().strip(), 'four spaces'), (lambda: ex62c().replace(' # checks', ' checks'), 'does not take it'), (lambda: '    patience:int  # checks', 'has a default'), (lambda: ex62c().replace(':int', ''), 'no --patience'),
    (lambda: ex62c().replace(':int', ':float'), 'whole number'), (lambda: ex62c().replace('3', '30'), 'default of the field'), (lambda: ex62c().split('#')[0], 'comment behind')]

# %% why
# One line, and it is field, option, type, default and help at once. Whatever is said twice, in a dataclass and in a parser, is sooner or later said differently.
