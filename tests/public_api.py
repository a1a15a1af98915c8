"A small program over the public names, for the type checker (tests/test_package.py); nobody runs it"
from pathlib import Path

from hybrid_tutorial import (HybridForCausalLM, Recipe, Scores, align, build_elastic, build_hybrid, build_student, cache_cost, choose_layers, distill,
                             evaluate, finetune, held_out, kl_curve, knee, load_corpus, load_hybrid, load_teacher, random_layers, run, score_layers,
                             uniform_layers, write_report)


def convert(folder: Path) -> list[int]:
    teacher, tok = load_teacher(str(folder))
    corpus = load_corpus('wiki-summaries', tok, seq_len=512)
    student: HybridForCausalLM = build_student(teacher, mixer='gdn', settings=dict(window=16))
    align(student, teacher, corpus, tokens=40_960)
    scores: Scores = score_layers(student, teacher, corpus, rounds=2)
    values: list[float] = scores.scores
    keep: list[int] = choose_layers(scores, ratio=0.25)
    hybrid: HybridForCausalLM = build_hybrid(student, teacher, keep)
    distill(hybrid, teacher, corpus, tokens=8_192)
    finetune(hybrid, corpus, tokens=8_192, seq_len=1024)
    numbers: dict = evaluate(hybrid, tok, teacher=teacher)
    print(values, numbers, uniform_layers(30, 8), random_layers(30, 8, seed=1), held_out('echo', tok))
    return keep


def budget(student: HybridForCausalLM, teacher: object, scores: Scores) -> None:
    price = cache_cost(student, context=4096)
    choose_layers(scores, cost=price, limit=1e9)
    bend: int | None = knee([0, 1, 2], [3., 1., 0.5])
    print(bend, kl_curve(student, teacher, [], scores.ranking)[0]['kl'], build_elastic(student, teacher).set_kept_layers([0]))


def whole() -> Path:
    run(Recipe.quick(teacher='smollm2-135m', seed=1), 'runs/x')
    return write_report('runs/x') if load_hybrid('runs/x/model') else Path()
