"""bench_peer.py MODEL BATCHES: transformers + PEFT doing the walkthrough's training steps, for scripts/bench.

MODEL is a folder with float32 weights, BATCHES the batches that gotune wrote. Reads requests from stdin, a line each:
"warm" chooses the faster attention; "pass", "pass single" (one thread) and "pass unpadded" (to the longest row of each batch)
train on every batch once. Answers each with a line of JSON: seconds by the clock and of computing."""
import json
import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")

import torch
import transformers
import peft

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(os.cpu_count())


def tensors(path):
    with open(path) as f:
        batches = json.load(f)
    return [{"input_ids": torch.tensor(b["IDs"]), "labels": torch.tensor(b["Labels"]), "attention_mask": torch.tensor(b["Mask"])} for b in batches]


def cut(batch):
    """The batch without the columns that are padding in every row."""
    n = int(batch["attention_mask"].sum(1).max())
    return {k: v[:, :n].contiguous() for k, v in batch.items()}


class Run:
    def __init__(self, path, attention):
        torch.manual_seed(42)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=attention)
        config = peft.LoraConfig(r=64, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        self.model = peft.get_peft_model(model, config).train()
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(self.weights, lr=2e-4, weight_decay=0.001, fused=True)

    def train(self, batches):
        """Trains on each batch once; returns the first one's loss and the seconds."""
        wall, cpu, first = time.perf_counter(), time.process_time(), None
        for b in batches:
            loss = self.model(**b, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.weights, 0.3)
            self.adam.step()
            self.adam.zero_grad()
            value = loss.item()
            first = value if first is None else first
        return first, time.perf_counter() - wall, time.process_time() - cpu


def main(path, file):
    padded = tensors(file)
    unpadded = [cut(b) for b in padded]
    run, name = None, ""
    for line in sys.stdin:
        if line.strip() == "warm":
            best = None
            torch.set_num_threads(1)  # then other programs hardly change which is faster
            for attention in ("sdpa", "eager"):
                r = Run(path, attention)
                first, _, _ = r.train(padded)
                _, _, cpu = r.train(padded)
                if best is None or cpu < best:
                    best, run, loss = cpu, r, first
                    name = (f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, float32, "
                            f"{attention} attention, {os.cpu_count()} threads, {torch.backends.cpu.get_cpu_capability()}")
            wall = cpu = 0
        else:
            torch.set_num_threads(1 if "single" in line else os.cpu_count())
            loss, wall, cpu = run.train(unpadded if "unpadded" in line else padded)
        print(json.dumps({"wall": wall, "cpu": cpu, "loss": loss, "name": name}), flush=True)


main(*sys.argv[1:])
