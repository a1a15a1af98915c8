"The built site in a real browser. Skipped, with the reason, where Sphinx or Chromium is not installed"
import functools, http.server, importlib.util, os, shutil, subprocess, sys, threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MISSING = [p for p, name in (('sphinx', 'sphinx'), ('myst-nb', 'myst_nb'), ('sphinx-book-theme', 'sphinx_book_theme'), ('sphinx-mathjax-offline', 'sphinx-mathjax-offline'), ('playwright', 'playwright')) if importlib.util.find_spec(name) is None]
CHROMIUM = next((w for n in ('chromium', 'chromium-browser', 'google-chrome') if (w := shutil.which(n))), None)
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=f"the site's tests need {', '.join(MISSING)}: pip install -c constraints.txt -e '.[docs]'"),
              pytest.mark.skipif(CHROMIUM is None, reason='the site is tested in Chromium, which is not installed: apt-get install chromium')]
WITH_MATH = ('course/04_delta_rule.html', 'notation.html', 'how/choose_k.html')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The site, served on this machine; SITE names one that is built already"
    html = Path(os.environ.get('SITE', ROOT/'docs'/'_build'/'html'))
    if 'SITE' not in os.environ:
        done = subprocess.run([sys.executable, str(ROOT/'docs'/'build.py')], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert 'WARNING' not in done.stderr, done.stderr
    handler = functools.partial(Quiet, directory=str(html))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield html, f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


def pages(html):
    "All pages, or those that SITE_PAGES names"
    wanted = os.environ.get('SITE_PAGES')
    found = sorted(str(p.relative_to(html)) for p in html.rglob('*.html') if p.parts[len(html.parts)] not in ('_modules', '_static') and p.name not in ('search.html', 'genindex.html', 'py-modindex.html'))
    return [p for p in found if p in wanted.split(',')] if wanted else found


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield b
        b.close()


@pytest.fixture(scope='module')
def visits(site, browser):
    "One visit to every page at a phone's width, and what was seen there"
    html, url = site
    seen = {}
    page = browser.new_page(viewport=dict(width=390, height=844))
    said = []
    page.on('console', lambda m: said.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: said.append(str(e)))
    page.on('requestfailed', lambda r: said.append(f'failed: {r.url}'))
    page.on('request', lambda r: said.append(f'fetched from elsewhere: {r.url}') if not r.url.startswith((url, 'data:', 'blob:')) else None)
    for name in pages(html):
        said.clear()
        page.goto(url+name)
        page.wait_for_function('!window.MathJax || !MathJax.startup || !MathJax.startup.promise || MathJax.startup.promise.then(() => true)')
        seen[name] = dict(page.evaluate('''() => ({
            wide: document.documentElement.scrollWidth, screen: innerWidth,
            math: document.querySelectorAll('.math').length, drawn: document.querySelectorAll('mjx-container').length, broken: document.querySelectorAll('mjx-merror, [data-mml-node="merror"]').length,
            images: [...document.querySelectorAll('article img')].map(i => ({src: i.src, alt: i.alt, ok: i.complete && i.naturalWidth > 0})),
            links: [...document.querySelectorAll('article a[href], nav a[href]')].map(a => a.href), ids: [...document.querySelectorAll('[id]')].map(e => e.id),
            wider: [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > innerWidth+1 && !e.closest('pre, table, .cell_output, mjx-container, .pst-scrollable-table-container')).slice(0, 3).map(e => e.outerHTML.slice(0, 120)),
        })'''), said=list(said))
    page.close()
    return seen


def test_no_page_complains_or_reaches_outside(visits):
    assert visits and not {n: v['said'] for n, v in visits.items() if v['said']}


def test_math_is_drawn(visits):
    for name, v in visits.items():
        assert v['broken'] == 0, name
        if v['math']: assert v['drawn'] >= v['math'], f"{name}: {v['drawn']} of {v['math']} formulas"
    assert all(visits[n]['drawn'] > 3 for n in WITH_MATH if n in visits)


def test_links_and_anchors_lead_somewhere(visits, site):
    html, url = site
    ids = {n: set(v['ids']) for n, v in visits.items()}
    for name, v in visits.items():
        for link in v['links']:
            if not link.startswith(url): continue
            path, _, anchor = link.removeprefix(url).partition('#')
            path = path.partition('?')[0] or 'index.html'
            assert (html/path).exists(), f'{name}: {path}'
            if anchor and path in ids: assert anchor in ids[path] or anchor in ('', 'top'), f'{name}: {link}'


def test_images_have_words_and_load(visits):
    for name, v in visits.items():
        for i in v['images']: assert i['ok'] and len(i['alt'].split()) >= 3, f'{name}: {i}'


def test_nothing_is_wider_than_a_phone(visits):
    assert not {n: (v['wide'], v['wider']) for n, v in visits.items() if v['wide'] > v['screen']}


def test_search_finds_and_dark_mode_darkens(site, browser):
    html, url = site
    page = browser.new_page(viewport=dict(width=1200, height=800))
    page.goto(url+'search.html?q=delta')
    page.wait_for_selector('#search-results li', timeout=20_000)
    assert page.locator('#search-results li').count() > 2
    page.goto(url+'index.html')
    paper = lambda mode: page.evaluate("m => { document.documentElement.dataset.theme = m; return getComputedStyle(document.body).backgroundColor }", mode)
    light, dark = (sum(map(int, paper(m).split('(')[1].rstrip(')').split(',')[:3])) for m in ('light', 'dark'))
    assert light > 600 and dark < 200
    page.close()
