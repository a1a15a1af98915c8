"The main job on a tiny model: every stage, resume, refusals, the command line"
import dataclasses, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hybrid_tutorial.cli import add_recipe_options, doctor, field_help, main, make_parser, recipe_of
from hybrid_tutorial.core import CheckpointError, ConfigError, HybridError, TeacherError
from hybrid_tutorial.recipe import Recipe, run

from helpers import tiny_folder

STEPS = dict(compare='kl')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A tiny random teacher with SmolLM2's tokenizer"
    return tiny_folder(tmp_path_factory.mktemp('teacher'), hidden_size=48, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=4, intermediate_size=64)


@pytest.fixture(scope='module')
def done(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs')/'a'
    return out, run(Recipe.tiny(teacher=str(folder)), out, show=False, command='test')


def test_leaves_everything_it_promises(done):
    out, result = done
    for name in ('model/config.json', 'model/model.safetensors', 'model/tokenizer.json', 'model/README.md', 'metrics.jsonl', 'scores.json', 'config.json', 'report.html', 'report.json', 'evaluation.json'):
        assert (out/name).stat().st_size > 0, name
    assert set(result['models']) == {'teacher', 'all-linear', 'uniform', 'kl'}
    scores = json.loads((out/'scores.json').read_text())
    assert len(scores['scores']) == 4 and len(scores['keep']['kl']) == 1 and scores['other']['method'] == 'kl' and set(scores['texts']) == {'plain', 'recall'}
    stages = {json.loads(l)['stage'] for l in (out/'metrics.jsonl').read_text().splitlines()}
    assert stages == {'align', 'distill-kl', 'distill-uniform'}
    assert result['models']['teacher']['sets']['wikipedia_5']['plain']['kl']['value'] == 0
    page = (out/'report.html').read_text()
    assert 'http' not in page.replace('http-equiv', '').replace('http://www.w3.org', '') and 'echo' in page
    assert 'base_model' in (out/'model'/'README.md').read_text()


def test_model_folder_loads_in_a_fresh_process(done):
    code = ("import sys, hybrid_tutorial; from transformers import AutoModelForCausalLM, AutoTokenizer; m = AutoModelForCausalLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1]);"
            "out = m.generate(**t(['Hello there', 'A'], return_tensors='pt', padding=True, padding_side='left'), max_new_tokens=3, do_sample=False); print('OUT', tuple(out.shape))")
    got = subprocess.run([sys.executable, '-c', code, str(done[0]/'model')], capture_output=True, text=True)
    assert 'OUT (2,' in got.stdout, got.stderr


def test_second_call_computes_nothing_and_agrees(done, folder):
    out, first = done
    before = {f: f.stat().st_mtime_ns for f in (out/'stages').iterdir()}
    again = run(Recipe.tiny(teacher=str(folder)), out, show=False, command='test')
    assert {f: f.stat().st_mtime_ns for f in (out/'stages').iterdir()} == before
    assert again['models'] == first['models'] and again['scores'] == first['scores']


def test_same_seed_same_numbers(done, folder, tmp_path):
    again = run(Recipe.tiny(teacher=str(folder)), tmp_path/'b', show=False)
    strip = lambda models: {n: {k: v for k, v in m.items() if k != 'seconds'} for n, m in models.items()}
    assert strip(again['models']) == strip(done[1]['models']) and again['scores']['texts'] == done[1]['scores']['texts']


def test_other_settings_are_refused_with_the_difference(done, folder):
    with pytest.raises(ConfigError, match='ratio: 0.25 there, 0.5 now'): run(Recipe.tiny(teacher=str(folder), ratio=0.5), done[0], show=False)


def test_interrupt_and_resume_equals_straight(done, folder, tmp_path):
    out = tmp_path/'c'
    command = [sys.executable, '-c', 'import sys; from hybrid_tutorial.cli import main; sys.exit(main(sys.argv[1:]))', 'run', '--out', str(out)]
    tiny, plain = dataclasses.asdict(Recipe.tiny(teacher=str(folder))), dataclasses.asdict(Recipe())
    for k, v in tiny.items():
        if v != plain[k]: command += ['--'+k.replace('_', '-'), ','.join(map(str, v)) if isinstance(v, (tuple, list)) else json.dumps(v) if isinstance(v, dict) else str(v)]
    env = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}      # bit-equal only with as many threads
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    deadline = time.time()+120
    while time.time() < deadline and not (out/'metrics.jsonl').exists() and p.poll() is None: time.sleep(0.05)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 130 and 'same command goes on' in err, err
    p = subprocess.run(command, capture_output=True, text=True, env=env)
    assert p.returncode == 0, p.stderr
    strip = lambda models: {n: {k: v for k, v in m.items() if k != 'seconds'} for n, m in models.items()}
    assert strip(json.loads((out/'evaluation.json').read_text())) == strip(done[1]['models'])


def test_two_runs_in_one_folder_are_refused(done, folder):
    from hybrid_tutorial.core import file_lock
    code = f"import time; from hybrid_tutorial.core import file_lock\nwith file_lock({str(done[0]/'.lock')!r}): print('held', flush=True); time.sleep(20)"
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline().strip() == 'held'
    try:
        with pytest.raises(CheckpointError, match='another process'): run(Recipe.tiny(teacher=str(folder)), done[0], show=False)
    finally: p.kill()


def test_damaged_stage_file_is_named(done, folder, tmp_path):
    out = tmp_path/'d'
    shutil.copytree(done[0], out)
    f = out/'stages'/'mixers.safetensors'; b = bytearray(f.read_bytes()); b[-1] ^= 1; f.write_bytes(b)
    with pytest.raises(CheckpointError, match='damaged.*align.json'): run(Recipe.tiny(teacher=str(folder)), out, show=False)


def test_keep_list_skips_scoring(folder, tmp_path):
    r = run(Recipe.tiny(teacher=str(folder), keep=(2, 0), recall_tasks=('copying',)), tmp_path/'k', show=False)
    assert all(set(m['tasks']) == {'copying'} for m in r['models'].values())
    assert r['scores'] is None and set(r['models']) == {'teacher', 'all-linear', 'uniform', 'hybrid'}
    with pytest.raises(ConfigError, match='layers 0 to 3'): run(Recipe.tiny(teacher=str(folder), keep=(9,)), tmp_path/'k2', show=False)


def test_one_hybrid_with_rows_of_its_own_in_each_stage(folder, tmp_path):
    "What the published presets ask for: no baseline, a bfloat16 teacher, other row lengths in stages 1 and 3"
    r = Recipe.tiny(teacher=str(folder), keep=(), baseline=None, teacher_dtype='bfloat16', dtype='bfloat16', align_seq_len=32, align_warmup=0, finetune_seq_len=128, finetune_tokens=512, sample_tokens=0, needles=0)
    out = tmp_path/'b'
    got = run(r, out, show=False)
    assert set(got['models']) == {'teacher', 'all-linear', 'hybrid'}
    steps = lambda stage: [json.loads(l) for l in (out/'metrics.jsonl').read_text().splitlines() if json.loads(l)['stage'] == stage]
    assert steps('align')[0]['tokens'] == 2*32 and steps('distill-hybrid')[0]['tokens'] == 64 and steps('finetune')[0]['tokens'] == 128
    assert steps('align')[0]['lr'] == r.align_lr                       # no warm-up
    from safetensors.torch import load_file
    assert {t.dtype for t in load_file(out/'model'/'model.safetensors').values()} == {torch.float32}
    assert 'all-linear' in (out/'report.html').read_text()


def test_disk_full_while_saving_the_model_leaves_the_last_good(done, folder, tmp_path, monkeypatch):
    from hybrid_tutorial import recipe
    from hybrid_tutorial.models.hybrid import load_hybrid
    shutil.copytree(done[0]/'model', tmp_path/'model')
    h, tok = load_hybrid(tmp_path/'model'), AutoTokenizer.from_pretrained(tmp_path/'model')
    before = {p.name: p.read_bytes() for p in (tmp_path/'model').iterdir()}
    def full(self, place, **k): (Path(place)/'model.safetensors').write_bytes(b'half'); raise OSError(28, 'No space left on device')
    monkeypatch.setattr(type(h), 'save_pretrained', full)
    with pytest.raises(CheckpointError, match='No space left'): recipe.save_model(h, tok, tmp_path/'model')
    assert {p.name: p.read_bytes() for p in (tmp_path/'model').iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ['model']


@pytest.mark.parametrize('bad, word', [(dict(ratio=1.5), '0..1'), (dict(ratio='a'), 'ratio'), (dict(mixer='gnd'), 'Did you mean'), (dict(method='kll'), 'Did you mean'), (dict(seq_len=0), 'seq_len'),
                                       (dict(align_tokens=2.5), 'align_tokens'), (dict(dtype='fp8'), 'dtype'), (dict(rounds=3), 'rounds'), (dict(echo=5.), 'echo'), (dict(needles=-1), 'needles'), (dict(contexts=(4.5,)), 'contexts'), (dict(needle_depths=(2,)), 'needle_depths'),
                                       (dict(distill_lr=float('nan')), 'distill_lr'), (dict(align_lr=-1.), 'align_lr'), (dict(keep=('a',)), 'whole numbers'), (dict(seed=2**40), 'seed'), (dict(mixer_settings=dict(rotary=1)), 'rotary'), (dict(seed=True), 'seed'), (dict(recall_tasks=('copyng',)), 'Did you mean')])
def test_bad_recipes(bad, word):
    with pytest.raises(ConfigError, match=word): Recipe(**bad)


def test_lists_of_names_and_of_numbers_on_the_command_line():
    read = lambda *a: recipe_of(make_parser().parse_args(['run', *a]))
    assert read('--recall-tasks', 'copying,variables').recall_tasks == ('copying', 'variables') and read('--recall-tasks', 'all').recall_tasks == ('all',)
    assert read('--contexts', '8,16', '--needle-depths', '0,0.5').contexts == (8, 16)
    with pytest.raises(ConfigError, match='contexts'): read('--contexts', '8,many')


def test_unknown_key():
    with pytest.raises(ConfigError, match='Did you mean .align_tokens'): Recipe.from_dict(dict(align_token=3))
    assert Recipe.from_dict(json.loads(json.dumps(dataclasses.asdict(Recipe.quick())))) == Recipe.quick()


def test_every_field_is_an_option_with_help():
    names = [f.name for f in dataclasses.fields(Recipe)]
    assert set(field_help(Recipe)) == set(names)
    args = make_parser().parse_args(['run', '--keep', '3,7,11', '--ratio', '0.5', '--needle-depths', '0.5', '--compare', 'none', '--mixer-settings', '{"rope": true}', '--quick'])
    r = recipe_of(args)
    assert r.keep == (3, 7, 11) and r.ratio == 0.5 and r.needle_depths == (0.5,) and r.compare is None and r.mixer_settings == dict(rope=True) and r.seq_len == Recipe.quick().seq_len


@pytest.mark.parametrize('argv, word', [(['run', '--teacher', 'smollm-135m', '--out', 'OUT'], 'TeacherError'), (['run', '--ratio', '25'], '25 % is 0.25'), (['run', '--corpus', 'wiki-sumaries', '--out', 'OUT'], 'DataError'),
                                        (['evaluate', 'no/such/folder'], 'TeacherError'), (['generate', 'no/such/folder', 'x'], 'TeacherError')])
def test_mistakes_end_in_one_line(argv, word, tmp_path, capsys):
    assert main([str(tmp_path/'x') if a == 'OUT' else a for a in argv]) == 2
    err = capsys.readouterr().err
    assert word in err and 'Traceback' not in err


def test_commands_work_on_a_model_folder(done, folder, capsys, tmp_path):
    model = str(done[0]/'model')
    assert main(['generate', model, 'Hello', '--tokens', '4']) == 0 and 'Hello' in capsys.readouterr().out
    assert main(['generate', model, 'Hello', '--tokens', '4', '--chat', '--temperature', '0.8']) == 0
    assert main(['evaluate', model, '--teacher', str(folder), '--tokens', '512', '--needles', '0', '--json', str(tmp_path/'e.json'), '--recall', 'multikey,induction', '--lengths', '256', '--depths', '0,1']) == 0
    got = json.loads((tmp_path/'e.json').read_text())
    assert 'wikipedia_5' in capsys.readouterr().out and got['sets'] and set(got['tasks']) == {'multikey', 'induction'} and got['tasks']['multikey']['exact']['n'] == 2
    for more, word in ((['--recall', 'multikeys'], 'multikey'), (['--depths', 'a'], '0,0.5,1')): assert main(['evaluate', model, *more]) == 2 and word in capsys.readouterr().err
    assert main(['bench', 'efficiency', model, '--teacher', str(folder), '--contexts', '8,64,200', '--batches', '1,2', '--prefill-limit', '64', '--rounds', '1', '--dtype', 'float32', '--json', '--out', str(tmp_path/'cost')]) == 0
    got = json.loads(capsys.readouterr().out)
    assert {r['model'] for r in got['rows']} == {'teacher', 'hybrid', 'all-linear'} and got == json.loads((tmp_path/'cost'/'efficiency.json').read_text())
    assert all((tmp_path/'cost'/f'{n}.png').exists() for n in ('cache', 'decode', 'throughput'))
    assert got['settings']['keep'] == [i for i, k in enumerate(json.loads((done[0]/'model'/'config.json').read_text())['layer_types']) if k == 'full_attention']
    assert main(['bench', 'efficiency', '--teacher', str(folder), '--contexts', '8,64', '--rounds', '1']) == 0 and 'smaller cache than teacher' in capsys.readouterr().out
    assert main(['bench', 'efficiency', str(folder), '--teacher', str(folder)]) == 2 and 'not a hybrid' in capsys.readouterr().err
    assert main(['doctor']) == 0 and 'number format' in capsys.readouterr().out
    assert {'torch', 'device', 'cache folder', 'offline teacher'} <= {r[0] for r in doctor()}


def test_score_command_then_run_goes_on(folder, tmp_path, capsys):
    tiny = ['--teacher', str(folder), '--seq-len', '64', '--calibrate-tokens', '256', '--align-tokens', '1024', '--align-batch', '2', '--score-tokens', '128', '--compare', 'none', '--out', str(tmp_path/'s')]
    assert main(['score', *tiny]) == 0
    assert 'keep' in capsys.readouterr().out and (tmp_path/'s'/'stages'/'scores'/'kl_removal.json').exists() and not (tmp_path/'s'/'model').exists()


def test_a_failed_first_command_does_not_burn_the_folder(folder, tmp_path):
    with pytest.raises(TeacherError): run(Recipe.tiny(teacher='smollm2-135'), tmp_path/'x', show=False)
    assert Recipe.tiny(keep=(2, 0)) == Recipe.tiny(keep=(0, 2))
    r = run(Recipe.tiny(teacher=str(folder), keep=(0, 2), finetune_tokens=256, sample_tokens=0), tmp_path/'x', show=False)
    assert {'finetune', 'distill-hybrid'} <= set(r['timing']) and r['timing']['finetune']['tokens'] == 256
    before = (tmp_path/'x'/'model'/'model.safetensors').read_bytes()
    run(Recipe.tiny(teacher=str(folder), keep=(2, 0), finetune_tokens=256, sample_tokens=0), tmp_path/'x', show=False)
    assert (tmp_path/'x'/'model'/'model.safetensors').read_bytes() == before
    (tmp_path/'x'/'stages'/'efficiency.json').write_text('{"res')
    with pytest.raises(CheckpointError, match='efficiency.json is damaged'): run(Recipe.tiny(teacher=str(folder), keep=(2, 0), finetune_tokens=256, sample_tokens=0), tmp_path/'x', show=False)


def test_generate_refuses_what_it_cannot_do(done, capsys):
    model = str(done[0]/'model')
    for more in (['', '--tokens', '3'], ['hi', '--tokens', '0'], ['hi', '--temperature', '-1'], ['hi', '--seed', '99999999999999']):
        assert main(['generate', model, *more]) == 2 and 'ConfigError' in capsys.readouterr().err
    assert main(['run', '--teacher', model, '--out', str(done[0].parent/'h')]) == 2 and 'already a hybrid' in capsys.readouterr().err
