"Sphinx settings; `docs/build.py` prepares `docs/_pages` and runs the build"
import inspect, re, sys, textwrap
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
from build import errors_of

project = 'hybrid_tutorial'
html_title = 'hybrid_tutorial'
html_theme = 'sphinx_book_theme'
html_favicon = 'favicon.svg'
html_context = dict(default_mode='auto')          # light or dark as the reader's system is, until they choose
html_static_path = ['_static']
html_css_files = ['site.css']
html_theme_options = dict(show_navbar_depth=1, max_navbar_depth=2, show_toc_level=2, use_download_button=True, use_fullscreen_button=False, navigation_with_keys=False)
html_copy_source = True
exclude_patterns = ['build.py']
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax', 'sphinx.ext.viewcode', 'sphinx_copybutton']
mathjax_path = 'mathjax.js'
nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'               # tables that a cell returns
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence']
myst_heading_anchors = 3
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_member_order = 'bysource'
autodoc_inherit_docstrings = False
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type', 'ref.python']   # several classes have a field of one name


def add_docments(app, what, name, obj, options, lines):
    "The comment behind each parameter becomes a field of the API page, and so does what the code raises"
    if what not in ('function', 'method', 'class'): return
    from fastcore.docments import docments
    try: found = docments(obj, full=False)
    except Exception: found = {}
    lines.append('')
    for k, v in found.items():
        if v and k != 'self': lines.append(f":{'returns' if k == 'return' else 'param ' + k}: {rst(v)}")
    try: source = textwrap.dedent(inspect.getsource(obj))
    except (OSError, TypeError): return
    if what == 'class': return
    for kind, text in errors_of(source): lines.append(f':raises {kind}: {rst(text)}')


def rst(text:str)->str:
    "One line of Markdown as reStructuredText: code between single marks, everything else as it is"
    pieces = ' '.join(str(text).split()).split('`')
    if len(pieces) % 2 == 0: pieces = [''.join(pieces)]                     # a mark without its partner
    out = ''
    for i, p in enumerate(pieces):
        if i % 2 == 0: out += ('\\ ' if i and p[:1].isalnum() else '')+re.sub(r'([\\*|_])', r'\\\1', p)
        elif p.strip(): out += ('\\ ' if out[-1:].isalnum() else '')+f'``{p.strip()}``'
    return out


def markdown_docstring(app, what, name, obj, options, lines):
    "Our docstrings are written with Markdown's single marks; those that come from elsewhere stay as they are"
    if getattr(obj, '__module__', '').startswith('hybrid_tutorial') and not any('``' in l or ':`' in l or '::' in l for l in lines): lines[:] = [rst(l) if l.strip() else l for l in lines]


def setup(app):
    app.connect('autodoc-process-docstring', markdown_docstring, priority=400)
    app.connect('autodoc-process-docstring', add_docments)
