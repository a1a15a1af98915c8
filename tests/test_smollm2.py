"The design's checks on the real model, where they are quick"
import pytest
import torch

from hybrid_tutorial import build_hybrid, build_student, load_hybrid, load_teacher
from hybrid_tutorial.core import assert_close
from hybrid_tutorial.models.hybrid import decode_stepwise
from hybrid_tutorial.ops.loss import chunked_kl
from hybrid_tutorial.training.align import calibrate, listen

TEXT = "The lighthouse keeper wrote 48213 in his book. Years later his daughter read the book by the window, and on the last page she found the number"


@pytest.fixture(scope='module')
def smollm2():
    teacher, tok = load_teacher('smollm2-135m')
    return teacher, tok, tok(TEXT, return_tensors='pt', add_special_tokens=False)['input_ids']


def test_softmax_student_is_the_teacher(smollm2):
    teacher, tok, ids = smollm2
    with torch.no_grad(): assert_close(build_student(teacher, 'softmax')(ids, use_cache=False).logits, teacher(ids).logits, 1e-5)


def test_keep_all_has_kl_exactly_zero_and_decoding_equals_the_full_pass(smollm2, tmp_path):
    teacher, tok, ids = smollm2
    student = build_student(teacher, verbose=False)
    head = teacher.get_output_embeddings().weight
    with torch.no_grad():
        full = build_hybrid(student, teacher, range(30))
        h = full.model(ids, use_cache=False).last_hidden_state
        assert chunked_kl(h, teacher.model(ids, use_cache=False).last_hidden_state, full.get_output_embeddings().weight, head) == 0
        hybrid = build_hybrid(student, teacher, [0, 1, 8, 16, 17, 18, 20, 23])
        assert_close(decode_stepwise(hybrid, ids, 17), hybrid(ids).logits, 1e-5)
        hybrid.save_pretrained(tmp_path)
        assert torch.equal(load_hybrid(tmp_path)(ids).logits, hybrid(ids).logits)
    assert hybrid.lm_head.weight is hybrid.model.embed_tokens.weight


def test_heads_start_closer_than_rows(smollm2):
    "the closed form on a few hundred tokens leaves less error with heads repeated than with the official rows"
    teacher, tok, _ = smollm2
    from hybrid_tutorial.data import load_corpus
    batches = [b for b, _ in zip(load_corpus('wiki-summaries', tok, seq_len=256).batches(2), range(3))]
    left = {}
    for name in ('gdn-paper', 'gdn-official'):
        student, err = build_student(teacher, name, verbose=False), {}
        calibrate(student, teacher, batches[:2])
        def visit(i, x, pos, y): err[i] = float((student.mixers[i](x, pos)[0]-y).pow(2).sum()/y.pow(2).sum())
        with torch.no_grad(), listen(teacher, visit): teacher.model(batches[2]['input_ids'], use_cache=False)
        left[name] = sum(err.values())/30
    assert left['gdn-paper'] < left['gdn-official']
