"The loop and its stages: design check 6, exact resume, faults"
import json, math, os, signal, subprocess, sys

import pytest
import torch

from hybrid_tutorial.core import CheckpointError, ConfigError, DataError, TeacherError, TrainingError, assert_close
from hybrid_tutorial.models.hybrid import build_hybrid, build_student
from hybrid_tutorial.training import loop
from hybrid_tutorial.training.align import TeacherActivations, add_up, align, alignment_loss, calibrate, listen
from hybrid_tutorial.training.finetune import finetune, next_token_loss
from hybrid_tutorial.training.logits import TeacherStates, distill, parameter_groups
from hybrid_tutorial.training.loop import LoopSettings, Metrics, feed, learning_rate, load_state, save_state, train

from helpers import NEAR, tiny_teacher, tokens

DATA = [tokens(2, 32, seed=s) for s in range(12)]


@pytest.fixture(scope='module')
def teacher(): return tiny_teacher('qwen2')


def layer_grads(student, teacher, ids, layer):
    student.requires_grad_(False); student.mixers[layer].requires_grad_(True)
    def visit(i, x, pos, y):
        if i == layer:
            with torch.enable_grad(): alignment_loss(y, student.mixers[i](x, pos)[0]).backward()
    with torch.no_grad(), listen(teacher, visit): teacher.model(ids, use_cache=False)
    return {n: p.grad.clone() for n, p in student.mixers[layer].named_parameters()}


def test_layer_gradient_ignores_other_students(teacher):
    a, b = (build_student(teacher, settings=NEAR, verbose=False) for _ in range(2))
    for i, m in b.mixers.items():
        if i != 2: torch.nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in m.parameters())), m.parameters())
    ga, gb = layer_grads(a, teacher, DATA[0], 2), layer_grads(b, teacher, DATA[0], 2)
    assert all(torch.equal(ga[n], gb[n]) for n in ga)


def test_align_trains_each_layer_as_if_alone(teacher):
    "also with the clip: a neighbour with huge gradients must not slow a layer down"
    a, b = (build_student(teacher, settings=NEAR, verbose=False) for _ in range(2))
    with torch.no_grad(): b.mixers[1].v_proj.weight.mul_(1e4)
    for s in (a, b): align(s, teacher, DATA, calibrate_tokens=0, warmup=0)
    assert all(torch.equal(p, q) for p, q in zip(a.mixers[3].parameters(), b.mixers[3].parameters()))


def test_align_changes_only_mixers_and_helps(teacher):
    s = build_student(teacher, settings=dict(window=0), verbose=False)
    before = {n: p.clone() for n, p in s.state_dict().items()}
    m = align(s, teacher, DATA*8, calibrate_tokens=0, lr=3e-3)
    changed = {n for n, p in s.state_dict().items() if not torch.equal(p, before[n])}
    assert changed and all('.self_attn.' in n for n in changed)
    assert m.records[-1]['loss'] < 0.7*m.records[0]['loss']
    assert len(m.records) == 96 and m.records[-1]['tokens'] == 96*64


def test_closed_form_is_the_gradients_fixed_point(teacher):
    s = build_student(teacher, settings=NEAR, verbose=False)
    batches = [dict(input_ids=d) for d in DATA]
    calibrate(s, teacher, batches, ridge=0., dtype='float32')
    s.requires_grad_(False)
    for m in s.mixers.values(): m.o_proj.weight.requires_grad_(True)
    scale = {}
    def visit(i, x, pos, y):
        with torch.enable_grad():
            loss = (s.mixers[i](x, pos)[0]-y).pow(2).sum()
            loss.backward(); scale[i] = scale.get(i, 0)+float(y.pow(2).sum())
    with torch.no_grad(), listen(teacher, visit):
        for b in batches: teacher.model(b['input_ids'], use_cache=False)
    for i, m in s.mixers.items(): assert m.o_proj.weight.grad.norm() < 1e-3*scale[i]


def test_alignment_losses():
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert_close(alignment_loss(a, b), ((a-b).pow(2).sum(-1).sqrt()/2).mean(), 1e-6)
    assert_close(alignment_loss(a, b, 'squared'), (a-b).pow(2).sum(-1).mean(), 1e-6)
    with pytest.raises(ConfigError): alignment_loss(a, b, 'mse')


def test_distill_lowers_kl_and_trains_everything(teacher):
    s = build_student(teacher, settings=NEAR, verbose=False)
    h = build_hybrid(s, teacher, [1, 3])
    before = {n: p.clone() for n, p in h.named_parameters()}
    m = distill(h, teacher, DATA*4, lr=1e-3, lr_attention=3e-3)
    assert m.records[-1]['loss'] < 0.8*m.records[0]['loss']
    assert all(not torch.equal(p, before[n]) for n, p in h.named_parameters())
    assert not any(p.requires_grad for p in h.parameters()) and not h.training


def test_identical_hybrid_has_loss_zero(teacher):
    h = build_hybrid(build_student(teacher, settings=NEAR, verbose=False), teacher, range(5))
    assert distill(h, teacher, DATA[:1]).records[0]['loss'] == 0.


def test_groups_split_by_module_and_lose_nothing():
    h = build_hybrid(build_student(tiny_teacher('llama_tied'), settings=NEAR, verbose=False), tiny_teacher('llama_tied'), [1])
    attention, rest = parameter_groups(h, 1e-5, 1e-4)
    assert all('.self_attn.' in n for n in attention['params']) and not any('.self_attn.' in n for n in rest['params'])
    assert any('layers.1.self_attn.k_proj' in n for n in attention['params']) and any('input_layernorm' in n for n in rest['params'])
    ids = [id(p) for g in (attention, rest) for p in g['params'].values()]
    assert len(ids) == len(set(ids)) == len({id(p) for p in h.parameters()})


def test_teacher_answers_each_batch_once(teacher):
    calls, s = [], build_student(teacher, settings=NEAR, verbose=False)
    handle = teacher.model.register_forward_hook(lambda *a: calls.append(1))
    states = TeacherStates(teacher)
    for keep in ([1], [2]): distill(build_hybrid(s, teacher, keep), states, DATA[:4])
    handle.remove()
    assert len(calls) == 4


def test_shared_states_give_the_same_run(teacher):
    s = build_student(teacher, settings=NEAR, verbose=False)
    a, b = (build_hybrid(s, teacher, [1]) for _ in range(2))
    ra, rb = distill(a, TeacherStates(teacher), DATA[:4]), distill(b, teacher, DATA[:4])
    assert [r['loss'] for r in ra.records] == [r['loss'] for r in rb.records]


def test_next_token_loss_matches_transformers_and_mask(teacher):
    ids = DATA[0]
    assert_close(next_token_loss(teacher, ids, chunk_size=7), teacher(ids, labels=ids).loss, 1e-5)
    mask = torch.zeros_like(ids, dtype=torch.bool); mask[0, 5:9] = True
    labels = torch.where(mask, ids, -100)
    assert_close(next_token_loss(teacher, ids, mask), teacher(ids, labels=labels).loss, 1e-5)
    with pytest.raises(DataError): next_token_loss(teacher, ids, torch.zeros_like(mask))


def test_finetune_answers_only(teacher):
    h = build_hybrid(build_student(teacher, settings=NEAR, verbose=False), teacher, [1])
    mask = torch.zeros(2, 32, dtype=torch.bool); mask[:, 20:] = True
    m = finetune(h, [dict(input_ids=DATA[0], loss_mask=mask)]*30, lr=1e-3, lr_attention=1e-3)
    assert m.records[-1]['loss'] < 0.5*m.records[0]['loss']


# ---- the loop ----------------------------------------------------------------

SCRIPT = r'''
import json, os, signal, sys, torch
sys.path.insert(0, sys.argv[3])
from helpers import NEAR, tiny_teacher, tokens
from hybrid_tutorial.models.hybrid import build_student, build_hybrid
from hybrid_tutorial.training import loop
from hybrid_tutorial.training.logits import distill
from hybrid_tutorial.training.loop import Metrics
folder, kill = sys.argv[1], sys.argv[2]
teacher = tiny_teacher('qwen2')
hybrid = build_hybrid(build_student(teacher, settings=NEAR, verbose=False), teacher, [1])
if kill.startswith('step'):
    old = loop._check_and_clip
    def die(params, loss, clip, stage, step, batch):
        if step == int(kill[4:]): os.kill(os.getpid(), signal.SIGKILL)
        return old(params, loss, clip, stage, step, batch)
    loop._check_and_clip = die
if kill.startswith('save'):
    old, count = loop.save_file, [0]
    def die(tensors, path):
        count[0] += 1
        if count[0] == int(kill[4:]):
            open(path, 'wb').write(b'half'); os.kill(os.getpid(), signal.SIGKILL)
        return old(tensors, path)
    loop.save_file = die
loop.LoopSettings.__init__.__defaults__   # frozen settings; save after every step:
old_train = loop.train
import hybrid_tutorial.training.logits as logits, dataclasses
logits.train = lambda step, groups, batches, total, s, **k: old_train(step, groups, batches, total, dataclasses.replace(s, save_seconds=0.), **k)
m = distill(hybrid, teacher, [tokens(2, 32, seed=s) for s in range(12)], lr=1e-3, lr_attention=1e-3, metrics=Metrics(folder+'/metrics.jsonl'), folder=folder+'/ckpt')
print('DONE', json.dumps([r['loss'] for r in m.records]), float(sum(p.double().abs().sum() for p in hybrid.parameters())))
'''


def run_script(tmp_path, kill='no'):
    here = os.path.dirname(__file__)
    return subprocess.run([sys.executable, '-c', SCRIPT, str(tmp_path), kill, here], capture_output=True, text=True)


def test_kill_at_a_step_and_in_a_save_twice_then_equal_to_the_last_bit(tmp_path):
    (tmp_path/'a').mkdir(); (tmp_path/'b').mkdir()
    straight = run_script(tmp_path/'a')
    assert straight.returncode == 0, straight.stderr
    for kill in ('step5', 'save3'):
        died = run_script(tmp_path/'b', kill)
        assert died.returncode == -signal.SIGKILL
    resumed = run_script(tmp_path/'b')
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == straight.stdout.splitlines()[-1]
    lines = [json.loads(l) for l in (tmp_path/'b'/'metrics.jsonl').read_text().splitlines()]
    assert [l['step'] for l in lines] == list(range(1, 13))


def toy(tmp_path=None, n=6, step_fn=None, **kwargs):
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.ones(3))
    def step(batch):
        loss = (w*batch['input_ids'].float().mean()).pow(2).sum(); loss.backward(); return loss.detach()
    data = [dict(input_ids=torch.full((1, 2), i+1)) for i in range(n)]
    m = train(step_fn(w) if step_fn else step, [dict(params=dict(w=w))], lambda s: iter(data[s:]), n, LoopSettings(lr=0.1, save_seconds=0.), folder=tmp_path and tmp_path/'ck', **kwargs)
    return w, m


def test_nan_stops_before_the_step_and_names_it():
    seen = {}
    def make(w):
        seen['w'], seen['n'] = w, 0
        def step(batch):
            seen['before'] = w.detach().clone(); seen['n'] += 1
            bad = float('nan') if seen['n'] == 3 else 1.
            loss = (w*bad).sum(); loss.backward(); return loss.detach()
        return step
    with pytest.raises(TrainingError, match=r'step 2 \(batch 2, tokens \[3'): toy(step_fn=make)
    assert torch.equal(seen['w'], seen['before']) and torch.isfinite(seen['w']).all()


def test_infinite_gradient_stops_too():
    def make(w):
        def step(batch): w.grad = torch.full_like(w, float('inf')); return torch.tensor(1.)
        return step
    with pytest.raises(TrainingError, match='gradient norm inf'): toy(step_fn=make)


def test_disk_full_while_saving_leaves_the_last_good(tmp_path, monkeypatch):
    w, _ = toy(tmp_path)
    good = {p.name: p.read_bytes() for p in (tmp_path/'ck').iterdir()}
    def full(tensors, path): open(path, 'wb').write(b'x'); raise OSError(28, 'No space left on device')
    monkeypatch.setattr(loop, 'save_file', full)
    with pytest.raises(CheckpointError, match='No space left.*untouched'): save_state(tmp_path/'ck', dict(w=w), torch.optim.AdamW([w]), dict(step=9))
    assert {p.name: p.read_bytes() for p in (tmp_path/'ck').iterdir()} == good
    assert [p.name for p in tmp_path.iterdir()] == ['ck']


def test_damaged_or_foreign_training_state_is_named(tmp_path):
    w, _ = toy(tmp_path, fingerprint='one')
    opt = torch.optim.AdamW([w])
    with pytest.raises(CheckpointError, match='other settings'): load_state(tmp_path/'ck', dict(w=w), opt, 'two')
    with pytest.raises(CheckpointError, match='another model'): load_state(tmp_path/'ck', dict(v=w), opt, 'one')
    f = tmp_path/'ck'/'state.safetensors'; b = bytearray(f.read_bytes()); b[-5] ^= 1; f.write_bytes(b)
    with pytest.raises(CheckpointError, match='checksum'): load_state(tmp_path/'ck', dict(w=w), opt, 'one')
    (tmp_path/'ck'/'state.json').write_text('{"step": 3')
    with pytest.raises(CheckpointError, match='damaged'): load_state(tmp_path/'ck', dict(w=w), opt, 'one')


def test_interrupt_saves_and_resumes(tmp_path):
    def make(w):
        def step(batch):
            if int(batch['input_ids'][0, 0]) == 3: signal.raise_signal(signal.SIGTERM)
            loss = (w*batch['input_ids'].float().mean()).pow(2).sum(); loss.backward(); return loss.detach()
        return step
    with pytest.raises(KeyboardInterrupt, match='after step 3'): toy(tmp_path, step_fn=make)
    assert json.loads((tmp_path/'ck'/'state.json').read_text())['step'] == 3
    assert torch.equal(toy(tmp_path)[0], toy()[0])


def test_data_that_ends_early_is_an_error():
    with pytest.raises(TrainingError, match='ended after 0'): train(lambda b: 0., [dict(params=dict(w=torch.nn.Parameter(torch.ones(1))))], lambda s: iter([]), 2, LoopSettings())
    with pytest.raises(DataError, match='empty'): feed([], 2)
    with pytest.raises(ConfigError): feed(DATA, 2, tokens=0)
    with pytest.raises(ConfigError): LoopSettings(schedule='cosin')


def test_schedules():
    assert learning_rate(0, 100, 1., 'cosine') == 1 and learning_rate(100, 100, 1., 'cosine') == pytest.approx(0)
    assert learning_rate(80, 100, 1., 'late') == 1 and learning_rate(90, 100, 1., 'late') == pytest.approx(0.1)
    assert learning_rate(0, 100, 1., 'constant', 4) == pytest.approx(0.2) and learning_rate(4, 100, 1., 'constant', 4) == 1


def test_distill_refuses_another_vocabulary(teacher):
    h = build_hybrid(build_student(teacher, settings=NEAR, verbose=False), teacher, [1])
    with pytest.raises(TeacherError, match='words'): distill(h, tiny_teacher(vocab_size=80), DATA[:1])


def test_resume_refuses_other_data_and_other_mixer_settings(teacher, tmp_path):
    def interrupted(settings=None, data=DATA):
        h = build_hybrid(build_student(teacher, settings={**NEAR, **(settings or {})}, verbose=False), teacher, [1])
        return distill(h, teacher, data, folder=tmp_path/'ck')
    old = loop._check_and_clip
    def stop(params, loss, clip, stage, step, batch):
        if step == 3: signal.raise_signal(signal.SIGINT)
        return old(params, loss, clip, stage, step, batch)
    loop._check_and_clip = stop
    try:
        with pytest.raises(KeyboardInterrupt): interrupted()
    finally: loop._check_and_clip = old
    with pytest.raises(CheckpointError, match='other settings'): interrupted(settings=dict(activation='silu'))
    with pytest.raises(CheckpointError, match='other settings'): interrupted(data=[d.flip(0) for d in DATA])
    assert len(interrupted().records) == 8


def aligned(teacher, rows, **how):
    student = build_student(teacher, 'gdn', settings=dict(window=0), verbose=False)
    losses = [r['loss'] for r in align(student, teacher, rows, calibrate_tokens=64, warmup=0, **how).records]
    return losses, {n: p.detach().clone() for n, p in student.named_parameters()}


def test_pieces_of_a_batch_add_up(teacher, monkeypatch):
    "A layer may see its batch in pieces: the same loss, the same gradients"
    rows = [tokens(4, 32, seed=i) for i in range(4)]
    whole, w = aligned(teacher, rows, dtype='float32')
    monkeypatch.setattr('hybrid_tutorial.training.align.PIECE', 32)
    parts, p = aligned(teacher, rows, dtype='float32')
    assert parts == pytest.approx(whole, rel=1e-5) and all(torch.allclose(w[n], p[n], atol=1e-5) for n in w)


@pytest.mark.parametrize('dtype, tol', [('float32', 0.02), ('bfloat16', 0.03)])
def test_activations_on_disk(teacher, tmp_path, monkeypatch, dtype, tol):
    "What was written down is what the teacher answers, to bfloat16; the second student does not ask the teacher"
    rows = [tokens(2, 32, seed=i) for i in range(4)]
    live, _ = aligned(teacher, rows, dtype=dtype)
    source = TeacherActivations(teacher, tmp_path/'acts', dtype)
    first, a = aligned(teacher, rows, dtype=dtype, activations=source)
    assert first == pytest.approx(live, rel=tol) and len(list((tmp_path/'acts').glob('*.safetensors'))) == 4
    monkeypatch.setattr(type(teacher.model), 'forward', lambda *a, **k: pytest.fail('the teacher was asked'))
    again, b = aligned(teacher, rows, dtype=dtype, activations=TeacherActivations(teacher, tmp_path/'acts', dtype))
    assert again == first and all(torch.equal(a[n], b[n]) for n in a)


def test_activations_refuse_and_mend(teacher, tmp_path, monkeypatch):
    ids = tokens(2, 16)
    source, seen = TeacherActivations(teacher, tmp_path), []
    source.show(ids, lambda i, x, pos, y: seen.append(y))
    with pytest.raises(CheckpointError, match="another teacher's"): TeacherActivations(tiny_teacher('qwen2', seed=1), tmp_path)
    file = next(tmp_path.glob('*.safetensors')); file.write_bytes(file.read_bytes()[:100])
    again = []
    source.show(ids, lambda i, x, pos, y: again.append(y))
    assert len(seen) == len(again) == 5 and all(torch.allclose(x.float(), y.float(), rtol=0.02, atol=0.02) for x, y in zip(seen, again))
    file.unlink(); monkeypatch.setattr('shutil.disk_usage', lambda p: type('U', (), dict(free=1000)))
    with pytest.raises(CheckpointError, match='free some space'): source.show(ids, lambda *a: None)


def test_closed_form_under_autocast():
    "The sums of the closed form are not rounded to bfloat16, whatever autocast is on"
    z, y = torch.randn(1, 512, 8, generator=torch.Generator().manual_seed(0))+30, torch.randn(1, 512, 4, generator=torch.Generator().manual_seed(1))
    want = add_up(None, z, y)
    with torch.autocast('cpu', torch.bfloat16): got = add_up(None, z, y)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(got, want))
