"The site's sources: every code block runs, every command parses, every link, table and cell that is named exists"
import re, shlex, subprocess, sys
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import hybrid_tutorial
from hybrid_tutorial.data import TensorCorpus
from hybrid_tutorial.models.mixers import MIXERS

from helpers import tiny_teacher

ROOT = Path(__file__).parent.parent
DOCS = ROOT/'docs'
sys.path.insert(0, str(DOCS))
import build, figures

PAGES = sorted(p for p in DOCS.rglob('*.md') if not {'_pages', '_pages.new', '_build'} & set(p.parts))
label = lambda p: str(p.relative_to(DOCS))


def shown(page):
    "A page without the parts that wait for a module which is not there"
    return build.present(page.read_text())


def blocks(page, language):
    return re.findall(rf'^ *```{language}\n(.*?)^ *```', shown(page), re.S | re.M)


@pytest.fixture(scope='session')
def letters():
    "A real tokenizer with one token per character"
    words = ['<pad>', '<s>', '</s>', '<unk>', *map(chr, range(32, 127))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token='<unk>'))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Split(Regex('.'), 'isolated'), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token='<pad>', bos_token='<s>', eos_token='</s>', unk_token='<unk>')


@pytest.fixture
def small_world(letters, tmp_path, monkeypatch):
    "Names as on the pages; behind them a tiny teacher, random text and a saved hybrid; budgets count as a few steps"
    teacher = tiny_teacher('llama')
    text = [torch.randint(4, 99, (2, 80), generator=torch.Generator().manual_seed(i)) for i in range(6)]
    monkeypatch.setattr(hybrid_tutorial, 'load_teacher', lambda name, **kw: (teacher, letters), raising=False)
    monkeypatch.setattr(hybrid_tutorial, 'load_corpus', lambda source, tok, **kw: TensorCorpus(text, 99, seq_len=4096), raising=False)
    hybrid = hybrid_tutorial.build_hybrid(hybrid_tutorial.build_student(teacher, settings=dict(window=4), verbose=False), teacher, [1])
    hybrid.save_pretrained(tmp_path/'my-hybrid'); letters.save_pretrained(tmp_path/'my-hybrid')
    monkeypatch.chdir(tmp_path)
    known, threads = dict(MIXERS), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    MIXERS.clear(); MIXERS.update(known)


@pytest.mark.parametrize('page', [p for p in PAGES if blocks(p, 'python')], ids=label)
def test_python_blocks_run_in_order(page, small_world):
    names = {'__name__': 'page'}
    for i, code in enumerate(blocks(page, 'python')): exec(compile(code, f'{label(page)}, block {i+1}', 'exec'), names)


def test_the_how_to_pages_have_code_that_is_run():
    assert all(blocks(p, 'python') for p in build.how_tos())


@pytest.mark.parametrize('page', [p for p in [*PAGES, ROOT/'CONTRIBUTING.md'] if blocks(p, 'sh')], ids=lambda p: p.stem)
def test_commands_parse(page):
    from hybrid_tutorial.cli import make_parser
    for line in '\n'.join(blocks(page, 'sh')).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] in (['torchrun'], ['accelerate']): words = words[words.index('hybrid-distill'):]
        if words[:1] == ['hybrid-distill']: make_parser().parse_args(words[1:])
        elif words[:1] == ['make']: subprocess.run(['make', '-n', *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[:1] == ['python']: assert (ROOT/words[1]).exists(), line
        elif words[:1] == ['pytest']: assert all((ROOT/w).exists() for w in words[1:] if w.endswith('.py')), line
        elif words and words[0] not in ( 'nbdev_export', 'nbdev_clean', '.', 'pip', 'git', 'apt-get'): pytest.fail(f'what does this command do? {line}')


def test_inline_commands_parse():
    "`hybrid-distill ...` within sentences"
    from hybrid_tutorial.cli import make_parser
    found = [c for p in PAGES for c in re.findall(r'`hybrid-distill ([^`]+)`', shown(p))]
    assert len(found) > 10
    for c in found:
        if '...' in c or '--help' in c or c.split()[0].isupper(): continue
        words = [w for w in shlex.split(c)]
        if words[0] == 'bench' and len(words) == 1 or words[-1] in ('evaluate', 'generate'): continue
        make_parser().parse_args(words)


@pytest.mark.parametrize('page', PAGES, ids=label)
def test_links_and_images_exist(page):
    for alt, to in re.findall(r'(!?\[[^\]]*\])\(([^)\s]+)\)', re.sub(r'```.*?```', '', page.read_text(), flags=re.S)):
        if to.startswith(('http', 'mailto')): continue
        path, _, anchor = to.partition('#')
        target = (page.parent/path).resolve() if path else page
        assert target.exists(), f'{label(page)}: {to}'
        if anchor and target.suffix == '.md': assert anchor in [slug(h) for h in re.findall(r'^#+ (.+)$', target.read_text(), re.M)], f'{label(page)}: {to}'
        if alt.startswith('!'): assert len(alt) > 10, f'{label(page)}: the image {to} needs words for those who cannot see it'


def slug(heading): return re.sub(r'[^\w\- ]', '', heading.lower().replace('`', '')).strip().replace(' ', '-')


def test_tables_come_from_where_they_were_measured():
    "Every placeholder is filled; a table that is gone is an error that names file and page"
    asked = [m for p in PAGES for m in re.findall(r'^<!-- table (\S+) "(.*)" -->$', p.read_text(), re.M)]
    assert len(asked) >= 6
    for file, start in asked:
        table = build.table_of(file, start)
        assert table.startswith(start) and table.count('\n') >= 2
        assert table in build.fill(f'<!-- table {file} "{start}" -->')
    with pytest.raises(ValueError, match='has no table'): build.table_of('README.md', '| no such')


def test_every_notebook_has_a_part_and_the_parts_are_right():
    parts = {p.stem: build.part_of(p.stem) for p in build.notebooks()}
    assert set(parts.values()) == set(build.PARTS)
    want = {'01b_layout': 'operators', '06_triton': 'kernels', '08b_bench_kernels': 'kernels', '08_bench_ops': 'operators', '11_data': 'training', '11b_window': 'models',
            '12_mixers': 'models', '21_align': 'training', '30e_retrain': 'selection', '39_plots': 'evaluation', '60_main_job': 'whole'}
    assert {n: parts[n] for n in want} == want


def test_course_pages_lose_directives_and_gain_words(tmp_path):
    import json
    src = ROOT/'nbs'/'04_delta_rule.ipynb'
    build.course_page(src, tmp_path/'x.ipynb', build.by_number([p.stem for p in build.notebooks()]))
    cells = json.loads((tmp_path/'x.ipynb').read_text())['cells']
    text = [''.join(c['source']) for c in cells]
    assert not any(re.search(r'^#\|', t, re.M) for t, c in zip(text, cells) if c['cell_type'] == 'code')
    assert any('recurrent_gated_delta_rule(' in t for t in text) and not any('def _check(' in t for t in text)     # exports stay, plumbing goes
    figures_ = [c for c in cells if c['cell_type'] == 'code' and any('image/png' in o.get('data', {}) for o in c['outputs'])]
    assert figures_ and all(len(c['metadata']['mystnb']['image']['alt']) > 30 for c in figures_)


def test_mentions_of_notebooks_become_links_outside_code_and_math():
    numbers = {'30': '30_scores', '04': '04_delta_rule'}
    link = lambda s: build.linked(s, numbers, '04_delta_rule')
    assert link('see notebook 30.') == 'see [notebook 30](30_scores.ipynb).'
    for same in ('`notebook 30`', '$notebook 30$', '```\nnotebook 30\n```', '[notebook 30](x)', 'notebook 04', 'notebook 77'): assert link(same) == same


def test_errors_are_read_from_the_source():
    from inspect import getsource
    from hybrid_tutorial.selection.choose import choose_layers
    found = build.errors_of(getsource(choose_layers))
    assert ('ConfigError', 'cannot keep ... of ... layers') in found and len(found) >= 4


def test_drawings_are_what_their_script_draws():
    from xml.etree import ElementTree
    for name, drawing in (('hybrid', figures.figure()), ('favicon', figures.icon())):
        assert (DOCS/f'{name}.svg').read_text() == drawing, 'run python docs/figures.py'
        assert ElementTree.fromstring(drawing).find('{http://www.w3.org/2000/svg}title').text


def test_parts_that_wait_for_a_module_are_left_out():
    core, none = 'hybrid_tutorial/core.py', 'hybrid_tutorial/none.py'
    page = 'a\n'+''.join(f'<!-- {word} {file} -->\n{word}-{Path(file).stem}\n<!-- end -->\n' for word in ('if', 'unless') for file in (core, none))+'z'
    assert build.present(page).split() == ['a', 'if-core', 'unless-none', 'z']


def test_pages_that_did_not_change_are_left_alone(tmp_path):
    new, old = tmp_path/'new', tmp_path/'old'
    for d in (new/'a', old/'a'): d.mkdir(parents=True)
    for f, text in ((new/'a'/'same', '1'), (old/'a'/'same', '1'), (new/'changed', '2'), (old/'changed', '1'), (old/'gone', '1'), (new/'fresh', '1')): f.write_text(text)
    before = (old/'a'/'same').stat().st_mtime_ns
    build.replace_changed(new, old)
    assert {str(f.relative_to(old)): f.read_text() for f in old.rglob('*') if f.is_file()} == {'a/same': '1', 'changed': '2', 'fresh': '1'}
    assert (old/'a'/'same').stat().st_mtime_ns == before and not new.exists()


def test_nothing_that_a_contributor_is_told_to_open_is_missing():
    "Files and tests that CONTRIBUTING and the pages name"
    for page in [ROOT/'CONTRIBUTING.md', *PAGES]:
        for name in re.findall(r'`((?:nbs|tests|tools|docs|bench|hybrid_tutorial)/[\w/.]+\.(?:ipynb|py|md|jsonl))`', shown(page)):
            if 'NAME' not in name and 'x_' not in name: assert (ROOT/name).exists(), f'{page.name}: {name}'


def test_the_faq_answers_with_names_that_exist():
    text = '\n'.join(p.read_text() for p in PAGES)
    for name in set(re.findall(r'`(?:hybrid_tutorial\.)?(load_\w+|build_\w+|score_layers|choose_layers|kl_curve|distill\w*|finetune|cache_cost|time_cost|agreement|evaluate|Recipe|run)`', text)):
        assert hasattr(hybrid_tutorial, name) or name in hybrid_tutorial.Recipe.__dataclass_fields__, name
