"""The assignment in nbgrader's format: make the learners' version from the solution, and grade without nbgrader

    python docs/teaching/make_assignment.py                 # solutions/hybrid.ipynb -> assignment/hybrid.ipynb
    python docs/teaching/make_assignment.py grade FILE      # points of a learner's notebook
"""
import copy, json, re, sys, traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE, RELEASE = HERE/'solutions'/'hybrid.ipynb', HERE/'assignment'/'hybrid.ipynb'
STUB = '# YOUR CODE HERE\nraise NotImplementedError("this cell is not solved yet")'


def text_of(cell): return ''.join(cell['source'])

def stubbed(source:str)->str:
    "A solution cell with its solution taken out, at the same indentation"
    def one(m): return '\n'.join(m[1]+line for line in STUB.splitlines())
    return re.sub(r'^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION', one, source, flags=re.S | re.M)

def without_hidden(source:str)->str:
    "A test cell without its hidden tests"
    return re.sub(r'^[ \t]*### BEGIN HIDDEN TESTS\n.*?^[ \t]*### END HIDDEN TESTS\n?', '', source, flags=re.S | re.M).rstrip('\n')

def release(nb:dict)->dict:
    "What learners get"
    nb = copy.deepcopy(nb)
    for c in nb['cells']:
        grader = c['metadata'].get('nbgrader', {})
        s = text_of(c)
        if grader.get('solution'): s = stubbed(s) if c['cell_type'] == 'code' else 'YOUR ANSWER HERE'
        s = without_hidden(s)
        c['source'] = s.splitlines(keepends=True)
        if c['cell_type'] == 'code': c['outputs'], c['execution_count'] = [], None
    return nb

def merged(answer:dict, source:dict)->dict:
    "A learner's solution cells, everything else as in the source: locked cells cannot be changed"
    theirs = {c['metadata']['nbgrader']['grade_id']: text_of(c) for c in answer['cells'] if c['metadata'].get('nbgrader', {}).get('solution')}
    nb = copy.deepcopy(source)
    for c in nb['cells']:
        g = c['metadata'].get('nbgrader', {})
        if g.get('solution'): c['source'] = theirs.get(g['grade_id'], 'raise NotImplementedError("the cell is missing")' if c['cell_type'] == 'code' else '')
    return nb

def grade(answer:dict, source:dict)->dict: # grade id -> (points, out of, why not)
    "Run a learner's notebook against all tests, hidden ones included"
    names, out = {'__name__': 'assignment'}, {}
    for c in merged(answer, source)['cells']:
        g = c['metadata'].get('nbgrader', {})
        if c['cell_type'] != 'code': continue
        try: exec(compile(text_of(c), g.get('grade_id', 'cell'), 'exec'), names); why = ''
        except Exception as e: why = f'{type(e).__name__}: {e}' or traceback.format_exc(limit=1)
        if g.get('grade') and not g.get('solution'): out[g['grade_id']] = (0 if why else g['points'], g['points'], why)
    return out


def main(argv):
    source = json.loads(SOURCE.read_text())
    if argv[:1] == ['grade']:
        result = grade(json.loads(Path(argv[1]).read_text()), source)
        for name, (got, most, why) in result.items(): print(f'{name:<24} {got} of {most}  {why}')
        print(f'{sum(g for g, *_ in result.values())} of {sum(m for _, m, _ in result.values())} points, and the question in words')
    else:
        RELEASE.parent.mkdir(exist_ok=True)
        RELEASE.write_text(json.dumps(release(source), indent=1, ensure_ascii=False)+'\n')


if __name__ == '__main__': main(sys.argv[1:])
