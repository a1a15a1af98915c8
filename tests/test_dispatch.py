"The choice of an implementation: which, why, and what happens when a kernel is wrong"
import json, os, subprocess, sys, warnings
from pathlib import Path
import pytest, torch
from hybrid_tutorial.core import ConfigError, rms_error
from hybrid_tutorial.ops import dispatch
from hybrid_tutorial.ops.dispatch import OPERATORS, attend, candidates, choose_backend, chosen_backends, known_bad, own_triton_cache, remember, remembered, self_check


class OnGPU(torch.Tensor):
    "A CPU tensor that says it is on a GPU"
    is_cuda = property(lambda x: True)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass(): return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    "A pretended H100 with fla and Triton"
    monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path))
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda d=None: (9, 0))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda d=None: 'NVIDIA H100')
    found = dict(torch='2.13.0', triton='3.7.1', fla='0.6.0', ours='0.1')
    monkeypatch.setattr(dispatch, 'versions', lambda: found)
    monkeypatch.setattr(dispatch, 'has_kernel', lambda op, kind='': op in ('gla', 'linear_attn', 'gated_delta_rule'))
    monkeypatch.setattr(dispatch, 'self_check', lambda op, backend, x: '')
    for name in ('_trusted', '_chosen'): monkeypatch.setattr(dispatch, name, {})
    monkeypatch.setattr(dispatch, '_told', set())
    return found


def on_gpu(T=64, dtype=torch.bfloat16, K=32): return torch.zeros(1, T, 2, K, dtype=dtype).as_subclass(OnGPU)


def test_choice_on_cpu():
    x = torch.zeros(1, 64, 2, 16)
    assert choose_backend(x, 'gla') == 'chunk' and choose_backend(x[:, :1], 'gla') == 'recurrent' and candidates('gla', x) == []


def test_choice_on_gpu(gpu):
    assert choose_backend(on_gpu(), 'gla') == 'fla'  # nothing measured yet
    assert choose_backend(on_gpu(dtype=torch.float32), 'gla') == 'chunk'  # fla's kernels want 16 bits, ours spill registers
    assert choose_backend(on_gpu(dtype=torch.float32), 'rwkv7') == 'chunk'
    assert choose_backend(on_gpu(), 'rwkv7') == 'fla'
    assert choose_backend(on_gpu(K=256, dtype=torch.float32), 'gla') == 'chunk'
    with torch.no_grad(): assert choose_backend(on_gpu(T=1), 'gla') == 'triton'
    assert choose_backend(on_gpu(T=1), 'gla') == 'recurrent'  # a step with gradients
    del gpu['fla']
    assert choose_backend(on_gpu(), 'gla') == 'triton' and choose_backend(on_gpu(), 'kda') == 'chunk'


def test_measured_choice_is_remembered(gpu):
    remember('NVIDIA H100', 'gla', torch.bfloat16, dict(fla=2e-3, triton=1e-3))
    assert remembered('NVIDIA H100', 'gla', torch.bfloat16) == 'triton' and choose_backend(on_gpu(), 'gla') == 'triton'
    assert remembered('NVIDIA A100', 'gla', torch.bfloat16) == '' == remembered('NVIDIA H100', 'gla', torch.float16)
    remember('NVIDIA H100', 'gla', torch.bfloat16, dict(fla=1e-3, triton=2e-3))
    assert choose_backend(on_gpu(), 'gla') == 'fla'
    gpu['triton'] = '3.8.0'
    assert remembered('NVIDIA H100', 'gla', torch.bfloat16) == ''  # another compiler: measure again
    dispatch._record_file().write_text('{"half')
    assert remembered('NVIDIA H100', 'gla', torch.bfloat16) == ''


@pytest.mark.parametrize('op, triton, capability, fla, bad', [
    ('gated_delta_rule', '3.4.0', (9, 0), '0.6.0', '640'), ('gated_delta_rule', '3.7.0', (9, 0), '0.6.0', '640'),
    ('gated_delta_rule', '3.7.1', (9, 0), '0.6.0', ''), ('gated_delta_rule', '3.3.1', (9, 0), '0.6.0', ''),
    ('gated_delta_rule', '3.5.0', (8, 0), '0.6.0', ''), ('mamba2', '3.6.0+git1', (9, 0), '0.6.0', '640'), ('gla', '3.5.0', (9, 0), '0.6.0', ''),
    ('delta_rule', '3.9.0', (9, 0), '0.5.2', '984'), ('delta_rule', '3.9.0', (9, 0), '0.6.0', ''), ('delta_rule', '3.3.0', (9, 0), '0.5.2', ''),
    ('gated_delta_rule', '3.2.0', (9, 0), '0.4.1', '734'), ('gated_delta_rule', '3.1.0', (9, 0), '0.4.1', '')])
def test_known_bad(op, triton, capability, fla, bad):
    why = known_bad(op, triton, capability, 'fla', fla)
    assert (bad in why and op in why and triton in why) if bad else why == ''
    assert known_bad(op, triton, capability, 'triton', fla) == ''


def test_known_bad_is_refused_and_said(gpu, capsys):
    gpu['triton'] = '3.5.0'
    assert choose_backend(on_gpu(), 'gated_delta_rule') == 'triton'
    assert 'issue 640' in capsys.readouterr().out
    gpu['triton'] = '3.7.1'
    assert choose_backend(on_gpu(), 'gated_delta_rule') == 'fla'
    gpu['triton'] = '3.5.0'
    xs = [on_gpu()]*3+[on_gpu()[..., 0]]*2
    with pytest.raises(ConfigError, match='issue 640.*chunk'): attend('gated_delta_rule', *xs, backend='fla')


def wrong(kind):
    "Kernels with a mistake"
    def f(op, inputs, common, options):
        if kind == 'crash': raise RuntimeError('illegal memory access')
        if kind == 'gradient': inputs = (inputs[0], inputs[1].detach()+0.9*(inputs[1]-inputs[1].detach()), *inputs[2:])
        o, s = attend(op, *inputs, backend='chunk')
        return (o*1.1 if kind == 'output' else o*float('nan') if kind == 'nan' else o), s
    return f


@pytest.mark.parametrize('kind, says', [('output', 'output is off'), ('gradient', 'gradient of k is off'), ('nan', 'output is off by nan'), ('crash', 'illegal memory access')])
@pytest.mark.parametrize('op', ['gla', 'gated_delta_rule'])
def test_self_check_finds_a_wrong_kernel(op, kind, says, monkeypatch):
    monkeypatch.setattr(dispatch, '_fla', wrong(kind))
    found = self_check(op, 'fla', torch.zeros(1, 8, 2, 16))
    assert says in found and ('gradient of v' not in found or kind != 'gradient')


@pytest.mark.parametrize('op', OPERATORS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_self_check_lets_a_right_kernel_pass(op, dtype, monkeypatch):
    monkeypatch.setattr(dispatch, '_fla', wrong(None))
    assert self_check(op, 'fla', torch.zeros(1, 8, 2, 16, dtype=dtype)) == ''


def test_wrong_kernel_falls_back_loudly_and_once(gpu, monkeypatch):
    monkeypatch.setattr(dispatch, 'self_check', lambda op, backend, x: 'gradient of g is off by 0.04 (allowed 0.02)' if backend == 'fla' else '')
    with pytest.warns(UserWarning, match='fla failed its self-check for gla.*gradient of g is off.*chunk'): assert choose_backend(on_gpu(), 'gla') == 'triton'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert choose_backend(on_gpu(), 'gla') == 'triton'
    with pytest.warns(UserWarning): assert choose_backend(on_gpu(), 'kda') == 'chunk'


def test_what_was_chosen_can_be_saved():
    dispatch._chosen.clear(); dispatch._told.clear()
    xs = torch.randn(1, 8, 1, 4), torch.randn(1, 8, 1, 4), torch.randn(1, 8, 1, 4)
    attend('linear_attn', *xs); attend('linear_attn', *[x[:, :1] for x in xs])
    got = chosen_backends()
    assert got['linear_attn']['sequence']['backend'] == 'chunk' and got['linear_attn']['one token']['backend'] == 'recurrent'
    assert got['linear_attn']['sequence']['versions']['torch'] == torch.__version__.split('+')[0] or got['linear_attn']['sequence']['versions']['torch'] == torch.__version__
    json.dumps(got); got.clear()
    assert chosen_backends()


def test_triton_on_cpu_without_the_interpreter(monkeypatch):
    pytest.importorskip('triton')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(dispatch, 'has_kernel', lambda op, kind='': True)
    with pytest.raises(ConfigError, match="need a GPU.*backend='chunk'"): attend('gla', *[torch.zeros(1, 8, 1, 16)]*4, backend='triton')


def test_own_triton_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path)); monkeypatch.setenv('TRITON_CACHE_DIR', '/somewhere/else')
    assert own_triton_cache() == '/somewhere/else'
    monkeypatch.delenv('TRITON_CACHE_DIR')
    ended = subprocess.Popen([sys.executable, '-c', '']); ended.wait()
    mine = Path(own_triton_cache())
    dead, other = mine.with_name(mine.name.replace(str(os.getpid()), str(ended.pid))), mine.with_name('otherhost-1')
    dead.mkdir(); other.mkdir()
    assert mine.exists() and os.environ['TRITON_CACHE_DIR'] == str(mine) == own_triton_cache() and dead.exists()
    monkeypatch.delenv('TRITON_CACHE_DIR'); own_triton_cache()
    assert not dead.exists() and other.exists() and mine.exists()
    monkeypatch.setenv('TRITON_CACHE_DIR', str(dead))  # inherited from a parent process: not ours
    assert own_triton_cache() == str(mine)


def test_import_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None; import hybrid_tutorial, hybrid_tutorial.ops.dispatch, hybrid_tutorial.ops.kernels; print('imported')"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.stdout.strip() == 'imported', out.stderr
