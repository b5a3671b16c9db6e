"""check_walkthrough.py OUT BASE: looks at what scripts/walkthrough left in OUT, with the libraries that users will open it
with. BASE is the folder of the model that was fine-tuned.

Each line is one check. Exit status 1 when one fails; the last line counts them."""
import hashlib
import json
import math
import os
import re
import sys
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error")
warnings.filterwarnings("ignore")

OUT, BASE = Path(sys.argv[1]), sys.argv[2]
PASSED = FAILED = 0


def check(what, ok, found=""):
    global PASSED, FAILED
    PASSED, FAILED = PASSED + bool(ok), FAILED + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {what}" + (f": {found}" if found != "" else ""), flush=True)


def outputs(cell):
    """The cell's outputs as text: streams, text/plain, text/html, errors."""
    parts = []
    for o in cell.get("outputs", []):
        parts.append("".join(o.get("text", "")))
        for data in o.get("data", {}).values():
            parts.append(data if isinstance(data, str) else json.dumps(data))
        parts.extend(o.get("traceback", []))
    return "\n".join(parts)


def notebook():
    nb = json.loads((OUT / "notebook.ipynb").read_text())
    cells = [c for c in nb["cells"] if c["cell_type"] == "code"]
    check("kernel of the notebook", nb["metadata"]["kernelspec"]["name"] == "gotune", nb["metadata"]["kernelspec"]["display_name"])
    errors = [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
    check("no cell failed", not errors, [e["ename"] for e in errors] or "")
    missing = [i for i, c in enumerate(cells, 1) if c["execution_count"] is None]
    check("every cell ran", not missing, missing or f"{len(cells)} cells")
    silent = [i for i, c in enumerate(cells, 1) if "%%" in "".join(c["source"]) and not c["outputs"]]
    check("every cell that does something shows something", not silent, silent or "")
    displays = [o["data"] for c in cells for o in c["outputs"] if o["output_type"] in ("display_data", "execute_result")]
    check("displays", displays, len(displays))
    bare = [sorted(d) for d in displays if "text/plain" not in d]
    check("every display has a text form, for consoles", not bare, bare[:3] or "")
    scripts = [d for d in displays if re.search(r"<script|<iframe", str(d.get("text/html", "")))]
    check("no display needs scripts, which are removed from notebooks out of git", not scripts, len(scripts) or "")
    pictures = [d for d in displays if "data:image/svg+xml" in str(d.get("text/html", "")) or "image/svg+xml" in d or "image/png" in d]
    check("pictures that stay in the saved notebook", len(pictures) >= 2, len(pictures))
    inline = [d for d in displays if "<svg" in str(d.get("text/html", ""))]
    check("no inline SVG, which is removed from notebooks out of git", not inline, len(inline) or "")
    for name, needle in [("doctor", "backend"), ("data", r"\[INST\]"), ("training", "loss"), ("merge", "merged"), ("push", "commit|sent|pushed")]:
        check(f"the notebook shows {name}", any(re.search(needle, outputs(c), re.I) for c in cells))
    size = (OUT / "notebook.ipynb").stat().st_size
    check("size of the executed notebook below 3 MB", size < 3 << 20, size)


def events():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    files = sorted(p for p in (OUT / "runs").rglob("*") if "tfevents" in p.name)
    check("TensorBoard files", files, len(files))
    for f in files[:1]:
        acc = EventAccumulator(str(f.parent))
        acc.Reload()
        tags = acc.Tags()["scalars"]
        loss = next((t for t in tags if t.endswith("train/loss") or t == "loss"), None)
        check("TensorBoard reads a training loss", loss is not None, tags)
        if loss:
            values = [s.value for s in acc.Scalars(loss)]
            check("all losses are numbers", values and all(map(math.isfinite, values)), f"{len(values)} values")
            third = max(1, len(values) // 3)
            first, last = sum(values[:third]) / third, sum(values[-third:]) / third
            check("the loss goes down", last < first, f"{first:.3f} → {last:.3f} (means of the first and last third)")
        for t in tags:
            if "eval" in t and "loss" in t:
                values = [s.value for s in acc.Scalars(t)]
                check("held-out loss is a number", all(map(math.isfinite, values)), " ".join(f"{v:.3f}" for v in values))


def models():
    import torch
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer
    merged, adapter = OUT / "merged", OUT / "adapter"
    with safe_open(next(merged.glob("*.safetensors")), "pt") as f:
        dtypes = {str(f.get_slice(k).get_dtype()) for k in f.keys()}
    check("merged weights are 16-bit", dtypes == {"F16"}, sorted(dtypes))
    tuned, info = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32, output_loading_info=True)
    tuned.eval()
    for k in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        check(f"transformers opens the merged model, {k}", not info.get(k), list(info.get(k, []))[:3] or "none")
    tok = AutoTokenizer.from_pretrained(merged)
    check("its tokenizer opens", tok.vocab_size <= tuned.config.vocab_size, f"{tok.vocab_size} tokens")
    cfg = json.loads((adapter / "adapter_config.json").read_text())
    check("the adapter names its base model", bool(cfg["base_model_name_or_path"]), cfg["base_model_name_or_path"])
    ids = tok("[INST] What does strings.TrimSpace do? [/INST]", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = tuned(ids).logits
        out = tuned.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=120, do_sample=False, pad_token_id=tok.eos_token_id)
    check("its logits are finite", bool(torch.isfinite(logits).all()))
    answer = tok.decode(out[0, ids.shape[1]:])
    check("it answers in transformers and stops by itself", out[0, -1].item() == tok.eos_token_id, answer.strip()[:160])
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    with torch.no_grad():
        before = base(ids).logits
    model = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        with_adapter = model(ids).logits
    check("PEFT opens the adapter, and it changes the model", (with_adapter - before).abs().max().item() > 1e-3)
    diff = (with_adapter - logits).abs().max().item()
    check("merged model and base with adapter agree", diff < 0.05, f"largest difference of logits {diff:.2e}")


def pushed():
    repos = [p for p in (OUT / "hub").glob("*/*") if p.is_dir() and not str(p.relative_to(OUT / "hub")).startswith(".hub")]
    check("one repository was pushed", len(repos) == 1, [str(r.relative_to(OUT / "hub")) for r in repos])
    for repo in repos[:1]:
        digest = lambda p: hashlib.sha256(p.read_bytes()).hexdigest()
        local = {p.relative_to(OUT / "merged").as_posix(): digest(p) for p in (OUT / "merged").rglob("*") if p.is_file()}
        remote = {p.relative_to(repo).as_posix(): digest(p) for p in repo.rglob("*") if p.is_file()}
        differ = sorted(k for k, v in local.items() if k != "README.md" and remote.get(k) != v)
        check("what was pushed is the merged model", not differ and local, differ or f"{len(remote)} files")
        card = (repo / "README.md").read_text() if (repo / "README.md").exists() else ""
        check("with a model card", card.startswith("---") and "base_model" in card, f"{len(card)} characters")
    leaks = [p.name for p in [OUT / "notebook.ipynb"] if "local-token" in p.read_text()]
    check("the token is nowhere in the notebook", not leaks)


for part in (notebook, events, models, pushed):
    try:
        part()
    except Exception as e:  # one part that cannot be read must not hide the others
        check(f"{part.__name__} can be read", False, f"{type(e).__name__}: {e}")
print(f"{PASSED} passed, {FAILED} failed")
sys.exit(FAILED > 0)
