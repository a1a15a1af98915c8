"Notebook 01 in JupyterLab, in a browser, as a learner opens it: every cell runs and none fails. Skipped, with the reason, without Chromium"
import contextlib, importlib.util, json, os, re, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = '01_softmax_attention.ipynb'
MISSING = [p for p in ('jupyterlab', 'ipykernel', 'playwright', 'psutil') if importlib.util.find_spec(p) is None]
CHROMIUM = next((w for n in ('chromium', 'chromium-browser', 'google-chrome') if (w := shutil.which(n))), None)
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=f"this test needs {', '.join(MISSING)}: pip install -c constraints.txt -e '.[dev]'"),
              pytest.mark.skipif(CHROMIUM is None, reason='JupyterLab is tested in Chromium, which is not installed: apt-get install chromium')]
PATIENCE = 600          # seconds for any one thing: a busy machine takes a minute to import torch
STATE = '''() => { const panel = window.jupyterapp?.shell?.currentWidget, model = panel?.content?.model;
    if (!model?.cells) return null;
    const cells = [...model.cells].map((c, index) => ({index, type: c.type, source: c.sharedModel.getSource(), count: c.executionCount ?? null, outputs: c.outputs ? c.outputs.toJSON() : []}));
    return {kernel: panel.sessionContext.session?.kernel?.status ?? 'none', cells} }'''
SHOW = 'index => { const book = window.jupyterapp.shell.currentWidget.content; book.activeCellIndex = index; return book.scrollToItem(index) }'


def wait_for(get, what, seconds=PATIENCE, every=1.):
    "Ask until there is an answer"
    end, got = time.monotonic()+seconds, get()
    while not got:
        assert time.monotonic() < end, f'{what}: not within {seconds} s'
        time.sleep(every); got = get()
    return got


@pytest.fixture
def lab(tmp_path):
    "A JupyterLab with a folder, settings and a port of its own; it and all that it started are gone afterwards"
    import psutil
    books, log = tmp_path/'books', tmp_path/'log.txt'
    books.mkdir(); shutil.copy(ROOT/'nbs'/NOTEBOOK, books)
    quiet = tmp_path/'settings'/'@jupyterlab'/'apputils-extension'/'notification.jupyterlab-settings'
    quiet.parent.mkdir(parents=True); quiet.write_text(json.dumps(dict(fetchNews='false', checkForUpdates=False)))
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {**os.environ, 'IN_TEST': '1', 'PYTHONPATH': str(ROOT), 'JUPYTER_PREFER_ENV_PATH': '1', 'JUPYTERLAB_SETTINGS_DIR': str(tmp_path/'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(tmp_path/'workspaces'),
           'JUPYTER_CONFIG_DIR': str(tmp_path/'config'), 'JUPYTER_RUNTIME_DIR': str(tmp_path/'runtime'), 'IPYTHONDIR': str(tmp_path/'ipython')}
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--expose-app-in-browser', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0',
               '--IdentityProvider.token=', f'--ServerApp.root_dir={books}']
    with open(log, 'w') as out: server = subprocess.Popen(command, env=env, cwd=books, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    def answers():
        assert server.poll() is None, f'JupyterLab did not start:\n{log.read_text()[-2000:]}'
        with contextlib.suppress(OSError): return urllib.request.urlopen(f'http://127.0.0.1:{port}/api', timeout=10).status == 200
    try:
        wait_for(answers, 'JupyterLab')
        yield f'http://127.0.0.1:{port}/', log
    finally:
        here = psutil.Process(server.pid) if server.poll() is None else None
        started = [here, *here.children(recursive=True)] if here else []
        server.terminate()                                           # it stops its kernels
        for p in psutil.wait_procs(started, 60)[1]:
            with contextlib.suppress(psutil.NoSuchProcess): p.kill()
        server.wait(60)
        assert not psutil.wait_procs(started, 30)[1]


def test_notebook_01_runs_in_jupyterlab(lab):
    from playwright.sync_api import sync_playwright
    url, log = lab
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'], timeout=PATIENCE*1000)
        try:
            page = browser.new_page(viewport=dict(width=1400, height=1000))
            page.set_default_timeout(PATIENCE*1000)
            page.goto(f'{url}lab/tree/{NOTEBOOK}?reset')
            run_all(page)
        except AssertionError as e: raise AssertionError(f'{e}\n{log.read_text()[-2000:]}') from None
        finally: browser.close()


def run_all(page):
    "Run > Run All Cells, then look at what came"
    state = lambda: page.evaluate(STATE)
    ask = page.locator('.jp-Dialog button.jp-mod-accept')            # JupyterLab may ask which kernel; the right one is selected
    def ready():
        if ask.count(): ask.first.click()
        return (s := state()) and s['kernel'] == 'idle' and len(s['cells']) > 20
    wait_for(ready, 'a kernel for the notebook')
    page.locator('.lm-MenuBar-item', has_text=re.compile('^Run$')).click()
    page.locator('.lm-Menu-item', has_text=re.compile('^Run All Cells')).click()
    code = lambda s: [c for c in s['cells'] if c['type'] == 'code' and c['source'].strip()]
    failed = lambda s: [o for c in code(s) for o in c['outputs'] if o['output_type'] == 'error']
    done = lambda s: all(c['count'] for c in code(s)) and s['kernel'] == 'idle'
    s = wait_for(lambda: (s := state()) and (failed(s) or done(s)) and s, 'all cells')
    assert not failed(s), '\n'.join(f"{o['ename']}: {o['evalue']}" for o in failed(s))
    figure = next(c['index'] for c in code(s) if any('image/png' in o.get('data', {}) for o in c['outputs']))
    page.evaluate(SHOW, figure); page.wait_for_selector('.jp-OutputArea-output img')
    page.evaluate(SHOW, next(c['index'] for c in s['cells'] if c['type'] == 'markdown' and '$$' in c['source'])); page.wait_for_selector('.jp-MarkdownOutput mjx-container, .jp-MarkdownOutput .MathJax')
