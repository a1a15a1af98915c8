"""The whole conversion in two processes over gloo, started by torchrun, by accelerate launch and by hand: the layers and the numbers of one process.

Tolerance, float32: losses of every step to 1e-4 relative, the exported weights together to 1e-4, each tensor to 1e-2 (Adam's first steps divide rounding errors by themselves, and stage 2 starts where stage 1 ended)."""
import dataclasses, json, os, random, shlex, shutil, signal, subprocess, sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hybrid_tutorial.cli import make_parser, recipe_of
from hybrid_tutorial.core import ConfigError, TrainingError
from hybrid_tutorial.recipe import Recipe, check_rows, run
from helpers import tiny_folder
from test_distributed import finish, launch

ROOT, BIN = Path(__file__).parent.parent, Path(sys.executable).parent
SMALL = dict(compare=None, baseline=None, rounds=1, needles=0, sample_tokens=0, contexts=(16,), eval_tokens=64, align_tokens=768, distill_tokens=512, distill_batch=2, finetune_tokens=256)


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    "Every stage for two to four steps, on a tiny random teacher with SmolLM2's tokenizer"
    place = tiny_folder(tmp_path_factory.mktemp('teacher'), hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, intermediate_size=48, initializer_range=0.2)
    return Recipe.tiny(teacher=str(place), **SMALL)


@pytest.fixture(scope='module')
def alone(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp('alone')/'run'
    run(recipe, out, show=False, command='test')
    return out


def by_launcher(command, cwd):
    "Run a command line as a user would"
    if not shutil.which('hybrid-distill', path=str(BIN)): pytest.skip('hybrid-distill is not installed')
    env = {**os.environ, 'PATH': f"{BIN}{os.pathsep}{os.environ['PATH']}", 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'HYBRID_TUTORIAL_TIMEOUT': '5'}
    got = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert got.returncode == 0, got.stdout+got.stderr
    return got.stdout


def same_run(got, want):
    "Kept layers equal; losses and weights within the tolerance; one process wrote"
    keep = lambda out: json.loads((out/'scores.json').read_text())['keep']
    records = lambda out: [json.loads(l) for l in (out/'metrics.jsonl').read_text().splitlines()]
    assert keep(got) == keep(want)
    a, b = records(got), records(want)
    assert [(r['stage'], r['step'], r['tokens']) for r in a] == [(r['stage'], r['step'], r['tokens']) for r in b]
    assert [r['loss'] for r in a] == pytest.approx([r['loss'] for r in b], rel=1e-4)
    a, b = (load_file(out/'model'/'model.safetensors') for out in (got, want))
    flat = lambda d: torch.cat([w.flatten().double() for _, w in sorted(d.items())])
    assert set(a) == set(b) and (flat(a)-flat(b)).norm() <= 1e-4*flat(b).norm()
    for n, w in b.items(): assert (a[n]-w).norm() <= 1e-2*w.norm()+1e-6, n
    a, b = (json.loads((out/'evaluation.json').read_text())['kl']['sets']['wikipedia_5']['plain']['loss']['value'] for out in (got, want))
    assert a == pytest.approx(b, rel=1e-4) and (got/'report.html').stat().st_size and not (got/'.stopped.json').exists()


def test_torchrun_equals_one_process(recipe, alone, tmp_path):
    "two copies; process 0 alone talks"
    (tmp_path/'recipe.json').write_text(json.dumps(dataclasses.asdict(recipe)))
    out = by_launcher([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '--no-python', 'hybrid-distill', 'run', '--recipe', 'recipe.json', '--out', 'run'], tmp_path)
    assert out.count('softmax stays in layers') == 1 and out.count('report.html') == 1
    same_run(tmp_path/'run', alone)
    told = json.loads((tmp_path/'run'/'report.json').read_text())
    assert '2 processes' in told['machine'] and told['command'].startswith('torchrun --nproc-per-node 2 --no-python hybrid-distill run')


def test_the_launch_command_of_a_plan_runs(recipe, alone, tmp_path):
    "accelerate launch, one model in two parts, pieces and checkpoints as a plan may set them"
    from hybrid_tutorial.plan import launch_command, make_plan, write_plan
    plan = make_plan(recipe, 2, 'l4', sharding='fsdp2', checkpoint=True)
    yaml, file = write_plan(plan, tmp_path/'two.yaml')
    written = recipe_of(make_parser().parse_args(['run', '--recipe', str(file)]))
    assert written == plan.launched and written.shard == 'all' and written.distill_checkpointing and written.finetune_checkpointing
    command = shlex.split(launch_command(plan, yaml.name, file.name))
    by_launcher([*command[:2], '--main_process_port', str(random.SystemRandom().randrange(20_000, 32_000)), *command[2:]], tmp_path)
    same_run(next((tmp_path/'runs').iterdir()), alone)


def test_a_killed_run_goes_on_in_two_processes_or_in_one(recipe, alone, tmp_path):
    for name in ('two', 'one'): (tmp_path/name).mkdir(); (tmp_path/name/'recipe.json').write_text(json.dumps(dataclasses.asdict(dataclasses.replace(recipe, shard='all'))))
    procs = launch('convert-die2', tmp_path/'two')
    procs[1].wait(timeout=300); out = procs[0].communicate(timeout=60)[0]
    assert procs[1].returncode == -signal.SIGKILL and procs[0].returncode not in (0, None) and 'another one is gone' in out, out
    assert (tmp_path/'two'/'run'/'stages'/'align.json').exists() and list((tmp_path/'two'/'run'/'stages'/'distill-kl').glob('step-*'))
    shutil.copytree(tmp_path/'two'/'run', tmp_path/'one'/'run')
    finish(launch('convert', tmp_path/'two'))
    same_run(tmp_path/'two'/'run', alone)
    run(recipe, tmp_path/'one'/'run', show=False)           # how a run is spread may change on the way
    same_run(tmp_path/'one'/'run', alone)


def test_what_stops_one_stops_all_with_the_reason(recipe, tmp_path):
    (tmp_path/'recipe.json').write_text(json.dumps(dataclasses.asdict(recipe)))
    outs = finish(launch('convert-fail1', tmp_path), 1)
    assert 'RuntimeError: a disk that is not there' in outs[1] and 'process 1: RuntimeError: a disk that is not there' in outs[0], outs[0]


@pytest.mark.parametrize('make, word', [(lambda: Recipe(align_accumulate=5), 'align_accumulate is 5, but a step has 4 rows'), (lambda: Recipe(distill_accumulate=0), 'at least 1'), (lambda: Recipe(shard=0), '"all"'), (lambda: Recipe(shard='some'), '"all"'),
                                        (lambda: Recipe(distill_checkpointing=1), 'bool'), (lambda: Recipe(shard=True), 'shard'), (lambda: check_rows(Recipe(), 2), 'distill_batch is 1 rows a step, too few for 2 processes'),
                                        (lambda: check_rows(Recipe(distill_batch=4, align_accumulate=4), 2), 'each process has 2 rows'), (lambda: check_rows(Recipe(distill_batch=2, finetune_tokens=9, finetune_accumulate=2), 2), 'finetune_accumulate')])
def test_what_cannot_be_spread_is_refused(make, word):
    with pytest.raises(ConfigError, match=word): make()
    assert check_rows(Recipe(distill_batch=3, distill_accumulate=2), 2) is None      # uneven parts are fine


def test_more_processes_than_there_are(recipe, tmp_path):
    with pytest.raises(ConfigError, match='divisor of the 1 processes'): run(dataclasses.replace(recipe, shard=8), tmp_path/'x', show=False)


def test_how_a_run_is_spread_is_an_option():
    r = recipe_of(make_parser().parse_args(['run', '--shard', 'all', '--align-accumulate', '2', '--distill-checkpointing', 'on']))
    assert (r.shard, r.align_accumulate, r.distill_checkpointing, r.finetune_checkpointing) == ('all', 2, True, False) and recipe_of(make_parser().parse_args(['run', '--shard', '4'])).shard == 4
    with pytest.raises(SystemExit): make_parser().parse_args(['run', '--distill-checkpointing', 'yes'])
