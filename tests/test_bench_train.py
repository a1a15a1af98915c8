"`hybrid-distill bench train` on a tiny teacher: what it measures is what it says"
import json

import pytest
import torch

from hybrid_tutorial.cli import main
from hybrid_tutorial.core import ConfigError
from hybrid_tutorial.training import bench_train as b

from helpers import tiny_teacher, tokens
from test_teachers import tiny_tokenizer


def test_command_line(tmp_path, capsys):
    from transformers import LlamaConfig, LlamaForCausalLM
    tok = tiny_tokenizer()
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)).save_pretrained(tmp_path/'t')
    tok.save_pretrained(tmp_path/'t')
    options = ['--teacher', str(tmp_path/'t'), '--batch-size', '2', '--seq-len', '16', '--steps', '2', '--rounds', '2', '--no-memory', '--out', str(tmp_path/'r.json')]
    assert main(['bench', 'train', *options, '--json']) == 0
    got = json.loads(capsys.readouterr().out)
    assert got == json.loads((tmp_path/'r.json').read_text()) and set(got['seconds']) == set(b.SIDES) and all(len(s) == 2 and min(s) > 0 for s in got['seconds'].values())
    s = got['seconds']
    assert got['ratios']['share_of_limit']['value'] == pytest.approx(sum((t+u)/l for t, u, l in zip(s['teacher'], s['student'], s['loop']))/2)
    assert got['ratios']['save_overhead']['value'] == pytest.approx(sum(s['save'])/2/300)


def test_the_bare_loop_learns_what_the_loop_learns():
    "else their times could not be compared"
    import copy
    from hybrid_tutorial.training.logits import distill
    teacher = tiny_teacher('llama_tied', num_hidden_layers=3)
    one = b.some_hybrid(teacher); two = copy.deepcopy(one)
    rows = [tokens(2, 24, seed=s) for s in range(3)]
    b.bare_loop(one, teacher, rows, 512, 'float32')
    distill(two, teacher, rows, dtype='float32')
    for (n, p), q in zip(one.named_parameters(), two.parameters()): assert torch.allclose(p, q, atol=1e-6), n


def test_naive_step_holds_more(monkeypatch):
    "the high-water mark sees logits of 8 MB; the step in pieces does not hold them"
    teacher = tiny_teacher('llama', num_hidden_layers=2, vocab_size=20_000)
    hybrid, ids = b.some_hybrid(teacher), tokens(2, 512)
    from hybrid_tutorial.training.logits import distill
    peaks = {}
    for name, step in (('ours', lambda: distill(hybrid, teacher, [ids], chunk_size=32, dtype='float32')), ('naive', lambda: b.naive_step(hybrid, teacher, ids, 'float32'))):
        step(); before = b.high_water(restart=True); step(); peaks[name] = b.high_water()
    assert peaks['naive'] > peaks['ours']+2*ids.numel()*20_000*4


def test_refuses_what_it_cannot_time():
    with pytest.raises(ConfigError, match='steps'): b.bench_train(tiny_teacher(num_hidden_layers=2), steps=1)
