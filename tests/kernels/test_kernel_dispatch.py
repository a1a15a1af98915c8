"`attend` and its self-check with our kernels, in the interpreter"
import pytest, torch
from hybrid_tutorial.core import ConfigError, rms_error
from hybrid_tutorial.ops import dispatch
from hybrid_tutorial.ops.dispatch import attend, chosen_backends, self_check, _mild_inputs

OPS = ('linear_attn', 'gla', 'gated_delta_rule')


@pytest.mark.parametrize('op', OPS)
def test_self_check_passes(op):
    assert self_check(op, 'triton', torch.zeros(1, 8, 2, 16), T=70) == ''


@pytest.mark.parametrize('op', OPS)
def test_self_check_finds_a_wrong_gradient(op, monkeypatch):
    right = dispatch._triton

    def wrong(op, inputs, common, options):
        k = inputs[1]
        return right(op, (inputs[0], k.detach()+0.9*(k-k.detach()), *inputs[2:]), common, options)
    monkeypatch.setattr(dispatch, '_triton', wrong)
    assert self_check(op, 'triton', torch.zeros(1, 8, 2, 16), T=40).startswith('gradient of k is off')


@pytest.mark.parametrize('op', OPS)
def test_attend_by_kernels(op, monkeypatch):
    monkeypatch.setattr(dispatch, '_chosen', {})
    xs = _mild_inputs(op, 65, 16)
    want, end = attend(op, *xs, backend='recurrent', output_final_state=True)
    got, S = attend(op, *[x[:, :64] for x in xs], backend='triton', output_final_state=True)
    last, S = attend(op, *[x[:, 64:] for x in xs], backend='triton', initial_state=S, output_final_state=True)  # the kernel of one token
    assert rms_error(torch.cat([got, last], 1), want) < 1e-5 and rms_error(S, end) < 1e-5
    assert {k: v['backend'] for k, v in chosen_backends()[op].items()} == {'one token': 'triton', 'sequence': 'triton'}


@pytest.mark.parametrize('op', OPS)
def test_another_chunk_is_refused_by_name_and_avoided_by_itself(op, monkeypatch):
    xs = _mild_inputs(op, 40, 16)
    with pytest.raises(ConfigError, match="chunk_size=32.*backend='chunk'"): attend(op, *xs, backend='triton', chunk_size=32)
    one, _ = attend(op, *[x[:, :1] for x in xs], backend='triton', chunk_size=32)  # a step has no chunks
    assert one.shape[1] == 1
    monkeypatch.setattr(dispatch, 'choose_backend', lambda x, op: 'triton')
    monkeypatch.setattr(dispatch, '_chosen', {})
    attend(op, *xs, chunk_size=32)
    assert chosen_backends()[op]['sequence']['backend'] == 'chunk'
    attend(op, *xs)
    assert chosen_backends()[op]['sequence']['backend'] == 'triton'
