"What the operator tests share: one table of operators, inputs for each, and a way to compare values, states and gradients"
import importlib, zlib
import torch, torch.nn.functional as F
from hybrid_tutorial.core import rms_error
from hybrid_tutorial.ops.dispatch import OPERATORS

NAMES = ('o', 'state')
GROUPED = [n for n in OPERATORS if n != 'rwkv7']


def form(op, kind):
    return getattr(importlib.import_module(f'hybrid_tutorial.ops.{OPERATORS[op][0]}'), f'{kind}_{op}')


def case(op, B=2, T=16, H=2, HV=None, K=8, V=6, dtype=torch.float64, seqs=None, seed=0, gate=1.):
    "Inputs in the operator's order, and an initial state"
    HV = H if op == 'rwkv7' else HV or H
    r = torch.Generator().manual_seed(seed + zlib.crc32(op.encode()) % 1000)
    n = lambda *s: torch.randn(*s, generator=r, dtype=torch.float64)
    u = lambda *s: torch.rand(*s, generator=r, dtype=torch.float64)
    q, k, v, S = n(B, T, H, K), F.normalize(n(B, T, H, K), dim=-1), n(B, T, HV, V), n(seqs or B, HV, K, V)
    gk, gh, beta = -gate*u(B, T, HV, K), -gate*u(B, T, HV), u(B, T, HV)
    x = dict(linear_attn=(q, k, v), gla=(q, k, v, gk), delta_rule=(q, k, v, beta), gated_delta_rule=(q, k, v, gh, beta),
             kda=(q, k, v, gk, beta), rwkv6=(q, k, v, gk), mamba2=(q, k, v, gh),
             rwkv7=(q, gk, k, v, -k, k*u(B, T, H, K)))[op]
    return [t.to(dtype) for t in x], S.to(torch.float64 if dtype == torch.float64 else torch.float32)


def run(f, xs, S=None, grads=True, **kw):
    "Outputs, final state and all gradients, for fixed cotangents"
    xs = [x.detach().clone().requires_grad_(grads) for x in xs]
    S = None if S is None else S.detach().clone().requires_grad_(grads)
    o, end = f(*xs, initial_state=S, output_final_state=True, **kw)
    out = [o, end]
    if grads:
        r = torch.Generator().manual_seed(7)
        go, gs = (torch.randn(t.shape, generator=r, dtype=torch.float64).to(t.dtype) for t in (o, end))
        out += torch.autograd.grad([o, end], xs + ([S] if S is not None else []), [go, gs])
    return out


def worst(got, want):
    "Largest relative error over outputs, states and gradients; refuses NaN"
    assert len(got) == len(want)
    for x in got: assert torch.isfinite(x).all()
    return max(rms_error(x, y) for x, y in zip(got, want))
