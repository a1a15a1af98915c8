"Build the site: `python docs/build.py` -> docs/_build/html (needs the extra [docs]; nothing is fetched)"
import ast, importlib.util, json, re, shutil, subprocess, sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PARTS = dict(operators='Operators', kernels='Kernels', models='Models', training='Training', selection='Selection', evaluation='Evaluation', whole='The whole')
NUMBERS = dict(operators=range(9), models=range(9, 20), training=range(20, 30), selection=range(30, 39), evaluation=range(39, 50), whole=range(50, 100))
ELSEWHERE = {'06': 'kernels', '08b': 'kernels', '11': 'training'}      # by the whole prefix, or its number
ROOMS = {'The main job': ('recipe', 'plan', 'report', 'cli', 'plots'), 'Models': ('models',), 'Text': ('data', 'fetch'), 'Training': ('training',),
         'Selection': ('selection',), 'Evaluation': ('evaluation',), 'Operators': ('ops',), 'Triton kernels': ('ops/kernels',), 'Core': ('core',)}


def notebooks(): return sorted(p for p in (ROOT/'nbs').glob('*.ipynb') if p.name[0] not in '_.')

def part_of(stem:str)->str:
    "The part of the course that a notebook belongs to, by its number"
    prefix = stem.partition('_')[0]
    for p in (prefix, prefix[:2]):
        if p in ELSEWHERE and not (p == '11' and prefix != '11'): return ELSEWHERE[p]
    return next(part for part, numbers in NUMBERS.items() if int(prefix[:2]) in numbers)

def by_number(names)->dict:
    "Notebooks by the number that people call them by, where only one has it"
    prefixes = [n.partition('_')[0] for n in names]
    return {p: n for p, n in zip(prefixes, names) if prefixes.count(p) == 1}


# tables, from where they were measured

def table_of(file:str, start:str)->str:
    "The Markdown table of README or a notebook whose first line starts with `start`"
    path = ROOT/file
    text = path.read_text()
    if path.suffix == '.ipynb': text = '\n\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown')
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(start):
            end = next((j for j in range(i, len(lines)) if not lines[j].startswith('|')), len(lines))
            return '\n'.join(lines[i:end])
    raise ValueError(f'{file} has no table that starts with {start!r}; mend the page that asks for it')

def present(text:str)->str:
    "A page without the parts that wait for a file of the package (`if`), or that end with it (`unless`)"
    keep = lambda m: m[3] if (ROOT/m[2]).exists() == (m[1] == 'if') else ''
    return re.sub(r'^<!-- (if|unless) (\S+) -->\n(.*?)^<!-- end -->\n?', keep, text, flags=re.S | re.M)

def fill(text:str)->str:
    "A page with the tables that it takes from README and notebooks"
    return re.sub(r'^<!-- table (\S+) "(.*)" -->$', lambda m: table_of(m[1], m[2]), text, flags=re.M)


# notebooks and pages

def plain(text:str)->str:
    "The first sentence of some Markdown, without marks"
    text = re.sub(r'\$[^$]*\$', ' ', text)
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', text)
    text = re.sub(r'[*_`>#|]|^\s*[-\d.]+\s', '', text).strip()
    return re.split(r'(?<=[.?!])\s', ' '.join(text.split()))[0][:240]

def alt_text(cells, i:int)->str:
    "Words for a figure: its section, its title, and what the text after it says it shows"
    source = ''.join(cells[i]['source'])
    head = next((plain(''.join(c['source']).splitlines()[0]) for c in reversed(cells[:i]) if c['cell_type'] == 'markdown' and ''.join(c['source']).startswith('#')), '')
    title = next((t for _, t in re.findall(r'(?:title=|suptitle\(|set_title\()(["\'])(.+?)\1', source) if '{' not in t), '')
    after = next((''.join(c['source']) for c in cells[i+1:i+2] if c['cell_type'] == 'markdown'), '')
    page = plain(''.join(cells[0]['source']).splitlines()[0])
    parts = [f'Figure: {head}', title, '' if after.startswith(('#', '|')) else plain(after)]
    if not any(parts[1:]): parts.append(f'Notebook "{page}"')
    return '. '.join(p.rstrip('.') for p in parts if p)

def linked(text:str, numbers:dict, own:str)->str:
    "\"notebook 30\" as a link, outside code, math and links"
    def one(m):
        to = numbers.get(m[2])
        return m[0] if to is None or to == own else f'[{m[1]} {m[2]}]({to}.ipynb)'
    pieces = re.split(r'(```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\[[^\]]*\]\([^)]*\))', text, flags=re.S)
    return ''.join(p if i % 2 else re.sub(r'\b([Nn]otebooks?) (\d\d[a-z]?)\b', one, p) for i, p in enumerate(pieces))

def course_page(src:Path, dst:Path, numbers:dict):
    "A notebook without nbdev's directives; plumbing cells and hidden cells are left out, figures get words"
    nb = json.loads(src.read_text())
    cells = []
    for i, c in enumerate(nb['cells']):
        s = ''.join(c['source'])
        if c['cell_type'] == 'raw': continue
        if c['cell_type'] == 'markdown': c['source'] = linked(s, numbers, src.stem)
        else:
            if re.search(r'^#\| *(hide|export|default_exp)\b', s, re.M): continue
            if re.search(r'^#\| *echo: *false', s, re.M): c['metadata']['tags'] = ['remove-input']
            c['source'] = re.sub(r'^#\|.*\n?', '', s, flags=re.M)
            if any('image/png' in o.get('data', {}) for o in c['outputs']): c['metadata']['mystnb'] = dict(image=dict(alt=alt_text(nb['cells'], i)))
        cells.append(c)
    nb['cells'] = cells
    nb['metadata'].setdefault('kernelspec', dict(name='python3', display_name='python3', language='python'))
    dst.write_text(json.dumps(nb))

def title_and_promise(nb:Path)->tuple[str, str]:
    "First heading and first quoted line"
    first = ''.join(json.loads(nb.read_text())['cells'][0]['source'])
    return first.splitlines()[0].lstrip('# '), re.search(r'^> (.+)$', first, re.M)[1]

def toctree(entries, caption:str='', depth:int=1, hidden:bool=False)->str:
    head = [f':caption: {caption}'] if caption else []
    return '\n'.join(['```{toctree}', *head, f':maxdepth: {depth}', *([':hidden:'] if hidden else []), '', *entries, '```', ''])

def part_page(part:str, nbs)->str:
    "One part of the course: its notebooks with their promises"
    rows = [f'| [{n.stem.partition("_")[0]}]({n.stem}.ipynb) | {t} | {p} |' for n, (t, p) in ((n, title_and_promise(n)) for n in nbs)]
    return f'# {PARTS[part]}\n\n'+'\n'.join(['| notebook | title | promise |', '|---|---|---|', *rows])+'\n\n'+toctree([n.stem for n in nbs], hidden=True)

def markdown_page(src:Path, dst:Path):
    "A page of ours: tables filled in, links to notebooks turned to the course"
    up = '../'*len(src.relative_to(DOCS).parent.parts)
    text = re.sub(r'\]\((?:\.\./)+nbs/(\w+\.ipynb)', rf']({up}course/\1', fill(present(src.read_text())))
    dst.parent.mkdir(parents=True, exist_ok=True)
    dst.write_text(text)

def api_page(title:str, places)->str:
    "The modules of a room"
    modules = []
    for place in places:
        found = [ROOT/'hybrid_tutorial'/f'{place}.py'] if (ROOT/'hybrid_tutorial'/f'{place}.py').exists() else sorted((ROOT/'hybrid_tutorial'/place).glob('*.py'))
        modules += [str(p.relative_to(ROOT).with_suffix('')).replace('/', '.') for p in found if p.name[0] != '_']
    body = ''.join(f'## {m.removeprefix("hybrid_tutorial.")}\n\n```{{eval-rst}}\n.. automodule:: {m}\n   :members:\n   :undoc-members:\n   :show-inheritance:\n```\n\n' for m in modules)
    return f'# {title}\n\n{body}'

def room_file(title:str)->str: return title.lower().replace(' ', '_')


def errors_of(source:str)->list[tuple[str, str]]: # Type, message with `...` for what is filled in
    "What a function raises on purpose, read from its source"
    out = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name) and node.exc.func.id.endswith('Error')): continue
        said = [a for a in node.exc.args if isinstance(a, (ast.JoinedStr, ast.Constant))]
        text = ''.join('...' if isinstance(v, ast.FormattedValue) else str(v.value) for v in (said[0].values if isinstance(said[0], ast.JoinedStr) else [said[0]])) if said else 'a name that does not exist; the message lists those that do'
        if (node.exc.func.id, text) not in out: out.append((node.exc.func.id, text))
    return out


def main():
    out = DOCS/'_pages.new'
    shutil.rmtree(out, ignore_errors=True)
    for d in ('course', 'api', '_static'): (out/d).mkdir(parents=True)
    nbs = notebooks()
    numbers = by_number([p.stem for p in nbs])
    for p in nbs: course_page(p, out/'course'/p.name, numbers)
    for part in PARTS: (out/'course'/f'part_{part}.md').write_text(part_page(part, [p for p in nbs if part_of(p.stem) == part]))
    for p in sorted(DOCS.rglob('*.md')):
        if not {'_pages', '_pages.new', '_build'} & set(p.relative_to(DOCS).parts): markdown_page(p, out/p.relative_to(DOCS))
    for p in [*DOCS.glob('*.png'), *DOCS.glob('*.svg'), DOCS/'conf.py', DOCS/'build.py']: shutil.copy(p, out)
    shutil.copy(DOCS/'site.css', out/'_static'/'site.css')
    shutil.copy(mathjax(), out/'_static'/'mathjax.js')
    for title, places in ROOMS.items(): (out/'api'/f'{room_file(title)}.md').write_text(api_page(title, places))
    (out/'api'/'index.md').write_text('# API reference\n\nFrom the comments in the signatures: shapes by the letters of [notation](../notation.md), units, and what is raised when something is wrong.\n\n'+toctree([room_file(t) for t in ROOMS]))
    guide = out/'teaching'/'index.md'
    guide.write_text(guide.read_text()+'\n'+toctree(['misconceptions', 'figures', 'assignment'], hidden=True))
    (out/'index.md').write_text((out/'index.md').read_text()+'\n'+toctree([f'course/part_{p}' for p in PARTS], 'The course', 2, hidden=True)
        +toctree([f'how/{p.stem}' for p in how_tos()], 'How to', hidden=True)+toctree(['teaching/index'], 'Teaching', 2, hidden=True)
        +toctree(['results', 'notation', 'faq', 'api/index'], 'Reference', 2, hidden=True))
    pages = DOCS/'_pages'
    replace_changed(out, pages)
    return subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-b', 'html', str(pages), str(DOCS/'_build'/'html')]).returncode

def replace_changed(new:Path, old:Path):
    "Make `old` equal to `new`; files that are the same stay, so that Sphinx reads only what changed"
    for f in [f for f in old.rglob('*') if f.is_file() and not (new/f.relative_to(old)).is_file()]: f.unlink()
    for f in [f for f in new.rglob('*') if f.is_file()]:
        to = old/f.relative_to(new)
        if to.exists() and to.read_bytes() == f.read_bytes(): continue
        to.parent.mkdir(parents=True, exist_ok=True); shutil.copyfile(f, to)
    shutil.rmtree(new)

def how_tos():
    "How-to pages in the order in which people need them"
    order = ('convert', 'choose_k', 'evaluate', 'serve', 'gpus', 'mixer', 'operator', 'selector')
    pages = sorted((DOCS/'how').glob('*.md'), key=lambda p: (order.index(p.stem) if p.stem in order else len(order), p.stem))
    return pages

def mathjax()->Path:
    "MathJax in one file, from an installed package"
    spec = importlib.util.find_spec('sphinx-mathjax-offline')
    if spec is None: sys.exit("MathJax is missing: pip install -c constraints.txt -e '.[docs]'")
    return Path(spec.origin).parent/'static'/'mathjax'/'tex-svg.js'


if __name__ == '__main__': sys.exit(main())
