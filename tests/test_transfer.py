"Transfer for every family of decoder, and what is said about it"
import pytest
import torch

from hybrid_tutorial.core import ConfigError, TeacherError, assert_close
from hybrid_tutorial.models.hybrid import build_hybrid, build_student, decode_stepwise, load_hybrid, packed_documents, places, transfer_report
from hybrid_tutorial.models.mixers import make_mixer, read_shape, rotate
from hybrid_tutorial.models.transfer import transfer_table

from helpers import FAMILIES, tiny_teacher, tokens




@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def own(teacher): return getattr(teacher.config, 'layer_types', None) or ['full_attention']*5


def test_families_cover_what_differs():
    facts = {f: [read_shape(l.self_attn) for l in tiny_teacher(f).model.layers] for f in (*FAMILIES, 'gemma2', 'gemma3')}
    flat = [s for shapes in facts.values() for s in shapes]
    assert any(s.group > 1 for s in flat) and any(s.qkv_bias and not s.o_bias for s in flat) and any(s.o_bias for s in flat)
    assert {s.qk_norm for s in flat} == {'none', 'head', 'full'} and any(s.head_dim != s.width//s.heads for s in flat)
    assert any(not s.rope for s in facts['smollm3']) and any(s.rope for s in facts['smollm3'])
    assert facts['granite'][0].scaling == 0.2 and facts['gemma3'][0].scaling == 7**-0.5 and facts['gemma2'][0].softcap == 3.


@pytest.mark.parametrize('family', ['gemma3', 'gemma2', 'qwen2_window'])
def test_softmax_student_equals_teacher_with_its_own_sliding_layers(family):
    for dtype, tol in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        teacher = tiny_teacher(family).to(dtype)
        student = build_student(teacher, 'softmax', verbose=False)
        assert sorted(student.mixers) == [i for i, t in enumerate(own(teacher)) if t == 'full_attention']
        assert_close(student(tokens(T=30), use_cache=False).logits, teacher(tokens(T=30)).logits, tol)


@pytest.mark.parametrize('settings', [None, dict(window=6)])
@pytest.mark.parametrize('family', ['gemma3', 'qwen2_window'])
def test_sliding_layers_stay_decode_pad_pack_save(family, settings, tmp_path):
    teacher = tiny_teacher(family)
    student = build_student(teacher, settings=settings, verbose=False)
    full = [i for i, t in enumerate(own(teacher)) if t == 'full_attention']
    assert student.config.keep == [] and sorted(student.mixers) == full
    ids = tokens(T=24)
    for m in (student, build_hybrid(student, teacher, full[:1])):
        want = m(ids).logits
        assert_close(decode_stepwise(m, ids, 13), want, 2e-5)
        mask = torch.ones(2, 24, dtype=torch.long); mask[0, :5] = 0
        assert_close(decode_stepwise(m, ids, 13, mask)[:1, 5:], m(ids[:1, 5:]).logits, 2e-5)
        docs = torch.tensor([0]*9+[1]*15).expand(2, -1)
        assert_close(m(ids, doc_ids=docs).logits, torch.cat([m(ids[:, :9]).logits, m(ids[:, 9:]).logits], 1), 2e-5)
        m.save_pretrained(tmp_path/str(len(m.config.keep)))
        assert torch.equal(load_hybrid(tmp_path/str(len(m.config.keep)))(ids).logits, want)
    everything = build_hybrid(student, teacher, range(5))
    assert everything.config.keep == full and torch.equal(everything(ids).logits, teacher(ids).logits)


def test_a_teacher_of_windows_only_is_refused():
    with pytest.raises(TeacherError, match='already has a sliding window'): build_student(tiny_teacher('mistral_window'))


def test_packed_documents_three_ways():
    teacher = tiny_teacher('qwen3')
    m, ids = build_hybrid(build_student(teacher, verbose=False), teacher, [1, 3]), tokens(1, 20)
    want = torch.cat([m(ids[:, a:b], use_cache=False).logits for a, b in ((0, 6), (6, 7), (7, 20))], 1)
    docs = torch.tensor([[0]*6+[1]+[2]*13])
    at = torch.tensor([[*range(6), 0, *range(13)]])
    for how in (dict(doc_ids=docs), dict(cu_seqlens=torch.tensor([0, 6, 7, 20])), dict(position_ids=at)): assert_close(m(ids, **how).logits, want, 2e-5)
    assert torch.equal(places(docs), at) and packed_documents(position_ids=torch.arange(9)[None]) is None
    labels = ids.clone()
    assert torch.isfinite(m(ids, doc_ids=docs, labels=labels).loss)


def test_packed_and_padded():
    teacher = tiny_teacher()
    m, ids = build_hybrid(build_student(teacher, settings=dict(window=4), verbose=False), teacher, [1]), tokens(1, 16)
    docs, mask = torch.tensor([[0]*7+[1]*9]), torch.ones(1, 16, dtype=torch.long)
    mask[:, :3] = 0; mask[:, 14:] = 0
    got = m(ids, doc_ids=docs, attention_mask=mask).logits
    assert_close(got[:, 3:7], m(ids[:, 3:7]).logits, 2e-5)
    assert_close(got[:, 7:14], m(ids[:, 7:14]).logits, 2e-5)


def test_packed_documents_that_cannot_be():
    m, ids = build_student(tiny_teacher(), verbose=False), tokens(1, 8)
    docs = torch.tensor([[0]*4+[1]*4])
    with pytest.raises(ConfigError, match='without a cache'): m(ids, doc_ids=docs, use_cache=True)
    with pytest.raises(ConfigError, match='not both'): m(ids, doc_ids=docs, cu_seqlens=torch.tensor([0, 8]))
    with pytest.raises(ConfigError, match='must rise'): m(ids, cu_seqlens=torch.tensor([1, 8]))
    assert m(ids, doc_ids=docs).past_key_values is None


@pytest.mark.parametrize('family, mixer, want', [
    ('qwen2', 'gdn-official', {'rotary positions': 'dropped', 'biases of q, k, v': 'dropped', 'grouped keys and values': 'repeated by ROWS, as the official code'}),
    ('qwen2', 'gla', {'rotary positions': 'dropped', 'biases of q, k, v': 'kept', 'grouped keys and values': 'repeated head by head'}),
    ('qwen2', 'gdn', {'rotary positions': 'in the window only', 'biases of q, k, v': 'kept', 'grouped keys and values': 'shared, as in the teacher'}),
    ('gemma2', 'gla', {'soft cap of the scores': 'dropped', 'soft cap of the logits': 'kept', 'sliding window': 'layers kept as they are', 'scale of the scores': 'dropped'}),
    ('gemma2', 'gdn', {'soft cap of the scores': 'in the window only', 'soft cap of the logits': 'kept', 'sliding window': 'layers kept as they are', 'scale of the scores': 'in the window only'}),
    ('gemma3', 'swa', {'norm on q and k': 'kept', 'rotary positions': 'kept', 'sliding window': 'layers kept as they are', 'scale of the scores': 'kept'}),
    ('granite', 'hedgehog', {'scale of the scores': 'kept'}), ('llama_bias', 'gdn-paper', {'bias of the output': 'dropped'})])
def test_report(family, mixer, want, capsys):
    student = build_student(tiny_teacher(family), mixer)
    rows = {r['what']: r['student'] for r in student.transfer_report}
    assert {k: rows[k] for k in want} == want
    out = capsys.readouterr().out
    assert all(k in out and v in out for k, v in want.items())
    assert transfer_report(student) == student.transfer_report and transfer_table(student.transfer_report, mixer) in out


def test_report_counts_layers_and_the_window_keeps_the_rest():
    rows = {r['what']: r for r in build_student(tiny_teacher('smollm3'), verbose=False).transfer_report}
    assert len(rows['rotary positions']['layers']) == 4                            # every fourth layer has none
    rows = {r['what']: r for r in build_student(tiny_teacher('qwen2'), 'gdn-paper', settings=dict(window=8), verbose=False).transfer_report}
    assert rows['rotary positions']['student'] == 'in the window only'


def test_partial_rotation_turns_only_the_first_channels():
    x, angle = torch.randn(1, 5, 2, 8), torch.randn(1, 5, 2).repeat(1, 1, 2)
    y = rotate(x, (angle.cos(), angle.sin()))
    assert torch.equal(y[..., 4:], x[..., 4:]) and not torch.equal(y[..., :4], x[..., :4])
    assert_close(y.norm(dim=-1), x.norm(dim=-1), 1e-6)
