"Build the site: `python docs/build.py` -> docs/_build/html (needs the extra [docs])"
import json, re, shutil, subprocess, sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
MODULES = sorted(str(p.relative_to(ROOT).with_suffix('')).replace('/', '.') for p in (ROOT/'hybrid_tutorial').rglob('*.py') if p.name[0] != '_')


def page(src:Path, dst:Path):
    "A notebook without nbdev's directives; plumbing cells and hidden cells are left out"
    nb = json.loads(src.read_text())
    cells = []
    for c in nb['cells']:
        s = ''.join(c['source'])
        if c['cell_type'] == 'code' and re.search(r'^#\| *(hide|export|default_exp)\b', s, re.M): continue
        c['source'] = re.sub(r'^#\|.*\n?', '', s, flags=re.M)
        cells.append(c)
    nb['cells'] = cells
    dst.write_text(json.dumps(nb))


def main():
    out = DOCS/'_pages'
    shutil.rmtree(out, ignore_errors=True); out.mkdir()
    notebooks = sorted(p for p in (ROOT/'nbs').glob('*.ipynb') if p.name[0] not in '_.')
    for p in notebooks: page(p, out/p.name)
    shutil.copy(DOCS/'conf.py', out)
    api = ''.join(f'## {m}\n\n```{{eval-rst}}\n.. automodule:: {m}\n   :members:\n   :undoc-members:\n```\n\n' for m in MODULES)
    (out/'api.md').write_text('# API reference\n\n'+api)
    toc = '\n'.join(p.stem for p in notebooks)
    (out/'index.md').write_text((DOCS/'index.md').read_text()+f'\n```{{toctree}}\n:caption: The course\n:maxdepth: 1\n{toc}\n```\n\n```{{toctree}}\n:caption: Reference\napi\n```\n')
    return subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-b', 'html', str(out), str(DOCS/'_build'/'html')]).returncode


if __name__ == '__main__': sys.exit(main())
