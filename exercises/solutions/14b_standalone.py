# %% setup
import ast, functools, sys, types
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models import standalone
from hybrid_tutorial.models.standalone import Piece, called_on

def pieces(source):
    "Top-level statements of some Python text"
    return [Piece('text', n, source.splitlines()) for n in ast.parse(source).body]

# %% 1a compute (1 s)
# The module:
#
#     A = 1
#     B = 2
#     def check(x): return x > A
#     def f(x): return check(x)
#     def g(x): return f(x)+B
#     def h(x): return x.g
#     TABLE = {}
#     TABLE.update(one=g)
#     TABLE.update(two=lambda x: x)
#
# Return two sorted lists of names that `collect` takes: from the root `f`, and from the root `TABLE`.

# %% solution
def ex14ba():
    "Names collected from `f`, and from `TABLE`"
    ### BEGIN SOLUTION
    return ['A', 'check', 'f'], ['A', 'B', 'TABLE', 'check', 'f', 'g']
    ### END SOLUTION

# %% check
TEXT_EX14BA = 'A = 1\nB = 2\ndef check(x): return x > A\ndef f(x): return check(x)\ndef g(x): return f(x)+B\ndef h(x): return x.g\nTABLE = {}\nTABLE.update(one=g)\nTABLE.update(two=lambda x: x)'

def names_ex14ba(root, calls=True):
    every, seen, todo = pieces(TEXT_EX14BA), set(), {root}
    while todo:
        name = todo.pop(); seen.add(name)
        for p in every:
            if name in p.defines or calls and isinstance(p.node, ast.Expr) and called_on(p) == name: todo |= p.uses-seen
    return sorted(n for n in seen if any(n in p.defines for p in every))

def check_ex14ba(f):
    one, two = f() or (None, None)
    check_answer(one, names_ex14ba('f'), [(['check', 'f'], 'check mentions A: follow the names until nothing new comes'), (['A', 'check', 'f', 'g'], 'g mentions f, but nothing that is needed mentions g'), (['A', 'check'], 'the root itself is needed too'), (['f', 'check', 'A'], 'sorted')], name='f')
    return check_answer(two, names_ex14ba('TABLE'), [(names_ex14ba('TABLE', False), 'a statement that calls a method of TABLE fills it; without it the table would be empty'), (['TABLE', 'g'], 'g is in the table, and needs f and B'), (['A', 'TABLE', 'check', 'f', 'g'], 'g mentions B too'),
        (['A', 'B', 'TABLE', 'check', 'f', 'g', 'h'], 'h mentions an attribute called g, and is not mentioned itself'), (['A', 'B', 'TABLE', 'check', 'f', 'g', 'one'], 'one is the name of an argument, not a name that the module defines')], name='TABLE')

# %% wrong
wrong_ex14ba = [(lambda: (['check', 'f'], []), 'until nothing new'), (lambda: (['A', 'check', 'f', 'g'], []), 'nothing that is needed'), (lambda: (['A', 'check'], []), 'root itself'), (lambda: (['f', 'check', 'A'], []), 'sorted'), (lambda: (ex14ba()[0], ['TABLE']), 'would be empty'),
    (lambda: (ex14ba()[0], ['TABLE', 'g']), 'needs f and B'), (lambda: (ex14ba()[0], ['A', 'TABLE', 'check', 'f', 'g']), 'mentions B'), (lambda: (ex14ba()[0], ['A', 'B', 'TABLE', 'check', 'f', 'g', 'h']), 'an attribute'), (lambda: (ex14ba()[0], ['A', 'B', 'TABLE', 'check', 'f', 'g', 'one']), 'name of an argument')]

# %% why
# Three names and six. A definition pulls in what it mentions, never what mentions it; only a statement that does something to a name (`MIXERS.update(...)` in notebooks 12b to 12d) belongs to that name. `h` is not needed by either: an attribute is found at run time, by an object that has it.

# %% 2b implement (1 s)
# `pieces(source)` from the setup cuts the text into statements, each with what it `defines` and what it `uses`. Return the sorted names that the file defines at its top level and that no *other* top-level statement mentions. A mention inside a string or behind a dot does not count.

# %% solution
def ex14bb(source):
    "Names that nothing else in the file mentions"
    ### BEGIN SOLUTION
    every = pieces(source)
    return sorted(n for p in every for n in p.defines if not any(n in other.uses for other in every if other is not p))
    ### END SOLUTION

# %% check
TEXT_EX14BB = '''A, B = 1, 2
def twice(x): return twice(x-1)+A if x else 0
def chunk_gla(x): return _help(x)
def _help(x): return 'lonely'
def lonely(x): return x.dotted
def dotted(x): return x
class Model:
    step = chunk_gla
    def twice_(self): return self.twice
names = [n for n in globals() if n.startswith('chunk_')]
'''

def check_ex14bb(f):
    top = ['A', 'B', 'twice', 'chunk_gla', '_help', 'lonely', 'dotted', 'Model', 'names']
    used = {'A', 'chunk_gla', '_help'}             # read off the text above
    want = sorted(set(top)-used)
    return check_answer(f(TEXT_EX14BB), want, [(sorted(set(want)-{'twice'}), 'twice is mentioned, but only by itself'), (sorted(set(want)-{'lonely'}), 'lonely stands in a string; that is no mention'), (sorted(set(want)-{'dotted'}), 'x.dotted is an attribute: it may be anybody\'s'),
        (sorted(set(want)-{'B', 'names'}), 'assigned names are defined too'), (sorted(want+['step']), 'only the top level: step belongs to the class'), (sorted(set(want)-{'twice', 'lonely', 'dotted'}), 'counting words counts strings, attributes and recursion'), ([n for n in top if n in want], 'sorted'), (sorted(used), 'these are the ones that are mentioned')])

# %% wrong
def words_ex14bb(source):
    import re
    names = [n for p in pieces(source) for n in p.defines]
    return sorted(n for n in names if len(re.findall(rf'\b{n}\b', source)) == 1)
def self_ex14bb(source):
    every = pieces(source)
    return sorted(n for p in every for n in p.defines if sum(isinstance(x, ast.Name) and x.id == n and isinstance(x.ctx, ast.Load) for x in ast.walk(ast.parse(source))) == 0)
wrong_ex14bb = [(self_ex14bb, 'only by itself'), (words_ex14bb, 'counting words'), (lambda s: [n for n in ex14bb(s) if n not in ('B', 'names')], 'assigned names'), (lambda s: sorted(ex14bb(s)+['step']), 'only the top level'), (lambda s: [n for n in ex14bb(s) if n != 'dotted'], 'anybody'), (lambda s: [n for n in ex14bb(s) if n != 'lonely'], 'no mention'),
    (lambda s: ['B', 'twice', 'lonely', 'dotted', 'Model', 'names'], 'sorted'), (lambda s: ['A', '_help', 'chunk_gla'], 'ones that are mentioned')]

# %% why
# On the real file of this version 13 names are left: `HybridForCausalLM`, which `config.json` names, and 12 operators such as `chunk_kda` and `recurrent_rwkv6`, reached only through `globals()[f'{backend}_{op}']`. Following names would never find these: that is why `standalone_source` makes them roots.

# %% 3c explore (2 s)
# In small: `ask(without, name)` writes the code of the mixers with one entry of `MODULES` left out, runs it, and asks it for the settings of the mixer `name`. It returns `"fine"` or the name of the error's type. Ask for `"kda"` and for the misspelt `"kdaa"` without each of `"models/gated"`, `"models/rwkv"`, `"models/window"` and `"core"`. Return two of these modules: the one whose absence is told by a `ConfigError` when a user asks for `kda`, and the one whose absence turns a good message into another error.

# %% solution
def ex14bc(ask):
    "Module that is missed with a message; module whose absence spoils a message"
    ### BEGIN SOLUTION
    modules = ('models/gated', 'models/rwkv', 'models/window', 'core')
    return next(m for m in modules if ask(m, 'kda') == 'ConfigError'), next(m for m in modules if ask(m, 'kdaa') not in ('fine', 'ConfigError'))
    ### END SOLUTION

# %% check
@functools.cache
def alone_ex14bc(without):
    "The mixers' code without a module, run"
    every = standalone.MODULES
    standalone.MODULES = tuple(m for m in every if m != without)
    try: needed, imports, alias = standalone.collect(('mixer_settings',))
    finally: standalone.MODULES = every
    used = {n.id for p in needed for n in ast.walk(ast.parse(p.text)) if isinstance(n, ast.Name)}
    body = [line for p in needed for line in (p.text, *(f'{a} = {n}' for a, n in alias.items() if n in p.defines))]
    room = sys.modules['alone_ex14bc'] = types.ModuleType('alone_ex14bc')
    exec('\n'.join([*standalone.import_lines(imports, used), *body]), room.__dict__)
    return room

def ask_ex14bc(without, name):
    try: alone_ex14bc(without).mixer_settings(name)
    except Exception as e: return type(e).__name__
    return 'fine'

def check_ex14bc(f):
    told, spoilt = f(ask_ex14bc) or (None, None)
    check_answer(told, 'models/gated', [('models/rwkv', 'kda lives in another module: `ask` says "fine"'), ('core', 'kda itself is found without core'), ('models/window', 'the window is missed only when a layer runs')], name='told')
    return check_answer(spoilt, 'core', [('models/gated', 'its ConfigError is the right answer to a name that nobody knows'), ('models/window', 'settings need no window; the message comes as it should'), ('models/rwkv', 'without rwkv the message is as good as ever')], name='spoilt')

# %% wrong
wrong_ex14bc = [(lambda ask: ('models/rwkv', 'core'), 'another module'), (lambda ask: ('core', 'core'), 'kda itself'), (lambda ask: ('models/window', 'core'), 'only when a layer runs'), (lambda ask: ('models/gated',)*2, 'nobody knows'), (lambda ask: ('models/gated', 'models/window'), 'need no window'), (lambda ask: ('models/gated', 'models/rwkv'), 'as good as ever')]

# %% why
# Without `models/gated` the user reads "unknown mixer 'kda'" and the list of those that are known: good, though it does not say that the file is at fault. Without `core` everything works until something is wrong, and then a `NameError` stands in the place of the message. Python looks a name up when the line runs, so a file that imports without an error can still lack anything: only the witness, which runs it, shows.
