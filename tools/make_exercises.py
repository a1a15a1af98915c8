"Derive the learners' notebooks from the authored exercises: `python tools/make_exercises.py [exercises/solutions/NAME.py ...]` (all if none is named)"
import json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES, NBS = ROOT/'exercises'/'solutions', ROOT/'nbs'
BLOCK = re.compile(r'[ ]*### BEGIN SOLUTION\n.*?### END SOLUTION\n?', re.S)
KINDS = ('compute', 'implement', 'explore')


def blocks(text:str):
    "Cells of a file in percent format: pairs of the title after `# %%` and the body"
    parts = re.split(r'^# %% ?(.*)\n', text, flags=re.M)
    return [(t.strip(), b.strip('\n')) for t, b in zip(parts[1::2], parts[2::2])]


def comment(body:str):
    "Markdown that stands in comment lines"
    return '\n'.join(re.sub(r'^# ?', '', l) for l in body.splitlines())


def parse(path:Path):
    "Setup code, and a dict for every exercise: item, kind, seconds, name, text, stub, check, wrong, why"
    setup, out = '', []
    for title, body in blocks(path.read_text(encoding='utf-8')):
        m = re.fullmatch(r'(\d+)(\w) (\w+) \((\d+) s\)', title)
        if m:
            out.append(dict(item=int(m[1]), kind=m[3], seconds=int(m[4]), name=f"ex{path.stem.split('_')[0]}{m[2]}", text=comment(body)))
            if m[3] not in KINDS: raise SystemExit(f'{path.name}: {title}: the kind is one of {", ".join(KINDS)}')
        elif title == 'setup': setup = body
        elif title in ('solution', 'check', 'wrong'): out[-1][title] = body
        elif title == 'why': out[-1][title] = comment(body)
        else: raise SystemExit(f'{path.name}: what is {title!r}?')
    for e in out:
        if missing := {'solution', 'check', 'wrong', 'why'}-e.keys(): raise SystemExit(f"{path.name}: {e['name']} has no {', '.join(sorted(missing))}")
        e['stub'] = stub(e)
    return setup, out


def stub(e:dict):
    "The solution without its body: it fails and says what to do"
    say = f"{e['name']} is yours to write: take this line out, return the answer, run the cell again"
    code, n = BLOCK.subn(lambda m: ' '*(len(m[0])-len(m[0].lstrip()))+f'raise NotImplementedError("{say}")\n', e['solution'])
    if n != 1: raise SystemExit(f"{e['name']}: one part of the solution stands between the two marks, not {n}")
    return code.rstrip('\n')


def questions(stem:str):
    "Title of a course notebook, and its numbered exercises"
    cells = [''.join(c['source']) for c in json.loads((NBS/f'{stem}.ipynb').read_text(encoding='utf-8'))['cells']]
    text = next(b for a, b in zip(cells, cells[1:]) if a.startswith('## Exercises'))
    return cells[0].splitlines()[0].lstrip('# '), {int(n): t.strip() for n, t in re.findall(r'^(\d)\. (.*(?:\n(?!\d\. |\n).*)*)', text, re.M)}


def build(path:Path):
    "The learner's notebook, as text"
    title, asked = questions(path.stem)
    setup, exercises = parse(path)
    n, cells = path.stem.split('_')[0], []
    def add(kind, source, **metadata):
        cell = dict(cell_type=kind, id=f'{n}-{len(cells):03d}', metadata=metadata, source=source.splitlines(True))
        cells.append(cell if kind == 'markdown' else {**cell, 'execution_count': None, 'outputs': []})
    hidden = dict(jupyter={'source_hidden': True}, tags=['hide-input'])
    add('markdown', f'# Exercises: {title}\nTo notebook `nbs/{path.stem}.ipynb`. Run the setup, then write each function in place of its `raise`. The check makes its own inputs and knows the usual mistakes; its code is folded away, because it holds the answer. Solutions, with the reasons: `exercises/solutions/{path.name}`.')
    add('code', setup)
    for e in exercises:
        add('markdown', f"## {e['name']} ({e['kind']}, {e['seconds']} s)")
        add('markdown', '\n\n'.join(filter(None, ['> '+asked[e['item']].replace('\n', '\n> ') if e['item'] else '', e['text']])))
        add('code', e['stub'])
        add('code', e['check'], **hidden)
        add('code', f"check_{e['name']}({e['name']})")
    meta = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    return json.dumps(dict(cells=cells, metadata=meta, nbformat=4, nbformat_minor=5), indent=1, ensure_ascii=False)+'\n'


def target(path:Path): return path.parent.parent/f'{path.stem}.ipynb'


if __name__ == '__main__':
    for p in [Path(p).resolve() for p in sys.argv[1:]] or sorted(SOURCES.glob('*.py')): target(p).write_text(build(p), encoding='utf-8')
