"Every mixer on a tiny teacher: decode, padding, packing, saving, gradients, starting values"
import dataclasses, math

import pytest
import torch
from transformers import AutoModelForCausalLM

from hybrid_tutorial.core import ConfigError, assert_close, rms_error
from hybrid_tutorial.models.hybrid import build_hybrid, build_student, decode_stepwise, load_hybrid
from hybrid_tutorial.models.mixers import MIXERS, make_mixer, mixer_kind, read_shape
from hybrid_tutorial.models.window import window_attention
from hybrid_tutorial.ops.softmax import softmax_attention

from helpers import tiny_teacher, tokens

NAMES = [n for n in MIXERS if n != 'softmax']
WINDOWS = [('gdn', dict(window=5)), ('gla', dict(window=8)), ('kda', dict(window=5)), ('mamba2', dict(window=5)),
           ('rwkv6', dict(window=5)), ('rwkv7', dict(window=5)), ('hedgehog', dict(window=5)), ('swa', dict(window=6, sinks=2)), ('swa', dict(window=6, sinks=0))]
CASES = [(n, None) for n in NAMES] + WINDOWS
label = lambda c: c if isinstance(c, str) else '' if c is None else ','.join(f'{k}={v}' for k, v in c.items())
SMALL = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, intermediate_size=32)


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def teacher_of(family='llama'): return tiny_teacher(family, **SMALL)

def shaken(model, seed=3, by=0.1):
    "Nothing new is at its neutral start any more"
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in model.mixers.values():
            for n, p in m.named_parameters():
                if n.split('.')[0][:6] not in ('q_proj', 'k_proj', 'v_proj', 'o_proj'): p.add_(by*torch.randn(p.shape, generator=gen))
    return model


def student_of(name, settings=None, family='llama', keep=None):
    teacher = teacher_of(family)
    s = shaken(build_student(teacher, name, settings=settings, verbose=False))
    return s if keep is None else build_hybrid(s, teacher, keep)


@pytest.mark.parametrize('name, settings', CASES, ids=label)
def test_decode_equals_forward_also_padded(name, settings):
    m, ids = student_of(name, settings), tokens(T=19)
    want = m(ids).logits
    for prefill in (1, 11): assert_close(decode_stepwise(m, ids, prefill), want, 2e-5)
    mask = torch.ones(2, 19, dtype=torch.long); mask[0, :4] = 0
    got = decode_stepwise(m, ids, 12, mask)
    assert_close(got[:1, 4:], m(ids[:1, 4:]).logits, 2e-5)
    assert_close(got[1:], want[1:], 2e-5)


@pytest.mark.parametrize('name, settings', CASES, ids=label)
def test_packed_equals_separate(name, settings):
    m, ids = student_of(name, settings, keep=[1]), tokens(T=20)
    docs = torch.tensor([[0]*7+[1]*2+[2]*11, [5]*20])
    parts = [m(ids[:1, a:b], use_cache=False).logits for a, b in ((0, 7), (7, 9), (9, 20))]
    want = torch.cat([torch.cat(parts, 1), m(ids[1:], use_cache=False).logits])
    assert_close(m(ids, doc_ids=docs).logits, want, 2e-5)


@pytest.mark.parametrize('name, settings', CASES, ids=label)
def test_save_and_reload_is_bit_equal(name, settings, tmp_path):
    m, ids = student_of(name, settings, keep=[0]), tokens(T=12)
    m.save_pretrained(tmp_path)
    again = load_hybrid(tmp_path)
    assert again.config.keep == [0] and again.config.layer_types == m.config.layer_types == ['full_attention']+[mixer_kind(name, settings)[0]]*2
    assert torch.equal(again(ids).logits, m(ids).logits)


@pytest.mark.parametrize('name, settings', CASES, ids=label)
def test_gradient_reaches_all_that_should_learn_and_nothing_else(name, settings):
    s = student_of(name, settings, family='qwen3')
    s.requires_grad_(False)
    for m in s.mixers.values(): m.requires_grad_(True)
    s.model(tokens(T=12), use_cache=False).last_hidden_state.pow(2).mean().backward()
    dead = [f'{i}.{n}' for i, m in s.mixers.items() for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead
    mine = {id(p) for m in s.mixers.values() for p in m.parameters()}
    assert all(p.grad is None for p in s.parameters() if id(p) not in mine)
