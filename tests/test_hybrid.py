"Transfer and the hybrid model: design checks 1, 2 and 4, on every family"
import subprocess, sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hybrid_tutorial.core import CheckpointError, ConfigError, ShapeError, TeacherError, assert_close, rms_error
from hybrid_tutorial.models.hybrid import (HybridCache, HybridConfig, build_hybrid, build_student, check_keep, decode_stepwise, load_hybrid)
from hybrid_tutorial.models.mixers import MIXERS, make_mixer, read_shape
from hybrid_tutorial.models.transfer import expand_heads, expand_rows, transfer

from helpers import FAMILIES, tiny_teacher, tokens

LINEAR = ['gdn', 'gdn-paper', 'gdn-official']     # the others: test_mixers.py


@pytest.mark.parametrize('family', FAMILIES)
def test_softmax_student_reproduces_teacher(family):
    for dtype, tol in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        teacher = tiny_teacher(family).to(dtype)
        student = build_student(teacher, 'softmax', verbose=False)
        assert_close(student(tokens(), use_cache=False).logits, teacher(tokens()).logits, tol)


def test_identity_fails_with_rows_repeated():
    teacher = tiny_teacher()
    student = build_student(teacher, 'softmax', verbose=False)
    for layer, mine in zip(teacher.model.layers, student.model.layers):
        mine.self_attn.k_proj.weight.data = expand_rows(layer.self_attn.k_proj.weight, 2, 3)
    assert rms_error(student(tokens(), use_cache=False).logits, teacher(tokens()).logits) > 0.05


def test_expansion_order_against_planted_pattern():
    G, r, K = 3, 4, 5
    w = torch.arange(G*K)
    for h in range(G*r): assert expand_heads(w, G, r)[h*K:(h+1)*K].tolist() == list(range(h//r*K, h//r*K+K))
    for i in range(G*r*K): assert expand_rows(w, G, r)[i] == i//r
    with pytest.raises(ShapeError): expand_heads(torch.zeros(7, 2), 2, 2)


@pytest.mark.parametrize('family', FAMILIES)
def test_keep_all_is_the_teacher_keep_none_is_the_student(family):
    teacher = tiny_teacher(family)
    student = build_student(teacher, verbose=False)
    ids = tokens()
    assert torch.equal(build_hybrid(student, teacher, range(5))(ids).logits, teacher(ids).logits)
    assert torch.equal(build_hybrid(student, teacher, [])(ids).logits, student(ids).logits)
    assert not torch.equal(student(ids).logits, teacher(ids).logits)


@pytest.mark.parametrize('mixer', LINEAR)
@pytest.mark.parametrize('keep', [[], [1, 3], [0], [4]])
def test_prefill_and_steps_equal_full(mixer, keep):
    teacher = tiny_teacher('qwen3')
    hybrid = build_hybrid(build_student(teacher, mixer, verbose=False), teacher, keep)
    ids = tokens(T=75)
    for prefill in (1, 20, 74): assert_close(decode_stepwise(hybrid, ids, prefill), hybrid(ids).logits, 1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_left_padding_changes_nothing(family):
    teacher = tiny_teacher(family)
    hybrid = build_hybrid(build_student(teacher, verbose=False), teacher, [2])
    ids, mask = tokens(T=30), torch.ones(2, 30, dtype=torch.long)
    mask[0, :11] = 0
    got = decode_stepwise(hybrid, ids, 20, mask)
    assert_close(got[:1, 11:], hybrid(ids[:1, 11:]).logits, 1e-5)
    assert_close(got[1:], hybrid(ids[1:]).logits, 1e-5)


@pytest.mark.parametrize('keep', [[], [1, 3]])
def test_generate_greedy_sampling_beams_padded(keep):
    teacher = tiny_teacher('llama_tied')
    hybrid = build_hybrid(build_student(teacher, verbose=False), teacher, keep)
    ids, how = tokens(T=12), dict(max_new_tokens=9, min_new_tokens=9, pad_token_id=0)
    greedy = hybrid.generate(ids, do_sample=False, **how)
    assert torch.equal(greedy, hybrid.generate(ids, do_sample=False, use_cache=False, **how))
    beams = hybrid.generate(ids, num_beams=3, do_sample=False, **how)
    assert torch.equal(beams, hybrid.generate(ids, num_beams=3, do_sample=False, use_cache=False, **how))
    torch.manual_seed(0); a = hybrid.generate(ids, do_sample=True, **how)
    torch.manual_seed(0); b = hybrid.generate(ids, do_sample=True, use_cache=False, **how)
    assert torch.equal(a, b)
    short = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids[:1, 4:]], 1)
    mask = torch.ones(2, 12, dtype=torch.long); mask[0, :4] = 0
    batch = hybrid.generate(torch.cat([short, ids[1:]]), attention_mask=mask, do_sample=False, **how)
    alone = hybrid.generate(ids[:1, 4:], do_sample=False, **how)
    assert torch.equal(batch[0, 12:], alone[0, 8:]) and torch.equal(batch[1], greedy[1])


def test_cache_counts_tokens_and_reorders():
    teacher = tiny_teacher()
    student = build_student(teacher, verbose=False)
    out = student(tokens(T=7), use_cache=True)
    assert isinstance(out.past_key_values, HybridCache) and out.past_key_values.get_seq_length() == 7
    state = out.past_key_values.layers[2].recurrent_states[0].clone()
    out.past_key_values.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(out.past_key_values.layers[2].recurrent_states[0], state[[1, 0]])
    assert state.shape == (2, 6, 8, 8) and state.dtype == torch.float32


@pytest.mark.parametrize('family', FAMILIES)
def test_save_and_reload_is_bit_equal(family, tmp_path):
    teacher = tiny_teacher(family)
    hybrid = build_hybrid(build_student(teacher, verbose=False), teacher, [1, 4])
    hybrid.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob('*.safetensors')] and not list(tmp_path.glob('*.bin'))
    ids = tokens()
    for again in (AutoModelForCausalLM.from_pretrained(tmp_path).eval(), load_hybrid(tmp_path)):
        assert again.config.keep == [1, 4] and torch.equal(again(ids).logits, hybrid(ids).logits)
        tied = again.lm_head.weight is again.model.embed_tokens.weight
        assert tied == bool(teacher.config.tie_word_embeddings)


def test_the_window_is_a_ring_that_no_mode_and_no_copy_can_harm():
    import copy
    teacher = tiny_teacher()
    hybrid = build_hybrid(build_student(teacher, settings=dict(window=4), verbose=False), teacher, [1]).eval()
    ids = tokens(B=2, T=30)
    want = hybrid(ids, use_cache=False).logits
    with torch.no_grad(): past = hybrid(ids[:, :11], use_cache=True).past_key_values
    fork, place = copy.deepcopy(past), hybrid.model.layers[0].self_attn.layer_idx
    for i in range(11, 30):
        mode = (torch.no_grad, torch.enable_grad)[i%2]
        with mode(): out = hybrid(ids[:, i:i+1], past_key_values=past, use_cache=True)
        if i%2 == 1: out.logits.sum().backward()                 # a gradient held from an earlier token must not meet a place written since
        assert_close(out.logits[:, 0], want[:, i], 1e-5)
    assert past.layers[place].keys.shape[2] == 4+4 and fork.layers[place].cumulative_length == 11
    with torch.no_grad(): assert_close(hybrid(ids[:, 11:12], past_key_values=fork, use_cache=True).logits[:, 0], want[:, 11], 1e-5)
    for T in (1, 2, 3):                                          # and in pieces of several tokens
        with torch.no_grad():
            past = hybrid(ids[:, :5], use_cache=True).past_key_values
            got = [hybrid(ids[:, a:a+T], past_key_values=past, use_cache=True).logits for a in range(5, 30, T)]
        assert_close(torch.cat(got, 1), want[:, 5:], 1e-5)


def test_a_changed_preset_does_not_change_saved_models(tmp_path, monkeypatch):
    import dataclasses
    teacher = tiny_teacher()
    hybrid = build_hybrid(build_student(teacher, settings=dict(sinks=2), verbose=False), teacher, [1])
    hybrid.save_pretrained(tmp_path)
    kind, settings = MIXERS['gdn']
    monkeypatch.setitem(MIXERS, 'gdn', (kind, dataclasses.replace(settings, window=0, gate='silu', expand='heads')))
    again = load_hybrid(tmp_path)
    assert again.config.mixer_settings == hybrid.config.mixer_settings and again.config.mixer_settings['sinks'] == 2
    assert torch.equal(again(tokens()).logits, hybrid(tokens()).logits)


def test_reload_in_a_fresh_process(tmp_path):
    teacher = tiny_teacher('qwen2')
    hybrid = build_hybrid(build_student(teacher, verbose=False), teacher, [3])
    hybrid.save_pretrained(tmp_path)
    code = ("import sys, torch, hybrid_tutorial; from transformers import AutoModelForCausalLM; m = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval();"
            "ids = torch.arange(3, 40)[None]; out = m.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0);"
            "print('OUT', out[0, 37:].tolist(), float(m(ids).logits.double().sum()))")
    got = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
    ids = torch.arange(3, 40)[None]
    want = hybrid.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)[0, 37:].tolist()
    assert got == f"OUT {want} {float(hybrid(ids).logits.double().sum())}"


def test_tied_embeddings_stay_tied_through_training_and_saving(tmp_path):
    teacher = tiny_teacher('llama_tied')
    hybrid = build_hybrid(build_student(teacher, verbose=False), teacher, [1])
    assert hybrid.lm_head.weight is hybrid.model.embed_tokens.weight
    with torch.no_grad(): hybrid.lm_head.weight.add_(0.5)
    hybrid.save_pretrained(tmp_path)
    assert torch.equal(load_hybrid(tmp_path).model.embed_tokens.weight, hybrid.lm_head.weight)


def test_building_never_changes_teacher_or_student():
    teacher = tiny_teacher()
    before = {n: p.clone() for n, p in teacher.state_dict().items()}
    student = build_student(teacher, verbose=False)
    mine = {n: p.clone() for n, p in student.state_dict().items()}
    hybrid = build_hybrid(student, teacher, [2])
    with torch.no_grad():
        for p in hybrid.parameters(): p.zero_()
    assert all(torch.equal(p, before[n]) for n, p in teacher.state_dict().items())
    assert all(torch.equal(p, mine[n]) for n, p in student.state_dict().items())
    assert teacher.config.use_cache is True and student.config.keep == [] and hybrid.config.keep == [2]


def test_same_seed_same_student_other_seed_other_gates():
    teacher = tiny_teacher()
    a, b, c = (build_student(teacher, 'gdn-paper', seed=s, verbose=False).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[n], b[n]) for n in a) and any(not torch.equal(a[n], c[n]) for n in a)


def test_what_is_lost_is_said(capsys):
    build_student(tiny_teacher('qwen2'), 'gdn-paper')
    out = capsys.readouterr().out
    lines = [l.split() for l in out.splitlines()]
    assert ['rotary', 'positions', 'on', 'q', 'and', 'k', 'dropped', '5'] in lines and ['biases', 'of', 'q,', 'k,', 'v', 'added', 'dropped', '5'] in lines
    attn = tiny_teacher('qwen3').model.layers[0].self_attn
    assert transfer(attn, make_mixer('gdn', read_shape(attn), 0)) == ['rotary positions']
    assert 'norm on q and k' in transfer(attn, make_mixer('gdn-paper', read_shape(attn), 0))


def test_presets_differ_exactly_where_they_say():
    import dataclasses
    default = dataclasses.asdict(MIXERS['gdn'][1])
    diff = lambda name: {k for k, v in dataclasses.asdict(MIXERS[name][1]).items() if v != default[k]}
    assert diff('gdn-paper') == {'bias', 'qk_norm', 'activation', 'gate', 'decay', 'expand', 'window'}
    assert diff('gdn-official') == diff('gdn-paper') and MIXERS['gdn-official'][1].expand == 'rows' and MIXERS['gdn-paper'][1].expand == 'heads'


def test_gradients_reach_everything_that_should_learn():
    teacher = tiny_teacher('qwen3')
    for name in LINEAR:
        m = build_student(teacher, name, settings=dict(window=3) if name == 'gdn' else None, verbose=False).mixers[0].requires_grad_(True)
        if name == 'gdn': m.near_proj.bias.data.fill_(0.5)                # at 0 the state has no say
        pos = teacher.model.rotary_emb(torch.randn(1, 9, 48), torch.arange(9)[None])
        x = torch.randn(2, 9, 48)
        (m(x, pos)[0]*torch.randn(2, 9, 48)).sum().backward()
        dead = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not dead, (name, dead)


def test_labels_give_the_usual_loss():
    teacher = tiny_teacher()
    same = build_hybrid(build_student(teacher, verbose=False), teacher, range(5))
    assert torch.equal(same(tokens(), labels=tokens()).loss, teacher(tokens(), labels=tokens()).loss)


@pytest.mark.parametrize('keep, word', [([5], 'layers 0 to 4'), ([-1], 'layers 0 to 4'), ([1, 1], 'more than once'), ([1.5], 'whole numbers'), (['2'], 'whole numbers'), ([True], 'whole numbers')])
def test_bad_keep(keep, word):
    with pytest.raises(ConfigError, match=word): check_keep(keep, 5)


def test_bad_configs():
    with pytest.raises(ConfigError, match='Did you mean'): build_student(tiny_teacher(), 'gdn-papr')
    with pytest.raises(ConfigError, match='layer_types has 2'): HybridConfig(base=tiny_teacher().config, layer_types=['linear_attention']*2)
    with pytest.raises(ConfigError, match='model_type'): HybridConfig(base=dict(model_type='no-such-thing'))
    with pytest.raises(ConfigError, match='setting of mixer'): build_student(tiny_teacher(), settings=dict(rotary=1))
    with pytest.raises(TeacherError, match='decoder layers'): build_student(torch.nn.Linear(2, 2))


def test_damaged_and_foreign_checkpoints(tmp_path):
    teacher = tiny_teacher()
    hybrid = build_hybrid(build_student(teacher, verbose=False), teacher, [1])
    good, foreign, cut, bare, less = (tmp_path/n for n in ('good', 'foreign', 'cut', 'bare', 'less'))
    for p in (good, cut, bare, less): hybrid.save_pretrained(p)
    teacher.save_pretrained(foreign)
    with pytest.raises(CheckpointError, match="'llama' model"): load_hybrid(foreign)
    f = cut/'model.safetensors'; f.write_bytes(f.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match='damaged|cannot load'): load_hybrid(cut)
    (bare/'model.safetensors').rename(bare/'pytorch_model.bin')
    with pytest.raises(CheckpointError, match='pickled'): load_hybrid(bare)
    from safetensors.torch import load_file, save_file
    w = load_file(less/'model.safetensors'); w.pop('model.layers.0.self_attn.A_log'); save_file(w, less/'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(CheckpointError, match='missing'): load_hybrid(less)
    with pytest.raises(CheckpointError, match='config.json'): load_hybrid(tmp_path)
    config = AutoConfig.from_pretrained(good); config.mixer_settings = dict(bias=False); config.layer_types = ['linear_attention']*5; config.save_pretrained(good)
    with pytest.raises(CheckpointError, match='does not fit'): load_hybrid(good)


def test_edges_that_must_not_pass_in_silence():
    from transformers import DynamicCache
    teacher = tiny_teacher()
    student = build_student(teacher, verbose=False)
    h, ids = build_hybrid(student, teacher, [1, 3]), tokens(T=12)
    with pytest.raises(ConfigError, match='all-linear student'): build_hybrid(h, teacher, [0])
    with pytest.raises(ConfigError, match='padding mask'): h(ids, attention_mask=torch.ones(2, 1, 12, 12))
    with pytest.raises(ConfigError, match='batch of one row'): h(ids, cu_seqlens=torch.tensor([0, 5, 12]))
    packed = h(ids, position_ids=torch.arange(12).remainder(5)[None]).logits
    assert_close(packed[:, 5:10], h(ids[:, 5:10]).logits, 1e-5)
    with pytest.raises(ConfigError, match='cache_implementation'): h.generate(ids, cache_implementation='static', max_new_tokens=2)
    with pytest.raises(ValueError, match='stateful'): h.generate(ids, prompt_lookup_num_tokens=3, max_new_tokens=2)
    with pytest.raises(ConfigError, match='must be bool'): build_student(teacher, settings=dict(rope='false'))
    assert isinstance(h(ids, return_dict=False), tuple)
    assert torch.equal(h(ids, past_key_values=DynamicCache(), use_cache=True).logits, h(ids).logits)
    for m in (h, student):
        cache = m(ids, use_cache=True).past_key_values
        cache.reset()
        assert cache.get_seq_length() == 0
        assert_close(m(tokens(3, 12), past_key_values=cache, use_cache=True).logits, m(tokens(3, 12)).logits, 1e-6)
    for model in (h, teacher): assert_close(model(ids, labels=ids, num_items_in_batch=44).loss, model(ids, labels=ids).loss*22/44, 1e-5)


def test_resized_vocabulary_saves_and_loads(tmp_path):
    teacher = tiny_teacher('llama_tied')
    h = build_hybrid(build_student(teacher, verbose=False), teacher, [1])
    h.resize_token_embeddings(110)
    h.save_pretrained(tmp_path)
    assert load_hybrid(tmp_path)(tokens()).logits.shape[-1] == 110
