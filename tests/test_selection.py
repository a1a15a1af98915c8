"Scores, choice and baselines: design checks on selection"
import itertools, json

import pytest
import torch

from hybrid_tutorial.core import CheckpointError, ConfigError, DataError, assert_close
from hybrid_tutorial.models.hybrid import build_hybrid, build_student
from hybrid_tutorial.ops.loss import dense_kl
from hybrid_tutorial.selection.baselines import count_kept, random_layers, uniform_layers
from hybrid_tutorial.selection.choose import choose_layers, jaccard
from hybrid_tutorial.selection.scores import Scores, remember_inputs, run_from, score_layers, scoring_rows, swap_scores, swapped
from hybrid_tutorial.training.align import align, calibrate

from helpers import NEAR, tiny_teacher, tokens


def planted_teacher(j, layers=5):
    "Only layer `j` mixes over distance: every other attention layer returns nothing"
    teacher = tiny_teacher('llama', num_hidden_layers=layers)
    with torch.no_grad():
        for i, layer in enumerate(teacher.model.layers):
            layer.self_attn.o_proj.weight.mul_(0. if i != j else 3.)
            layer.self_attn.q_proj.weight.mul_(4.); layer.self_attn.k_proj.weight.mul_(4.)
    return teacher


@pytest.mark.parametrize('j', range(5))
@pytest.mark.parametrize('method', ['kl', 'kl_removal'])
def test_planted_layer_ranks_first(j, method):
    teacher = planted_teacher(j)
    student = build_student(teacher, settings=NEAR, verbose=False)
    calibrate(student, teacher, [dict(input_ids=tokens(4, 48, seed=9))])
    scores = score_layers(student, teacher, [tokens(4, 48)], method=method, tokens=192)
    assert scores.ranking[0] == j and choose_layers(scores, count=1) == [j]


@pytest.mark.parametrize('family', ['llama', 'qwen2', 'qwen3', 'smollm3', 'granite'])
def test_prefix_reuse_equals_full_recomputation_to_the_last_bit(family):
    teacher = tiny_teacher(family)
    student, ids = build_student(teacher, settings=NEAR, verbose=False), tokens()
    for base, donor in ((student, teacher), (teacher, student)):
        with torch.no_grad(), remember_inputs(base) as calls: base.model(ids, use_cache=False)
        for l in range(5):
            with torch.no_grad(), swapped(base, l, donor.model.layers[l].self_attn):
                assert torch.equal(run_from(base, calls, l), base.model(ids, use_cache=False).last_hidden_state)


def test_scores_equal_a_direct_computation():
    teacher = tiny_teacher('granite')
    student, ids = build_student(teacher, settings=NEAR, verbose=False), tokens(3, 40)
    keep = torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) < 0.5
    plain, swaps = swap_scores(student, teacher, teacher, ids, keep, batch_size=2)
    def direct(model):
        kl = dense_kl(model(ids, use_cache=False).logits, teacher(ids, use_cache=False).logits)[:, :-1]
        return torch.stack([k[m].mean() for k, m in zip(kl, keep[:, 1:])])
    assert_close(torch.tensor(plain), direct(student), 1e-4)
    for l in range(5): assert_close(torch.tensor(swaps[l]), direct(build_hybrid(student, teacher, [l])), 1e-4)


def test_removal_of_a_perfect_layer_costs_nothing():
    teacher = tiny_teacher()
    student = build_student(teacher, settings=NEAR, verbose=False)
    student.model.layers[2].self_attn = teacher.model.layers[2].self_attn
    _, swaps = swap_scores(teacher, student, teacher, tokens(), torch.ones(2, 40, dtype=torch.bool))
    assert max(map(abs, swaps[2])) < 1e-4 and all(min(swaps[l]) > 1e-3 for l in (0, 1, 3, 4))


def test_order_of_rows_and_batch_size_do_not_matter():
    teacher = tiny_teacher()
    student = build_student(teacher, settings=NEAR, verbose=False)
    a = score_layers(student, teacher, [tokens(6, 40)], tokens=240, batch_size=1)
    b = score_layers(student, teacher, [tokens(6, 40).flip(0)], tokens=240, batch_size=4)
    assert_close(torch.tensor(a.scores), torch.tensor(b.scores), 1e-4)
    assert a.ranking == b.ranking


def test_one_shot_top_one_agrees_with_brute_force():
    teacher = tiny_teacher('qwen3', seed=3)
    student, ids = build_student(teacher, settings=NEAR, verbose=False), tokens(4, 48)
    align(student, teacher, [tokens(4, 48, seed=s) for s in range(1, 9)], calibrate_tokens=200)
    kl = {}
    for k in (1, 4):
        for keep in itertools.combinations(range(5), k):
            with torch.no_grad(): kl[keep] = float(dense_kl(build_hybrid(student, teacher, keep)(ids).logits, teacher(ids).logits)[:, :-1].mean())
    best_one = min((k for k in kl if len(k) == 1), key=kl.get)
    worst_to_lose = min((k for k in kl if len(k) == 4), key=kl.get)
    assert choose_layers(score_layers(student, teacher, [ids], method='kl', tokens=192), count=1) == list(best_one)
    assert choose_layers(score_layers(student, teacher, [ids], method='kl_removal', tokens=192), count=4) == list(worst_to_lose)


def test_scoring_leaves_models_as_they_were():
    teacher = tiny_teacher()
    student, ids = build_student(teacher, settings=NEAR, verbose=False), tokens()
    a, b = teacher(ids).logits, student(ids).logits
    for method in ('kl', 'kl_removal'): score_layers(student, teacher, [ids], method=method, tokens=80)
    assert torch.equal(a, teacher(ids).logits) and torch.equal(b, student(ids).logits)
    assert len(student.mixers) == 5 and not any(l._forward_pre_hooks for l in teacher.model.layers)


def test_plain_and_recall_rows_apart():
    ids, recall = tokens(4, 40), torch.zeros(4, 40, dtype=torch.bool)
    recall[1, 30:] = recall[3, 35:] = True
    rows = scoring_rows([dict(input_ids=ids, recall_mask=recall)], tokens=80)
    assert torch.equal(rows['plain'][0], ids[[0, 2]]) and rows['plain'][1].all()
    assert torch.equal(rows['recall'][0], ids[[1, 3]]) and torch.equal(rows['recall'][1], recall[[1, 3]])
    with pytest.raises(DataError): scoring_rows([], 10)


def test_scores_save_load_and_intervals(tmp_path):
    s = Scores('kl', dict(plain=[1., 3.]), dict(plain=[[0., 2.], [3., 3.]]), dict(plain=1.), dict(tokens=2))
    s.save(tmp_path/'s.json')
    assert Scores.load(tmp_path/'s.json') == s and json.loads((tmp_path/'s.json').read_text())['ranking'] == [1, 0]
    assert s.interval('plain', 1) == (3., 3.) and s.interval('plain', 0)[0] == 0.
    (tmp_path/'s.json').write_text('{')
    with pytest.raises(CheckpointError): Scores.load(tmp_path/'s.json')


def test_choice_is_deterministic_nested_and_breaks_ties_low():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0)).round(decimals=0).tolist()
    sets = [choose_layers(values, count=k) for k in range(31)]
    assert all(set(a) < set(b) for a, b in zip(sets, sets[1:]))
    assert choose_layers([1., 1., 1., 2.], count=2) == [0, 3]
    assert choose_layers(values, ratio=0.25) == sets[8] and choose_layers(values, ratio=1) == list(range(30)) and choose_layers(values, ratio=0) == []


def test_published_counts():
    assert [count_kept(28, r) for r in (1/8, 1/4, 1/3, 1/2)] == [4, 7, 9, 14]
    assert [count_kept(36, r) for r in (1/8, 1/4, 1/3, 1/2)] == [5, 9, 12, 18]


def test_published_uniform_sets():
    assert uniform_layers(28, 7, 'last') == [3, 7, 11, 15, 19, 23, 27] and uniform_layers(28, 4, 'last') == [6, 13, 20, 27]
    assert uniform_layers(28, 7, 'first') == [0, 4, 8, 12, 16, 20, 24] and uniform_layers(36, 18, 'first') == list(range(0, 36, 2))
    for L, K, phase in itertools.product((5, 28, 30, 36), range(6), ('first', 'middle', 'last')):
        kept = uniform_layers(L, K, phase)
        assert len(set(kept)) == K and all(0 <= k < L for k in kept) and kept == sorted(kept)


def test_random_layers_and_jaccard():
    assert random_layers(30, 8, 1) == random_layers(30, 8, 1) != random_layers(30, 8, 2) and len(set(random_layers(30, 8))) == 8
    assert jaccard([1, 2], [2, 3]) == 1/3 and jaccard([], []) == 1.


@pytest.mark.parametrize('call', [
    lambda: count_kept(30, 25), lambda: count_kept(30, -0.1), lambda: choose_layers([1.]), lambda: choose_layers([1.], count=2), lambda: choose_layers([float('nan')], count=1),
    lambda: choose_layers([1.], ratio=0.5, count=1), lambda: uniform_layers(4, 5), lambda: uniform_layers(4, 2, 'lst'), lambda: random_layers(4, 5),
    lambda: score_layers(None, tiny_teacher(), [], method='klx'), lambda: score_layers(tiny_teacher(), tiny_teacher(), [tokens()]),
])
def test_bad_input(call):
    with pytest.raises(ConfigError): call()


def test_second_round_scores_the_better_half_in_company():
    teacher = tiny_teacher('qwen2', seed=5)
    student, ids = build_student(teacher, settings=NEAR, verbose=False), tokens(4, 48)
    one, two = (score_layers(student, teacher, [ids], rounds=r, tokens=192) for r in (1, 2))
    alive = one.ranking[:3]
    assert two.texts == one.texts and sorted(two.ranking[:3]) == sorted(alive) and two.ranking[3:] == one.ranking[3:]
    base, half = build_hybrid(student, teacher, alive), ids[:2]
    plain, swaps = swap_scores(base, student, teacher, half, torch.ones_like(half, dtype=torch.bool), alive)
    gain = {l: sum(swaps[l])/2-sum(plain)/2 for l in alive}
    assert two.ranking[:3] == sorted(alive, key=lambda l: -max(gain[l], 0))
    assert not swaps[one.ranking[-1]]
    with pytest.raises(ConfigError): score_layers(student, teacher, [ids], rounds=3)
    with pytest.raises(ConfigError): score_layers(student, teacher, [ids], rounds=2, method='kl')


def test_scores_of_a_mixer_that_carries_values():
    "RWKV-7 blends in the first layer's values: the shortcut must give what the built hybrid gives"
    teacher = tiny_teacher('llama', num_hidden_layers=3)
    student = build_student(teacher, mixer='rwkv7')
    ids = tokens(2, 12)
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        want = teacher(ids).logits[:, :-1].log_softmax(-1)
        def kl(m):
            got = m(ids).logits[:, :-1].log_softmax(-1)
            return float((want.exp()*(want-got)).sum(-1).mean())
        for base, donor, built in ((teacher, student, lambda l: [i for i in range(3) if i != l]), (student, teacher, lambda l: [l])):
            plain, swaps = swap_scores(base, donor, teacher, ids, mask, dtype='float32')
            for l in range(3):
                got, real = sum(swaps[l])/2, kl(build_hybrid(student, teacher, built(l)))
                assert abs(got-real) < 1e-4*max(1, real), (l, got, real)
