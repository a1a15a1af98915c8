"Triton kernels, imported when they are first asked for: this package can be imported without triton"
import importlib
import importlib.util

EXPORTS = dict(  # name -> module of this package
    triton_gla='gla', triton_linear_attn='gla',
    triton_gated_delta_rule='delta',
    triton_gated_rms_norm='norm', triton_chunked_kl='loss',
    triton_recurrent_linear_attn='decode', triton_recurrent_mamba2='decode', triton_recurrent_gla='decode',
    triton_recurrent_delta_rule='decode', triton_recurrent_gated_delta_rule='decode')


def __getattr__(name):
    if name not in EXPORTS: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f'{__name__}.{EXPORTS[name]}') is None: raise AttributeError(f"{name} has not been written yet")
    if importlib.util.find_spec('triton') is None:
        from ...core import ConfigError
        raise ConfigError("triton is not installed: pip install triton (Linux); or use backend='chunk'")
    return getattr(importlib.import_module(f'.{EXPORTS[name]}', __name__), name)
