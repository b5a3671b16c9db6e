"""Prints the custom calls that JAX makes for cuDNN's fused attention, without a GPU.

pip install jax; python cudnn.py > cudnn.txt
"""
import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn

cudnn.check_cudnn_version = lambda: 91000
cudnn.check_compute_capability = lambda wanted: True
cudnn.is_cuda_compute_capability_equal = lambda wanted: False
cudnn.should_export_dbias = lambda *shapes: False  # as JAX 0.5 does for a bias that heads share

DOCUMENTS = 6  # a row, where there are several


def calls(b, s, h, k, d, dtype, mask):
    q, kv = (jax.ShapeDtypeStruct((b, s, n, d), dtype) for n in (h, k))
    bias = jax.ShapeDtypeStruct((b, 1, s, s), dtype)
    lengths, begins = (jax.ShapeDtypeStruct((b, n), jnp.int32) for n in (DOCUMENTS, DOCUMENTS + 1))

    def both(q, k, v, bias, lengths, begins, do):
        how = {
            "whole": dict(mask_type=cudnn.MaskType.CAUSAL),
            "bias": dict(mask_type=cudnn.MaskType.CAUSAL, bias=bias),
            "ragged": dict(mask_type=cudnn.MaskType.PADDING_CAUSAL, q_seqlen=lengths, kv_seqlen=lengths, q_offsets=begins, kv_offsets=begins),
        }[mask]
        o, gradient = jax.vjp(lambda q, k, v: cudnn.dot_product_attention(q, k, v, scale=1 / d**0.5, **how), q, k, v)
        return o, *gradient(do)

    text = jax.jit(both).trace(q, kv, kv, bias, lengths, begins, q).lower(lowering_platforms=("cuda",)).as_text()
    for line in text.splitlines():
        if "custom_call" in line:
            print(b, s, h, k, d, jnp.dtype(dtype).name, mask, line.strip(), sep="\t")


for case in (4, 1024, 32, 32, 128, jnp.bfloat16), (2, 96, 8, 2, 64, jnp.float16):
    for mask in "whole", "bias", "ragged":
        calls(*case, mask)
