"What instructors rely on: an assignment that grades rightly, slides from every notebook, cells and sections that exist"
import copy, json, re, sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEACHING = ROOT/'docs'/'teaching'
sys.path.insert(0, str(TEACHING))
import make_assignment as m
import slides

SOURCE = json.loads(m.SOURCE.read_text())
POINTS = {'test-recurrence': 3, 'test-delta': 3, 'test-expand': 3, 'test-kl': 2, 'test-best': 2, 'test-crossing': 3}


def cell(nb, grade_id): return next(c for c in nb['cells'] if c['metadata'].get('nbgrader', {}).get('grade_id') == grade_id)

def with_answer(grade_id, code):
    "The solution with one cell replaced"
    nb = copy.deepcopy(SOURCE)
    cell(nb, grade_id)['source'] = code
    return nb


def test_metadata_is_nbgraders():
    "Version 3 of its schema: every key there, ids unique, points only where something is graded"
    ids = []
    for nb in (SOURCE, json.loads(m.RELEASE.read_text())):
        assert (nb['nbformat'], nb['nbformat_minor']) == (4, 5) and len({c['id'] for c in nb['cells']}) == len(nb['cells'])
        ids.append([])
        for c in nb['cells']:
            g = c['metadata'].get('nbgrader')
            if g is None: continue
            assert set(g) == {'grade', 'grade_id', 'locked', 'schema_version', 'solution', 'task'} | ({'points'} if g['grade'] else set())
            assert g['schema_version'] == 3 and g['task'] is False and re.fullmatch(r'[\w-]+', g['grade_id'])
            assert not (g['solution'] and g['locked']) and (not g['grade'] or g['solution'] or g['locked'])
            ids[-1].append(g['grade_id'])
        assert len(set(ids[-1])) == len(ids[-1])
    assert ids[0] == ids[1]


def test_learners_get_what_the_solution_gives_and_nothing_of_it():
    assert json.loads(m.RELEASE.read_text()) == m.release(SOURCE), 'run python docs/teaching/make_assignment.py'
    text = m.RELEASE.read_text()
    for word in ('BEGIN SOLUTION', 'HIDDEN TESTS', 'repeat_interleave(group, 0).flatten', 'ties go to the lower layer\'', 'by perplexity keeps layers'): assert word not in text
    assert text.count('YOUR CODE HERE') >= 6 and 'YOUR ANSWER HERE' in text


def test_the_solution_gets_all_points():
    got = m.grade(SOURCE, SOURCE)
    assert {k: v[:2] for k, v in got.items()} == {k: (p, p) for k, p in POINTS.items()}, got


def test_the_empty_version_gets_none_and_says_why():
    got = m.grade(json.loads(m.RELEASE.read_text()), SOURCE)
    assert set(got) == set(POINTS)
    for name, (points, _, why) in got.items(): assert points == 0 and 'not solved yet' in why, (name, why)


@pytest.mark.parametrize('grade_id, code, lost', [
    ('recurrence', 'def linear_attention(q, k, v, S=None):\n    o = torch.einsum("bhts,bshv->bthv", torch.einsum("bthk,bshk->bhts", q, k).tril(), v)\n    return o, torch.einsum("bthk,bthv->bhkv", k, v)', 'test-recurrence'),   # ignores the state
    ('delta', 'def delta_rule(q, k, v, beta, S=None): return linear_attention(q, k, beta[..., None]*v, S)', 'test-delta'),                                # adds
    ('expand', 'def expand(w, kv_heads, group): return w.repeat_interleave(group, 0)', 'test-expand'),                                                   # rows
    ('expand', 'def expand(w, kv_heads, group): return w.repeat(group, *[1]*(w.dim()-1))', 'test-expand'),                                               # tiles
    ('kl', 'def kl(teacher, student):\n    p, q = teacher.log_softmax(-1), student.log_softmax(-1)\n    return (q.exp()*(q-p)).sum(-1)', 'test-kl'),      # the other direction
    ('kl', 'def kl(teacher, student):\n    p, q = teacher.exp(), student.exp()\n    p, q = p/p.sum(-1, keepdim=True), q/q.sum(-1, keepdim=True)\n    return (p*(p/q).log()).sum(-1)', 'test-kl'),   # overflows
    ('best', 'def best(scores, K): return sorted(sorted(range(len(scores)), key=lambda l: (scores[l], l))[len(scores)-K:])', 'test-best'),              # ties the other way
    ('crossing', 'def crossing(H, G, K, V, itemsize): return 4*H*K*V//(2*G*K*itemsize)+1', 'test-crossing'),                                             # K for V
], ids=['no state', 'adds', 'rows', 'tiles', 'reverse', 'overflow', 'ties', 'widths'])
def test_usual_mistakes_cost_the_points_of_their_problem_only(grade_id, code, lost):
    got = m.grade(with_answer(grade_id, code), SOURCE)
    assert {k for k, v in got.items() if v[0] == 0} == {lost}, got


def test_locked_cells_cannot_be_changed():
    nb = json.loads(m.RELEASE.read_text())
    for name in POINTS: cell(nb, name)['source'] = 'pass'
    assert all(v[0] == 0 for v in m.grade(nb, SOURCE).values())


class Parts(HTMLParser):
    def __init__(self): super().__init__(); self.tags, self.images = [], []
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == 'img': self.images.append(dict(attrs))


@pytest.mark.parametrize('nb', sorted((ROOT/'nbs').glob('*.ipynb')), ids=lambda p: p.stem)
def test_slides_of_every_notebook(nb):
    "A slide for each section and figure, formulas untouched, nothing fetched"
    d = json.loads(nb.read_text())
    text = slides.page(d, 'mathjax.js')
    parts = Parts(); parts.feed(text)
    headings = [h for h, _ in slides.sections(d['cells'])]
    assert headings[0] == slides.text_of(d['cells'][0]).splitlines()[0].lstrip('# ')
    for h in headings[1:]:
        if h not in slides.LEAVE_OUT: assert slides.math_safe(h)[3:-5] in text, h
    figures = [c for c in d['cells'] if c['cell_type'] == 'code' and slides.figure(c)]
    assert len(parts.images) == len(figures) and all(i['alt'].strip() for i in parts.images)
    assert parts.tags.count('section') >= len(headings)-2 and 'http' not in re.sub(r'<a href="[^"]*">', '', text).split('</head>')[0]
    for formula in re.findall(r'\$\$(.+?)\$\$', slides.text_of(d['cells'][0]), re.S): assert formula[:20] in text


def test_slides_are_written(tmp_path):
    slides.main([str(ROOT/'nbs'/'04_delta_rule.ipynb'), '--out', str(tmp_path)])
    assert '<title>The delta rule</title>' in (tmp_path/'04_delta_rule.html').read_text()


@pytest.mark.parametrize('page', ['misconceptions.md', 'figures.md'])
def test_cells_and_sections_that_the_guide_names_exist(page):
    named = 0
    for line in (TEACHING/page).read_text().splitlines():
        for name, rest in re.findall(r'nbs/(\w+)\.ipynb\)([^\n]*)', line):
            cells = json.loads((ROOT/'nbs'/f'{name}.ipynb').read_text())['cells']
            ids, headings = {c['id'] for c in cells}, [l.lstrip('# ') for c in cells for l in ''.join(c['source']).splitlines() if l.startswith('#')]
            for i in re.findall(r'`([0-9a-f]{8})`', rest): assert i in ids, f'{page}: {name} has no cell {i}'; named += 1
            for h in re.findall(r', "([^"]+)"', rest): assert h in headings, f'{page}: {name} has no section {h!r}'; named += 1
    assert named >= 10


def test_the_syllabi_fit_their_time():
    text = (TEACHING/'index.md').read_text()
    day = [(int(h), int(mi), int(n)) for h, mi, n in re.findall(r'^\| (\d+):(\d\d) \| (\d+) \|', text, re.M)]
    assert len(day) == 8
    for (h, mi, n), (h2, m2, _) in zip(day, day[1:]): assert 60*h+mi+n <= 60*h2+m2, f'{h}:{mi:02d} runs into the next session'
    assert sum(n for *_, n in day) <= 7*60
    assert re.findall(r'^\| [^|]*\| (\d) \| 90 \|', text, re.M) == list('12345678')
