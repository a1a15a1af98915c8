"""Slides from a notebook, one file that needs no network

    python docs/teaching/slides.py nbs/04_delta_rule.ipynb            # 04_delta_rule.html beside you
    python docs/teaching/slides.py nbs/*.ipynb --out slides           # all of them
"""
import argparse, html, importlib.util, json, re, shutil
from pathlib import Path

from markdown_it import MarkdownIt

LEAVE_OUT = ('What we left out', 'In the wild')
MOST_LINES = 16        # of a code cell that goes on a slide
CSS = '''
html { scroll-snap-type: y mandatory; } body { margin: 0; font: 24px/1.4 Helvetica, Arial, sans-serif; color: #1a1a1a; background: #fff; }
section { box-sizing: border-box; min-height: 100vh; padding: 6vh 8vw; scroll-snap-align: start; break-after: page; display: flex; flex-direction: column; justify-content: center; }
h1 { font-size: 2.2em; } h2 { font-size: 1.6em; margin: 0 0 .5em; color: #1b6ca8; } blockquote { font-size: 1.3em; margin: 0; color: #444; }
pre { font: 18px/1.35 Menlo, Consolas, monospace; background: #f4f4f4; padding: .8em; border-radius: 6px; overflow-x: auto; } img { max-width: 100%; max-height: 62vh; align-self: center; }
table { border-collapse: collapse; font-size: .8em; } td, th { border-bottom: 1px solid #ccc; padding: .3em .8em; text-align: left; } p { margin: .4em 0; }
'''
KEYS = '''addEventListener('keydown', e => { const s = [...document.querySelectorAll('section')], i = s.findIndex(x => x.getBoundingClientRect().top > -innerHeight/2);
const to = {ArrowRight: i+1, ' ': i+1, PageDown: i+1, ArrowLeft: i-1, PageUp: i-1, Home: 0, End: s.length-1}[e.key]; if (to !== undefined && s[to]) { e.preventDefault(); s[to].scrollIntoView(); } })'''


def text_of(c): return ''.join(c['source'])

def sections(cells)->list: # (heading, cells), the first without its H1
    "A notebook cut at its headings; \"## Next\" inside a cell counts"
    out = []
    for c in cells:
        pieces = re.split(r'^(?=##? )', text_of(c), flags=re.M) if c['cell_type'] == 'markdown' else [None]
        for piece in pieces:
            if piece is None: out[-1][1].append(c)
            elif m := re.match(r'##? (.+)\n?', piece): out.append((m[1].strip(), [dict(cell_type='markdown', source=piece[m.end():])]))
            elif piece.strip() and out: out[-1][1].append(dict(cell_type='markdown', source=piece))
    return out

def math_safe(text:str)->str:
    "Markdown to HTML with formulas left as they are"
    held = []
    def hold(m): held.append(m[0]); return f'@@{len(held)-1}@@'
    text = re.sub(r'\$\$.+?\$\$|\$[^$\n]+\$', hold, text, flags=re.S)
    out = MarkdownIt('commonmark', dict(html=False)).enable('table').render(text)
    return re.sub(r'@@(\d+)@@', lambda m: html.escape(held[int(m[1])]), out)

def figure(c)->str:
    "The picture that a cell stored, or nothing"
    png = next((o['data']['image/png'] for o in c.get('outputs', []) if 'image/png' in o.get('data', {})), None)
    return png and ''.join(png).replace('\n', '')

def code_of(c)->str:
    "What learners read of a code cell: no directives, nothing hidden, nothing long"
    s = text_of(c)
    if re.search(r'^#\| *(hide|export|default_exp)\b', s, re.M): return ''
    s = re.sub(r'^#\|.*\n?', '', s, flags=re.M).strip()
    return s if s.count('\n') < MOST_LINES and not re.match(r'(import|from) ', s) else ''

def slides_of(cells)->list[str]: # HTML of each slide
    "A slide with a section's question and equation, one with its smallest code, one with its figure and what it showed"
    out, (title, first) = [], (sections(cells) or [('', [])])[0]
    promise = [text_of(c) for c in first if c['cell_type'] == 'markdown'][:2]
    out.append(f'<h1>{math_safe(title)}</h1>'+''.join(map(math_safe, promise)))
    for heading, part in sections(cells)[1:]:
        if heading in LEAVE_OUT: continue
        h, words = f'<h2>{math_safe(heading)[3:-5]}</h2>', [c for c in part if c['cell_type'] == 'markdown' and text_of(c).strip()]
        before = next((i for i, c in enumerate(part) if c['cell_type'] == 'code'), len(part))
        lead = ''.join(math_safe(text_of(c)) for c in part[:before] if c['cell_type'] == 'markdown')
        code = min((s for c in part if c['cell_type'] == 'code' and not figure(c) and (s := code_of(c))), key=len, default='')
        if lead: out.append(h+lead)
        if code: out.append(h+f'<pre>{html.escape(code)}</pre>')
        for i, c in enumerate(part):
            if c['cell_type'] != 'code' or not (png := figure(c)): continue
            said = next((text_of(n) for n in part[i+1:i+2] if n['cell_type'] == 'markdown'), '')
            alt = html.escape(re.sub(r'[$*_`\n]', ' ', said)[:200] or f'Figure of {heading}')
            out.append(h+f'<img alt="{alt}" src="data:image/png;base64,{png}">'+math_safe(said))
        if not (lead or code or any(map(figure, part))):
            made = [n for c in part if c['cell_type'] == 'code' for n in re.findall(r'^(?:def|class) (\w+)', text_of(c), re.M) if n[0] != '_']
            out.append(h+''.join(math_safe(text_of(c)) for c in words)+(math_safe('In the notebook: '+', '.join(f'`{n}`' for n in made)) if made else ''))
    return out

def page(nb:dict, mathjax:str)->str:
    "The whole file"
    cells = [c for c in nb['cells'] if c['cell_type'] != 'raw']
    title = html.escape(text_of(cells[0]).splitlines()[0].lstrip('# '))
    body = '\n'.join(f'<section>{s}</section>' for s in slides_of(cells))
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{CSS}</style>'
            "<script>MathJax = {tex: {inlineMath: [['$', '$']], displayMath: [['$$', '$$']]}}</script>"
            f'<script defer src="{mathjax}"></script></head><body>\n{body}\n<script>{KEYS}</script></body></html>\n')

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='+', type=Path); p.add_argument('--out', type=Path, default=Path('.'))
    args = p.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec('sphinx-mathjax-offline')
    if spec: shutil.copy(Path(spec.origin).parent/'static'/'mathjax'/'tex-svg.js', args.out/'mathjax.js')
    else: print("formulas stay as text: pip install -c constraints.txt -e '.[docs]' brings MathJax")
    for nb in args.notebooks: (args.out/f'{nb.stem}.html').write_text(page(json.loads(nb.read_text()), 'mathjax.js'), encoding='utf-8')


if __name__ == '__main__': main()
