"The project itself: exports in sync, pins that agree, a README that tells the truth, light imports"
import configparser, json, re, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def settings():
    cfg = configparser.ConfigParser(delimiters=['=']); cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']


def requirements():
    c = settings()
    return [r for key in ('requirements', 'gpu_requirements', 'eval_requirements', 'dev_requirements', 'docs_requirements') for r in c[key].split()]


def pins():
    lines = [l.split('#')[0].strip() for l in (ROOT/'constraints.txt').read_text().splitlines()]
    return {re.split('==', l)[0].lower(): re.split('==|;', l)[1].strip() for l in lines if '==' in l}


def test_package_and_notebooks_are_in_sync(tmp_path):
    for f in ('settings.ini', 'setup.py'): shutil.copy(ROOT/f, tmp_path)
    for d in ('nbs', 'hybrid_tutorial'): shutil.copytree(ROOT/d, tmp_path/d, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for command in ('nbdev_export', 'nbdev_clean'): subprocess.run([Path(sys.executable).parent/command], cwd=tmp_path, check=True)
    for d in ('nbs', 'hybrid_tutorial'):
        there = {f.relative_to(tmp_path) for f in (tmp_path/d).rglob('*') if f.suffix in ('.py', '.ipynb')}
        here = {f.relative_to(ROOT) for f in (ROOT/d).rglob('*') if f.suffix in ('.py', '.ipynb') and '.ipynb_checkpoints' not in f.parts}
        assert here == there, f'not exported by any notebook, or missing: {here ^ there}'
        for f in there: assert (tmp_path/f).read_bytes() == (ROOT/f).read_bytes(), f'{f}: run nbdev_export and nbdev_clean, and commit what they change'


def test_every_requirement_is_pinned_within_its_range():
    from packaging.requirements import Requirement
    for r in map(Requirement, requirements()):
        pin = pins().get(r.name.lower())
        assert pin, f'{r.name} has no pin in constraints.txt'
        assert r.specifier.contains(pin, prereleases=True), f'{r} does not allow the pin {pin}'


def test_environment_yml_agrees_with_settings_and_constraints():
    import yaml
    env = yaml.safe_load((ROOT/'environment.yml').read_text())
    conda = [d for d in env['dependencies'] if isinstance(d, str)]
    pip = next(d['pip'] for d in env['dependencies'] if isinstance(d, dict))
    assert f"python>={settings()['min_python']}" in conda
    assert '-c constraints.txt' in pip and '-e .[dev]' in pip
    from packaging.requirements import Requirement
    listed = {Requirement(p).name.lower(): Requirement(p) for p in pip if not p.startswith('-')}
    assert set(listed) == {Requirement(r).name.lower() for r in requirements()}
    for name, r in listed.items(): assert str(r.specifier) == f'=={pins()[name]}', f'{r} is not the pin {pins()[name]}'


def test_installed_versions_are_the_pins():
    import importlib.metadata
    for name in ('torch', 'transformers', 'triton', 'nbdev', 'safetensors'):
        assert importlib.metadata.version(name).split('+')[0] == pins()[name]


def test_readme_commands_exist():
    text = (ROOT/'README.md').read_text()
    for target in set(re.findall(r'^make (\w+)', text, re.M)):
        subprocess.run(['make', '-n', target], cwd=ROOT, check=True, capture_output=True)
    from hybrid_tutorial.cli import make_parser
    commands = re.findall(r'^hybrid-distill (.+)$', text, re.M)
    assert len(commands) >= 5
    import shlex
    for c in commands: make_parser().parse_args(shlex.split(c, comments=True))
    assert 'make demo' in text and 'make test' in text


def test_readme_python_runs_by_name():
    import hybrid_tutorial
    for block in re.findall(r'```python\n(.*?)```', (ROOT/'README.md').read_text(), re.S):
        compile(block, 'README.md', 'exec')
        for names in re.findall(r'from hybrid_tutorial import \(?([\w, \n]+)', block):
            for n in names.replace('\n', ' ').split(','): assert hasattr(hybrid_tutorial, n.strip()), n


def test_ci_calls_the_readme_test_command():
    assert 'make test' in (ROOT/'.ci'/'run').read_text()


def test_imports_nothing_it_should_not():
    "beyond what torch and transformers' own model base classes load"
    bad = "[m for m in ('triton', 'fla', 'nbdev', 'fastcore', 'IPython', 'matplotlib.pyplot', 'datasets') if m in sys.modules and m not in before]"
    code = f"import sys, torch; from transformers import PreTrainedModel, GenerationMixin, AutoModel; before = set(sys.modules); import hybrid_tutorial; from hybrid_tutorial import *; import hybrid_tutorial.cli; print('LOADED', {bad})"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.returncode == 0 and out.stdout.strip().endswith('LOADED []'), out.stdout+out.stderr
    for f in (ROOT/'hybrid_tutorial').rglob('*.py'):
        names, text = 'fla' if f.parent.name == 'kernels' else 'triton|fla', f.read_text()
        assert not re.search(rf'^(import|from) ({names})\b', text, re.M), f
        assert f.parent.name == 'kernels' or not re.search(r'^(import|from) .*\bkernels\b', text, re.M), f


def test_import_is_quick():
    "beyond torch and transformers; the best of three processes, since others may run beside"
    code = "import torch, time; from transformers import PreTrainedModel, GenerationMixin, AutoModel, AutoModelForCausalLM, DynamicCache; t = time.perf_counter(); import hybrid_tutorial; print(time.perf_counter()-t)"
    assert min(float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()[-1]) for _ in range(3)) < 0.5


def test_works_without_triton():
    code = "import sys; sys.modules['triton'] = None; import hybrid_tutorial; from hybrid_tutorial import *; import hybrid_tutorial.cli; print('ok')"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.stdout.strip().endswith('ok'), out.stderr


def test_no_source_names_nbdev_at_run_time():
    for f in (ROOT/'hybrid_tutorial').rglob('*.py'):
        if f.name == '_modidx.py': continue
        assert not re.search(r'^\s*(import|from) (nbdev|fastcore)\b', f.read_text(), re.M), f


def test_rooms_import_only_from_below():
    order = ['core', 'fetch', 'ops', 'models', 'data', 'training', 'evaluation', 'selection', 'plots', 'report', 'recipe', 'plan', 'cli']
    allowed = {'data': {'core', 'fetch'}, 'ops': {'core'}, 'evaluation': {'core', 'fetch', 'ops', 'models', 'data'}}
    for f in (ROOT/'hybrid_tutorial').rglob('*.py'):
        room = f.relative_to(ROOT/'hybrid_tutorial').parts[0].removesuffix('.py')
        if room.startswith('_'): continue
        for dots, name in re.findall(r'^\s*from (\.+)(\w*)', f.read_text(), re.M):
            depth = len(f.relative_to(ROOT/'hybrid_tutorial').parts)
            target = name if len(dots) == depth else room
            if target and target != room and target in order:
                assert target in allowed.get(room, order[:order.index(room)]), f'{f}: {room} imports {target}'


@pytest.mark.parametrize('nb', sorted((ROOT/'nbs').glob('*.ipynb')), ids=lambda p: p.stem)
def test_notebook_is_small_and_complete(nb):
    assert nb.stat().st_size < 500_000
    cells = json.loads(nb.read_text())['cells']
    text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    first = ''.join(cells[0]['source'])
    assert first.startswith('# ') and '\n> ' in first, 'title and one-sentence promise'
    for part in ('You will', 'Time and hardware', '## Exercises', '## Recap'): assert part in text, part
    assert not any(o.get('output_type') == 'error' for c in cells for o in c.get('outputs', []))
