"lm-evaluation-harness on tiny local data: zero- and few-shot, both kinds of question, against our own computation"
import json, os, subprocess, sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pytest.importorskip('lm_eval', reason='lm-evaluation-harness is not installed: pip install "hybrid_tutorial[eval]"')

from hybrid_tutorial import build_hybrid, build_student
from hybrid_tutorial.core import ConfigError, DataError
from hybrid_tutorial.cli import main
from hybrid_tutorial.evaluation.harness import evaluate_tasks, read_results, task_manager

WORDS = ['<pad>', '<eos>', *'sky sea grass snow blood moss blue green white red is color what the of . ?'.split(), '\n']
VOCAB = {w: i for i, w in enumerate(WORDS)}
FACTS = [('sky', 'blue'), ('sea', 'blue'), ('grass', 'green'), ('snow', 'white'), ('blood', 'red'), ('moss', 'green')]
COLORS = ('blue', 'green', 'white', 'red')
TASK = '''
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: DIR/colors.json, train: DIR/train.json}}
test_split: test
fewshot_split: train
fewshot_config: {sampler: first_n}
doc_to_text: "the color of {{thing}} is"
'''
KINDS = {'choice': '''doc_to_target: color
output_type: multiple_choice
doc_to_choice: ["blue", "green", "white", "red"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
''', 'likely': '''output_type: loglikelihood
doc_to_target: " {{color}}"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}, {metric: acc, aggregation: mean, higher_is_better: true}]
''', 'write': '''doc_to_target: color
output_type: generate_until
generation_kwargs: {until: ["."], max_gen_toks: 3, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
'''}


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    "Model, tokenizer, folder of a saved hybrid, folder of tasks"
    d = tmp_path_factory.mktemp('tasks')
    for file, rows in (('colors', FACTS), ('train', FACTS[::-1])): (d/f'{file}.json').write_text('\n'.join(json.dumps(dict(thing=t, color=c)) for t, c in rows))
    for kind, text in KINDS.items(): (d/f'{kind}.yaml').write_text((TASK+text).replace('NAME', f'colors_{kind}').replace('DIR', str(d)))
    bpe = Tokenizer(models.WordLevel(VOCAB, unk_token='<pad>'))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(' ', 'removed'), pre_tokenizers.Split('\n', 'isolated')])
    tok = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token='<eos>', pad_token='<pad>', unk_token='<pad>')
    torch.manual_seed(3)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=len(VOCAB), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                           bos_token_id=None, eos_token_id=1, pad_token_id=0, max_position_embeddings=64)).eval()
    for p in teacher.parameters(): p.data.mul_(6)
    model = build_hybrid(build_student(teacher, verbose=False), teacher, [0])
    model.save_pretrained(d/'model'); tok.save_pretrained(d/'model')
    os.environ['HF_DATASETS_CACHE'] = str(d/'cache')
    return model, tok, d


@torch.no_grad()
def log_probs(model, tok, thing, shots):
    "Log-probabilities of the word after the prompt, as the harness builds it"
    prompt = ''.join(f'the color of {t} is {c}\n\n' for t, c in FACTS[::-1][:shots])+f'the color of {thing} is'
    return model(tok(prompt, return_tensors='pt').input_ids).logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize('shots', [0, 2])
def test_scores_are_our_own(setting, shots):
    model, tok, d = setting
    got = evaluate_tasks(model, tok, ['colors_choice', 'colors_likely'], include=d, fewshot=shots, batch_size=4)
    lp = [log_probs(model, tok, t, shots) for t, _ in FACTS]
    best = [max(COLORS, key=lambda c: p[VOCAB[c]]) for p in lp]
    assert got['tasks']['colors_choice']['acc']['value'] == pytest.approx(sum(b == c for b, (_, c) in zip(best, FACTS))/len(FACTS))
    own = torch.stack([p[VOCAB[c]] for p, (_, c) in zip(lp, FACTS)])
    assert got['tasks']['colors_likely']['perplexity']['value'] == pytest.approx(float((-own.mean()).exp()), rel=1e-4)
    assert got['tasks']['colors_choice']['acc']['n'] == len(FACTS) and got['settings']['shots']['colors_choice'] == shots
    assert got['tasks']['colors_choice']['acc']['low'] <= got['tasks']['colors_choice']['acc']['value']
    json.dumps(got)


def test_shots_change_the_answers(setting):
    "or the test above would pass without them"
    model, tok, _ = setting
    assert any((log_probs(model, tok, t, 0)-log_probs(model, tok, t, 2)).abs().max() > 1e-3 for t, _ in FACTS)


@pytest.mark.parametrize('shots', [0, 1])
def test_generation_is_greedy_decoding(setting, shots):
    model, tok, d = setting
    got = evaluate_tasks(model, tok, 'colors_write', include=d, fewshot=shots, batch_size=3, limit=5)
    assert got['tasks']['colors_write']['exact_match']['n'] == 5
    for (thing, _), s in zip(FACTS, got['samples']['colors_write']):
        prompt = ''.join(f'the color of {t} is {c}\n\n' for t, c in FACTS[::-1][:shots])+f'the color of {thing} is'
        ids = tok(prompt, return_tensors='pt').input_ids
        out = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)[0, ids.shape[1]:]
        assert s['answered'][0].strip() == tok.decode(out, skip_special_tokens=True).split('.')[0].strip()


def test_the_harness_alone_loads_a_model_folder(setting):
    "lm_eval --model hf --model_args pretrained=FOLDER,trust_remote_code=True where this package cannot be imported"
    model, tok, d = setting
    code = '''
import sys
class Gone:
    def find_spec(self, name, *args):
        if name.split('.')[0] == 'hybrid_tutorial': raise ImportError(name+' is hidden')
sys.meta_path.insert(0, Gone())
import json, lm_eval
from lm_eval.tasks import TaskManager
d = sys.argv[1]
got = lm_eval.simple_evaluate('hf', f'pretrained={d}/model,trust_remote_code=True', tasks=['colors_choice', 'colors_write'], device='cpu', batch_size=2,
    task_manager=TaskManager(include_path=d, include_defaults=False))
print('RESULT '+json.dumps(got['results'], default=str))
'''
    out = subprocess.run([sys.executable, '-c', code, str(d)], capture_output=True, text=True, cwd=d, env={**os.environ, 'HF_MODULES_CACHE': str(d/'modules'), 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': ''})
    assert 'RESULT' in out.stdout, out.stderr[-3000:]
    theirs, mine = json.loads(out.stdout.split('RESULT ')[1]), evaluate_tasks(model, tok, ['colors_choice', 'colors_write'], include=d)['tasks']
    assert theirs['colors_choice']['acc,none'] == mine['colors_choice']['acc']['value']
    assert theirs['colors_write']['exact_match,none'] == mine['colors_write']['exact_match']['value']


def test_command_line(setting, tmp_path, capsys):
    d = setting[2]
    assert main(['evaluate', str(d/'model'), '--tasks', 'colors_choice', '--include', str(d), '--limit', '4', '--json', str(tmp_path/'x.json')]) == 0
    assert json.loads((tmp_path/'x.json').read_text())['tasks']['colors_choice']['acc']['n'] == 4
    assert 'colors_choice' in capsys.readouterr().out
    for more, word in ((['--tasks', 'colors_choise'], 'colors_choice'), (['--tasks', 'colors_choice', '--lengths', '4k'], '4096,8192'),
                       (['--tasks', 'colors_choice', '--limit', '0'], 'at least 1'), (['--tasks', 'colors_choice', '--chat'], 'chat template')):
        assert main(['evaluate', str(d/'model'), '--include', str(d), *more]) == 2
        assert word in capsys.readouterr().err


def test_named_benchmarks_exist():
    "The tasks that the documentation names"
    manager = task_manager('ruler swde fda squad_completion glue mmlu lambada_openai squadv2'.split())
    assert len(manager.all_tasks) > 1000


def test_lengths_not_asked_are_left_out_and_data_errors_say_what_to_do(setting):
    got = dict(results={'niah': {'4096,none': .5, '4096_stderr,none': 'N/A', '8192,none': -1, 'alias': 'niah', 'f1,flexible': 1, 'f1_stderr,flexible': .1, 'acc,none': 1., 'acc_stderr,none': 0.}}, **{'n-samples': {'niah': dict(effective=7)}})
    out = read_results(got)['niah']
    assert out['4096'] == dict(value=.5, low=None, high=None, unit='', n=7) and '8192' not in out
    assert out['f1, flexible']['high'] == pytest.approx(1.196) and out['acc']['high'] <= 1 and .6 < out['acc']['low'] < .7
    model, tok, d = setting
    (d/'gone.yaml').write_text((TASK+KINDS['write']).replace('NAME', 'gone').replace('DIR', str(d)).replace('colors.json', 'missing.json'))
    with pytest.raises((DataError, ConfigError), match='include=FOLDER'): evaluate_tasks(model, tok, ['gone'], include=d)
