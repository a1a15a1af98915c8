"Plans: counts, memory against what is allocated, hours against what was published, files that accelerate loads"
import dataclasses, json, os, shlex

import pytest
import torch
from transformers import AutoModelForCausalLM

from hybrid_tutorial.cli import main, make_parser, recipe_of
from hybrid_tutorial.core import ConfigError, TeacherError
from hybrid_tutorial.models.hybrid import HybridConfig, HybridForCausalLM, build_hybrid, build_student, kinds
from hybrid_tutorial.models.mixers import mixer_kind
from hybrid_tutorial.plan import (GPUS, USABLE, Blueprint, Layout, flops_per_token, launch_command, make_plan, most_rows, peak_allocated, plan_tables, saved_bytes, serving,
                                  shipped, stage_memory, step_times, teacher_config, write_plan)
from hybrid_tutorial.recipe import HOW, PAPER, Recipe, check_rows
from hybrid_tutorial.selection.agreement import published_sets
from hybrid_tutorial.training.align import PIECE, align
from hybrid_tutorial.training.finetune import finetune
from hybrid_tutorial.training.logits import distill
from helpers import config_of

PUBLISHED = {'SmolLM2-135M-Instruct': 134_515_008, 'Qwen2.5-1.5B-Instruct': 1_543_714_304, 'Qwen2.5-3B-Instruct': 3_085_938_688, 'Qwen2.5-7B-Instruct': 7_615_616_512,
             'Qwen2.5-32B-Instruct': 32_763_876_352, 'Qwen2.5-72B-Instruct': 72_706_203_648, 'Llama-3.2-3B-Instruct': 3_212_749_824}      # of the published checkpoints
HOURS = {'7B': (0.75, 5.5, 1.), '32B': (2.5, 27., 3.), '72B': (7.5, 54., 6.)}            # RADLADS, 8 MI300X, steps 1 to 3
count = lambda m: sum(p.numel() for p in m.parameters())


@pytest.fixture(scope='module')
def seven(): return Blueprint(teacher_config('Qwen2.5-7B-Instruct'), 'gdn-paper', [3, 9, 20])


@pytest.fixture(scope='module')
def tiny(): return config_of('qwen2', hidden_size=64, num_attention_heads=4, num_hidden_layers=3)


@pytest.mark.parametrize('name', PUBLISHED)
def test_counts_are_those_of_meta_models_and_of_the_checkpoints(name):
    config = teacher_config(name)
    b = Blueprint(config, 'gdn-paper', [1])
    with torch.device('meta'):
        teacher = AutoModelForCausalLM.from_config(config)
        hybrid = HybridForCausalLM(HybridConfig(base=config, mixer='gdn-paper', layer_types=kinds(config, [1])))
    assert b.counts['teacher'] == PUBLISHED[name] == count(teacher) and b.counts['hybrid'] == count(hybrid)
    assert b.counts['mixers']*(config.num_hidden_layers-1) == sum(map(count, hybrid.mixers.values()))*config.num_hidden_layers


def test_every_shipped_config_is_tested(): assert set(shipped()) == set(PUBLISHED)


@pytest.mark.parametrize('family, mixer', [('llama', 'gdn'), ('llama_tied', 'rwkv7'), ('qwen3', 'kda'), ('olmo2', 'hedgehog'), ('qwen2', 'swa')])
def test_counts_are_those_of_a_real_conversion(family, mixer):
    from helpers import tiny_teacher
    teacher = tiny_teacher(family)
    student = build_student(teacher, mixer, verbose=False)
    c = Blueprint(teacher.config, mixer, [2]).counts
    assert c == dict(teacher=count(teacher), mixers=sum(map(count, student.mixers.values())), student=count(student), hybrid=count(build_hybrid(student, teacher, [2])))


def test_a_layer_keeps_what_a_real_one_keeps(tiny):
    model = AutoModelForCausalLM.from_config(tiny)
    b = Blueprint(tiny, 'gdn-paper', [1])
    for rows, T in ((1, 64), (3, 200)):
        x = torch.randn(rows, T, 64, requires_grad=True); pos = model.model.rotary_emb(x, torch.arange(T)[None])
        got = saved_bytes(lambda: model.model.layers[1](x, position_embeddings=pos, attention_mask=None), [*model.parameters(), *pos])
        fixed, each = b.saved('softmax', False)
        assert got == fixed+each*rows*T and fixed == 0


CASES = {'activations': (dict(vocab_size=512, hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4), 4, 256),
         'logits': (dict(vocab_size=8192, hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4, tie_word_embeddings=True), 2, 128),
         'parameters': (dict(vocab_size=2048, hidden_size=256, intermediate_size=1024, num_hidden_layers=3, num_attention_heads=4), 1, 64)}

@pytest.mark.parametrize('what, mixer, dtype', [('activations', 'gdn-paper', 'float32'), ('activations', 'gdn-paper', 'bfloat16'), ('activations', 'gdn', 'float32'), ('activations', 'rwkv6', 'float32'),
                                                ('logits', 'gdn-paper', 'float32'), ('logits', 'rwkv6', 'bfloat16'), ('parameters', 'gdn-paper', 'bfloat16'), ('parameters', 'rwkv6', 'float32')])
def test_memory_is_within_15_percent_of_what_is_allocated(what, mixer, dtype):
    shape, rows, T = CASES[what]
    config = config_of('llama', **shape)
    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    data = [torch.randint(config.vocab_size, (rows, T)) for _ in range(2)]
    student = build_student(teacher, mixer, verbose=False); hybrid = build_hybrid(student, teacher, [1])
    b = Blueprint(config, mixer, [1])
    for stage, run in dict(align=lambda: align(student, teacher, data, calibrate_tokens=0, dtype=dtype), distill=lambda: distill(hybrid, teacher, data, dtype=dtype)).items():
        at_once = min(rows, max(1, PIECE//T)) if stage == 'align' else rows
        m = stage_memory(b, stage, T, Layout(rows=at_once), half=dtype == 'bfloat16', teacher_bytes=4)
        got = peak_allocated(run)+m['teacher']+m['weights']
        assert 0.85 < sum(m.values())/got < 1.15, (stage, sum(m.values()), got)


@pytest.mark.parametrize('stage, mixer', [('align', 'gdn-paper'), ('distill', 'gdn-paper'), ('finetune', 'gla')])
def test_operations_are_those_that_are_done(stage, mixer):
    from torch.utils.flop_counter import FlopCounterMode
    config = config_of('llama', vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4)
    teacher = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    student = build_student(teacher, mixer, verbose=False); hybrid = build_hybrid(student, teacher, [1])
    data = [torch.randint(256, (4, 64))]
    run = dict(align=lambda: align(student, teacher, data, calibrate_tokens=0, dtype='float32'), distill=lambda: distill(hybrid, teacher, data, dtype='float32'), finetune=lambda: finetune(hybrid, data, dtype='float32'))[stage]
    with FlopCounterMode(display=False) as f: run()
    want = flops_per_token(Blueprint(config, mixer, [1]), stage, 64)*256
    assert 0.9 < want/f.get_total_flops() < 1.1


def test_memory_moves_as_it_must(seven):
    total = lambda stage='distill', T=512, **how: sum(stage_memory(seven, stage, T, Layout(**{k: v for k, v in how.items() if k not in ('half', 'teacher_bytes')}), **{k: v for k, v in how.items() if k in ('half', 'teacher_bytes')}).values())
    for stage in ('align', 'distill', 'finetune'):
        sharded = [total(stage, gpus=n, sharding='fsdp2') for n in (2, 4, 8, 16, 64)]
        assert sharded == sorted(sharded, reverse=True) and sharded[0] > 1.2*sharded[2]
        rows = [total(stage, rows=r) for r in (1, 2, 4, 8)]
        assert rows == sorted(rows) and rows[0] < rows[-1]
        assert total(stage, gpus=8, sharding='ddp') > total(stage)                       # buckets
    acts = lambda again: stage_memory(seven, 'distill', 512, Layout(rows=8, checkpoint=again))['activations']
    assert acts(True) < 0.2*acts(False) and total(rows=8, checkpoint=True) < total(rows=8) and total(T=4096) > total(T=512)
    assert total(teacher_bytes=4)-total(teacher_bytes=2) == 2*seven.counts['teacher']
    assert total(accumulate=4) >= total() and total('finetune') < total('distill')
    m = stage_memory(seven, 'distill', 512, Layout(8, 'fsdp2'))
    assert m['optimizer'] == 8*seven.counts['hybrid']/8 and m['weights'] == 4*seven.counts['hybrid']/8 and m['teacher'] == 2*seven.counts['teacher']/8


def test_times_move_as_they_must(seven):
    at = lambda gpu='h100', eff=0.4, T=512, **how: step_times(seven, 'distill', T, Layout(**{**dict(gpus=8, sharding='fsdp2'), **how}), GPUS[gpu], efficiency=eff)
    assert at(eff=0.2)['products'] == pytest.approx(2*at(eff=0.4)['products']) and at(eff=0.2)['memory'] == at(eff=0.4)['memory']
    assert at(checkpoint=True)['products'] > 1.2*at()['products'] and at(accumulate=4)['link'] == pytest.approx(4*at()['link'])
    assert at('l4')['link'] > at('h100')['link'] and at(gpus=16)['link'] > at(gpus=8)['link']                # across machines
    assert at(gpus=1, sharding='single')['link'] == 0 and at(T=8192)['products'] > 16*at(T=512)['products']     # softmax layers grow with the square


def test_most_rows_is_the_border(seven):
    limit = GPUS['mi300x'].memory*USABLE
    need = lambda r: sum(stage_memory(seven, 'distill', 2048, Layout(8, 'fsdp2', r)).values())
    r = most_rows(need, limit)
    assert r > 1 and need(r) <= limit < need(r+1)
    assert most_rows(lambda r: 10., 5.) == 0 and most_rows(lambda r: 0., 5.) == 4096


@pytest.fixture(scope='module')
def radlads(): return {s: make_plan(Recipe.radlads(f'Qwen/Qwen2.5-{s}-Instruct'), 8, 'mi300x', sharding='fsdp2', efficiency=1.) for s in HOURS}


def test_hours_are_within_a_factor_of_those_published(radlads):
    "Efficiency from the 7B model alone; the other two are predicted"
    products = lambda p: [s.tokens/(8*s.layout.rows*s.layout.accumulate*s.seq_len)*s.times['products']/3600 for s in p.stages]
    efficiency = sorted(h/was for h, was in zip(products(radlads['7B']), HOURS['7B']))[1]
    for size in ('32B', '72B'):
        plan = [h/efficiency for h in products(radlads[size])]
        assert all(1/2.2 < a/b < 2.2 for a, b in zip(plan, HOURS[size])), (size, plan)
        assert 0.7 < sum(plan)/sum(HOURS[size]) < 1.4, (size, plan)


def test_a_plan_that_does_not_fit_says_what_would(radlads):
    p = radlads['72B']
    assert not p.fits and '16 x mi300x' in p.advice
    again = make_plan(p.recipe, 16, 'mi300x')
    assert again.fits and again.sharding == 'fsdp2' and not again.advice
    assert radlads['7B'].fits and radlads['7B'].advice == ''
    alone = make_plan(Recipe.paper('Qwen/Qwen2.5-3B-Instruct'), 1, 'a100-40')
    assert not alone.fits and ' x a100-40 with FSDP2' in alone.advice and '1 x ' in alone.advice
    with pytest.raises(ConfigError, match='What would fit'): write_plan(alone, 'x.yaml')


def test_a_plan_adds_up(radlads):
    p = radlads['7B']
    assert p.hours == pytest.approx(sum(s.hours for s in p.stages)) and p.dollars == pytest.approx(p.hours*8*GPUS['mi300x'].price)
    assert [s.stage for s in p.stages] == ['align', 'distill', 'finetune'] and [s.seq_len for s in p.stages] == [512, 512, 16384]
    for s in p.stages:
        assert s.layout.rows*s.layout.accumulate*8 >= s.batch and s.hours == pytest.approx(s.tokens/s.tokens_per_s/3600) and s.layout.rows <= s.most_rows
    twice = make_plan(dataclasses.replace(p.recipe, baseline='uniform'), 8, 'mi300x', sharding='fsdp2', efficiency=1.)
    assert twice.stages[1].tokens == 2*p.stages[1].tokens


def test_serving_is_the_cache_model_of_evaluation(tiny):
    b = Blueprint(tiny, 'gdn-paper', [1])
    short, long = serving(b, GPUS['l4'], (16, 4096))
    G, K, H = tiny.num_key_value_heads, 16, 4
    assert long['teacher']['cache_bytes'] == 3*2*G*K*2*4096 and long['hybrid']['cache_bytes'] == 2*G*K*2*4096+2*H*K*K*4
    assert long['hybrid']['ms'] < long['teacher']['ms'] and long['hybrid']['sequences'] > long['teacher']['sequences']
    assert short['hybrid']['cache_bytes'] > short['teacher']['cache_bytes']


def test_presets_carry_what_was_published():
    r = Recipe.paper('Qwen/Qwen2.5-3B-Instruct', 0.25)
    assert sorted(r.keep) == sorted(published_sets('Qwen2.5-3B-Instruct', 0.25)['ga_s2']) and r.keep == (5, 17, 19, 20, 21, 22, 25, 32, 33)
    assert (r.align_tokens, r.align_seq_len, r.align_batch, r.align_lr, r.align_warmup) == (10**8, 512, 96, 1e-3, 0)
    assert (r.distill_tokens, r.seq_len, r.distill_batch, r.distill_lr, r.distill_lr_attention, r.distill_schedule) == (6*10**8, 4096, 32, 7e-6, 1e-4, 'constant')
    assert Recipe.paper('Qwen/Qwen2.5-3B-Instruct', 0.25, seed=3).seed == 3 and Recipe.from_dict(json.loads(json.dumps(dataclasses.asdict(r)))) == r
    d = Recipe.radlads('Qwen/Qwen2.5-72B-Instruct')
    assert d.keep == () and (d.align_batch, d.align_warmup, d.distill_batch, d.distill_lr, d.distill_lr_attention) == (32, 50, 96, 7e-6, 7e-6) and Recipe.radlads().distill_lr == 1e-5
    assert (d.finetune_tokens, d.finetune_seq_len, d.finetune_lr) == (10**8, 16384, 1e-5)


@pytest.mark.parametrize('make, word', [(lambda: Recipe.paper('Qwen/Qwen2.5-32B-Instruct'), 'Known: .*Qwen2.5-3B'), (lambda: Recipe.paper('Qwen/Qwen2.5-7B-Instruct', 0.125), 'there are gdn 0.25'),
                                        (lambda: Recipe.paper('Qwen/Qwen2.5-1.5B-Instruct', 0.5), '7 layers where 14'), (lambda: Recipe.radlads('x/Llama'), 'Known: Qwen2.5-7B'),
                                        (lambda: Recipe(baseline='none'), 'baseline'), (lambda: Recipe(teacher_dtype='float16'), 'teacher_dtype'), (lambda: Recipe(teacher_dtype='bfloat16'), 'goes with'), (lambda: Recipe(align_seq_len=0), 'align_seq_len'), (lambda: Recipe(align_warmup=-1), 'align_warmup'),
                                        (lambda: make_plan(Recipe.paper(), gpu='h10'), 'Did you mean'), (lambda: make_plan(Recipe.paper(), sharding='fsdp'), 'Did you mean'), (lambda: make_plan(Recipe.paper(), 64), 'too few'),
                                        (lambda: make_plan(Recipe.paper(), 0), 'at least 1'), (lambda: make_plan(Recipe.paper(), efficiency=0.), 'efficiency'), (lambda: make_plan(Recipe.paper(), price=-1.), 'price'),
                                        (lambda: make_plan(Recipe.paper(), 8, sharding='single'), 'one process'), (lambda: Layout(rows=0), 'at least 1')])
def test_mistakes_are_named(make, word):
    with pytest.raises(ConfigError, match=word): make()


def test_teachers_are_found_or_refused(tmp_path, tiny):
    assert teacher_config('smollm2-135m').hidden_size == 576 and teacher_config('Qwen/Qwen2.5-7B').vocab_size == 152064
    with pytest.raises(TeacherError, match='Did you mean'): teacher_config('Qwen2.5-7')
    with pytest.raises(TeacherError, match='no config.json'): teacher_config(tmp_path)
    tiny.save_pretrained(tmp_path)
    assert teacher_config(tmp_path).hidden_size == 64                 # no weights needed
    (tmp_path/'config.json').write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    with pytest.raises(TeacherError, match='decoder'): teacher_config(tmp_path)


def test_command_prints_and_writes_what_accelerate_loads(tmp_path, capsys, monkeypatch):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env
    monkeypatch.setenv('COLUMNS', '200')
    file = tmp_path/'eight.yaml'
    assert main(['plan', 'Qwen2.5-3B-Instruct', '--preset', 'paper', '--ratio', '0.25', '--gpus', '8', '--gpu', 'h100', '--write', str(file)]) == 0
    out = capsys.readouterr().out
    for word in ('3.09B parameters', '9 softmax layers', 'optimizer', 'hours', 'dollars', '131,072', 'fsdp2', '14 %', f'accelerate launch --config_file {file}'): assert word in out, word
    config = load_config_from_file(str(file))
    assert config.num_processes == 8 and config.mixed_precision == 'bf16' and config.distributed_type.value == 'FSDP'
    launch = shlex.split(next(l for l in out.splitlines() if l.startswith('launch: ')).removeprefix('launch: '))
    assert launch[:2] == ['accelerate', 'launch']
    args = launch_command_parser().parse_args(launch[2:])
    args, _, _ = _validate_launch_command(args)
    assert args.use_fsdp and args.no_python and args.training_script == 'hybrid-distill'
    for k, v in prepare_multi_gpu_env(args).items(): monkeypatch.setenv(k, v)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True and plugin.transformer_cls_names_to_wrap == ['Qwen2DecoderLayer'] and not plugin.cpu_ram_efficient_loading
    run = make_parser().parse_args(args.training_script_args)
    p = make_plan(Recipe.paper('Qwen/Qwen2.5-3B-Instruct', 0.25))
    assert recipe_of(run) == p.launched and run.out == 'runs/qwen2.5-3b-instruct' and p.launched.shard == 'all'
    for s in p.stages: assert getattr(p.launched, f'{s.stage}_accumulate') == s.layout.accumulate and check_rows(p.launched, 8) is None
    assert dataclasses.replace(p.launched, **{k: getattr(p.recipe, k) for k in HOW}) == p.recipe


def test_command_for_one_gpu_and_many_machines(tmp_path, capsys):
    assert main(['plan', 'smollm2-135m', '--gpus', '1', '--gpu', 'l4', '--align-tokens', '5000', '--write', str(tmp_path/'one.yaml')]) == 0
    assert 'launch: hybrid-distill run --recipe' in capsys.readouterr().out
    r = Recipe.from_dict(json.loads((tmp_path/'one.json').read_text()))
    assert dataclasses.replace(r, **{k: getattr(Recipe(), k) for k in HOW}) == Recipe(**{**PAPER, 'teacher': 'smollm2-135m', 'align_tokens': 5000})
    assert r.shard is None and r.distill_accumulate > 1
    p = make_plan(Recipe.radlads(), 16)
    assert '--machine_rank' in launch_command(p) and '--machine_rank' not in launch_command(make_plan(Recipe.radlads(), 8, 'h200'))
    for argv, word in ((['smollm2-135'], 'Known: Llama-3.2'), (['Qwen2.5-72B-Instruct', '--preset', 'paper'], 'published teacher'), (['smollm2-135m', '--preset', 'papr'], 'Did you mean'),
                       (['smollm2-135m', '--preset', 'paper', '--recipe', 'x.json'], 'two starting points'), (['smollm2-135m', '--recipe', str(tmp_path/'no.json')], 'cannot read'),
                       (['smollm2-135m', '--recipe', str(tmp_path/'one.yaml')], 'not JSON'), (['smollm2-135m', '--write', str(tmp_path/'plan.txt'), '--gpus', '1'], 'ends in .yaml'), (['smollm2-135m', '--context', 'a'], '4096,8192')):
        assert main(['plan', *argv]) == 2 and word in capsys.readouterr().err, argv


def test_a_recipe_file_starts_a_run_and_options_change_it(tmp_path):
    file = tmp_path/'r.json'
    file.write_text(json.dumps(dataclasses.asdict(Recipe.radlads())))
    assert recipe_of(make_parser().parse_args(['run', '--recipe', str(file)])) == Recipe.radlads()
    assert recipe_of(make_parser().parse_args(['run', '--recipe', str(file), '--seed', '7', '--baseline', 'uniform'])) == Recipe.radlads(seed=7, baseline='uniform')
    assert recipe_of(make_parser().parse_args(['run', '--preset', 'paper', '--ratio', '0.125', '--teacher', 'Qwen/Qwen2.5-3B-Instruct'])) == Recipe.paper('Qwen/Qwen2.5-3B-Instruct', 0.125)
    file.write_text('{"align_token": 3}')
    with pytest.raises(ConfigError, match='Did you mean'): recipe_of(make_parser().parse_args(['run', '--recipe', str(file)]))
    with pytest.raises(ConfigError, match='two starting points'): recipe_of(make_parser().parse_args(['run', '--recipe', str(file), '--quick']))


def test_configs_are_package_data():
    from pathlib import Path
    assert '**/*.json' in (Path(__file__).parent.parent/'setup.py').read_text()
    assert all(f.is_file() for f in shipped().values())
