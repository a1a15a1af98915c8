"Attention operators: tensors in, tensors out"
from .softmax import attention_mask, attention_weights, softmax_attention
from .feature_maps import elu1, feature_map, hedgehog, identity, performer, random_directions, relu
from .linear import chunk_linear_attn, parallel_linear_attn, recurrent_linear_attn
from .gla import chunk_gla, parallel_gla, recurrent_gla
from .delta import (chunk_delta_rule, chunk_gated_delta_rule, chunk_kda, parallel_delta_rule, parallel_gated_delta_rule,
                    parallel_kda, recurrent_delta_rule, recurrent_gated_delta_rule, recurrent_kda)
from .rwkv6 import chunk_rwkv6, parallel_rwkv6, recurrent_rwkv6
from .rwkv7 import chunk_rwkv7, parallel_rwkv7, recurrent_rwkv7, rwkv7_inputs
from .mamba2 import chunk_mamba2, parallel_mamba2, recurrent_mamba2
from .dispatch import OPERATORS, attend
