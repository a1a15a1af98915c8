"What is shipped: wheel and sdist, types, citation"
import ast, os, shutil, subprocess, sys, tarfile, zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    "Wheel and sdist, built from a copy without the network"
    pytest.importorskip('build')
    src = tmp_path_factory.mktemp('src')
    for f in ('settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff', 'constraints.txt'): shutil.copy(ROOT/f, src)
    shutil.copytree(ROOT/'hybrid_tutorial', src/'hybrid_tutorial', ignore=shutil.ignore_patterns('__pycache__'))
    done = subprocess.run([sys.executable, '-m', 'build', '--no-isolation'], cwd=src, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout+done.stderr
    return src/'dist', done.stdout+done.stderr


def test_the_build_has_nothing_to_say(dist):
    harmless = ('no previously-included files', 'byte-compiling is disabled')
    said = [l for l in dist[1].splitlines() if any(w in l.lower() for w in ('warning', 'deprecated', 'error')) and not any(h in l for h in harmless)]
    assert not said, said


def test_wheel_holds_the_package_and_nothing_else(dist):
    wheel, = dist[0].glob('*.whl')
    names = set(zipfile.ZipFile(wheel).namelist())
    there = {str(p.relative_to(ROOT)) for p in (ROOT/'hybrid_tutorial').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    assert {n for n in names if '.dist-info/' not in n} == there
    entry = next(n for n in names if n.endswith('entry_points.txt'))
    assert 'hybrid-distill = hybrid_tutorial.cli:main' in zipfile.ZipFile(wheel).read(entry).decode()
    assert any(n.endswith('licenses/LICENSE') for n in names)


def test_sdist_can_be_built_from(dist):
    tar, = dist[0].glob('*.tar.gz')
    names = {n.partition('/')[2] for n in tarfile.open(tar).getnames()}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'hybrid_tutorial/__init__.py', 'hybrid_tutorial/py.typed'} <= names


def test_installed_wheel_imports_and_has_its_command(dist, tmp_path):
    "Away from the checkout; what it needs comes from this environment (`make dist` installs that too)"
    wheel, = dist[0].glob('*.whl')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', str(tmp_path/'site'), str(wheel)], check=True)
    env = {**os.environ, 'PYTHONPATH': str(tmp_path/'site')}
    code = 'import hybrid_tutorial; from hybrid_tutorial import *; from hybrid_tutorial.ops import chunk_gated_delta_rule; from hybrid_tutorial.cli import main; print(hybrid_tutorial.__file__)'
    got = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert got.returncode == 0 and str(tmp_path/'site') in got.stdout, got.stderr
    assert list((tmp_path/'site'/'bin').glob('hybrid-distill*'))


def test_versions_agree():
    import configparser, yaml
    import hybrid_tutorial
    cfg = configparser.ConfigParser(delimiters=['=']); cfg.read(ROOT/'settings.ini')
    assert cfg['DEFAULT']['version'] == hybrid_tutorial.__version__ == str(yaml.safe_load((ROOT/'CITATION.cff').read_text())['version'])
    assert f"## {hybrid_tutorial.__version__}" in (ROOT/'CHANGELOG.md').read_text()


def test_citation_is_valid():
    "What CFF 1.2.0 requires, and no key that it does not know"
    import yaml
    c = yaml.safe_load((ROOT/'CITATION.cff').read_text())
    assert c['cff-version'] == '1.2.0' and c['type'] == 'software' and c['message'] and c['title'] and c['license'] == 'Apache-2.0'
    assert all(set(a) & {'name', 'family-names'} for a in c['authors'])
    known = {'cff-version', 'message', 'type', 'title', 'version', 'license', 'repository-code', 'url', 'abstract', 'keywords', 'authors', 'references', 'date-released', 'doi', 'identifiers', 'contact', 'commit', 'license-url', 'preferred-citation', 'repository', 'repository-artifact'}
    assert set(c) <= known
    for r in c['references']:
        assert {'type', 'title', 'authors'} <= set(r) and all(set(a) & {'name', 'family-names'} for a in r['authors'])
        assert all(i['type'] in ('doi', 'url', 'swh', 'other') and i['value'] for i in r['identifiers'])
    assert {i['value'] for r in c['references'] for i in r['identifiers']} == {'arXiv:2512.20569', 'arXiv:2505.03005'}


def test_the_stub_lists_the_public_names():
    "Type checkers see the names that are imported on first use, from where they really come"
    import hybrid_tutorial
    tree = ast.parse((ROOT/'hybrid_tutorial'/'__init__.pyi').read_text())
    found = {a.asname: n.module for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert set(found) == set(hybrid_tutorial.__all__)
    for name, module in found.items():
        if name in hybrid_tutorial._LAZY: assert module == hybrid_tutorial._LAZY[name], name
        assert hasattr(hybrid_tutorial, name), name


def check_types(*files):
    pytest.importorskip('mypy')
    return subprocess.run([sys.executable, '-m', 'mypy', '--config-file', str(ROOT/'pyproject.toml'), '--cache-dir', os.devnull, *map(str, files)], cwd=ROOT, capture_output=True, text=True)


def test_the_public_api_type_checks():
    got = check_types(ROOT/'tests'/'public_api.py')
    assert got.returncode == 0, got.stdout+got.stderr


def test_the_type_check_finds_mistakes(tmp_path):
    wrong = tmp_path/'wrong.py'
    wrong.write_text("from hybrid_tutorial import choose_layers, uniform_layers, nothing_like_this\nchoose_layers([1.], ration=0.5)\nx: str = uniform_layers(30, 8)\n")
    got = check_types(wrong)
    assert got.returncode == 1 and all(w in got.stdout for w in ('attr-defined', 'call-arg', 'assignment')), got.stdout+got.stderr
