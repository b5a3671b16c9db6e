"""Floors of one GPU and the trainers that are installed beside gotune, for scripts/bench_gpu.

Prints one line `record {json}` for each result, as gotune/internal/benchgpu does. --only takes a list of parts:

floors   bandwidth of copies, and the matrix products of a 4-bit LoRA step of Llama-2-7B (bfloat16, torch): each alone, with pauses, and
         all of them in a step's order for as long as it takes the GPU to come to its power limit
hf       tokens/s of Hugging Face transformers + PEFT, in 4 bits where bitsandbytes is installed and a model is given, else with bfloat16 weights
liger    the same with Liger's kernels (liger_kernel) in transformers' Llama
unsloth  tokens/s of Unsloth. Like Liger it changes transformers for its whole process, so of hf, liger and unsloth one runs at a time. Importable have to be unsloth (its folder
         studio/ isn't needed), unsloth_zoo with unsloth_zoo_downloads beside it, trl < 1.16, datasets < 5 with dill and multiprocess, pydantic
         with pydantic_core, bitsandbytes with the library of torch's CUDA version, peft, transformers and triton: on PYTHONPATH, if
         not in the interpreter's own folder. The tokenizer has to name unk_token or a token for padding; the models of scripts/synth7b do.
         Nothing is fetched or reported: UNSLOTH_DISABLE_STATISTICS and HF_HUB_OFFLINE are set here.

--batches names a file of `benchgpu packed -batches`: the trainers also train on those batches, each padded to its longest document, without
checkpointing; an empty --lengths leaves the rest out. It is what a trainer does whose padding_free is False: where it is unset, newer versions of
Unsloth's trainer join a batch's documents into one row on some GPUs.

A peer that is missing or fails is a record that says so.
"""
import argparse
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import torch

HIDDEN, INNER, LAYERS, VOCAB = 4096, 11008, 32, 32000
LAYER = [("qkv", 3 * HIDDEN, HIDDEN), ("o", HIDDEN, HIDDEN), ("gate|up", 2 * INNER, HIDDEN), ("down", HIDDEN, INNER)]  # name, outputs, inputs
HEAD = ("head", VOCAB, HIDDEN)
NF4 = [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
       0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]


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
    for name, out, inp in LAYER + [HEAD]:
        times = 1 if name == "head" else LAYERS
        w = torch.randn(out, inp, device="cuda", dtype=torch.bfloat16) * 0.02
        x = torch.randn(tokens, inp, device="cuda", dtype=torch.bfloat16)
        g = torch.randn(tokens, out, device="cuda", dtype=torch.bfloat16)
        forward, backward = timed(lambda: x @ w.T), timed(lambda: g @ w)
        total += times * (forward + backward)
        flop = 2 * tokens * out * inp / 1e9
        parts.append(f"{name} {forward * 1e3:.0f}/{backward * 1e3:.0f} us ({flop / forward:.0f}/{flop / backward:.0f} TFLOP/s)")
    emit("floor", f"GEMMs of a step, {tokens} tokens", ", ".join(parts), **{"ms": total, "tok/s": tokens / total * 1e3})


def nf4_weight(out, inp, device="cuda"):
    """A weight as 4 bits give it back, normal values rounded to NF4's levels times the scale of their block of 64: a product's energy depends on the bits."""
    w = (torch.randn(out * inp, device=device) * 0.02).view(-1, 64)
    levels = torch.tensor(NF4, device=device)
    scale = w.abs().amax(1, keepdim=True)
    codes = torch.bucketize(w / scale, (levels[1:] + levels[:-1]) / 2, out_int32=True)
    return (levels[codes] * scale).view(out, inp).to(torch.bfloat16)


def step_order(layers):
    """(matrix, layer, backward) of the products of a step in its order: the layers forward, the head both ways, the layers backward."""
    forward = [(name, i, False) for i in range(layers) for name, _, _ in LAYER]
    return forward + [("head", 0, False), ("head", 0, True)] + [(name, i, True) for name, i, _ in reversed(forward)]


def sustained(tokens, seconds=2.5):
    """The products of a step in its order without a pause: what is left of the floor when the GPU is at its power limit.

    Of the layers' weights only two sets are distinct, for two are 0.8 GB: whenever one is read again, more has passed than any L2 holds (50 MB), and
    a small GPU has room for them. The first half of the time is for the clock to settle; the median and the power are those of the other half.
    """
    shapes = {name: (out, inp) for name, out, inp in LAYER + [HEAD]}
    weights = {(name, i): nf4_weight(*shapes[name]) for name, i in {w[:2] for w in step_order(2)}}
    values = {n: torch.randn(tokens, n, device="cuda", dtype=torch.bfloat16) for n in {n for shape in shapes.values() for n in shape}}
    order = [(weights[name, i % 2], values[shapes[name][0 if backward else 1]], backward) for name, i, backward in step_order(LAYERS)]
    flop = sum(2 * tokens * w.numel() for w, _, _ in order)

    def step():
        for w, x, backward in order:
            x @ (w if backward else w.T)

    step()
    torch.cuda.synchronize()
    with PowerMeter() as meter:
        start, marks, ends = time.perf_counter(), [event()], [time.perf_counter()]
        while ends[-1] - start < seconds:
            step()
            marks.append(event())
            if len(marks) > 2:  # one step stays queued, so that the GPU never waits for the host
                marks[-2].synchronize()
                ends.append(time.perf_counter())
        torch.cuda.synchronize()
        end = time.perf_counter()
    took = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
    ms = statistics.median(took[len(took) // 2:])
    power = meter.means(start + (end - start) / 2, end)
    emit("floor", f"GEMMs of a step, sustained, {tokens} tokens", f"{len(took)} steps in {end - start:.1f} s",
         **{"ms": ms, "tok/s": tokens / ms * 1e3, "TFLOP/s": flop / ms / 1e9, **power})


def event():
    e = torch.cuda.Event(enable_timing=True)
    e.record()
    return e


class PowerMeter:
    """Samples a GPU's power and clock by nvidia-smi while it is open; has none where there is no nvidia-smi, or one that doesn't know them."""

    def __init__(self):
        self.samples, self.process = [], None

    def __enter__(self):
        command = ["nvidia-smi", "--query-gpu=power.draw,clocks.sm", "--format=csv,noheader,nounits", "-lms", "200"] + one_gpu()
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return self
        first = threading.Event()
        self.reader = threading.Thread(target=self.read, args=(first,), daemon=True)
        self.reader.start()
        first.wait(5)  # it takes a while to start
        return self

    def read(self, first):
        for line in self.process.stdout:
            try:
                power, clock = (float(v) for v in line.split(","))
            except ValueError:  # "[N/A]", or a line about an error
                continue
            self.samples.append((time.perf_counter(), power, clock))
            first.set()
        first.set()  # it ended

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.reader.join()

    def means(self, since, until):
        """Means of the samples of a time, as a record's values; none without samples."""
        during = [s for s in self.samples if since <= s[0] <= until]
        if not during:
            return {}
        return {"W": statistics.fmean(s[1] for s in during), "SM MHz": statistics.fmean(s[2] for s in during)}


def one_gpu():
    """nvidia-smi's arguments for torch's first GPU; none where torch doesn't tell which that is: then it samples all of them."""
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None) if torch.cuda.is_available() else None
    return ["-i", f"GPU-{uuid}"] if uuid else []


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


def optimizer(model):
    model.train()
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4, fused=True)


def optimizer_step(model, opt, inputs):
    """Seconds of a step with AdamW and clipping."""
    torch.cuda.synchronize()
    t = time.perf_counter()
    model(**inputs).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
    opt.step()
    opt.zero_grad()
    torch.cuda.synchronize()
    return time.perf_counter() - t


def measure(model, label, lengths, steps, warm=2):
    """Optimizer steps of a model with an adapter: B=4, all tokens supervised."""
    opt = optimizer(model)
    for s in lengths:
        ids = torch.randint(0, VOCAB, (4, s), device="cuda")
        torch.cuda.reset_peak_memory_stats()
        took = [optimizer_step(model, opt, {"input_ids": ids, "labels": ids}) for _ in range(steps + warm)]
        step = statistics.median(took[warm:])
        emit("peers", f"{label} B=4 S={s}", "", **{"tok/s": 4 * s / step, "step ms": step * 1e3, "GiB": torch.cuda.max_memory_allocated() / 2**30})


def padded_batch(lengths):
    """A batch of documents with these lengths as a collator makes it: random tokens, padded on the right to the longest."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, VOCAB, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}


def measure_padded(model, label, batches):
    if batches:  # a peer of its own: what follows on the same model is measured all the same
        name = f"{label}, padded batches grouped by length"
        peer(name, lambda: train_padded(model, name, batches))


def train_padded(model, name, batches):
    """Optimizer steps on padded batches that lie on the device already; useful tokens are those that aren't padding.

    All batches go through once untimed, for what is compiled, chosen or allocated for a shape, and then once timed.
    """
    opt = optimizer(model)
    inputs = [{k: v.to("cuda") for k, v in padded_batch(b).items()} for b in batches]
    for i in inputs:
        optimizer_step(model, opt, i)
    torch.cuda.reset_peak_memory_stats()
    took = [optimizer_step(model, opt, i) for i in inputs]
    useful, padded = sum(map(sum, batches)), sum(len(b) * max(b) for b in batches)
    longest = sorted({max(b) for b in batches})
    emit("peers", name, f"{len(batches)} batches in {len(longest)} lengths from {longest[0]} to {longest[-1]}",
         **{"useful tok/s": useful / sum(took), "step ms": sum(took) / len(took) * 1e3, "slowest step ms": max(took) * 1e3,
            "share useful": useful / padded, "GiB": torch.cuda.max_memory_allocated() / 2**30})


def hugging_face(name, path, four_bit, args):
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(base_model(path, four_bit), LoraConfig(r=64, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    model.enable_input_require_grads()
    measure(model, name, args.lengths, args.steps)
    measure_padded(model, name, args.batches)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    measure(model, name + ", checkpointing", args.lengths, args.steps)


def unsloth(args):
    """Unsloth's fast path has no dropout."""
    from unsloth import FastLanguageModel
    longest = max(args.lengths + [max(b) for b in args.batches])
    for checkpointing, label in ((False, "Unsloth"), ("unsloth", "Unsloth, offloaded checkpointing")):
        if checkpointing and not args.lengths:
            continue
        model, _ = FastLanguageModel.from_pretrained(args.model, max_seq_length=longest, dtype=torch.bfloat16, load_in_4bit=True)
        model = FastLanguageModel.get_peft_model(model, r=64, target_modules=["q_proj", "v_proj"], lora_alpha=16, lora_dropout=0, bias="none",
                                                 use_gradient_checkpointing=checkpointing, random_state=1)
        measure(model, label, args.lengths, args.steps, warm=4)
        if not checkpointing:
            measure_padded(model, label, args.batches)
        del model
        gc.collect()
        torch.cuda.empty_cache()


def have(module):
    return importlib.util.find_spec(module) is not None


def measure_floors(args):
    copy_bandwidth()
    for tokens in (2048, 4096, 8192):
        floors(tokens)
        sustained(tokens)


def measure_liger(args):
    if not have("liger_kernel"):
        emit("peers", "not installed", "liger_kernel")
        return
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    apply_liger_kernel_to_llama()
    measure_hugging_face(args, " + Liger")


def measure_hugging_face(args, beside=""):
    missing = [m for m in ("bitsandbytes", "transformers", "peft") if not have(m)]
    if missing:
        emit("peers", "not installed", ", ".join(missing))
    if have("transformers") and have("peft"):
        four_bit = have("bitsandbytes") and args.model != ""
        name = "HF + PEFT" + (" + bitsandbytes NF4" if four_bit else ", bf16 weights (no 4 bits)") + beside
        peer(name, lambda: hugging_face(name, args.model, four_bit, args))


def measure_unsloth(args):
    if not have("unsloth"):
        emit("peers", "not installed", "unsloth")
        return
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as compiled:  # else a folder in the one that we are in
        os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", compiled)
        peer("Unsloth", lambda: unsloth(args))


def peer(name, run):
    try:
        run()
    except Exception:  # a peer's failure is a result
        traceback.print_exc()
        emit("peers", name, "failed: " + traceback.format_exc().strip().splitlines()[-1])


PARTS = {"floors": measure_floors, "hf": measure_hugging_face, "liger": measure_liger, "unsloth": measure_unsloth}
TRAINERS = ("hf", "liger", "unsloth")


def read_batches(path):
    """The batches of a file: lists of their documents' lengths."""
    try:
        with open(path, encoding="utf-8") as f:
            batches = json.load(f)
    except (OSError, ValueError) as e:
        raise argparse.ArgumentTypeError(f"{path}: {e}: write it with benchgpu packed -batches") from e
    if not isinstance(batches, list) or not batches or not all(isinstance(b, list) and b and all(type(n) is int and n > 0 for n in b) for b in batches):
        raise argparse.ArgumentTypeError(f"{path}: want a list of batches, each a list of lengths: write it with benchgpu packed -batches")
    return batches


def arguments(argv=None):
    ap = argparse.ArgumentParser(description="Floors of one GPU and other trainers' speed on it.")
    ap.add_argument("--model", default="", help="folder of a Llama-2-7B checkpoint, for 4-bit peers")
    ap.add_argument("--lengths", default="512,1024,2048", help="tokens of a row; empty for none")
    ap.add_argument("--batches", type=read_batches, default=[], help="file of `benchgpu packed -batches`: padded batches to train on")
    ap.add_argument("--steps", type=int, default=5)
    ap.add_argument("--only", default="floors,hf", help="parts to run, with commas: " + ", ".join(PARTS) + "; of the trainers one at a time")
    args = ap.parse_args(argv)
    args.lengths, args.only = [int(s) for s in args.lengths.split(",") if s], args.only.split(",")
    unknown = [p for p in args.only if p not in PARTS]
    if unknown:
        ap.error(f"--only {','.join(unknown)}: want some of {', '.join(PARTS)}")
    if sum(p in TRAINERS for p in args.only) > 1:
        ap.error(f"--only {','.join(args.only)}: Liger and Unsloth change transformers for their whole process: run one trainer in each")
    if not args.lengths and not args.batches and args.only != ["floors"]:
        ap.error("--lengths is empty and there is no --batches: a peer has nothing to train on")
    return args


def main():
    args = arguments()
    for part in args.only:
        PARTS[part](args)
        gc.collect()
        torch.cuda.empty_cache()
    # Last, for it starts CUDA, whose allocator Unsloth sets up before.
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}", file=sys.stderr)


if __name__ == "__main__":
    main()
