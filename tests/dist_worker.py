"What each process of tests/test_distributed.py runs: `python dist_worker.py JOB FOLDER`"
import contextlib, functools, json, os, signal, sys
from pathlib import Path

os.environ.setdefault('HYBRID_TUTORIAL_DTYPE', 'float32')
sys.path.insert(0, str(Path(__file__).parent))
import torch

torch.set_num_threads(1)
from helpers import NEAR, tiny_teacher, tokens
from hybrid_tutorial.models.elastic import build_elastic
from hybrid_tutorial.models.hybrid import build_hybrid, build_student
from hybrid_tutorial.training import loop
from hybrid_tutorial.training.align import align
from hybrid_tutorial.training.elastic import distill_elastic
from hybrid_tutorial.training.engine import start
from hybrid_tutorial.training.finetune import finetune
from hybrid_tutorial.training.logits import distill
from hybrid_tutorial.training.loop import LoopSettings, Metrics

SMALL = dict(num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=48)
ROWS = [tokens(n, 24, seed=n) for n in (4, 3, 1, 4)]       # a batch may have too few rows for every process


def model():
    teacher = tiny_teacher('llama_tied', **SMALL)
    student = build_student(teacher, settings=NEAR, verbose=False)
    return teacher, student, build_hybrid(student, teacher, [1])


def chats():
    "Answers of very different lengths: processes count different numbers of tokens, one of them none"
    masks = [torch.zeros(4, 24, dtype=torch.bool) for _ in range(3)]
    masks[0][0, 3:20] = True; masks[0][3, 22:] = True; masks[1][2:, 5:9] = True; masks[2][:, 1:] = True
    return [dict(input_ids=tokens(4, 24, seed=9+i), loss_mask=m) for i, m in enumerate(masks)]


def stages(**how):
    "Every stage for a few steps: losses, gradient norms and weights"
    teacher, student, hybrid = model()
    elastic = build_elastic(student, teacher)
    loop_ = LoopSettings(weight_decay=0.1, **how)
    runs = dict(distill=lambda: distill(hybrid, teacher, ROWS, lr=1e-3, lr_attention=1e-2, schedule='s-cos-s', clip=0.5, loop=loop_, checkpointing=True),
                finetune=lambda: finetune(hybrid, chats(), lr=1e-3, lr_attention=1e-2, loop=loop_),
                align=lambda: align(student, teacher, ROWS, calibrate_tokens=64, warmup=0, clip=0.5, loop=loop_),
                elastic=lambda: distill_elastic(elastic, teacher, ROWS[:2], [1, 0, 2], lr=1e-3, lr_attention=1e-2))
    out = {}
    for name, run in runs.items():
        m = run()
        trained = dict(align=student, elastic=elastic).get(name, hybrid)
        out[name] = dict(loss=[r['loss'] for r in m.records], norm=[r['grad_norm'] for r in m.records], tokens=m.records[-1]['tokens'],
                         weights={n: p.detach().clone() for n, p in trained.state_dict().items()})
    return out


def long_run(folder, stop=None, die=None, steps=8):
    "Stage 2 with a checkpoint at every step; perhaps stopped or killed in its course"
    teacher, _, hybrid = model()
    rows = [tokens(4, 24, seed=s) for s in range(steps)]
    with meddling('distill', stop=stop, die=die): m = distill(hybrid, teacher, rows, lr=1e-3, lr_attention=1e-2, loop=LoopSettings(save_seconds=0.), metrics=Metrics(Path(folder)/'metrics.jsonl'), folder=Path(folder)/'ckpt')
    return hybrid, m


@contextlib.contextmanager
def meddling(of, stop=None, die=None, fail=None):
    "At a step of a stage the last process is asked to stop, killed, or fails by itself"
    old = loop.gradient_norm
    def meddle(groups, clip, stage, step):
        if stage == of and start().rank == start().world-1:
            if step == stop: signal.raise_signal(signal.SIGTERM)
            if step == die: os.kill(os.getpid(), signal.SIGKILL)
            if step == fail: raise RuntimeError('a disk that is not there')
        return old(groups, clip, stage, step)
    loop.gradient_norm = meddle
    try: yield
    finally: loop.gradient_norm = old


def convert(folder, **how):
    "The whole main job of FOLDER/recipe.json, with a checkpoint at every step"
    from hybrid_tutorial import recipe
    recipe.LoopSettings = functools.partial(LoopSettings, save_seconds=0.)
    with meddling('distill-kl', **how): recipe.run(recipe.Recipe.from_dict(json.loads((Path(folder)/'recipe.json').read_text())), Path(folder)/'run', show=True)


def main(job, folder):
    if job == 'stages':
        for shard in (1, start().world):
            start(shard)
            got = {k: stages(**dict(accumulate=2) if shard == 1 else {}) for k in ('all',)}['all']
            if start().main: torch.save(got, f'{folder}/shard{shard}.pt')
    elif job.startswith(('run', 'convert')):             # run, run-stop3, run-die3, convert-fail2
        what, _, fault = job.partition('-')
        how = {fault[:-1]: int(fault[-1])} if fault else {}
        if what == 'convert': convert(folder, **how); return 0
        start(os.environ.get('HYBRID_TUTORIAL_SHARD', 'all'))
        try: hybrid, m = long_run(folder, **how)
        except KeyboardInterrupt as e: print('STOPPED', e); return 130
        from hybrid_tutorial.recipe import save_model
        if start().main: hybrid.save_pretrained(f'{folder}/model'); torch.save([r['loss'] for r in m.records], f'{folder}/losses.pt')
    return 0


if __name__ == '__main__': sys.exit(main(*sys.argv[1:3]))
