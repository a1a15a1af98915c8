"Every public name says what it is: a docstring, and a comment for each parameter and for what is returned"
import ast, re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(p for p in (ROOT/'hybrid_tutorial').rglob('*.py') if p.name[0] != '_')


def public(tree):
    "The names that a module exports"
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__': return set(ast.literal_eval(node.value))
    return set()


def returns_something(fn):
    "Whether a call gives a value that a reader must know about"
    written = ast.unparse(fn.returns) if fn.returns else ''
    if written == 'None': return False
    inner = [n for child in ast.iter_child_nodes(fn) for n in walk_own(child)]
    return any(isinstance(n, ast.Return) and n.value is not None for n in inner) and not any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in inner)


def walk_own(node):
    "A node and what is in it, but not in a function inside it"
    if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)): return
    yield node
    for child in ast.iter_child_nodes(node): yield from walk_own(child)


def undocumented(fn, lines, name):
    "What a function leaves unsaid, as nbdev's docments would read it: comments on the lines of its signature"
    args = [*fn.args.posonlyargs, *fn.args.args, *filter(None, [fn.args.vararg]), *fn.args.kwonlyargs, *filter(None, [fn.args.kwarg])]
    args = [a for i, a in enumerate(args) if not (i == 0 and a.arg in ('self', 'cls', 'ctx'))]
    commented = lambda n: n != fn.lineno and '#' in lines[n-1] or re.match(r'\s*#(?! %%)', lines[n-2])  # beside `def` stands the result's; "# %%" begins a cell
    for a in args:
        if sum(b.lineno == a.lineno for b in args) > 1 or not commented(a.lineno): yield f'{name}: {a.arg}'
    last = lines[max(fn.body[0].lineno-1, fn.lineno)-1]
    if returns_something(fn) and not (fn.returns and '#' in lines[fn.returns.end_lineno-1]) and not re.search(r'\)\s*(->[^#]*)?:\s*#', last):
        yield f'{name}: what it returns'


def is_kernel(fn):
    "Triton kernels are called by launchers alone, whose parameters are explained; a kernel needs a docstring"
    return any(ast.unparse(d).startswith('triton.') for d in fn.decorator_list)


def unsaid(path):
    "Everything public in a module that nobody explained"
    source = path.read_text(); tree, lines = ast.parse(source), source.splitlines()
    names = public(tree)
    for node in tree.body:
        if getattr(node, 'name', None) not in names: continue
        if not ast.get_docstring(node): yield f'{node.name}: docstring'
        if isinstance(node, ast.FunctionDef) and not is_kernel(node): yield from undocumented(node, lines, node.name)
        if not isinstance(node, ast.ClassDef): continue
        fields = any('dataclass' in ast.unparse(d) for d in node.decorator_list)
        for part in node.body:
            if fields and isinstance(part, ast.AnnAssign) and part.target.id.islower() and part.target.id[0] != '_' and '#' not in lines[part.end_lineno-1]: yield f'{node.name}.{part.target.id}: comment'
            if isinstance(part, ast.FunctionDef) and part.name == '__init__': yield from undocumented(part, lines, node.name)


def test_the_names_that_users_import_are_explained():
    "The front door: `from hybrid_tutorial import ...`"
    import hybrid_tutorial
    missing = []
    for path in MODULES: missing += [f'{path.name}: {m}' for m in unsaid(path) if m.split(':')[0].split('.')[0] in hybrid_tutorial.__all__]
    assert not missing, '\n'.join(missing)


@pytest.mark.parametrize('path', MODULES, ids=[str(p.relative_to(ROOT/'hybrid_tutorial')) for p in MODULES])
def test_everything_public_is_explained(path):
    missing = list(unsaid(path))
    assert not missing, f'{len(missing)} in {path.relative_to(ROOT)}:\n' + '\n'.join(missing)


def test_the_check_sees_what_is_missing(tmp_path):
    "A parameter, a return, a field and a docstring that nobody explained are found, and nothing else"
    file = tmp_path/'m.py'
    file.write_text('''
__all__ = ['f', 'g', 'C', 'h', 'k']
def f(
    a:int, # said
    b:int,
)->int:
    "Said"
    return a+b
def g(
    a:int, # said
)->int: # said
    return a
@dataclass
class C:
    "Said"
    x:int   # said
    y:int
def h(
    a:int, # said
):
    "Nothing comes back"
    def inner(): return 1
    inner()
def _private(a): return a
# %% a cell begins
def k(a)->int: # said
    "Said"
    return a
''')
    assert list(unsaid(file)) == ['f: b', 'f: what it returns', 'g: docstring', 'C.y: comment', 'k: a']


if __name__ == '__main__':      # python tests/test_docments.py: what is missing, by module
    for m in MODULES:
        for what in unsaid(m): print(f'{m.relative_to(ROOT)}  {what}')
