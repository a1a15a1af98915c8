"""Two processes over gloo: the numbers of one process, checkpoints that any number of processes can read, faults that do not hang.

Tolerance, float32: losses and the whole model's weights to 1e-5 relative; gradient norms to 1e-4; each tensor to 1e-3 (Adam's first steps divide rounding errors by themselves). Weights after fine-tuning to 5e-5: one of layer 0's output projection has a first gradient of 9e-8, a tenth of it rounding, where its tensor's are 1e-2."""
import os, random, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch

from dist_worker import long_run, stages

HERE = Path(__file__).parent


def launch(job, folder, world=2, **env):
    "Start the processes as a launcher would; nobody watches them"
    port = random.SystemRandom().randrange(20_000, 32_000)                              # below the ports that the system hands out
    make = lambda r: subprocess.Popen([sys.executable, HERE/'dist_worker.py', job, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                      env={**os.environ, 'OMP_NUM_THREADS': '1', 'HYBRID_TUTORIAL_TIMEOUT': '5', 'CUDA_VISIBLE_DEVICES': '', **(dict(RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)) if world > 1 else {}), **env})
    return [make(r) for r in range(world)]


def finish(procs, codes=0):
    try: outs = [p.communicate(timeout=600)[0] for p in procs]
    finally: [p.kill() for p in procs]
    if codes is not None: assert [p.returncode for p in procs] == [codes]*len(procs), '\n'.join(outs)
    return outs


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stages')
    finish(launch('stages', folder))
    return {s: torch.load(folder/f'shard{s}.pt', weights_only=True) for s in (1, 2)}


@pytest.fixture(scope='module')
def alone(): return stages()


@pytest.mark.parametrize('shard', [1, 2], ids=['copies', 'shards'])
@pytest.mark.parametrize('stage', ['distill', 'finetune', 'align', 'elastic'])
def test_two_processes_are_one(both, alone, shard, stage):
    got, want = both[shard][stage], alone[stage]
    assert got['tokens'] == want['tokens']
    assert got['loss'] == pytest.approx(want['loss'], rel=1e-5) and got['norm'] == pytest.approx(want['norm'], rel=1e-4)
    flat = lambda d: torch.cat([w.flatten().double() for n, w in sorted(d.items())])
    assert (flat(got['weights'])-flat(want['weights'])).norm() <= dict(finetune=5e-5).get(stage, 1e-5)*flat(want['weights']).norm()
    for n, w in want['weights'].items(): assert (got['weights'][n]-w).norm() <= 1e-3*w.norm()+1e-6, n


@pytest.fixture(scope='module')
def straight(tmp_path_factory): return long_run(tmp_path_factory.mktemp('straight'))


def test_save_in_two_parts_resume_alone_and_the_other_way_round(tmp_path, straight):
    "two processes, each with half of everything, are stopped; one goes on, is stopped; two finish and export one folder"
    from hybrid_tutorial.models.hybrid import load_hybrid
    outs = finish(launch('run-stop2', tmp_path), 130)
    assert all('STOPPED stopped in distill after step 3' in o for o in outs)            # SIGTERM reached one, both stopped
    parts = sorted(p.name for p in (tmp_path/'ckpt'/'step-00000003').glob('*.safetensors'))
    assert len(parts) == 2
    with pytest.raises(KeyboardInterrupt, match='after step 6'): long_run(tmp_path, stop=5)
    assert len(list((tmp_path/'ckpt'/'step-00000006').glob('*.safetensors'))) == 1
    finish(launch('run', tmp_path))
    assert torch.load(tmp_path/'losses.pt', weights_only=True) == pytest.approx([r['loss'] for r in straight[1].records], rel=1e-5)
    hybrid = load_hybrid(tmp_path/'model')
    assert set(hybrid.state_dict()) == set(straight[0].state_dict())
    for n, w in straight[0].state_dict().items(): assert (hybrid.state_dict()[n]-w).norm() <= 1e-3*w.norm()+1e-6, n
    assert [len(l) > 0 for l in (tmp_path/'metrics.jsonl').read_text().splitlines()] == [True]*8       # one process writes


def test_a_process_dies_and_the_other_says_so(tmp_path):
    "within a minute, without a launcher that watches; the last checkpoint is intact"
    from hybrid_tutorial.training.loop import checkpoints, damage
    procs = launch('run-die3', tmp_path)
    procs[1].wait(timeout=300); began = time.monotonic()
    out = procs[0].communicate(timeout=60)[0]
    assert procs[1].returncode == -signal.SIGKILL and procs[0].returncode not in (0, None) and time.monotonic()-began < 60
    assert 'another one is gone' in out and 'run the same command again' in out
    assert [p.name for p in checkpoints(tmp_path/'ckpt')] == ['step-00000002', 'step-00000003'] and not any(map(damage, checkpoints(tmp_path/'ckpt')))
