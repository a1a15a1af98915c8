"Corpora at scale: shared by processes, stopped and resumed, mixed, packed with borders, and cached by anyone at any time"
import copy, itertools, json, multiprocessing, os, resource, signal
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from hybrid_tutorial.core import ConfigError, DataError, assert_close, places, rms_error
from hybrid_tutorial.data import Corpus, Mixture, Source, TokenBlocks, from_list, load_corpus, open_source, spread
from hybrid_tutorial.models.hybrid import build_hybrid, build_student
from hybrid_tutorial.training.align import TeacherActivations, align, calibrate, layer_errors
from hybrid_tutorial.training.cached import cache_teacher
from hybrid_tutorial.training.finetune import finetune
from hybrid_tutorial.training.logits import TeacherStates, distill

from helpers import tiny_teacher
from test_data import byte_tokenizer, corpus, same, texts

FORK = multiprocessing.get_context('fork')
KINDS = ('map', 'streaming', 'mixture')


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch): monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path/'cache'))

@pytest.fixture(scope='module')
def tok(): return byte_tokenizer()

@pytest.fixture(scope='module')
def parquet(tmp_path_factory):
    import datasets
    folder = tmp_path_factory.mktemp('set')
    for i in range(3): datasets.Dataset.from_dict(dict(text=texts(30, seed=i))).to_parquet(folder/f'part{i}.parquet')
    return folder

@pytest.fixture
def make(tok, parquet, tmp_path):
    "Open the same corpus anew: a list, a streamed set, or a mixture of both"
    part = dict(map=lambda: corpus(tok), streaming=lambda: Corpus(TokenBlocks(open_source(f'hf:{parquet}'), tok, 1500), seq_len=64))
    part['mixture'] = lambda: Mixture([part['map'](), part['streaming']()], [2, 1])
    return lambda kind: part[kind]()

def joined(parts): return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


# ---- processes

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('world', [2, 3, 4])
def test_parts_of_all_ranks_are_the_batches_of_one_process(make, kind, world):
    "Row for row, in order, in every batch, the last short one too"
    alone = list(make(kind).batches(12))
    ranks = [list(make(kind).batches(12, rank=r, world=world)) for r in range(world)]
    assert len(alone[-1]['input_ids']) < 12 and {len(r) for r in ranks} == {len(alone)}
    assert all(same(joined(parts), a) for a, *parts in zip(alone, *ranks))

def test_a_last_batch_with_fewer_rows_than_processes(tok):
    rows = torch.arange(9*6).view(9, 6) % 200
    ranks = [list(load_corpus([rows], tok).batches(8, rank=r, world=4)) for r in range(4)]
    assert [len(r[-1]['input_ids']) for r in ranks] == [0, 0, 0, 1] and {len(r) for r in ranks} == {2}
    assert torch.equal(torch.cat([joined([r[i] for r in ranks])['input_ids'] for i in range(2)]), rows)
    assert {k: v.shape[1:] for k, v in ranks[0][-1].items()} == {k: v.shape[1:] for k, v in ranks[3][-1].items()}

@pytest.mark.parametrize('kind', KINDS)
def test_rows_must_be_shared_evenly(make, tok, kind):
    with pytest.raises(ConfigError, match='use 8'): next(make(kind).batches(6, world=4))
    with pytest.raises(ConfigError, match='use 8'): next(load_corpus([torch.ones(6, 4, dtype=torch.long)], tok).batches(6, world=4))


# ---- stopping: 40 batches, save, the next 8 on every rank

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('batch_size', [2, 4])
def test_40_batches_then_8_more_on_each_rank(make, kind, batch_size):
    "The corpora have 49 to 67 rows, so epochs end before, and at batch size 4 also after the stop"
    how = lambda r: dict(tokens=48*batch_size*64, rank=r, world=2)
    for r in range(2):
        c = make(kind); whole, state = [], None
        for b in c.batches(batch_size, **how(r)):
            whole.append(b)
            if len(whole) == 40: state = json.dumps(c.state)
        again = make(kind)
        tail = list(again.batches(batch_size, start=again.resume(json.loads(state), batch_size=batch_size, seq_len=64), **how(r)))
        assert len(whole) == 48 and len(tail) == 8 and all(map(same, tail, whole[40:]))
        twice = make(kind); start = twice.resume(dict(again.state, next=44))
        assert all(map(same, twice.batches(batch_size, start=start, **how(r)), whole[44:]))

@pytest.mark.parametrize('kind', KINDS)
def test_resume_exactly_around_the_end_of_an_epoch(make, kind):
    n = sum(len(b['input_ids']) for b in make(kind).batches(1))
    whole = list(make(kind).batches(1, tokens=(2*n+3)*64))
    assert not any(same(whole[i], whole[n+i]) for i in range(3))
    for start in (n-1, n, n+1, 2*n-1, 2*n, 2*n+1): assert all(map(same, make(kind).batches(1, tokens=(2*n+3)*64, start=start), whole[start:]))

def test_a_run_may_go_on_with_more_processes(make):
    c = make('streaming'); whole = list(c.batches(4, tokens=20*4*64))
    c = make('streaming'); two = [list(itertools.islice(c.batches(4, tokens=20*4*64, rank=r, world=2), 7)) for r in range(2)]
    start = make('streaming').resume(c.state, batch_size=4)
    four = [list(make('streaming').batches(4, tokens=20*4*64, start=start, rank=r, world=4)) for r in range(4)]
    got = [joined(p) for p in zip(*two)] + [joined(p) for p in zip(*four)]
    assert len(got) == 20 and all(map(same, got, whole))

def test_skipping_reads_no_tokens_of_the_blocks_before(make, monkeypatch):
    whole, opened = list(make('map').batches(1)), []
    load = TokenBlocks._load
    c = make('map'); c.blocks._open = {}
    monkeypatch.setattr(TokenBlocks, '_load', lambda self, path: opened.append(path.name) or load(self, path))
    assert same(next(c.batches(1, start=len(whole)-1)), whole[-1]) and len(opened) == 1 and opened[0] > '00001'


# ---- mixtures

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_spread_gives_exact_shares_over_every_window(weights):
    turns = spread(weights); W = len(turns); whole = np.array(weights)//np.gcd.reduce(weights)
    assert W == whole.sum()
    for i in range(W): assert (np.bincount((turns*2)[i:i+W], minlength=len(weights)) == whole).all()
    so_far = np.cumsum(np.eye(len(weights))[turns], 0)
    assert (np.abs(so_far-np.outer(np.arange(1, W+1), whole)/W) < 1+1e-9 if len(weights) < 3 else np.abs(so_far-np.outer(np.arange(1, W+1), whole)/W) < 2).all()

def test_spread_takes_fractions(): assert spread([0.75, 0.25]) == spread([3, 1]) == spread([30, 10]) and len(spread([1/3, 2/3])) == 3

def test_a_mixture_interleaves_its_sources_own_streams(tok):
    parts = lambda: [corpus(tok, n=n) for n in (40, 60, 25)]
    mixed = Mixture(parts(), [4, 1, 2]); turns = spread([4, 1, 2])
    rows = list(mixed.batches(1, tokens=300*64))
    for s, own in enumerate(parts()):
        mine = [r for i, r in enumerate(rows) if turns[i%7] == s]
        assert mine and all(map(same, mine, own.batches(1, tokens=10**6)))   # the second epoch of a short source too
    for i in range(0, 290, 13): assert all(map(same, Mixture(parts(), [4, 1, 2]).batches(1, tokens=300*64, start=i), rows[i:]))

def test_a_mixture_ends_with_its_first_source(tok):
    n = len(list(corpus(tok, n=20).batches(1)))
    rows = list(Mixture([corpus(tok, n=60), corpus(tok, n=20)], [1, 1]).batches(1))
    assert len(rows) == 2*n or len(rows) == 2*n+1

def test_a_mixture_is_told_from_another(make, tok):
    c = make('mixture'); next(c.batches(2))
    for other in (Mixture(c.parts, [1, 1]), Mixture(c.parts[::-1], [2, 1]), Mixture([corpus(tok, seed=1), c.parts[1]], [2, 1])):
        with pytest.raises(DataError, match='another stream'): other.resume(c.state)
    assert Mixture(c.parts, [4, 2]).resume(c.state) == 1

def test_load_corpus_takes_weights(tok, tmp_path):
    (tmp_path/'a.txt').write_text('aaaa '*600); (tmp_path/'b.jsonl').write_text('\n'.join(json.dumps(dict(text='bbbb '*40)) for _ in range(15)))
    c = load_corpus({str(tmp_path/'a.txt'): 3, str(tmp_path/'b.jsonl'): 1}, tok, seq_len=32, echo=0)
    a = next(c.batches(16, tokens=16*32))['input_ids'] == tok('a')['input_ids'][0]
    assert a.any(1).sum() == 12 and all(a.any(1)[i:i+4].sum() == 3 for i in range(12)) and '75.0%' in repr(c)
    for bad in (0, -1, float('nan'), float('inf'), 'x', True):
        with pytest.raises(ConfigError, match='at least 0.001'): load_corpus({str(tmp_path/'a.txt'): bad, str(tmp_path/'b.jsonl'): 1}, tok, seq_len=32)

def test_text_beside_conversations_is_learned_whole(tok, tmp_path):
    (tmp_path/'a.txt').write_text('words and '*200)
    talk = [dict(role='user', content='hi'), dict(role='assistant', content='hello you')]
    (tmp_path/'c.jsonl').write_text('\n'.join(json.dumps(dict(messages=talk)) for _ in range(20)))
    b = next(load_corpus({str(tmp_path/'a.txt'): 1, f'chat:{tmp_path/"c.jsonl"}': 1}, tok, seq_len=40).batches(4))
    assert sorted(m.all().item() for m in b['loss_mask']) == [False, False, True, True] and b['loss_mask'].any(1).all()


# ---- documents kept apart

def test_restarts():
    assert places(torch.tensor([[0, 0, 1, 2, 2, 2], [0]*6])).tolist() == [[0, 1, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5]]

def test_docs_changes_nothing_but_adds_positions(make):
    for kind in KINDS:
        plain, more = next(make(kind).batches(8)), next(make(kind).batches(8, docs=True))
        assert torch.equal(more.pop('position_ids'), places(plain['doc_ids'])) and same(plain, more)

def test_a_corpus_made_with_docs_says_so(tok):
    c = corpus(tok, docs=True)
    assert 'position_ids' in next(c.batches(2)) and 'position_ids' not in next(c.batches(2, docs=False))
    other = corpus(tok); next(other.batches(2))
    with pytest.raises(DataError, match='docs'): c.resume(other.state)

@pytest.mark.parametrize('mixer', ['gdn', 'gla', 'rwkv7', 'mamba2'])
def test_a_packed_row_is_its_documents_one_by_one(tok, mixer):
    "Teacher, all-linear student and hybrid; and without the borders it is not"
    teacher = tiny_teacher('llama', vocab_size=len(tok), num_hidden_layers=3)
    student = build_student(teacher, mixer=mixer, settings=dict(window=4) if mixer == 'gdn' else None, verbose=False)
    c = corpus(tok, seq_len=128, echo=0)
    b = next(b for b in c.batches(1, docs=True) if len(b['doc_ids'].unique()) > 2)
    cuts = (*(b['position_ids'][0] == 0).nonzero().flatten().tolist(), 128)
    for model in (teacher, student, build_hybrid(student, teacher, [1])):
        with torch.no_grad():
            packed = model(b['input_ids'], position_ids=b['position_ids'], use_cache=False).logits
            alone = torch.cat([model(b['input_ids'][:, i:j], use_cache=False).logits for i, j in itertools.pairwise(cuts)], 1)
            assert_close(packed, alone, 1e-5)
            assert rms_error(model(b['input_ids'], use_cache=False).logits, alone) > 1e-2


# ---- the token cache, with company and trouble

def slow_source(log, kill_at=None, n=300):
    "Notes in a file which documents were read, and by whom"
    def read(state=None):
        for i, t in enumerate(texts(n)):
            if i < (state or 0): continue
            if i == kill_at: os.kill(os.getpid(), signal.SIGKILL)
            with open(log, 'a') as f: f.write(f'{os.getpid()} {i}\n')
            yield t, i+1
    return Source('noted', 'noted', read)

def in_process(fn, *args):
    p = FORK.Process(target=fn, args=args); p.start(); return p

def test_a_kill_in_the_middle_leaves_whole_blocks_only(tok, tmp_path):
    def work(): [TokenBlocks(slow_source(tmp_path/'log', kill_at=250), tok, 4000).block(b) for b in range(9)]
    p = in_process(work); p.join(60)
    assert p.exitcode == -signal.SIGKILL
    blocks = TokenBlocks(slow_source(tmp_path/'log2'), tok, 4000)
    there = sorted(f.name for f in blocks.folder.iterdir() if not f.name.startswith('.'))
    assert there and there == [f'{i:05d}' for i in range(len(there))] and all((blocks.folder/f/'info.json').exists() for f in there)
    got = [blocks.block(b) for b in itertools.takewhile(lambda b: blocks.info(b), itertools.count())]
    first = int((tmp_path/'log2').read_text().split()[1])
    assert first == blocks.info(len(there)-1)['state'] > 0               # goes on, does not begin again
    fresh = TokenBlocks(from_list('other', lambda: texts(300), 'other'), tok, 4000)
    assert sum(b['info']['docs'] for b in got) == 300 and all((blocks.block(b)['tokens'] == fresh.block(b)['tokens']).all() for b in range(len(got)))

def test_two_processes_tokenize_once(tok, tmp_path):
    def work(): list(Corpus(TokenBlocks(slow_source(tmp_path/'log'), tok, 4000), seq_len=64).batches(2))
    ps = [in_process(work) for _ in range(2)]
    for p in ps: p.join(120)
    assert [p.exitcode for p in ps] == [0, 0]
    read = [int(l.split()[1]) for l in (tmp_path/'log').read_text().splitlines()]
    assert set(read) == set(range(300)) and len(read) <= 300+len(list(TokenBlocks(slow_source(tmp_path/'log'), tok, 4000).folder.iterdir()))   # at most a look ahead per block

def test_a_file_that_changes_between_blocks_is_noticed(tok, tmp_path):
    f = tmp_path/'a.jsonl'; f.write_text('\n'.join(json.dumps(dict(text=t)) for t in texts(100)))
    blocks = TokenBlocks(open_source(str(f)), tok, 2000); assert blocks.block(0)
    old = blocks.fingerprint; text = f.read_text().replace('lake', 'pond'); f.write_text(text); os.utime(f, ns=(1, 1))
    with pytest.raises(DataError, match='changed since'): blocks.block(1)
    new = TokenBlocks(open_source(str(f)), tok, 2000)                    # same name, same size
    assert new.fingerprint != old and 'pond' in tok.decode(new.block(0)['tokens'])

def test_a_changed_dataset_folder_is_read_again(tok, tmp_path):
    f = tmp_path/'a.jsonl'; f.write_text('{"text": "one"}\n'); a = open_source(f'hf:{tmp_path}').fingerprint
    f.write_text('{"text": "two"}\n'); os.utime(f, ns=(1, 1))
    assert open_source(f'hf:{tmp_path}').fingerprint != a

def test_a_full_disk_says_what_to_do_and_leaves_nothing(tok):
    "A limit on file size is what a full disk looks like to numpy"
    def work(folder):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try: TokenBlocks(from_list('x', texts, 'full'), tok).block(0)
        except DataError as e: os._exit(7 if 'HYBRID_TUTORIAL_CACHE' in str(e) and not [f for f in folder.iterdir() if f.name != '.lock'] else 8)
        os._exit(9)
    p = in_process(work, TokenBlocks(from_list('x', texts, 'full'), tok).folder); p.join(60)
    assert p.exitcode == 7
    assert TokenBlocks(from_list('x', texts, 'full'), tok).block(0)['info']['docs'] == 60

def test_a_cache_that_cannot_be_written(tok, tmp_path, monkeypatch):
    (tmp_path/'taken').write_text('')
    monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path/'taken'))
    with pytest.raises(ConfigError, match='HYBRID_TUTORIAL_CACHE'): corpus(tok)
    monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path/'shared'))
    whole = list(corpus(tok).batches(2)); folder = corpus(tok).blocks.folder
    (folder/'.lock').unlink(); (folder/'.lock').mkdir()                  # whoever has no right to write cannot open the lock either
    assert all(map(same, corpus(tok).batches(2), whole))                 # reading needs no right to write
    (folder/'00001'/'info.json').unlink()
    with pytest.raises(ConfigError, match='HYBRID_TUTORIAL_CACHE'): list(corpus(tok).batches(2))


# ---- the three stages with documents kept apart

@pytest.fixture(scope='module')
def rows():
    "Two rows of three documents each; the same documents alone"
    ids = torch.randint(3, 90, (2, 24), generator=torch.Generator().manual_seed(0))
    doc_ids = torch.tensor([[0]*7+[1]*9+[2]*8, [0]*4+[1]*15+[2]*5])
    packed = dict(input_ids=ids, doc_ids=doc_ids, position_ids=places(doc_ids))
    return packed, [ids[r:r+1, doc_ids[r] == d] for r in range(2) for d in range(3)]

@pytest.fixture(scope='module')
def models():
    teacher = tiny_teacher('qwen2', num_hidden_layers=3)
    student = build_student(teacher, settings=dict(window=0), verbose=False)
    return teacher, student, build_hybrid(student, teacher, [1])

def average(values, docs, weight=lambda n: n):
    w = torch.tensor([float(weight(d.numel())) for d in docs])
    return float((torch.tensor(values)*w).sum()/w.sum())

HOW = dict(dtype='float32')

def first_loss(stage, model, *args, **how):
    return stage(copy.deepcopy(model), *args, **how, **HOW).records[0]['loss']

def test_alignment_sees_documents_alone(rows, models):
    (packed, docs), (teacher, student, _) = rows, models
    one = lambda data: first_loss(align, student, teacher, data, calibrate_tokens=0)
    want = average([one([d]) for d in docs], docs)
    assert abs(one([packed])/want-1) < 1e-5 and abs(one([packed['input_ids']])/want-1) > 1e-3

def test_alignment_from_a_folder_sees_documents_alone(rows, models, tmp_path):
    (packed, _), (teacher, student, _) = rows, models
    one = lambda data: first_loss(align, student, teacher, data, calibrate_tokens=0, activations=TeacherActivations(teacher, tmp_path, 'float32'))
    apart, mixed, again = one([packed]), one([packed['input_ids']]), one([packed])
    assert apart == again and abs(mixed/apart-1) > 1e-3 and abs(apart/first_loss(align, student, teacher, [packed], calibrate_tokens=0)-1) < 1e-2

def test_closed_form_sees_documents_alone(rows, models):
    (packed, docs), (teacher, student, _) = rows, models
    a, b, c = (copy.deepcopy(student) for _ in range(3))
    ea, eb, ec = calibrate(a, teacher, [packed], **HOW), calibrate(b, teacher, [dict(input_ids=d) for d in docs], **HOW), calibrate(c, teacher, [dict(input_ids=packed['input_ids'])], **HOW)
    for i in ea: assert abs(ea[i]-eb[i]) < 1e-5
    assert any(abs(ea[i]-ec[i]) > 1e-3 for i in ea)
    for i in a.mixers: assert_close(a.mixers[i].o_proj.weight, b.mixers[i].o_proj.weight, 1e-4)
    got, want = layer_errors(a, teacher, [packed], **HOW), layer_errors(a, teacher, [dict(input_ids=d) for d in docs], **HOW)
    assert all(abs(got[i]-want[i]) < 1e-5 for i in want)

@pytest.mark.parametrize('source', ['live', 'kept', 'disk'])
def test_distillation_sees_documents_alone(rows, models, source, tmp_path):
    (packed, docs), (teacher, _, hybrid) = rows, models
    said = dict(live=lambda d: teacher, kept=lambda d: TeacherStates(teacher, 'float32'), disk=lambda d: cache_teacher(teacher, d, tmp_path/str(len(list(tmp_path.iterdir()))), k=99, kind='float32', **HOW))[source]
    one = lambda d: first_loss(distill, hybrid, said(d), d)
    want = average([one([d]) for d in docs], docs)
    assert abs(one([packed])/want-1) < 1e-4 and abs(one([packed['input_ids']])/want-1) > 1e-3

def test_finetuning_sees_documents_alone(rows, models):
    (packed, docs), (_, _, hybrid) = rows, models
    one = lambda d: first_loss(finetune, hybrid, d)
    want = average([one([d]) for d in docs], docs, lambda n: n-1)
    assert abs(one([packed])/want-1) < 1e-5 and abs(one([packed['input_ids']])/want-1) > 1e-3
    masked = dict(packed, loss_mask=torch.rand(2, 24, generator=torch.Generator().manual_seed(1)) < 0.5)
    logits = hybrid(packed['input_ids'], position_ids=packed['position_ids'], use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), packed['input_ids'][:, 1:], reduction='none')
    counts = (masked['loss_mask'] & (packed['position_ids'] > 0))[:, 1:]
    assert abs(one([masked])/float(loss[counts].mean())-1) < 1e-5
