"The teacher on disk: the loss against brute force, the cache against kills, rot, strangers and other processes"
import copy, gc, multiprocessing, os, resource, shutil, signal, weakref
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from hybrid_tutorial.core import CheckpointError, ConfigError, DataError, ShapeError, TeacherError, assert_close
from hybrid_tutorial.data import load_corpus
from hybrid_tutorial.models.elastic import build_elastic
from hybrid_tutorial.models.hybrid import build_hybrid, build_student
from hybrid_tutorial.ops.loss import chunked_kl, dense_kl
from hybrid_tutorial.selection.scores import score_layers
from hybrid_tutorial.training import cached as module
from hybrid_tutorial.training.cached import CachedTeacher, bucketed, bytes_per_token, cache_teacher, row_digests, teacher_words, topk_kl
from hybrid_tutorial.training.elastic import distill_elastic
from hybrid_tutorial.training.logits import distill

from helpers import tiny_teacher, tokens
from test_data import byte_tokenizer

V = 99
DATA = [tokens(2, 16, seed=s) for s in range(10)]
FORK = multiprocessing.get_context('fork')


@pytest.fixture(scope='module')
def teacher(): return tiny_teacher('qwen2', num_hidden_layers=2)

@pytest.fixture(scope='module')
def hybrid(teacher): return build_hybrid(build_student(teacher, settings=dict(window=0), verbose=False), teacher, [1])

def fresh(hybrid):
    return copy.deepcopy(hybrid)

def write(teacher, folder, data=DATA, **how): return cache_teacher(teacher, data, folder, **{**dict(k=8, shard_tokens=64, dtype='float32'), **how})

def content(folder): return {f.name: f.read_bytes() for f in sorted(Path(folder).iterdir())}


# ---- the loss

def brute_force(h, E, ids, log_p, temperature=1., softcap=None, logit_scale=1.):
    "Token by token and word by word, in float64"
    out = []
    for hh, words, lp in zip(h.double(), ids, log_p.double()):
        z = E.double()@hh*logit_scale
        if softcap: z = softcap*torch.tanh(z/softcap)
        q = (z/temperature).softmax(0)
        rest_q = sum(q[w] for w in range(len(q)) if w not in set(words.tolist()))
        terms = [p.exp()*(p-q[w].log()) for w, p in zip(words, lp)]
        out.append(temperature**2*(sum(terms)+lp[-1].exp()*(lp[-1]-rest_q.log())))
    return torch.stack(out)

def example(N=13, D=10, W=41, k=5, seed=0, temperature=1.):
    g = torch.Generator().manual_seed(seed); r = lambda *s: torch.randn(*s, generator=g)
    z = 2*r(N, W)/temperature; ids = z.topk(k).indices
    return r(N, D), r(W, D), ids, bucketed(z, ids).log_softmax(-1), z

OPTIONS = [{}, dict(temperature=2.), dict(softcap=3.), dict(logit_scale=0.25), dict(temperature=0.7, softcap=5., logit_scale=2.)]

@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('chunk', [1, 4, 100])
def test_value_is_brute_force(options, chunk):
    h, E, ids, log_p, _ = example(temperature=options.get('temperature', 1.))
    want = brute_force(h, E, ids, log_p, **options)
    assert_close(topk_kl(h, E, ids, log_p, chunk_size=chunk, reduction='none', **options).double(), want, 1e-5)
    mask = torch.arange(13) % 3 > 0
    assert_close(topk_kl(h, E, ids, log_p, mask=mask, chunk_size=chunk, **options).double(), want[mask].mean(), 1e-5)
    assert_close(topk_kl(h, E, ids, log_p, chunk_size=chunk, reduction='sum', **options).double(), want.sum(), 1e-5)

@pytest.mark.parametrize('options', OPTIONS)
def test_gradient_is_the_finite_difference(options):
    "Of the brute force in float64, for hidden states and head, across chunks"
    h, E, ids, log_p, _ = example(N=5, D=4, W=17, k=3, temperature=options.get('temperature', 1.))
    a, b = h.clone().requires_grad_(), E.clone().requires_grad_()
    (3*topk_kl(a, b, ids, log_p, chunk_size=2, **options)).backward()
    for x, got in ((h.double(), a.grad), (E.double(), b.grad)):
        want = torch.zeros_like(x)
        for i in range(x.numel()):
            step = torch.zeros_like(x).view(-1); step[i] = 1e-5; step = step.view_as(x)
            f = lambda y: 3*brute_force(*((y, E) if x.shape == h.shape else (h, y)), ids, log_p, **options).mean()
            want.view(-1)[i] = (f(x+step)-f(x-step))/2e-5
        assert_close(got.double(), want, 2e-5)

def test_gradient_of_the_logits_in_closed_form():
    _, _, ids, log_p, z = example()
    s = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    dense_kl(bucketed(s, ids), log_p).sum().backward()
    q, p = s.detach().softmax(-1), log_p.exp()
    inside = torch.zeros_like(q).scatter(-1, ids, 1.)
    rest_q = (q*(1-inside)).sum(-1, keepdim=True)
    want = torch.where(inside > 0, q-torch.zeros_like(q).scatter(-1, ids, p[:, :-1]), q*(1-p[:, -1:]/rest_q))
    assert_close(s.grad, want, 1e-5)

@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0.1, 12.), st.floats(0., 12.))
def test_a_lower_bound_that_grows_with_k(seed, W, sharp, far):
    g = torch.Generator().manual_seed(seed)
    t = sharp*torch.randn(4, W, generator=g, dtype=torch.float64); s = t+far*torch.randn(4, W, generator=g, dtype=torch.float64)
    order, full = t.argsort(-1, descending=True), dense_kl(s, t)
    kl = torch.stack([dense_kl(bucketed(s, order[:, :k]), bucketed(t, order[:, :k])) for k in range(1, W+1)])
    room = 1e-5*(1+full)
    assert torch.isfinite(kl).all() and (kl >= -room).all() and (kl <= full+room).all() and (kl.diff(dim=0) >= -room).all()
    assert (kl[-1]-full).abs().max() <= room.max()

def test_all_words_are_the_full_kl():
    g = torch.Generator().manual_seed(0); r = lambda *s: torch.randn(*s, generator=g)
    h_s, h_t, E_s, E_t = r(2, 9, 6), r(2, 9, 7), r(31, 6), r(31, 7)
    ids = (h_t@E_t.T).topk(31).indices
    log_p = bucketed(h_t@E_t.T, ids).log_softmax(-1); assert log_p.shape[-1] == 31
    grads = []
    for fn in (lambda h, E: topk_kl(h, E, ids, log_p, chunk_size=4), lambda h, E: chunked_kl(h, h_t, E, E_t)):
        h, E = h_s.clone().requires_grad_(), E_s.clone().requires_grad_()
        loss = fn(h, E); grads.append((loss.detach(), *torch.autograd.grad(loss, (h, E))))
    for got, want in zip(*grads): assert_close(got, want, 2e-6)

def test_equal_student_has_loss_and_gradient_zero():
    h, E, _, _, _ = example()
    h.requires_grad_(); z = (h@E.T).detach(); ids = z.topk(5).indices
    loss = topk_kl(h, E, ids, bucketed(z, ids).log_softmax(-1)); loss.backward()
    assert loss.abs() < 1e-6 and h.grad.abs().max() < 1e-6

def test_tail_far_away_is_seen():
    "The renormalised loss over the kept words would be 0 here"
    E = torch.eye(6); ids = torch.tensor([[0, 1]]); log_p = torch.tensor([[0.45, 0.45, 0.1]]).log()
    low = topk_kl(torch.tensor([[0., 0., 9., 9., 9., 9.]]), E, ids, log_p)
    assert low > 5 and torch.isfinite(topk_kl(torch.tensor([[0., 0., 900., 0., 0., 0.]]), E, ids, log_p))

def test_never_more_than_a_chunk_of_logits():
    "The largest tensor made forward and backward, head and inputs aside"
    class Largest(TorchDispatchMode):
        size = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else [out]:
                if torch.is_tensor(t) and t.dim() == 2 and t.shape[-1] == 997: Largest.size = max(Largest.size, t.shape[0])
            return out
    h, E, ids, log_p, _ = example(N=64, D=4, W=997)
    h.requires_grad_()
    with Largest(): topk_kl(h, E, ids, log_p, chunk_size=8).backward()
    assert Largest.size == 8

def test_bad_inputs_of_the_loss():
    h, E, ids, log_p, _ = example()
    for bad in ((h[:5], E, ids, log_p), (h, E, ids, log_p[:, :-1]), (h, E, ids[:, :3], log_p)):
        with pytest.raises(ShapeError, match='k\\+1'): topk_kl(*bad)
    with pytest.raises(ConfigError, match='reduction'): topk_kl(h, E, ids, log_p, reduction='average')


# ---- the cache

def test_bytes_per_token_is_what_the_file_has(teacher, tmp_path):
    for kind, k in (('float16', 8), ('float32', 3), ('bfloat16', V)):
        c = write(teacher, tmp_path/f'{kind}{k}', k=k, kind=kind)
        held = sum(t.numel()*t.element_size() for s in range(c.settings['shards']) for t in (c.shard(s).get_tensor(n) for n in ('ids', 'log_p')))
        assert held == c.tokens*bytes_per_token(k, V, kind) and c.tokens == 10*2*16
    assert [bytes_per_token(k, 49152) for k in (16, 64, 256)] == [66, 258, 1026] and bytes_per_token(64, 152064) == 386
    assert bytes_per_token(4, 2**16) == 4*2+5*2 and bytes_per_token(4, 2**16+1) == 4*4+5*2 and bytes_per_token(7, 7) == 28

@pytest.mark.parametrize('kind,tol', [('float32', 0.), ('float16', 1e-3), ('bfloat16', 1e-2)])
def test_cache_returns_what_the_teacher_said(teacher, tmp_path, kind, tol):
    c = write(teacher, tmp_path/'c', kind=kind)
    for ids in (DATA[0], DATA[9], torch.cat([DATA[7][1:], DATA[2]])):        # any rows in any company
        words, log_p = c(0, ids)
        for i, row in enumerate(ids):
            want = teacher_words(teacher, dict(input_ids=row[None]), 8, dtype='float32')
            assert torch.equal(words[i], want[0][0])
            if tol: assert_close(log_p[i].exp(), want[1][0].exp(), tol)
            else: assert_close(log_p[i], want[1][0], 1e-5)

def test_words_beyond_65536_keep_their_numbers(tmp_path):
    big = tiny_teacher('llama', vocab_size=70_001, num_hidden_layers=1, hidden_size=12, num_attention_heads=2, num_key_value_heads=1)
    data = [tokens(1, 6, vocab=70_001)]
    words, _ = write(big, tmp_path/'c', data)(0, data[0])
    assert torch.equal(words, big(data[0]).logits.topk(8).indices) and words.max() > 2**16

def test_documents_kept_apart_are_other_rows(tmp_path, monkeypatch):
    monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path/'cache'))
    tok = byte_tokenizer(); teacher = tiny_teacher('llama', vocab_size=len(tok), num_hidden_layers=2)
    e = tok.eos_token_id; rows = torch.tensor([[5, 6, 7, e, 9, 10, 11, 12]])
    c = write(teacher, tmp_path/'c', load_corpus([rows], tok, seq_len=8, docs=True), batch_size=1)
    pos = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    apart = teacher_words(teacher, dict(input_ids=rows[:, 4:]), 8, dtype='float32')
    assert torch.equal(c(0, rows, pos)[0][:, 4:], apart[0]) and row_digests(rows) != row_digests(rows, pos)
    with pytest.raises(DataError, match='never read'): c(0, rows)

def test_a_rerun_asks_nothing_and_changes_nothing(teacher, tmp_path):
    write(teacher, tmp_path/'c'); before, calls = content(tmp_path/'c'), []
    handle = teacher.model.register_forward_hook(lambda *a: calls.append(1))
    try: again = write(teacher, tmp_path/'c')
    finally: handle.remove()
    assert content(tmp_path/'c') == before and not calls and again.tokens == 320

@pytest.mark.parametrize('where', ['forward', 'shard', 'slip'])
def test_killed_in_the_middle_goes_on(teacher, tmp_path, where):
    "In a forward pass, with a shard half written, or between a shard and its slip"
    write(teacher, tmp_path/'whole')
    def work():
        die, seen = (lambda: os.kill(os.getpid(), signal.SIGKILL)), []
        def count(*a):
            seen.append(1)
            if len(seen) == 6: die()
        if where == 'forward': teacher.model.register_forward_hook(count)
        save = module.save_file
        def half(tensors, path):
            seen.append(1); save(tensors, path)
            if len(seen) == 3: os.truncate(path, 100); die()
        if where == 'shard': module.save_file = half
        files = module.atomic_file
        if where == 'slip': module.atomic_file = lambda p: die() if Path(p).name == '000002.json' else files(p)
        write(teacher, tmp_path/'killed')
    p = FORK.Process(target=work); p.start(); p.join(60)
    assert p.exitcode == -signal.SIGKILL
    there = content(tmp_path/'killed')
    assert '000001.json' in there and '000002.json' not in there
    with pytest.raises(CheckpointError, match='lacks 3 of 5 shards, the first is 000002'): CachedTeacher(tmp_path/'killed')
    calls = []; handle = teacher.model.register_forward_hook(lambda *a: calls.append(1))
    try: got = write(teacher, tmp_path/'killed')
    finally: handle.remove()
    kept = {n: b for n, b in content(tmp_path/'killed').items() if not n.startswith('.')}
    assert kept == content(tmp_path/'whole') and len(calls) == 6 and got.tokens == 320

def test_two_processes_share_the_work_and_the_files_are_the_same(teacher, tmp_path):
    whole = write(teacher, tmp_path/'one')
    assert write(teacher, tmp_path/'two', rank=1, world=2) is None
    p = FORK.Process(target=lambda: write(teacher, tmp_path/'two', rank=0, world=2)); p.start(); p.join(60)
    assert p.exitcode == 0 and content(tmp_path/'one') == content(tmp_path/'two') and CachedTeacher(tmp_path/'two').tokens == whole.tokens
    assert write(teacher, tmp_path/'three', rank=0, world=3) is None     # a part of the work, then fewer processes
    write(teacher, tmp_path/'three'); assert content(tmp_path/'three') == content(tmp_path/'one')

def test_ranks_of_stage_2_read_their_own_rows(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path/'cache'))
    tok = byte_tokenizer(); teacher = tiny_teacher('llama', vocab_size=len(tok), num_hidden_layers=2)
    c = load_corpus(DATA, tok, seq_len=16); cached = write(teacher, tmp_path/'c', c, batch_size=5)
    for whole, *parts in zip(c.batches(4), *(c.batches(4, rank=r, world=2) for r in range(2))):
        want, got = cached(0, whole['input_ids']), [cached(0, p['input_ids']) for p in parts]
        assert all(torch.equal(torch.cat(g), w) for g, w in zip(zip(*got), want))

@pytest.mark.parametrize('how', ['flip', 'cut', 'gone'])
def test_a_damaged_shard_is_named_and_only_it_is_made_again(teacher, tmp_path, how):
    c = write(teacher, tmp_path/'c'); before = content(tmp_path/'c'); f = tmp_path/'c'/'000003.safetensors'
    raw = bytearray(f.read_bytes()); raw[-5] ^= 1
    f.unlink() if how == 'gone' else f.write_bytes(raw if how == 'flip' else raw[:-9])
    c = CachedTeacher(tmp_path/'c'); c(0, DATA[0])
    with pytest.raises(CheckpointError, match='000003.safetensors is damaged.*000003.json'): c(6, DATA[6])
    (tmp_path/'c'/'000003.json').unlink()
    calls = []; handle = teacher.model.register_forward_hook(lambda *a: calls.append(1))
    try: write(teacher, tmp_path/'c')
    finally: handle.remove()
    assert len(calls) == 2 and content(tmp_path/'c') == before

def test_damaged_slip_and_settings(teacher, tmp_path):
    write(teacher, tmp_path/'c'); (tmp_path/'c'/'000001.json').write_text('{"sha')
    with pytest.raises(CheckpointError, match='slip'): CachedTeacher(tmp_path/'c')
    (tmp_path/'c'/'settings.json').write_text('{')
    with pytest.raises(CheckpointError, match='settings.json'): write(teacher, tmp_path/'c')
    with pytest.raises(CheckpointError, match='no cache'): CachedTeacher(tmp_path/'nowhere')

@pytest.mark.parametrize('change,says', [(dict(k=9), 'k: 8 there, 9 now'), (dict(kind='float32'), 'kind'), (dict(temperature=2.), 'temperature'), (dict(data=DATA[:9]), 'data'),
    (dict(data=DATA[::-1]), 'data'), (dict(shard_tokens=32), 'batches_per_shard'), (dict(teacher=1), 'teacher')])
def test_a_stale_cache_is_refused(teacher, tmp_path, change, says):
    write(teacher, tmp_path/'c'); before = content(tmp_path/'c')
    if 'teacher' in change: change = dict(teacher=tiny_teacher('qwen2', seed=1, num_hidden_layers=2))
    with pytest.raises(CheckpointError, match=says): write(**{**dict(teacher=teacher, folder=tmp_path/'c'), **change})
    assert content(tmp_path/'c') == before

@pytest.mark.parametrize('bad', [dict(k=0), dict(k=V+1), dict(k=2.5), dict(k=True), dict(kind='int8'), dict(tokens=0)])
def test_bad_settings(teacher, tmp_path, bad):
    with pytest.raises(ConfigError): write(teacher, tmp_path/'c', **bad)

def test_a_disk_that_is_too_small_is_noticed_before_the_work(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**9, 10**9-1000, 1000))
    with pytest.raises(CheckpointError, match='fewer than 8 words'): write(teacher, tmp_path/'c')

def test_a_disk_that_fills_up(teacher, tmp_path):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        try: write(teacher, tmp_path/'c')
        except CheckpointError as e: os._exit(7 if 'Free some space' in str(e) else 8)
        os._exit(9)
    p = FORK.Process(target=work); p.start(); p.join(60)
    assert p.exitcode == 7 and set(content(tmp_path/'c')) == {'settings.json'}
    assert write(teacher, tmp_path/'c').tokens == 320


# ---- stage 2

def run(hybrid, source, **how):
    h = fresh(hybrid); m = distill(h, source, how.pop('data', DATA), lr=1e-3, lr_attention=3e-3, dtype='float32', **how)
    return [r['loss'] for r in m.records], torch.cat([p.flatten() for p in h.parameters()])

@pytest.mark.parametrize('kind,tol', [('float32', 1e-4), ('float16', 2e-3), ('bfloat16', 2e-2)])
def test_stage_2_from_disk_with_all_words_is_stage_2_with_the_teacher(teacher, hybrid, tmp_path, kind, tol):
    "Ten steps; the tolerance is that of the stored kind"
    losses, weights = run(hybrid, teacher)
    got_losses, got_weights = run(hybrid, write(teacher, tmp_path/'c', k=V, kind=kind))
    before = torch.cat([p.flatten() for p in hybrid.parameters()])
    assert losses[-1] < losses[0]
    assert_close(torch.tensor(got_losses), torch.tensor(losses), tol); assert_close(got_weights-before, weights-before, 50*tol)

@pytest.mark.parametrize('family', ['granite', 'gemma2'])
def test_scaled_and_capped_logits(family, tmp_path):
    teacher = tiny_teacher(family, num_hidden_layers=2)
    hybrid = build_hybrid(build_student(teacher, settings=dict(window=0), verbose=False), teacher, [0])
    want, got = (run(hybrid, s, data=DATA[:3])[0] for s in (teacher, write(teacher, tmp_path/'c', k=V, kind='float32')))
    assert_close(torch.tensor(got), torch.tensor(want), 1e-4)

def test_a_temperature_of_its_own(teacher, hybrid, tmp_path):
    c = write(teacher, tmp_path/'c', k=V, kind='float32', temperature=2.)
    assert_close(torch.tensor(run(hybrid, c, temperature=2., data=DATA[:3])[0]), torch.tensor(run(hybrid, teacher, temperature=2., data=DATA[:3])[0]), 1e-4)
    with pytest.raises(ConfigError, match='cached at temperature 2'): run(hybrid, c)

def test_few_words_lower_the_full_kl(teacher, hybrid, tmp_path):
    h = fresh(hybrid)
    def full():
        with torch.no_grad(): return float(sum(dense_kl(h(d).logits, teacher(d).logits).mean() for d in DATA)/10)
    before = full(); m = distill(h, write(teacher, tmp_path/'c', k=8), DATA*3, lr=1e-3, lr_attention=3e-3, dtype='float32')
    assert full() < 0.8*before and m.records[0]['loss'] < before

def test_no_teacher_is_in_memory(hybrid, tmp_path):
    teacher = tiny_teacher('qwen2', num_hidden_layers=2); gone = weakref.ref(teacher)
    c = write(teacher, tmp_path/'c'); del teacher; gc.collect()
    assert gone() is None and len(run(hybrid, c)[0]) == 10

def test_other_batch_sizes_and_orders_find_their_rows(teacher, hybrid, tmp_path):
    c = write(teacher, tmp_path/'c', k=V, kind='float32')
    mixed = [torch.cat([DATA[5], DATA[1]]), DATA[8][:1], torch.cat([DATA[0][1:], DATA[9]])]
    assert_close(torch.tensor(run(hybrid, c, data=mixed)[0]), torch.tensor(run(hybrid, teacher, data=mixed)[0]), 1e-4)
    with pytest.raises(DataError, match='never read by this teacher'): run(hybrid, c, data=[tokens(2, 16, seed=77)])

def test_strangers_are_refused(teacher, hybrid, tmp_path):
    other = tiny_teacher('qwen2', num_hidden_layers=2, vocab_size=120)
    with pytest.raises(TeacherError, match='120 and 99 words'): run(hybrid, write(other, tmp_path/'o'))

def test_resumed_stage_2_equals_one_run_and_keeps_its_teacher(teacher, hybrid, tmp_path, monkeypatch):
    c = write(teacher, tmp_path/'c'); whole = run(hybrid, c)
    h, calls = fresh(hybrid), []
    read = CachedTeacher.__call__
    def stop(self, *a):
        calls.append(1)
        if len(calls) == 5: os.kill(os.getpid(), signal.SIGINT)
        return read(self, *a)
    monkeypatch.setattr(CachedTeacher, '__call__', stop)
    with pytest.raises(KeyboardInterrupt): distill(h, c, DATA, lr=1e-3, lr_attention=3e-3, dtype='float32', folder=tmp_path/'run')
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match='other settings'): run(hybrid, teacher, folder=tmp_path/'run')
    with pytest.raises(CheckpointError, match='other settings'): run(hybrid, write(teacher, tmp_path/'c9', k=9), folder=tmp_path/'run')
    losses, weights = run(hybrid, c, folder=tmp_path/'run')
    assert losses == whole[0][5:] and torch.equal(weights, whole[1])


# ---- scoring

@pytest.mark.parametrize('method', ['kl', 'kl_removal', 'kl_greedy'])
def test_scores_from_disk_with_all_words_are_the_scores(teacher, tmp_path, method):
    student = build_student(teacher, settings=dict(window=0), verbose=False)
    c = write(teacher, tmp_path/'c', k=V, kind='float32')
    score = lambda **how: score_layers(student, teacher, DATA, method=method, tokens=160, dtype='float32', **how)
    want, got = score(), score(answers=c)
    for text in want.texts: assert_close(torch.tensor(got.texts[text]), torch.tensor(want.texts[text]), 1e-3)
    assert got.ranking == want.ranking
    few = score(answers=write(teacher, tmp_path/'few', k=8))
    assert few.scores != want.scores and few.ranking[0] == want.ranking[0]

def test_scoring_with_answers_asks_the_teacher_no_more(teacher, tmp_path):
    "The base of `kl` is the student, so whole passes of the teacher are its answers and nothing else"
    student, c, calls = build_student(teacher, settings=dict(window=0), verbose=False), write(teacher, tmp_path/'c'), []
    handle = teacher.model.register_forward_hook(lambda *a: calls.append(1))
    try:
        score_layers(student, teacher, DATA, method='kl', tokens=160, dtype='float32', answers=c); assert not calls
        score_layers(student, teacher, DATA, method='kl', tokens=160, dtype='float32'); assert calls
    finally: handle.remove()

def test_scoring_refuses_answers_it_cannot_use(teacher, tmp_path):
    student, c = build_student(teacher, settings=dict(window=0), verbose=False), write(teacher, tmp_path/'c')
    with pytest.raises(ConfigError, match='kl_removal'): score_layers(student, teacher, DATA, method='uniform', answers=c)
    with pytest.raises(DataError, match='never read'): score_layers(student, teacher, [tokens(2, 16, seed=50)], answers=c, dtype='float32')

def test_a_ledger_knows_whose_answers_it_holds(teacher, tmp_path):
    student = build_student(teacher, settings=dict(window=0), verbose=False)
    how = dict(method='kl', tokens=160, dtype='float32', out=tmp_path/'ledger.jsonl')
    live, few = score_layers(student, teacher, DATA, **how), score_layers(student, teacher, DATA, answers=write(teacher, tmp_path/'c', k=4), **how)
    assert few.cost['reused'] == 0 and few.scores != live.scores and score_layers(student, teacher, DATA, **how).cost['reused'] > 0


def test_elastic_training_from_disk(teacher, tmp_path):
    student, c = build_student(teacher, settings=dict(window=0), verbose=False), write(teacher, tmp_path/'c', k=V, kind='float32')
    losses = []
    for source in (teacher, c):
        m = distill_elastic(build_elastic(student, teacher), source, DATA[:4], [1, 0], lr=1e-3, lr_attention=3e-3, dtype='float32')
        losses.append(torch.tensor([r['loss'] for r in m.records]))
    assert_close(losses[1][:1], losses[0][:1], 1e-4)
    assert_close(losses[1], losses[0], 1e-3)                          # Adam's first steps magnify rounding
