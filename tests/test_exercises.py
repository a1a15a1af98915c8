"Every authored exercise: the stub fails and says so, the solution passes, each usual mistake gets its own hint"
import json, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT/'tools'))
from make_exercises import SOURCES, build, parse, questions, target

PATHS = sorted(SOURCES.glob('*.py'))
CASES = [pytest.param(p, e, id=e['name']) for p in PATHS for e in parse(p)[1]]
_spaces = {}


def space(path):
    "What the solved file defines"
    if path not in _spaces:
        _spaces[path] = {'__name__': path.stem}
        exec(compile(path.read_text(encoding='utf-8'), str(path), 'exec'), _spaces[path])
    return dict(_spaces[path])


@pytest.fixture(autouse=True)
def one_thread():
    import torch
    before = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('path', PATHS, ids=lambda p: p.stem)
def test_learners_notebook_is_what_the_script_derives(path):
    assert target(path).read_text(encoding='utf-8') == build(path), f'run python tools/make_exercises.py {path.relative_to(ROOT)} and commit the result'
    import nbformat
    nbformat.validate(nbformat.read(target(path), as_version=4))
    assert 'SOLUTION' not in target(path).read_text(encoding='utf-8')


def test_no_notebook_without_a_source():
    assert {p.stem for p in (ROOT/'exercises').glob('*.ipynb')} == {p.stem for p in PATHS}


@pytest.mark.parametrize('path', PATHS, ids=lambda p: p.stem)
def test_every_question_of_the_notebook_is_there(path):
    kinds, (title, asked) = [e['kind'] for e in parse(path)[1]], questions(path.stem)
    assert set(kinds) == {'compute', 'implement', 'explore'}
    assert set(asked) <= {e['item'] for e in parse(path)[1]}, 'a question has no check'


def test_source_is_nothing_but_python(path=PATHS[0]):
    assert {e['name'] for e in parse(path)[1]} <= set(space(path))


@pytest.mark.parametrize('path, e', CASES)
def test_stub_fails_and_says_what_to_do(path, e):
    ns = space(path)
    exec(e['stub'], ns)
    with pytest.raises(NotImplementedError, match=f"{e['name']} is yours to write"): ns['check_'+e['name']](ns[e['name']])


@pytest.mark.parametrize('path, e', CASES)
def test_solution_passes(path, e):
    ns = space(path)
    assert ns['check_'+e['name']](ns[e['name']]).endswith('right')


@pytest.mark.parametrize('path, e', CASES)
def test_each_usual_mistake_gets_its_hint(path, e):
    ns = space(path)
    wrong, seen = ns['wrong_'+e['name']], set()
    assert wrong, 'no wrong answer is listed'
    for f, hint in wrong:
        with pytest.raises(AssertionError) as info: ns['check_'+e['name']](f)
        assert hint in str(info.value), (hint, str(info.value))
        seen.add(str(info.value))
    assert len(seen) == len(wrong), 'two mistakes with the same hint'


@pytest.mark.parametrize('path, e', CASES)
def test_nothing_is_no_answer(path, e):
    ns = space(path)
    with pytest.raises(AssertionError): ns['check_'+e['name']](lambda *args, **kwargs: None)


def test_a_longer_tensor_than_asked_for_is_a_wrong_answer():
    import torch
    from hybrid_tutorial.core import check_answer
    with pytest.raises(AssertionError, match='answer'): check_answer(torch.ones(3), torch.tensor(2.), [(torch.tensor(1.), 'half of it')])
