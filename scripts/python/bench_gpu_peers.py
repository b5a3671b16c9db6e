"""Floors of one GPU and the trainers that are installed beside gotune, for scripts/bench_gpu.

Prints one line `record {json}` for each result, as gotune/internal/benchgpu does: the time of the matrix products of a 4-bit LoRA step of Llama-2-7B
(bfloat16, torch), the bandwidth of a device copy, and tokens/s of Hugging Face transformers + PEFT, in 4 bits where bitsandbytes is installed
and a model is given, else with bfloat16 weights. Peers that are missing are named.
"""
import argparse
import gc
import importlib.util
import json
import statistics
import sys
import time
import traceback

import torch

HIDDEN, INNER, LAYERS, VOCAB = 4096, 11008, 32, 32000


def emit(stage, case, text="", **value):
    print("record " + json.dumps({"stage": stage, "case": case, "text": text, "value": value}), flush=True)


def timed(f, repeats=15):
    """Median milliseconds of f by device events."""
    for _ in range(3):
        f()
    took = []
    for _ in range(repeats):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        f()
        b.record()
        b.synchronize()
        took.append(a.elapsed_time(b))
    return statistics.median(took)


def floors(tokens):
    """All products of a step without weight gradients: forward and input gradient of each base matrix, twice the head."""
    total, parts = 0.0, []
    for name, out, inp, times in [("qkv", 3 * HIDDEN, HIDDEN, LAYERS), ("o", HIDDEN, HIDDEN, LAYERS),
                                  ("gate|up", 2 * INNER, HIDDEN, LAYERS), ("down", HIDDEN, INNER, LAYERS), ("head", VOCAB, HIDDEN, 1)]:
        w = torch.randn(out, inp, device="cuda", dtype=torch.bfloat16) * 0.02
        x = torch.randn(tokens, inp, device="cuda", dtype=torch.bfloat16)
        g = torch.randn(tokens, out, device="cuda", dtype=torch.bfloat16)
        forward, backward = timed(lambda: x @ w.T), timed(lambda: g @ w)
        total += times * (forward + backward)
        flop = 2 * tokens * out * inp / 1e9
        parts.append(f"{name} {forward * 1e3:.0f}/{backward * 1e3:.0f} us ({flop / forward:.0f}/{flop / backward:.0f} TFLOP/s)")
    emit("floor", f"GEMMs of a step, {tokens} tokens", ", ".join(parts), **{"ms": total, "tok/s": tokens / total * 1e3})


def copy_bandwidth():
    x = torch.randn(1 << 29, device="cuda")
    y = torch.empty_like(x)
    ms = timed(lambda: y.copy_(x))
    emit("floor", "device copy", "read and written", **{"GB/s": 2 * 4 * x.numel() / ms / 1e6})
    host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
    dev = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    emit("floor", "host to device, pinned", "", **{"GB/s": host.numel() / timed(lambda: dev.copy_(host, non_blocking=True)) / 1e6})


def base_model(path, four_bit):
    from transformers import AutoModelForCausalLM, LlamaConfig
    if four_bit:
        from transformers import BitsAndBytesConfig
        q = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        return AutoModelForCausalLM.from_pretrained(path, quantization_config=q, dtype=torch.bfloat16, device_map={"": 0})
    cfg = LlamaConfig(hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=32, vocab_size=VOCAB,
                      max_position_embeddings=4096, use_cache=False)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return AutoModelForCausalLM.from_config(cfg, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(torch.float32)


def measure(model, label, lengths, steps, warm=2):
    """Optimizer steps of a model with an adapter: B=4, all tokens supervised, AdamW, clipping."""
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4, fused=True)
    model.train()
    for s in lengths:
        ids = torch.randint(0, VOCAB, (4, s), device="cuda")
        torch.cuda.reset_peak_memory_stats()
        took = []
        for _ in range(steps + warm):
            torch.cuda.synchronize()
            t = time.perf_counter()
            model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            opt.step()
            opt.zero_grad()
            torch.cuda.synchronize()
            took.append(time.perf_counter() - t)
        step = statistics.median(took[warm:])
        emit("peers", f"{label} B=4 S={s}", "", **{"tok/s": 4 * s / step, "step ms": step * 1e3, "GiB": torch.cuda.max_memory_allocated() / 2**30})


def hugging_face(name, path, four_bit, lengths, steps):
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(base_model(path, four_bit), LoraConfig(r=64, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    model.enable_input_require_grads()
    measure(model, name, lengths, steps)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    measure(model, name + ", checkpointing", lengths, steps)


def unsloth(path, lengths, steps):
    """Unsloth's fast path has no dropout."""
    from unsloth import FastLanguageModel
    for checkpointing, label in ((False, "Unsloth"), ("unsloth", "Unsloth, offloaded checkpointing")):
        model, _ = FastLanguageModel.from_pretrained(path, max_seq_length=max(lengths), dtype=torch.bfloat16, load_in_4bit=True)
        model = FastLanguageModel.get_peft_model(model, r=64, target_modules=["q_proj", "v_proj"], lora_alpha=16, lora_dropout=0, bias="none",
                                                 use_gradient_checkpointing=checkpointing, random_state=1)
        measure(model, label, lengths, steps, warm=4)
        del model
        gc.collect()
        torch.cuda.empty_cache()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="", help="folder of a Llama-2-7B checkpoint, for 4-bit peers")
    ap.add_argument("--lengths", default="512,1024,2048")
    ap.add_argument("--steps", type=int, default=5)
    ap.add_argument("--only", default="", help="unsloth: that alone, which has to have a process of its own, since it changes transformers")
    args = ap.parse_args()
    lengths = [int(s) for s in args.lengths.split(",")]
    have = lambda m: importlib.util.find_spec(m) is not None
    if args.only == "unsloth":
        if not have("unsloth"):
            emit("peers", "not installed", "unsloth")
            return
        peer("Unsloth", lambda: unsloth(args.model, lengths, args.steps))
        return
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}", file=sys.stderr)
    copy_bandwidth()
    for tokens in (2048, 4096, 8192):
        floors(tokens)
    gc.collect()
    torch.cuda.empty_cache()
    missing = [m for m in ("bitsandbytes", "liger_kernel", "transformers", "peft") if not have(m)]
    if missing:
        emit("peers", "not installed", ", ".join(missing))
    if have("transformers") and have("peft"):
        four_bit = have("bitsandbytes") and args.model != ""
        name = "HF + PEFT" + (" + bitsandbytes NF4" if four_bit else ", bf16 weights (no 4 bits)")
        peer(name, lambda: hugging_face(name, args.model, four_bit, lengths, args.steps))


def peer(name, run):
    try:
        run()
    except Exception:  # a peer's failure is a result
        traceback.print_exc()
        emit("peers", name, "failed: " + traceback.format_exc().strip().splitlines()[-1])


if __name__ == "__main__":
    main()
