"A model folder loads, answers and saves itself where this package cannot be imported"
import json, os, subprocess, sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.dynamic_module_utils import get_imports

from helpers import tiny_teacher, tokens
from hybrid_tutorial import build_hybrid, build_student, load_hybrid
from hybrid_tutorial.core import ConfigError
from hybrid_tutorial.models import standalone
from hybrid_tutorial.models.standalone import CODE_FILE, collect, rename, standalone_source

CASES = {'gdn': ('gdn', {}, 'qwen3', [1]), 'all-linear': ('gdn', {}, 'llama_tied', []), 'window': ('gdn', dict(window=4, sinks=2), 'llama', [0]),
         'kda': ('kda', {}, 'qwen2', [1]), 'mamba2': ('mamba2', {}, 'llama', [1]), 'rwkv7': ('rwkv7', {}, 'llama', [2]), 'rwkv6': ('rwkv6', {}, 'llama', [0]),
         'hedgehog': ('hedgehog', dict(features=8), 'granite', [1]), 'swa': ('swa', dict(window=5), 'llama', [1]), 'gla': ('gla', {}, 'olmo2', [1])}

ALONE = '''
import json, sys
class Gone:
    def find_spec(self, name, *args):
        if name.split('.')[0] == 'hybrid_tutorial': raise ImportError(name+' is hidden')
sys.meta_path.insert(0, Gone())
import torch
from pathlib import Path
from transformers import AutoModelForCausalLM
root, out, ids = Path(sys.argv[1]), {}, torch.load(sys.argv[1]+'/ids.pt')
for folder in sorted(p for p in root.iterdir() if p.is_dir()):
    try: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False); refused = False
    except ValueError as e: refused = 'trust_remote_code' in str(e)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    want = torch.load(folder/'want.pt')
    with torch.no_grad():
        full = model(ids).logits
        first = model(ids[:, :5], use_cache=True)
        steps = [first.logits]
        for t in range(5, ids.shape[1]):
            first = model(ids[:, t:t+1], past_key_values=first.past_key_values, use_cache=True); steps.append(first.logits)
    text = model.generate(ids[:1, :8], max_new_tokens=6, do_sample=False, pad_token_id=0)
    model.save_pretrained(root/'again'/folder.name)
    with torch.no_grad(): again = AutoModelForCausalLM.from_pretrained(root/'again'/folder.name, trust_remote_code=True).eval()(ids).logits
    out[folder.name] = dict(refused=refused, equal=torch.equal(full, want['logits']), text=torch.equal(text, want['text']), again=torch.equal(again, full),
        decode=float((torch.cat(steps, 1)-full).abs().max()/full.abs().max()), module=type(model).__module__.split('.')[0],
        same=(root/'again'/folder.name/'modeling_hybrid_tutorial.py').read_bytes() == (folder/'modeling_hybrid_tutorial.py').read_bytes())
print('RESULT '+json.dumps(out))
'''


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "Every mixer, saved here, loaded in one process without the package"
    root, ids = tmp_path_factory.mktemp('alone'), tokens(2, 14)
    torch.save(ids, root/'ids.pt')
    for name, (mixer, settings, family, keep) in CASES.items():
        teacher = tiny_teacher(family)
        model = build_hybrid(build_student(teacher, mixer, settings=settings, verbose=False), teacher, keep)
        model.save_pretrained(root/name)
        with torch.no_grad(): logits = model(ids).logits
        torch.save(dict(logits=logits, text=model.generate(ids[:1, :8], max_new_tokens=6, do_sample=False, pad_token_id=0)), root/name/'want.pt')
    out = subprocess.run([sys.executable, '-c', ALONE, str(root)], capture_output=True, text=True, cwd=root, env={**os.environ, 'HF_MODULES_CACHE': str(root.with_name('modules'))})
    assert 'RESULT' in out.stdout, out.stderr[-3000:]
    return root, json.loads(out.stdout.split('RESULT ')[1])


@pytest.mark.parametrize('name', CASES)
def test_folder_stands_alone(alone, name):
    got = alone[1][name]
    assert got['module'] == 'transformers_modules' and got['refused'], 'ran without trust, or from the package'
    assert got['equal'] and got['text'], 'logits and text to the last bit'
    assert got['decode'] < 1e-5 and got['again'] and got['same']


def test_config_names_the_code_and_the_package_still_goes_first(alone):
    folder = alone[0]/'gdn'
    saved = json.loads((folder/'config.json').read_text())
    assert saved['auto_map'] == {'AutoConfig': 'modeling_hybrid_tutorial.HybridConfig', 'AutoModelForCausalLM': 'modeling_hybrid_tutorial.HybridForCausalLM'}
    assert CODE_FILE == 'modeling_hybrid_tutorial.py' and (folder/CODE_FILE).read_text() == standalone_source()
    code = ('import sys; from transformers import AutoConfig, AutoModelForCausalLM; from hybrid_tutorial import load_hybrid\n'
            'print(*(type(x).__module__ for x in (AutoModelForCausalLM.from_pretrained(sys.argv[1]), load_hybrid(sys.argv[1]), AutoConfig.from_pretrained(sys.argv[1]))))')
    said = subprocess.run([sys.executable, '-c', code, str(folder)], capture_output=True, text=True, check=True).stdout    # here notebooks may have registered their own
    assert said.split()[-3:] == ['hybrid_tutorial.models.hybrid']*3


def test_file_needs_only_torch_and_transformers(alone):
    assert set(get_imports(alone[0]/'gdn'/CODE_FILE))-set(sys.stdlib_module_names) == {'torch', 'transformers'}


def test_source_is_the_same_every_time():
    code = 'from hybrid_tutorial.models.standalone import standalone_source; import sys; sys.stdout.write(standalone_source())'
    run = lambda seed: subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env={**os.environ, 'PYTHONHASHSEED': seed}).stdout
    assert run('1') == standalone_source()


def test_rename_spares_attributes_and_strings():
    assert rename("x = _f(y._f, '_f')\n_f = 1 # _f", {'_f': '_g'}) == "x = _g(y._f, '_f')\n_g = 1 # _f"


def test_clashing_public_names_are_refused(tmp_path, monkeypatch):
    for m in ('a', 'b'): (tmp_path/f'{m}.py').write_text('def same(): return 1\n')
    monkeypatch.setattr(standalone, 'MODULES', ('a', 'b')); monkeypatch.setattr(standalone, 'package_folder', lambda: tmp_path)
    with pytest.raises(ConfigError, match='another name'): collect(['same'])


def test_private_names_of_two_modules_do_not_meet(tmp_path, monkeypatch):
    for m in ('a', 'b'): (tmp_path/f'{m}.py').write_text(f'def _f(): return "{m}"\ndef get_{m}(): return _f()\nclass Unused_{m}: pass\n')
    monkeypatch.setattr(standalone, 'MODULES', ('a', 'b')); monkeypatch.setattr(standalone, 'package_folder', lambda: tmp_path)
    space = {}
    exec('\n'.join(p.text for p in collect(['get_a', 'get_b'])[0]), space)
    assert (space['get_a'](), space['get_b']()) == ('a', 'b') and not any('Unused' in n for n in space)
