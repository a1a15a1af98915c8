"Calls of every operator with awkward arguments, made against a recorder: a worker process runs `odd_calls`"
import itertools

import torch

from hybrid_tutorial.ops.kernels import decode, delta, gla, loss, norm
from hybrid_tutorial.ops.kernels.aot import Recorder, unlisted

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SHAPES = [(64, 64), (24, 40), (128, 32), (16, 100), (32, 32)]  # key and value width
HEADS = [(1, 1), (2, 4), (16, 16)]
ENDS = [None, [0, 3, 3, 17]]


def numbers(*shape, dtype=torch.float32): return torch.zeros(*shape, dtype=dtype, requires_grad=True)


def backward(*xs): torch.autograd.backward([x for x in xs if x is not None], [torch.zeros_like(x) for x in xs if x is not None])


def sequences(recorder, arch):
    for m in (gla, delta): m.arch_of = lambda device: arch
    for dtype, ((K, V), (H, HV)), ends, states in itertools.product(DTYPES, zip(SHAPES, HEADS+HEADS), ENDS, (False, True)):
        B, T = (2, 65) if ends is None else (1, ends[-1])
        q, k, v = numbers(B, T, H, K, dtype=dtype), numbers(B, T, H, K, dtype=dtype), numbers(B, T, HV, V, dtype=dtype)
        n = B if ends is None else len(ends)-1
        how = dict(cu_seqlens=None if ends is None else torch.tensor(ends), output_final_state=states)
        S = lambda V=V: numbers(n, HV, K, V) if states else None
        backward(*gla.triton_gla(q, k, v, numbers(B, T, HV, K), initial_state=S(), **how))
        for normalize in (False, True):
            backward(*gla.triton_linear_attn(q, k, v, normalize=normalize, initial_state=S(V+normalize), **how))
        backward(*delta.triton_gated_delta_rule(q, k, v, numbers(B, T, HV), numbers(B, T, HV, dtype=dtype), initial_state=S(), **how))
    x = torch.zeros(1, 66, 1, 32)[:, 1:]  # gates that do not start at a multiple of 16 bytes
    gla.triton_linear_attn(x, x, x)
    delta.triton_gated_delta_rule(x, x, x, torch.zeros(1, 66, 1)[:, 1:], torch.zeros(1, 66, 1)[:, 1:])


def steps(recorder, arch):
    decode.arch_of = lambda device: arch
    for dtype, ((K, V), (H, HV)), ends, first, last in itertools.product(DTYPES, zip(SHAPES + [(256, 64), (64, 65)], 3*HEADS), ENDS, (False, True), (False, True)):
        B, T = (3, 1) if ends is None else (1, ends[-1])
        q, v = torch.zeros(B, T, H, K, dtype=dtype), torch.zeros(B, T, HV, V, dtype=dtype)
        n, head, channel = B if ends is None else len(ends)-1, torch.zeros(B, T, HV, dtype=dtype), torch.zeros(B, T, HV, K, dtype=dtype)
        how = dict(initial_state=torch.zeros(n, HV, K, V) if first else None, output_final_state=last, cu_seqlens=None if ends is None else torch.tensor(ends))
        decode.triton_recurrent_gla(q, q, v, channel, **how), decode.triton_recurrent_mamba2(q, q, v, head, **how)
        decode.triton_recurrent_delta_rule(q, q, v, head, **how), decode.triton_recurrent_gated_delta_rule(q, q, v, head, head.float(), **how)
        decode.triton_recurrent_linear_attn(q, q, v, **how)
        if not first: decode.triton_recurrent_linear_attn(q, q, v, normalize=True, **how)


def norms(recorder, arch):
    norm.arch_of = lambda device: arch
    for dtype, K, rows, act, other in itertools.product(DTYPES, (24, 64, 255, 576, 8192), (1, 1000), norm.ACTIVATIONS, (None, torch.float32)):
        x, w, z = numbers(rows, K, dtype=dtype), numbers(K, dtype=other or dtype), numbers(rows, K, dtype=other or dtype)
        backward(norm.triton_gated_rms_norm(x, w, z if act else None, gate_activation=act))


def losses(recorder, arch):
    loss.arch_of = lambda device: arch
    for dtype, teacher, (D, E), N, cap in itertools.product(DTYPES, DTYPES, ((24, 64), (576, 960)), (1, 70), (None, 30.)):
        h, w = numbers(N, D, dtype=dtype), numbers(49, D, dtype=dtype)
        backward(loss.triton_chunked_kl(h, torch.zeros(N, E, dtype=teacher), w, torch.zeros(49, E, dtype=teacher), softcap=cap))


def odd_calls(spec):
    "For every group of calls: launches, how many of them differ, and those that are in no table"
    recorder, found = Recorder(spec['arch']).install(), {}
    for f in (sequences, steps, norms, losses):
        f(recorder, spec['arch'])
        names = [l['name'] for l in recorder.launches]
        found[f.__name__] = dict(launches=len(names), kernels=len(set(names)), unlisted=sorted(set(unlisted(recorder.launches, spec['arch']))))
        recorder.launches.clear()
    row = dict(gla.launches(64, 64)[0], num_warps=4)  # one that must be found
    found['wrong'] = unlisted([row], 90)
    return found
