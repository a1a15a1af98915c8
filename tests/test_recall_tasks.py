"Every recall task: exact lengths, answers that an independent reader of the prompt finds, models of known behaviour"
import collections, math, random, re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hybrid_tutorial.core import ConfigError, DataError
from hybrid_tutorial.evaluation.recall import RecallItem, batches_of, encode, make_needle, score_items
from hybrid_tutorial.evaluation.recall_tasks import TASKS, answer_ids, as_haystack, evaluate_recall_tasks, make_item, recall_items
from test_evaluation import Known, Letters, copier

W = 128


class Lines(Letters):
    "A tokenizer with one token per character, line ends too"
    def __call__(self, text, add_special_tokens=True): return dict(input_ids=[95 if c == '\n' else ord(c)-32 for c in text])
    def decode(self, ids): return ''.join('\n' if i == 95 else chr(i+32) for i in ids)


class Chat(Lines):
    chat_template = 'yes'
    def apply_chat_template(self, m, tokenize, add_generation_prompt): return f"USER {m[0]['content']} BOT "


LINES = Lines()
def sentences(n, seed=0):
    "Sentences of words that no task uses, hardly ever the same twice"
    dice = random.Random(seed)
    word = lambda: ''.join(dice.choice('aeiouhmwxyq') for _ in range(dice.randint(4, 7)))
    return ' '.join(f"{' '.join(word() for _ in range(7))}." for _ in range(n))
BAY = torch.tensor(encode(LINES, sentences(300)))


def solve(task, text):
    "Read the prompt as a person would; knows nothing of how it was made"
    body, question = text.rsplit('\n\nQuestion: ', 1) if 'Question: ' in text else (text, '')
    number = lambda k: re.search(rf'magic number of {k} is (\d+)', body)[1]
    if task in ('needle', 'multikey'): return [number(re.search(r'number of (.+?)\?', question)[1])]
    if task == 'multivalue': return re.findall(r'One of the magic numbers of {} is (\d+)'.format(re.search(r'numbers of (.+?),', question)[1]), body)
    if task == 'multiquery':
        names = re.split(', | and ', re.search(r'numbers of (.+?)\?', question)[1])
        return [number(n) for n in names]
    if task == 'variables':
        value, held = re.search(r'value (\d+)', question)[1], {}
        for a, b in re.findall(r'VAR (\w+) = (?:VAR )?(\w+)\.', body): held[a] = held.get(b, b)
        return [a for a, v in held.items() if v == value]
    if task in ('common', 'frequent'):
        counts = collections.Counter(w for w in body.split() if w.isalpha() and w.islower() and len(w) > 2)
        top = counts.most_common(4)
        assert len({n for _, n in top}) == 4, 'a tie: the order would not be determined'
        return [w for w, _ in top[:3]]
    if task == 'phonebook': return [re.search('\n'+re.search(r'number of (.+?)\?', question)[1]+r': (\d+)', body)[1]]
    pairs = dict(re.findall(r'\n(\w+) = (\w+)', body))
    if task == 'associative': return [pairs[re.search(r'What does (\w+) equal', question)[1]]]
    if task == 'multihop':
        at = re.search(r'Start from (\w+)', question)[1]
        for _ in range(2): at = pairs[at]
        return [at]
    start = text[-12:] if task == 'copying' else text[-8:]
    where = text.index(start)
    assert where < len(text)-len(start), 'the passage is not in the text'
    return [text[where+len(start):where+2*len(start)]]


def parts(item, tok):
    "The scored parts of an answer, as texts"
    keep, out, last = set(item.counted), [], None
    for i, t in enumerate(item.answer):
        if i in keep: out = out+[''] if last != i-1 or not out else out; out[-1] += tok.decode([t]); last = i
    return out


@pytest.mark.parametrize('length', [420, 700, 1500])
@pytest.mark.parametrize('task', TASKS)
def test_a_reader_of_the_prompt_finds_the_answer(task, length):
    for depth in (0., .4, 1.):
        for seed in range(3):
            it = make_item(task, LINES, BAY, length, depth, seed)
            assert len(it.prompt) == length == it.length and it.task == task
            text = LINES.decode(it.prompt)
            assert solve(task, text) == parts(it, LINES), text
            assert 0 <= it.depth <= 1 and (abs(it.depth-depth) <= .2 or not TASKS[task].placed)


@pytest.mark.parametrize('task', TASKS)
def test_chat_and_base_ask_the_same(task):
    base, chat = (make_item(task, t, BAY, 900, .5, style='auto') for t in (LINES, Chat()))
    assert base.text == chat.text and len(chat.prompt) == 900
    text = LINES.decode(chat.prompt)
    assert (text.startswith('USER Read') and ' BOT ' in text) == (task != 'induction')


def test_the_needle_is_the_needle_of_before():
    for style in ('base', 'auto'):
        a, b = make_needle(LINES, BAY, 400, .3, 7, style), make_item('needle', LINES, BAY, 400, .3, 7, style)
        assert (a.prompt, a.answer, a.depth, a.text) == (b.prompt, b.answer, b.depth, b.text)


def test_same_seed_same_questions_and_depth_moves_one_thing():
    kw = dict(lengths=(500,), depths=(.1, .9), repeats=2)
    a, b, c = (recall_items(LINES, BAY, seed=s, **kw) for s in (0, 0, 1))
    assert a == b and all(x.prompt != y.prompt for x, y in zip(a, c)) and len(a) == 4*len(TASKS)
    for t in ('needle', 'phonebook', 'associative', 'multikey'):
        x, y = [i for i in a if i.task == t][:2]
        assert x.text == y.text and sorted(x.prompt) == sorted(y.prompt) and x.prompt != y.prompt
    assert len({i.prompt for i in a if i.task == 'common'}) == 4


def test_a_copier_solves_lookups_and_nothing_else():
    got = evaluate_recall_tasks({'copier': Known(lambda ids: copier(ids, 8))}, LINES, BAY, lengths=(700,), depths=(0., .5, 1.))['copier']
    for t in ('needle', 'multikey', 'multiquery', 'associative', 'copying', 'induction'):
        assert got[t]['exact']['value'] == 1 and got[t]['logprob']['value'] > -1e-6, t
    for d in (0., .5, 1.):
        it = make_item('phonebook', LINES, BAY, 700, d)
        order = len(LINES.decode(it.prompt).rsplit('Answer: ')[1])              # names end alike: look at the whole of this one
        assert score_items(Known(lambda ids: copier(ids, order)), [it])[0]['exact'] == 1
    for t in ('common', 'frequent', 'multihop', 'multivalue', 'variables'): assert got[t]['exact']['value'] == 0, t


def test_a_uniform_model_scores_minus_log_vocabulary():
    got = evaluate_recall_tasks({'u': Known(lambda ids: torch.zeros(*ids.shape, W))}, LINES, BAY, lengths=(500, 700), depths=(0., 1.))['u']
    for t, r in got.items():
        assert r['logprob']['value'] == pytest.approx(-math.log(W), rel=1e-6) and r['exact']['value'] == 0, t
        assert r['by_length']['700']['exact']['n'] == 2 and len(r['grid']['exact'][0]) == 2


def test_a_reader_as_a_model_scores_one_on_every_task():
    "The solver in the place of a model: the answer's place in the prompt is what we think it is"
    items = recall_items(LINES, BAY, lengths=(800,), depths=(0., .6))
    by_prompt = {i.prompt: i for i in items}
    def oracle(ids):
        out = torch.zeros(*ids.shape, 96)
        for b, row in enumerate(ids.tolist()):
            it = next(i for p, i in by_prompt.items() if tuple(row[:len(p)]) == p)
            said = iter(''.join(solve(it.task, LINES.decode(it.prompt))))
            for j in it.counted: out[b, len(it.prompt)-1+j, encode(LINES, next(said))[0]] = 40.
        return out
    assert all(s['exact'] == 1 for s in score_items(Known(oracle), items, batch_size=3))


def test_batched_scores_are_those_of_single_items():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)).eval()
    items = recall_items(LINES, BAY, lengths=(420, 460), depths=(0., .5))
    together, alone = (score_items(model, items, batch_size=b, dtype='float32') for b in (7, 1))
    for a, b in zip(together, alone): assert a['logprob'] == pytest.approx(b['logprob'], abs=1e-5) and a['exact'] == b['exact']
    for it, s in list(zip(items, alone))[::5]:                    # and those of a plain forward pass
        with torch.no_grad(): lp = model(torch.tensor([it.prompt+it.answer])).logits.double().log_softmax(-1)[0, len(it.prompt)-1:-1]
        assert s['logprob'] == pytest.approx(float(torch.stack([lp[j, it.answer[j]] for j in it.counted]).mean()), abs=1e-5)


def test_batches_hold_every_item_once():
    items = [RecallItem('t', (1,)*n, (2, 3), n, 0., 0., '') for n in (50, 900, 51, 52, 890, 300, 49)]
    groups = list(batches_of(items, 3, 1900))
    assert sorted(i for g in groups for i in g) == list(range(7)) and all(len(g) <= 3 for g in groups)
    assert all(len(g)*max(len(items[i].prompt)+2 for i in g) <= 1900 for g in groups)


def test_answers_in_parts():
    space, ids, counted = answer_ids(LINES, ('12', ', and', '345'))
    assert LINES.decode(space) == ' ' and LINES.decode(ids) == '12, and 345' and LINES.decode([ids[j] for j in counted]) == '12345'


def test_haystacks_of_every_kind():
    want = encode(LINES, 'abc\n\ndef\n\n')
    assert as_haystack(['abc', 'def', 'never'], LINES, 8).tolist() == want
    batches = [dict(input_ids=torch.arange(6).reshape(2, 3)), dict(input_ids=torch.arange(6, 12).reshape(2, 3))]
    assert as_haystack(batches, LINES, 8).tolist() == list(range(12))
    with pytest.raises(DataError, match='longer text'): as_haystack(['abc'], LINES, 8)


@pytest.mark.parametrize('task', TASKS)
def test_too_short_names_the_length(task):
    with pytest.raises(ConfigError, match='ask for'): make_item(task, LINES, BAY, 20)


def test_errors():
    with pytest.raises(ConfigError, match='multikey'): make_item('multikeys', LINES, BAY, 500)
    with pytest.raises(ConfigError, match='0..1'): make_item('needle', LINES, BAY, 500, 2.)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=96, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=400))
    with pytest.raises(ConfigError, match='400 positions'): evaluate_recall_tasks({'m': model}, LINES, BAY, lengths=(500,))
