"Sphinx settings; `docs/build.py` prepares `docs/_pages` and runs the build"
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
project = 'hybrid_tutorial'
html_theme = 'sphinx_book_theme'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax', 'sphinx.ext.viewcode', 'sphinx_copybutton']
nb_execution_mode = 'off'
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence']
myst_heading_anchors = 3
autodoc_typehints = 'description'
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type']


def add_docments(app, what, name, obj, options, lines):
    "The comment behind each parameter becomes a field of the API page"
    if what not in ('function', 'method', 'class'): return
    from fastcore.docments import docments
    try: found = docments(obj, full=False)
    except Exception: return
    lines.append('')
    for k, v in found.items():
        if v and k != 'self': lines.append(f":{'returns' if k == 'return' else 'param ' + k}: {' '.join(v.split())}")


def setup(app): app.connect('autodoc-process-docstring', add_docments)
