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
    mixers, softmax, rest = groups = parameter_groups(h, 1e-5, 1e-4, 1e-6, 's-cos-s')
    assert all('.self_attn.' in n for n in mixers['params']) and not any('.self_attn.' in n for n in rest['params'])
    assert {n.split('.')[2] for n in softmax['params']} == {'1'} and not any('layers.1.' in n for n in mixers['params'])
    assert any('input_layernorm' in n for n in rest['params']) and [g['lr'] for g in groups] == [1e-4, 1e-6, 1e-5]
    assert [g['schedule'] for g in groups] == ['s-cos-s', 's-cos-s', 'constant']      # RADLADS anneals attention alone
    ids = [id(p) for g in groups for p in g['params'].values()]
    assert len(ids) == len(set(ids)) == len({id(p) for p in h.parameters()})


def test_what_decays_is_a_matrix():
    h = build_hybrid(build_student(tiny_teacher('llama_bias'), settings=NEAR, verbose=False), tiny_teacher('llama_bias'), [1])
    names = {id(p): n for n, p in h.named_parameters()}
    spared = {names[id(p)] for g in loop.adamw(parameter_groups(h, 1e-5, 1e-4), LoopSettings(weight_decay=0.1)).param_groups if not g['weight_decay'] for p in g['params']}
    assert spared == {n for n, p in h.named_parameters() if p.dim() == 1}
    for part in ('A_log', 'dt_bias', 'q_proj.bias', 'norm.weight', 'input_layernorm.weight'): assert any(n.endswith(part) for n in spared), part


def test_only_attention_anneals_in_s_cos_s(teacher):
    h = build_hybrid(build_student(teacher, settings=NEAR, verbose=False), teacher, [1])
    optimizer = loop.adamw(parameter_groups(h, 1e-5, 1e-4, schedule='s-cos-s'), LoopSettings())
    rates = lambda step: (loop.set_rates(optimizer, step, 1000, LoopSettings()), sorted({round(g['lr'], 12) for g in optimizer.param_groups}))[1]
    assert rates(832) == [1e-5, 1e-4] and rates(900) == [1e-5]


def test_pieces_and_recomputed_activations_give_the_same_run(teacher):
    "also where a batch has fewer rows than pieces"
    def trained(loop_=LoopSettings(), mixer='gdn', **how):
        h = build_hybrid(build_student(teacher, mixer, settings=NEAR if mixer == 'gdn' else None, verbose=False), teacher, [1])
        m = distill(h, teacher, [tokens(3, 32), tokens(1, 32, seed=1)], lr=1e-3, lr_attention=1e-3, loop=loop_, **how)
        return [r['loss'] for r in m.records]+[r['grad_norm'] for r in m.records]
    whole = trained()
    assert trained(LoopSettings(accumulate=2)) == pytest.approx(whole, rel=1e-5)
    assert trained(checkpointing=True) == pytest.approx(whole, rel=1e-6)
    assert trained(mixer='rwkv7', checkpointing=True) == pytest.approx(trained(mixer='rwkv7'), rel=1e-6)      # its layers hand values on


def test_lora_trains_additions_and_leaves_a_plain_model(teacher, tmp_path):
    pytest.importorskip('peft')
    from hybrid_tutorial.models.hybrid import load_hybrid
    h = build_hybrid(build_student(teacher, settings=NEAR, verbose=False), teacher, [1])
    before = {n: p.clone() for n, p in h.state_dict().items()}
    m = distill(h, teacher, DATA*2, lr=1e-2, lr_attention=1e-2, lora=2, folder=tmp_path/'ck', loop=LoopSettings(save_seconds=0.))
    assert m.records[-1]['loss'] < m.records[0]['loss'] and set(h.state_dict()) == set(before)
    moved = {n for n, p in h.state_dict().items() if not torch.equal(p, before[n])}
    assert moved and all(n.endswith('proj.weight') for n in moved)
    for n in moved: assert torch.linalg.matrix_rank(h.state_dict()[n]-before[n], tol=1e-4) <= 2, n
    h.save_pretrained(tmp_path/'m')
    assert torch.equal(load_hybrid(tmp_path/'m')(DATA[0]).logits, h(DATA[0]).logits)


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
    old = loop.gradient_norm
    def die(groups, clip, stage, step):
        if step == int(kill[4:]): os.kill(os.getpid(), signal.SIGKILL)
        return old(groups, clip, stage, step)
    loop.gradient_norm = die
if kill.startswith('save'):
    old, count = loop.write_parts, [0]
    def die(folder, params, optimizer):
        count[0] += 1
        if count[0] == int(kill[4:]):
            (folder/'shard-00001-model-00001-of-00001.safetensors').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)
        return old(folder, params, optimizer)
    loop.write_parts = die
m = distill(hybrid, teacher, [tokens(2, 32, seed=s) for s in range(12)], lr=1e-3, lr_attention=1e-3, loop=loop.LoopSettings(save_seconds=0.), metrics=Metrics(folder+'/metrics.jsonl'), folder=folder+'/ckpt')
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


def toy(tmp_path=None, n=6, step_fn=None, skip_bad=0, **kwargs):
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.ones(3))
    def step(batch):
        loss = (w*batch['input_ids'].float().mean()).pow(2).sum(); loss.backward(); return loss.detach()
    data = [dict(input_ids=torch.full((1, 2), i+1)) for i in range(n)]
    m = train(step_fn(w) if step_fn else step, [dict(params=dict(w=w))], lambda s: iter(data[s:]), n, LoopSettings(lr=0.1, save_seconds=0., skip_bad=skip_bad), folder=tmp_path and tmp_path/'ck', **kwargs)
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


def steps_in(folder): return [p.name for p in loop.checkpoints(folder)]


def test_nan_batch_is_written_down_and_may_be_left_out(tmp_path):
    def make(w):
        def step(batch):
            bad = float('nan') if int(batch['input_ids'][0, 0]) in (2, 4) else 1.
            loss = (w*bad*batch['input_ids'].float().mean()).pow(2).sum(); loss.backward(); return loss.detach()
        return step
    for allowed, done in ((0, 1), (1, 3)):
        with pytest.raises(TrainingError, match=f'skip_bad .now {allowed}'): toy(tmp_path/str(allowed), step_fn=make, skip_bad=allowed)
        assert steps_in(tmp_path/str(allowed)/'ck')[-1] == f'step-{done:08d}'
        assert json.loads((tmp_path/str(allowed)/f'bad-train-{done}.json').read_text())['input_ids'] == [[done+1]*2]
    w, m = toy(tmp_path/'2', step_fn=make, skip_bad=2)
    assert [r['step'] for r in m.records] == [1, 3, 5, 6] and torch.isfinite(w).all()


def test_two_checkpoints_stay(tmp_path):
    toy(tmp_path)
    assert steps_in(tmp_path/'ck') == ['step-00000004', 'step-00000005']
    manifest = json.loads((tmp_path/'ck'/'step-00000005'/'manifest.json').read_text())
    assert manifest['versions']['torch'] == torch.__version__ and manifest['step'] == 5 and 'backends' in manifest and set(manifest['files']) == {p.name for p in (tmp_path/'ck'/'step-00000005').iterdir()}-{'manifest.json'}


def test_never_without_a_checkpoint(tmp_path, monkeypatch):
    "whatever is removed or renamed, an intact one is there"
    import shutil
    seen, old_rm, old_mv = [], shutil.rmtree, os.replace
    def look(): seen.append([p for p in loop.checkpoints(tmp_path/'ck') if loop.damage(p) is None])
    monkeypatch.setattr(shutil, 'rmtree', lambda p, **k: (look(), old_rm(p, **k), look()))
    monkeypatch.setattr(os, 'replace', lambda a, b: (look(), old_mv(a, b), look()))
    toy(tmp_path)
    first = next(i for i, s in enumerate(seen) if s)
    assert len(seen) > 10 and all(seen[first:])


def test_disk_full_while_saving_leaves_the_last_good_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    old, calls = loop.write_parts, []
    def full(folder, params, optimizer):
        calls.append(folder)
        if len(calls) > 2: (folder/'x').write_bytes(b'x'); raise OSError(28, 'No space left on device')
        return old(folder, params, optimizer)
    monkeypatch.setattr(loop, 'write_parts', full)
    w, m = toy(tmp_path)
    assert torch.equal(w, toy()[0]) and len(calls) == 5
    assert steps_in(tmp_path/'ck') == ['step-00000001', 'step-00000002'] and not list((tmp_path/'ck').glob('.step*'))
    assert 'No space left' in capsys.readouterr().err and sum(r.get('event') == 'save failed' for r in m.records) == 3
    with pytest.raises(CheckpointError, match='No space left.*untouched.*step-00000002'): save_state(tmp_path/'ck', dict(w=w), torch.optim.AdamW([w]), dict(step=9))


def spoil(folder, how):
    file = next(folder.glob('*.safetensors'))
    if how == 'cut': file.write_bytes(file.read_bytes()[:-9])
    elif how == 'flip': b = bytearray(file.read_bytes()); b[-5] ^= 1; file.write_bytes(b)
    elif how == 'gone': file.unlink()
    elif how == 'manifest': (folder/'manifest.json').write_text('{"step": 3')


@pytest.mark.parametrize('how, word', [('cut', 'checksum'), ('flip', 'checksum'), ('gone', 'missing'), ('manifest', 'cannot be read')])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys, how, word):
    toy(tmp_path)
    spoil(tmp_path/'ck'/'step-00000005', how)
    w, m = toy(tmp_path)
    assert torch.equal(w, toy()[0]) and m.records[0]['step'] == 5                 # went on after step 4
    text = capsys.readouterr().err
    assert 'step-00000005' in text and word in text and 'step-00000004' in text
    for p in loop.checkpoints(tmp_path/'ck'): spoil(p, how)
    with pytest.raises(CheckpointError, match='no intact checkpoint'): toy(tmp_path)


def test_changed_settings_are_shown_key_by_key(tmp_path):
    toy(tmp_path, fingerprint=dict(lr=1e-3, data=dict(tokens=100, seq_len=8), keep=[1]))
    with pytest.raises(CheckpointError) as e: toy(tmp_path, fingerprint=dict(lr=1e-3, data=dict(tokens=200, seq_len=8), keep=[1, 2], clip=1.))
    assert [l.strip() for l in str(e.value).splitlines()[1:-1]] == ['data.tokens: saved 100, now 200', 'keep: saved [1], now [1, 2]', "clip: saved '(not set)', now 1.0"]
    w = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(CheckpointError, match='another model'): load_state(tmp_path/'ck', dict(v=w), torch.optim.AdamW([w]))


@pytest.mark.parametrize('kind', [signal.SIGTERM, signal.SIGINT])
def test_interrupt_saves_and_resumes(tmp_path, kind):
    def make(w):
        def step(batch):
            if int(batch['input_ids'][0, 0]) == 3: signal.raise_signal(kind)
            loss = (w*batch['input_ids'].float().mean()).pow(2).sum(); loss.backward(); return loss.detach()
        return step
    with pytest.raises(KeyboardInterrupt, match='after step 3; saved.*To go on: .*pytest'): toy(tmp_path, step_fn=make)
    assert steps_in(tmp_path/'ck')[-1] == 'step-00000003'
    assert torch.equal(toy(tmp_path)[0], toy()[0])


def test_a_run_in_pieces_is_the_run(teacher, tmp_path):
    text = [tokens(2, 16, seed=s) for s in range(6)]
    def run(folder, *stops):
        for until in stops:
            hybrid = build_hybrid(build_student(teacher, settings=NEAR, verbose=False), teacher, [1])
            m = distill(hybrid, teacher, text, lr=1e-3, dtype='float32', folder=folder, loop=LoopSettings(until=until, save_seconds=math.inf, keep=1), show=False)
            assert len(loop.checkpoints(folder)) == (until not in (None, 6) or len(stops) > 1) and m.records[-1]['step'] == (until or 6)
        return hybrid
    whole, pieces = run(tmp_path/'a', None), run(tmp_path/'b', 2, 5, None)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), pieces.parameters()))
    with pytest.raises(ConfigError, match='until must be at least 1'): LoopSettings(until=0)


def test_random_generators_go_on(tmp_path):
    "dropout, numpy and random: the resumed run draws what the uninterrupted one draws"
    import random, numpy as np
    def make(stop):
        def of(w):
            def step(batch):
                if int(batch['input_ids'][0, 0]) == stop: signal.raise_signal(signal.SIGINT)
                noise = torch.rand(3)+float(np.random.rand())+random.random()
                loss = (w*noise).pow(2).sum(); loss.backward(); return loss.detach()
            return step
        return of
    def fresh(): np.random.seed(0); random.seed(0)
    fresh(); straight, _ = toy(step_fn=make(0))
    fresh()
    with pytest.raises(KeyboardInterrupt): toy(tmp_path, step_fn=make(4))
    np.random.seed(7); random.seed(7)
    assert torch.equal(toy(tmp_path, step_fn=make(0))[0], straight)


def test_two_runs_in_one_folder_and_a_folder_that_cannot_be_written(tmp_path):
    with loop.claim(tmp_path/'ck'):
        with pytest.raises(CheckpointError, match='another run'): toy(tmp_path)
    toy(tmp_path)
    (tmp_path/'file').write_text('')
    with pytest.raises(ConfigError, match='write'): toy(tmp_path/'file')


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), MemoryError(), RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes')])
def test_out_of_memory_names_the_knobs(error):
    def make(w):
        def step(batch): raise error
        return step
    with pytest.raises(TrainingError, match='batch_size.*chunk_size.*accumulate.*checkpointing'): toy(step_fn=make)


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    import time
    monkeypatch.setattr(time, 'time', lambda: -1e9)
    assert all(0 <= r['seconds'] < 3600 for r in toy(tmp_path)[1].records)


def test_trackers_hear_what_the_file_hears(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    _, m = toy(metrics=Metrics(tmp_path/'metrics.jsonl', trackers=['tensorboard']))
    m.tracker.end_training()
    events = EventAccumulator(str(next(tmp_path.rglob('events*')).parent)); events.Reload()
    assert [x.value for x in events.Scalars('train/loss')] == pytest.approx([r['loss'] for r in m.records]) and len((tmp_path/'metrics.jsonl').read_text().splitlines()) == 6
    with pytest.raises(ConfigError, match='tensorboard'): Metrics(trackers=['tensorbord'])
    if not __import__('importlib.util').util.find_spec('wandb'):
        with pytest.raises(ConfigError, match='pip install wandb'): Metrics(trackers=['wandb'])


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
    old = loop.gradient_norm
    def stop(groups, clip, stage, step):
        if step == 3: signal.raise_signal(signal.SIGINT)
        return old(groups, clip, stage, step)
    loop.gradient_norm = stop
    try:
        with pytest.raises(KeyboardInterrupt): interrupted()
    finally: loop.gradient_norm = old
    with pytest.raises(CheckpointError, match='(?s)other settings.*settings.activation'): interrupted(settings=dict(activation='silu'))
    with pytest.raises(CheckpointError, match='(?s)other settings.*data.sha256'): interrupted(data=[d.flip(0) for d in DATA])
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
