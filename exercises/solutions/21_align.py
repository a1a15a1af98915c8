# %% setup
import functools, torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.hybrid import build_student
from hybrid_tutorial.selection.study import toy_text
from hybrid_tutorial.training.align import align

# %% 1a compute (1 s)
# Return two numbers of multiplications per token, for all 30 mixers: forward, backward. Leave the operator between the projections out.

# %% solution
def ex21a():
    "Multiplications of the projections of 30 mixers per token: forward, backward"
    ### BEGIN SOLUTION
    one = 30*576**2
    return 5*one, (4*1+2)*one    # q, k, v and gate need no gradient of their input; o does, its input is learned from
    ### END SOLUTION

# %% check
def check_ex21a(f):
    from torch.utils.flop_counter import FlopCounterMode
    layers, x = [nn.Linear(576, 576, bias=False) for _ in range(5)], torch.randn(8, 576)
    def count(run):
        with FlopCounterMode(display=False) as counter: out = run()
        return out, counter.get_total_flops()//2//8*30
    z, first = count(lambda: sum(l(x) for l in layers[:4]))
    y, last = count(lambda: layers[4](z))
    _, back = count(lambda: y.sum().backward())
    forward, backward = f() or (None, None)
    check_answer(forward, first+last, [((first+last)/30, 'this is one mixer of 30'), (2*(first+last), 'multiplications, not operations: no factor 2 for the additions'), (4*30*576**2, 'the gate is a projection too')], name='forward')
    return check_answer(backward, back, [(2*forward, 'twice the forward pass is for layers whose input needs a gradient; q, k, v and gate read the teacher'), (forward, 'the output projection must hand a gradient to what was read: one product more'),
        (forward+4*30*576**2, 'the four first projections need only the gradient of their weights')], name='backward')

# %% wrong
wrong_ex21a = [(lambda: (5*576**2, 1), 'one mixer'), (lambda: (300*576**2, 1), 'no factor 2'), (lambda: (120*576**2, 1), 'gate is a projection'), (lambda: (150*576**2, 300*576**2), 'read the teacher'), (lambda: (150*576**2, 150*576**2), 'one product more'),
    (lambda: (150*576**2, 270*576**2), 'only the gradient of their weights')]

# %% why
# 50 million forward, 60 million backward, together 110 million: less than one forward pass of the teacher, which multiplies 135 million numbers per token. No gradient passes from layer to layer, and none through MLPs and head.

# %% 2b implement (1 s)
# The least squares of it: `Z` `(n, F)` is what was read, `Y` `(n, D)` what the projection should answer. Return the weight `(D, F)` and the bias `(D,)`, no ridge.

# %% solution
def ex21b(Z, Y):
    "Weight and bias of the best output projection"
    ### BEGIN SOLUTION
    A = torch.cat([Z, torch.ones_like(Z[:, :1])], 1)
    W = torch.linalg.solve(A.T @ A, A.T @ Y)
    return W[:-1].T, W[-1]
    ### END SOLUTION

# %% check
def check_ex21b(f):
    gen = torch.Generator().manual_seed(0)
    Z = torch.randn(200, 5, generator=gen, dtype=torch.float64)+2
    Y = Z @ torch.randn(5, 3, generator=gen, dtype=torch.float64)+torch.randn(3, generator=gen, dtype=torch.float64)+0.1*torch.randn(200, 3, generator=gen, dtype=torch.float64)
    z, y = Z.mean(0), Y.mean(0)
    W = torch.linalg.lstsq(Z-z, Y-y).solution      # the bias takes the means away
    plain = torch.linalg.lstsq(Z, Y).solution
    w, b = f(Z, Y) or (None, None)
    check_answer(w, W.T, [(W, 'a linear layer keeps its weight as (D, F): transpose'), (plain.T, 'fitted without the column of ones; the weight then tries to be a bias too')], tol=1e-8, name='weight')
    return check_answer(b, y-z @ W, [(y, 'the mean of Y; what the weight makes of the mean of Z is in it already'), (y-z @ plain, 'the bias has to be fitted together with the weight'), (0*y, 'no bias')], tol=1e-8, name='bias')

# %% wrong
wrong_ex21b = [(lambda Z, Y: (ex21b(Z, Y)[0].T, ex21b(Z, Y)[1]), 'transpose'), (lambda Z, Y: (torch.linalg.lstsq(Z, Y).solution.T, Y.mean(0)), 'tries to be a bias'), (lambda Z, Y: (ex21b(Z, Y)[0], Y.mean(0)), 'is in it already'),
    (lambda Z, Y: (ex21b(Z, Y)[0], (Y-Z @ torch.linalg.lstsq(Z, Y).solution).mean(0)), 'together'), (lambda Z, Y: (ex21b(Z, Y)[0], torch.zeros(3, dtype=Z.dtype)), 'no bias')]

# %% why
# One more column is one more feature. `add_up` would have to carry the sums of `Z` and `Y` beside their products. On SmolLM2 the gain is small, because the teacher's own output projection has no bias.

# %% 3c explore (4 s)
# Why does the loss stall? `curves` holds six runs of `align` on a small teacher, named A to F: learning rates of `1e-1`, `1e-2` and `1e-5`, each with and without calibration. Draw them. Return a dict from name to `(lr, calibrated)`.

# %% solution
def ex21c(curves):
    "Which run is which? `{'A': (1e-2, True), ...}`"
    ### BEGIN SOLUTION
    out = {}
    for name, c in curves.items():
        calibrated, first, end = c[0] < 0.6, c[0], sum(c[-8:])/8
        falls, jumps = end < 0.27, max(c[1:12]) > 1.2*first if calibrated else end < 0.6
        out[name] = (1e-2 if falls else 1e-1 if jumps else 1e-5, calibrated)
    return out
    ### END SOLUTION

# %% check
RUNS_EX21C = dict(A=(1e-5, True), B=(1e-1, False), C=(1e-2, True), D=(1e-5, False), E=(1e-1, True), F=(1e-2, False))

@functools.cache
def curves_ex21c():
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=24, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=48)).eval().requires_grad_(False)
    for p in teacher.parameters():
        if p.dim() == 2: p.normal_(0, 0.15)
    rows, out = [toy_text(i, rows=8) for i in range(40)], {}
    for name, (lr, calibrated) in RUNS_EX21C.items():
        student = build_student(teacher, settings=dict(window=0), verbose=False)
        out[name] = align(student, teacher, rows, lr=lr, schedule='constant', warmup=0, calibrate_tokens=2048*calibrated, dtype='float32', show=False).curve('align')[1]
    return out

def check_ex21c(f):
    curves = curves_ex21c()
    got = f({n: list(c) for n, c in curves.items()})
    if got is None: raise AssertionError('answer: nothing was returned')
    if set(got) != set(curves): raise AssertionError('answer: one entry for each of A to F')
    for n, (lr, calibrated) in RUNS_EX21C.items():
        if bool(got[n][1]) != calibrated: raise AssertionError(f'{n}: look at the first step ({curves[n][0]:.2f}); calibration has done its work before it')
    for n, (lr, calibrated) in RUNS_EX21C.items():
        if got[n][0] == lr: continue
        if lr == 1e-5 and got[n][0] == 1e-2: raise AssertionError(f'{n}: flat from the first step to the last is no convergence: another run with this start ends lower. The rate is too small')
        if lr == 1e-1: raise AssertionError(f'{n}: it moves at once and then stays above where other runs go: the rate is too large')
        raise AssertionError(f'{n}: not {got[n][0]:g}; compare where it ends with the other runs of the same start')
    return 'ex21c: right'

# %% wrong
swap_ex21c = lambda **new: lambda curves: {**RUNS_EX21C, **new}
wrong_ex21c = [(swap_ex21c(A=(1e-5, False), D=(1e-5, True)), 'A: look at the first step'), (swap_ex21c(A=(1e-2, True), C=(1e-5, True)), 'A: flat from the first'), (swap_ex21c(B=(1e-5, False), D=(1e-1, False)), 'B: it moves at once'),
    (swap_ex21c(C=(1e-1, True)), 'C: not 0.1'), (lambda curves: {'A': (1e-2, True)}, 'one entry')]

# %% why
# A curve that is flat says nothing by itself. Flat and high (D): the rate is too small. Flat and low (A): the same fault, hidden by a good start; only a run with a larger rate (C) shows how much was left. A jump up, then a plateau (E): too large, the start is thrown away. At a good rate the calibrated and the other run end at the same place; what calibration buys is the way there.
