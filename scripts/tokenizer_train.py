#!/usr/bin/env python3
"""Train the tokenizer of the embedded model gopher-5m on goinstruct's corpus.

A sentencepiece BPE in Llama 2's layout: <unk> 0, <s> 1, </s> 2, the 256 byte pieces,
then 3,837 learned ones; no normalization, digits split, one space put before the text.
Deterministic: the same corpus and the same sentencepiece give the same files.

    python scripts/tokenizer_train.py out/corpus/train.jsonl notebooks/embedded/gopher-5m

Needs sentencepiece, tokenizers, transformers and protobuf.
"""
import argparse
import io
import json
import pathlib

import sentencepiece
from transformers import LlamaTokenizer

# The template of the Llama 2 chat models, system message included.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = '' %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 %}{% set content = system_message + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)


def lines(path):
    for row in open(path, encoding="utf-8"):
        for line in json.loads(row)["text"].split("\n"):
            if line:
                yield line


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("corpus", help="train.jsonl of goinstruct")
    p.add_argument("out", type=pathlib.Path, help="folder for the tokenizer's files")
    p.add_argument("--vocab", type=int, default=4096)
    p.add_argument("--positions", type=int, default=1024)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(a.corpus), model_writer=model, model_type="bpe", vocab_size=a.vocab,
        byte_fallback=True, character_coverage=0.9999, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True, max_sentence_length=100000,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=2)
    (a.out / "tokenizer.model").write_bytes(model.getvalue())

    tok = LlamaTokenizer.from_pretrained(
        a.out, legacy=False, unk_token="<unk>", bos_token="<s>", eos_token="</s>", add_bos_token=True,
        add_eos_token=False, model_max_length=a.positions, padding_side="right", clean_up_tokenization_spaces=False)
    tok.chat_template = CHAT_TEMPLATE
    tok.save_pretrained(a.out)
    for extra in a.out.glob("chat_template.*"):
        extra.unlink()
    write_configs(a.out, a.positions)
    print(f"{a.out}: {len(tok)} tokens")


def write_configs(out, positions):
    """The two small files in the layout of the Llama 2 repositories, which every version reads."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    added = {str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
             for i, t in enumerate(["<unk>", "<s>", "</s>"])}
    config = {"add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": added, **special,
              "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False, "legacy": False,
              "model_max_length": positions, "pad_token": None, "padding_side": "right", "sp_model_kwargs": {},
              "tokenizer_class": "LlamaTokenizer", "use_default_system_prompt": False}
    for name, value in ("tokenizer_config.json", config), ("special_tokens_map.json", special):
        (out / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
