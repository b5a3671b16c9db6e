"""Writes pipelines.json: what tokenizers gives for many pipelines on random texts.

Needs tokenizers (0.23.3 was used) and the golden tokenizers: python make.py ORACLE/tokenizer
A pipeline is one of the two base files with some keys of it changed.
"""
import copy
import json
import os
import random
import sys
from tokenizers import Tokenizer
CASES = 20
FRAGMENTS = ['Hello', 'world', ' ', '  ', '\n', '\t', 'é', 'é', 'ﬁ', '😀', '\u200d', '中文', '１２', '123', '1', "'s", "'S", "'ſ", "'ll", "don't", '<s>', '</s>', '<unk>', '<|eot_id|>', '<tok>', ' <tok> ', 'AB', '▁', 'ＡＢ', 'Å', '\xa0', '\u3000', 'a', 'b', '!', '...', '---', '_', 'x1y', '\r\n', 'ß', 'İ', 'K', 'Ⅷ', '²', '̈', 'the', 'ing', '<0x0A>', '\x85', '\x1c', '\u2028', '한국어', 'ไทย', 'हिन्दी', '👨\u200d👩', 'func main() {']


def text():
    return ''.join((random.choice(FRAGMENTS) for _ in range(random.randint(1, 12))))


def variants(base):
    for n, j in base.items():
        yield (n, j)

    def at(j, id, c, **k):
        j['added_tokens'].append(dict(id=id, content=c, single_word=k.get('sw', False), lstrip=k.get('l', False), rstrip=k.get('r', False), normalized=k.get('n', False), special=k.get('s', True)))
    for n in base:
        N = {'llama2_legacy_json': 1000, 'llama2_sp': 1000, 'llama3_bpe': 907}[n]
        for i, k in enumerate([dict(), dict(l=True), dict(r=True), dict(l=True, r=True), dict(n=True, s=False), dict(sw=True), dict(n=True, l=True, sw=True)]):
            j = copy.deepcopy(base[n])
            at(j, N, '<tok>', **k)
            at(j, N + 1, 'AB', **k)
            at(j, N + 2, 'Hello world', n=True, s=False)
            yield (f'{n}-added{i}', j)
    for sch in ('always', 'first', 'never'):
        for sp in (True, False):
            j = copy.deepcopy(base['llama2_sp'])
            j['pre_tokenizer']['prepend_scheme'] = sch
            j['pre_tokenizer']['split'] = sp
            j['decoder'] = {'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': sch, 'split': sp}
            yield (f'meta-{sch}-{sp}', j)
    for fuse in (True, False):
        for bf in (True, False):
            j = copy.deepcopy(base['llama2_sp'])
            j['model'].update(byte_fallback=bf, fuse_unk=fuse, unk_token='<unk>')
            yield (f'unk-{fuse}-{bf}', j)
    q2 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    j = copy.deepcopy(base['llama3_bpe'])
    j['normalizer'] = {'type': 'NFC'}
    j['pre_tokenizer']['pretokenizers'][0]['pattern']['Regex'] = q2
    j['model']['ignore_merges'] = False
    yield ('qwen2', j)
    for b in ('Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'):
        for inv in (False, True):
            j = copy.deepcopy(base['llama3_bpe'])
            j['pre_tokenizer']['pretokenizers'][0].update(behavior=b, invert=inv, pattern={'Regex': '\\s|\\p{N}+'})
            yield (f'split-{b}-{inv}', j)
            j = copy.deepcopy(base['llama3_bpe'])
            j['pre_tokenizer']['pretokenizers'][0].update(behavior=b, invert=inv, pattern={'String': 'a'})
            yield (f'splits-{b}-{inv}', j)
    for ap in (True, False):
        j = copy.deepcopy(base['llama3_bpe'])
        j['pre_tokenizer'] = {'type': 'ByteLevel', 'add_prefix_space': ap, 'trim_offsets': True, 'use_regex': True}
        yield (f'gpt2-{ap}', j)
    for ind in (True, False):
        j = copy.deepcopy(base['llama3_bpe'])
        j['pre_tokenizer']['pretokenizers'].insert(0, {'type': 'Digits', 'individual_digits': ind})
        yield (f'digits-{ind}', j)
    for nm in ('NFC', 'NFD', 'NFKC', 'NFKD'):
        j = copy.deepcopy(base['llama2_sp'])
        j['normalizer'] = {'type': 'Sequence', 'normalizers': [{'type': nm}, {'type': 'Replace', 'pattern': {'Regex': 'e+'}, 'content': '$1x'}, {'type': 'Strip', 'strip_left': True, 'strip_right': False}]}
        yield ('norm-' + nm, j)
    j = copy.deepcopy(base['llama2_sp'])
    j['decoder'] = None
    yield ('nodec', j)
    j = copy.deepcopy(base['llama2_sp'])
    j['decoder']['decoders'] = [{'type': 'Fuse'}, {'type': 'Replace', 'pattern': {'String': '▁t'}, 'content': 'T'}, {'type': 'Strip', 'content': 'h', 'start': 2, 'stop': 0}]
    yield ('dec2', j)
    j = copy.deepcopy(base['llama2_sp'])
    j['decoder']['decoders'] = [{'type': 'Strip', 'content': '▁', 'start': 1, 'stop': 0}, {'type': 'ByteFallback'}]
    yield ('dec3', j)
    j = copy.deepcopy(base['llama2_sp'])
    j['model']['continuing_subword_prefix'] = '##'
    j['model']['merges'] = []
    yield ('csp', j)
    j = copy.deepcopy(base['llama2_sp'])
    j['model']['end_of_word_suffix'] = 'e'
    j['model']['merges'] = j['model']['merges'][:50]
    yield ('eow', j)


def patch(base, j):
    """What j changes in base: top-level keys, and keys of the model."""
    p = {k: v for k, v in j.items() if k != 'model' and v != base[k]}
    p['model'] = {k: v for k, v in j['model'].items() if v != base['model'][k]}
    return p


def case(t):
    x = text()
    e, bare = (t.encode(x), t.encode(x, add_special_tokens=False))
    ids = [random.choice(e.ids) if e.ids and random.random() < 0.3 else random.randrange(900) for _ in range(6)]
    return {'text': x, 'ids': e.ids, 'ids_no_special': bare.ids, 'decoded': t.decode(e.ids, skip_special_tokens=False), 'decoded_skip_special': t.decode(e.ids), 'decoded_no_special': t.decode(bare.ids, skip_special_tokens=False), 'random_ids': ids, 'random_decoded': t.decode(ids, skip_special_tokens=False)}


def main(oracle):
    random.seed(5)
    base = {n: json.load(open(os.path.join(oracle, n, 'tokenizer.json'))) for n in ('llama2_legacy_json', 'llama2_sp', 'llama3_bpe')}
    bases = {n: base[n] for n in ('llama2_sp', 'llama3_bpe')}
    out = []
    for name, j in variants(base):
        t = Tokenizer.from_str(json.dumps(j))
        b = 'llama3_bpe' if len(j['model']['vocab']) == len(bases['llama3_bpe']['model']['vocab']) else 'llama2_sp'
        out.append({'name': name, 'base': b, 'patch': patch(bases[b], j), 'cases': [case(t) for _ in range(CASES)]})
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'pipelines.json')
    with open(path, 'w', encoding='utf-8') as f:
        json.dump({'bases': bases, 'pipelines': out}, f, ensure_ascii=False, separators=(',', ':'))
        f.write('\n')

if __name__ == '__main__':
    main(sys.argv[1])
