"Corpora: what a stream holds, that it can be stopped anywhere, and what a bad input says"
import itertools, json, subprocess, zipfile
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from hybrid_tutorial import data, fetch
from hybrid_tutorial.core import ConfigError, DataError, ShapeError
from hybrid_tutorial.data import (Corpus, Echo, TokenBlocks, borders, encode_chat, from_list, held_out, held_out_texts,
    load_corpus, open_source, pack, shared_ngrams)

CHAT = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}<e>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
WORDS = 'the lake is deep and cold river stone under seven hills where old roads meet in autumn light'.split()


def byte_tokenizer(extra=()):
    "One token per byte, plus <e> (closes a document) and <s>"
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    t = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in ('<e>', '<s>', *extra)])
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token='<e>', pad_token='<e>', chat_template=CHAT)


@pytest.fixture
def real_cache(): "The user's own cache: packaged texts are fetched once per machine"

@pytest.fixture(autouse=True)
def _own_cache(request, tmp_path, monkeypatch):
    if 'real_cache' not in request.fixturenames: monkeypatch.setenv('HYBRID_TUTORIAL_CACHE', str(tmp_path/'cache'))

@pytest.fixture(scope='module')
def tok(): return byte_tokenizer()

@pytest.fixture(scope='module')
def real_tok():
    from transformers import AutoTokenizer
    from hybrid_tutorial.models.teachers import named_teacher
    return AutoTokenizer.from_pretrained(named_teacher())


def texts(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return [f'{i} ' + ' '.join(rng.choice(WORDS, rng.integers(3, 30))) for i in range(n)]

def corpus(tok, n=60, block=2000, **kw):
    return Corpus(TokenBlocks(from_list('made', lambda: texts(n), f'made {n}'), tok, block), **{**dict(seq_len=64), **kw})

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- what a stream holds

def test_batch_shapes_and_kinds(tok):
    b = next(corpus(tok).batches(4))
    assert {k: (v.dtype, tuple(v.shape)) for k, v in b.items()} == dict(input_ids=(torch.int64, (4, 64)), doc_ids=(torch.int64, (4, 64)), recall_mask=(torch.bool, (4, 64)))

@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=30), st.integers(2, 17), st.integers(0, 5))
def test_pack_keeps_every_token_in_order(lengths, seq_len, seed):
    starts = np.cumsum([0]+lengths); tokens = np.arange(starts[-1])
    order = np.random.default_rng(seed).permutation(len(lengths))
    got = pack(tokens, starts, order, seq_len)
    flat = np.concatenate([tokens[starts[i]:starts[i+1]] for i in order])
    assert (got['input_ids'].ravel() == flat[:len(flat)//seq_len*seq_len]).all()
    docs = np.searchsorted(starts, got['input_ids'], side='right')
    assert ((np.diff(docs, axis=1) != 0) == (np.diff(got['doc_ids'], axis=1) == 1)).all() and (got['doc_ids'][:, 0] == 0).all()

def test_every_document_once_and_closed(tok):
    one = corpus(tok, n=40, block=10**6, echo=0, seq_len=32)
    flat = torch.cat([b['input_ids'].flatten() for b in one.batches(3)]).tolist()
    got = ''.join(tok.decode([t]) if t != tok.eos_token_id else '\0' for t in flat).split('\0')
    assert set(got[:-1]) <= set(texts(40)) and len(got) >= 39 and len(set(got)) == len(got)

def test_one_epoch_has_all_rows(tok):
    c = corpus(tok, n=100)
    assert c.blocks.block(1) is not None and sum(len(b['input_ids']) for b in c.batches(4)) == sum(n for e, _, n in itertools.takewhile(lambda x: x[0] == 0, c.walk(64)))

def test_seed_decides_order_and_only_order(tok):
    a, b, a2 = (next(corpus(tok, seed=s).batches(8)) for s in (0, 1, 0))
    assert same(a, a2) and not torch.equal(a['input_ids'], b['input_ids'])

def test_second_epoch_has_another_order(tok):
    c = corpus(tok, echo=0); n = len(list(c.batches(1)))
    rows = list(c.batches(1, tokens=2*n*64))
    assert len(rows) == 2*n and not same(rows[0], rows[n])

def test_borders_are_cu_seqlens():
    got = borders(torch.tensor([[0, 0, 1], [0, 1, 1]]))
    assert got.tolist() == [0, 2, 3, 4, 6] and got.dtype == torch.int32

def test_control_tokens_in_text_stay_text(tok):
    c = Corpus(TokenBlocks(from_list('sly', lambda: ['a <e> b <s> '*40], 'sly'), tok), seq_len=16, echo=0)
    assert sum(int((b['input_ids'] >= len(tok)-2).sum()) for b in c.batches(1)) == 0   # the one real end is in the cut rest


# ---- echo documents

@pytest.mark.parametrize('seq_len', [48, 64, 200])
def test_echo_copy_is_predictable_from_the_passage(tok, seq_len):
    c = corpus(tok, n=200, block=10**6, seq_len=seq_len, echo=0.5, lengths=Echo(skip=3)); distances = set()
    for b in c.batches(1):
        ids, mask = b['input_ids'][0], b['recall_mask'][0]
        if not mask.any(): continue
        at = mask.nonzero().flatten()
        assert (at.diff() == 1).all() and ids[-1] == tok.eos_token_id and (b['doc_ids'] == 0).all() and at[-1] == seq_len-2
        p = len(at)+3
        found = [d for d in range(p, seq_len) if at[0]-3-d >= 0 and torch.equal(ids[at[0]-3:at[-1]+1], ids[at[0]-3-d:at[-1]+1-d])]
        assert found; distances.add(found[-1])
    assert len(distances) > 5   # the distance varies

@pytest.mark.parametrize('share', [0, 0.1, 0.25, 1/3, 0.5, 0.9, 1])
def test_echo_share(tok, share):
    c = corpus(tok, n=200, block=10**6, echo=share)
    marks = [bool(b['recall_mask'].any()) for b in c.batches(1)]
    assert abs(np.mean(marks) - share) <= 1/len(marks)
    if share == 0.25: assert all(sum(marks[i:i+4]) == 1 for i in range(0, len(marks)//4*4, 4))
    plain = c.blocks.block(0)['info']['tokens']//64
    assert share == 1 or marks.count(False) == plain   # echo rows are added, plain text is kept

def test_echo_lengths_are_settings(tok):
    c = corpus(tok, seq_len=100, echo=1, lengths=Echo(passage=(20, 20), gap=(30, 30), skip=5))
    for b in c.batches(4):
        assert (b['recall_mask'].sum(1) == 15).all() and torch.equal(b['input_ids'][:, 79:99], b['input_ids'][:, 29:49])

@pytest.mark.parametrize('bad', [dict(passage=(5, 3)), dict(gap=(0, 3)), dict(skip=-1)])
def test_echo_bad_lengths(bad):
    with pytest.raises(ConfigError): Echo(**bad)

def test_echo_that_does_not_fit(tok):
    with pytest.raises(ConfigError, match='echo=0'): next(corpus(tok, seq_len=64, lengths=Echo(passage=(60, 60))).batches(1))
    for bad in (-.1, 1.5):
        with pytest.raises(ConfigError, match='0..1'): corpus(tok, echo=bad)


# ---- stopping and going on

@pytest.mark.parametrize('kw', [dict(), dict(tokens=64*3*40), dict(tokens=64*3*7)])
def test_start_is_the_tail_of_the_uninterrupted_stream(tok, kw):
    whole = list(corpus(tok).batches(3, **kw))
    for k in (0, 1, 2, 5, len(whole)-1, len(whole)):
        tail = list(corpus(tok).batches(3, start=k, **kw))
        assert len(tail) == len(whole)-k and all(map(same, tail, whole[k:]))

def test_state_goes_through_json_twice(tok):
    whole, got, state = list(corpus(tok).batches(3, tokens=64*3*40)), [], None
    for stop in (7, 16, 40):
        c = corpus(tok); start = c.resume(json.loads(json.dumps(state)), batch_size=3) if state else 0
        for b in c.batches(3, tokens=64*3*40, start=start):
            got.append(b); state = c.state
            if len(got) == stop: break
    assert len(got) == len(whole) and all(map(same, got, whole))

@pytest.mark.parametrize('kw', [dict(seed=1), dict(echo=0.5), dict(n=61)])
def test_state_of_another_stream_is_refused(tok, kw):
    c = corpus(tok); next(c.batches(2))
    with pytest.raises(DataError, match='then'): corpus(tok, **kw).resume(c.state)
    with pytest.raises(DataError, match='batch_size'): c.resume(c.state, batch_size=4)

@pytest.mark.parametrize('world', [2, 3])
def test_ranks_share_the_stream_without_overlap_or_loss(tok, world):
    rows = lambda batches: [tuple(r.tolist()) for b in batches for r in b['input_ids']]
    alone = rows(corpus(tok).batches(2*world))
    parts = [rows(corpus(tok).batches(2*world, rank=r, world=world)) for r in range(world)]
    assert sorted(sum(parts, [])) == sorted(alone) and sum(map(len, parts)) == len(alone)
    assert len(set(alone)) == len(alone)

@pytest.mark.parametrize('kw', [dict(batch_size=0), dict(batch_size=2, start=-1), dict(batch_size=2, tokens=-5), dict(batch_size=2, rank=2, world=2), dict(batch_size=2, seq_len=1)])
def test_bad_batch_settings(tok, kw):
    with pytest.raises(ConfigError): list(corpus(tok).batches(**kw))


# ---- the token cache

def test_second_open_reads_no_text(tok):
    reads = []
    make = lambda: reads.append(1) or texts()
    first = list(Corpus(TokenBlocks(from_list('x', make, 'f'), tok, 2000), seq_len=64).batches(2)); n = len(reads)
    again = list(Corpus(TokenBlocks(from_list('x', make, 'f'), tok, 2000), seq_len=64).batches(2))
    assert len(reads) == n and all(map(same, first, again))

def test_fingerprint_of_tokenizer_and_source(tok):
    prints = {TokenBlocks(from_list('x', texts, f), t).fingerprint for t in (tok, byte_tokenizer(['<new>'])) for f in 'ab'}
    assert len(prints) == 4

def test_changed_file_is_read_again(tok, tmp_path):
    f = tmp_path/'a.txt'; f.write_text('one '*100)
    a = load_corpus(f, tok, seq_len=16, echo=0).blocks.fingerprint
    f.write_text('two '*101)
    assert load_corpus(f, tok, seq_len=16, echo=0).blocks.fingerprint != a

def test_damaged_token_cache(tok):
    c = corpus(tok, block=10**6); f = c.blocks.folder/'00000'/'tokens.npy'
    f.write_bytes(f.read_bytes()[:-100])
    with pytest.raises(DataError, match='delete'): corpus(tok, block=10**6)

def test_stopped_tokenization_leaves_no_half_block(tok):
    def broken():
        for i, t in enumerate(texts(600)):
            if i == 300: raise KeyboardInterrupt
            yield t
    blocks = TokenBlocks(from_list('x', broken, 'b'), tok)
    with pytest.raises(KeyboardInterrupt): blocks.block(0)
    assert not (blocks.folder/'00000').exists()
    good = TokenBlocks(from_list('x', lambda: texts(600), 'b'), tok)
    assert good.block(0)['info']['docs'] == 600 and good.block(1) is None

def test_blocks_do_not_depend_on_who_made_them(tok):
    far = TokenBlocks(from_list('x', texts, 'far'), tok, 1000); third = far.block(2)['info']   # asks for 0 and 1 on the way
    assert far.block(0)['info']['docs'] and third['state'] > far.block(1)['info']['state']

def test_short_documents_are_skipped_and_said(tok, capsys):
    c = Corpus(TokenBlocks(from_list('mixed', lambda: ['', 'x', 'long enough '*20], 'm'), tok), seq_len=32, echo=0)
    assert c.blocks.block(0)['info']['skipped'] == 2 and '2 of 3 documents' in capsys.readouterr().out


# ---- files

def test_text_jsonl_gz_list_pattern_and_folder(tok, tmp_path):
    import gzip
    (tmp_path/'a.txt').write_text('alpha '*50); (tmp_path/'b.jsonl').write_text('\n'.join(json.dumps(dict(text=t)) for t in texts(5)))
    with gzip.open(tmp_path/'c.txt.gz', 'wt') as f: f.write('gamma '*50)
    docs = lambda spec: [d for d, _ in open_source(spec).read()]
    assert docs(str(tmp_path)) == docs([str(tmp_path/n) for n in ('a.txt', 'b.jsonl', 'c.txt.gz')]) and len(docs(str(tmp_path))) == 7
    assert docs(str(tmp_path/'*.txt')) == ['alpha '*50]
    source = open_source(str(tmp_path)); every = list(source.read())
    for i, (_, state) in enumerate(every): assert list(source.read(json.loads(json.dumps(state)))) == every[i+1:]
    assert 'documents' in repr(load_corpus(tmp_path/'a.txt', tok, seq_len=16))

@pytest.mark.parametrize('name,content,says', [
    ('a.jsonl', b'{"text": "x"}\nnot json\n', 'line 2'), ('a.jsonl', b'{"body": "x"}\n', 'field="NAME"'), ('a.jsonl', b'[1]\n', 'line 1'),
    ('a.jsonl', b'{"text": 3}\n', 'wanted text'), ('a.txt', b'\xff\xfe\x00abc', 'UTF-8'), ('a.csv', b'a,b', 'hf:FOLDER'), ('a.txt.gz', b'\x1f\x8b\x08broken', 'cannot be read'),
    ('a.txt', b'', 'empty'), ('a.jsonl', b'\n\n', 'empty'), ('a.txt', b'short text', 'less than one row')])
def test_bad_files(tok, tmp_path, name, content, says):
    (tmp_path/name).write_bytes(content)
    with pytest.raises(DataError, match=says): load_corpus(tmp_path/name, tok, seq_len=64)

@pytest.mark.parametrize('spec,says', [('wiki-sumaries', "wiki-summaries"), ('no/such/file.txt', 'unknown corpus'), ('wikipedia_5', 'held_out'), ('texts-*.txt', 'no text'), ([], 'empty'), (3, 'iterable')])
def test_unknown_corpus(tok, spec, says):
    with pytest.raises(DataError, match=says): list(load_corpus(spec, tok).batches(1))

def test_tokenizer_must_be_given_and_fit(tok):
    with pytest.raises(DataError, match='tokenizer'): load_corpus('wiki-summaries')
    with pytest.raises(DataError, match='embedding rows'): load_corpus('wiki-summaries', tok, vocab_size=100)

def test_text_without_words_for_the_gap_wraps(tok):
    c = Corpus(TokenBlocks(from_list('x', lambda: ['word '*14], 'w'), tok), seq_len=64, echo=0.5)
    assert len(list(c.batches(1))) == 2


# ---- the `datasets` library

@pytest.mark.parametrize('kind', ['parquet', 'jsonl'])
def test_streamed_dataset_and_its_position(tok, tmp_path, kind):
    import datasets
    folder = tmp_path/'set'; folder.mkdir()
    for i in range(3):
        part = datasets.Dataset.from_dict(dict(text=texts(30, seed=i)))
        (part.to_parquet if kind == 'parquet' else part.to_json)(folder/f'part{i}.{kind}')
    source = open_source(f'hf:{folder}'); every = list(source.read())
    assert [d for d, _ in every] == sum([texts(30, seed=i) for i in range(3)], [])
    for i in (0, 29, 30, 57, 89): assert [d for d, _ in source.read(json.loads(json.dumps(every[i][1])))] == [d for d, _ in every[i+1:]]
    blocks = lambda: TokenBlocks(open_source(f'hf:{folder}'), tok, 1500)
    whole = list(Corpus(blocks(), seq_len=64).batches(2))
    assert Corpus(blocks(), seq_len=64).blocks.block(1) is not None
    assert all(map(same, Corpus(blocks(), seq_len=64).batches(2, start=11), whole[11:]))

def test_streamed_dataset_errors(tok, tmp_path, monkeypatch):
    (tmp_path/'set').mkdir(); (tmp_path/'set'/'a.jsonl').write_text('{"body": "x"}\n')
    with pytest.raises(DataError, match='it has body'): load_corpus(f'hf:{tmp_path/"set"}', tok)
    with pytest.raises(DataError, match='split='): load_corpus(f'hf:{tmp_path/"set"}', tok, split='nowhere')
    monkeypatch.setattr(data, 'hub_answers', lambda: False)
    with pytest.raises(DataError, match='cannot be reached'): load_corpus('owner/name', tok)


# ---- chat

TALK = [dict(role='system', content='be kind'), dict(role='user', content='hi'), dict(role='assistant', content='hello you'),
        dict(role='user', content='bye'), dict(role='assistant', content='see you')]

def test_chat_learns_answers_only(tok):
    ids, learn = encode_chat(tok, TALK)
    assert tok.decode([i for i, l in zip(ids, learn) if l]) == 'hello you<e>see you<e>' and ids[-1] == tok.eos_token_id

def test_chat_with_the_real_template(real_tok):
    ids, learn = encode_chat(real_tok, TALK)
    assert real_tok.decode([i for i, l in zip(ids, learn) if l]) == 'hello you<|im_end|>see you<|im_end|>'

def test_chat_corpus(tok, tmp_path, capsys):
    f = tmp_path/'c.jsonl'; f.write_text('\n'.join(json.dumps(dict(messages=m)) for m in [TALK]*9 + [TALK[:2]]))
    c = load_corpus(f'chat:{f}', tok, seq_len=50)
    out = capsys.readouterr().out
    assert 'no echo' in out and '1 of 10 documents' in out
    b = next(c.batches(4))
    assert b['loss_mask'].any() and not b['loss_mask'].all() and b['loss_mask'].dtype == torch.bool and not b['recall_mask'].any()

@pytest.mark.parametrize('row,says', [(dict(messages='hi'), 'must be a list'), (dict(messages=[dict(role='user')]), 'must be a list'), (dict(text='x'), 'messages')])
def test_bad_chat(tok, tmp_path, row, says):
    f = tmp_path/'c.jsonl'; f.write_text(json.dumps(row))
    with pytest.raises(DataError, match=says): load_corpus(f'chat:{f}', tok)

def test_chat_without_template(tmp_path):
    t = byte_tokenizer(); t.chat_template = None
    (tmp_path/'c.jsonl').write_text(json.dumps(dict(messages=TALK)))
    with pytest.raises(DataError, match='chat template'): load_corpus(f'chat:{tmp_path/"c.jsonl"}', t)


# ---- tensors

def test_tensors_in_order_regrouped_and_resumed(tok):
    rows = torch.arange(7*6).reshape(7, 6) % 200
    c = load_corpus([rows[:3], rows[3:]], tok)
    got = list(c.batches(2))
    assert torch.equal(torch.cat([b['input_ids'] for b in got]), rows) and [len(b['input_ids']) for b in got] == [2, 2, 2, 1]
    assert all(map(same, c.batches(2, start=2), got[2:]))
    assert sum(b['input_ids'].numel() for b in c.batches(2, tokens=100)) >= 100
    assert {'input_ids', 'recall_mask', 'doc_ids'} == set(got[0])

def test_tensors_mark_documents(tok):
    e = tok.eos_token_id
    assert next(load_corpus([torch.tensor([[5, e, 6, 7, e, 8]])], tok).batches(1))['doc_ids'].tolist() == [[0, 0, 1, 1, 1, 2]]

@pytest.mark.parametrize('bad,kind,says', [([torch.tensor([[1, 999]])], DataError, '999'), ([torch.tensor([[1, -1]])], DataError, '-1'), ([torch.ones(2, 3)], ShapeError, 'whole-number'),
    ([torch.ones(3, dtype=torch.long)], ShapeError, r'\(B, T\)'), ([torch.ones(3, 1, dtype=torch.long)], ShapeError, '2 or more')])
def test_bad_tensors(tok, bad, kind, says):
    with pytest.raises(kind, match=says): list(load_corpus(bad, tok).batches(1))

def test_tensors_read_once(tok):
    once = (torch.ones(2, 4, dtype=torch.long) for _ in range(2))
    with pytest.raises(DataError, match='only once'): list(load_corpus(once, tok).batches(2, tokens=100))
    with pytest.raises(DataError, match='pass a list'): list(load_corpus(once, tok).batches(2))


# ---- packaged text

@pytest.mark.usefixtures('real_cache')
def test_wiki_summaries(real_tok):
    c = load_corpus('wiki-summaries', real_tok)
    info = c.blocks.block(0)['info']
    assert (info['docs'], info['tokens'], info['last']) == (10033, 1058313, True)
    a, b = (next(load_corpus('wiki-summaries', real_tok).batches(4, start=600)) for _ in range(2))
    assert same(a, b) and int(a['recall_mask'].any(1).sum()) == 1

@pytest.mark.usefixtures('real_cache')
@pytest.mark.parametrize('name,rows', [('wikipedia_5', 40), ('owt_5', 40), ('echo', 40)])
def test_held_out_is_always_the_same(real_tok, name, rows):
    a, b = held_out(name, real_tok, n=rows), held_out(name, real_tok, n=rows)
    assert len(a) == 5 and all(map(same, a, b)) and bool(a[0]['recall_mask'].any()) == (name == 'echo')
    if name == 'echo':
        ids = a[0]['input_ids']
        assert torch.equal(ids[:, :160], ids[:, 352:]) and a[0]['recall_mask'][0].sum() == 144

@pytest.mark.usefixtures('real_cache')
def test_held_out_shares_no_13_words_with_training_text():
    train = [d for d, _ in open_source('wiki-summaries').read()]
    held = held_out_texts('wikipedia_5') + held_out_texts('owt_5')
    assert len(held) == 2000 and shared_ngrams(held, train) == [*data.SHARED['wikipedia_5'], *(1000+i for i in data.SHARED['owt_5'])]
    assert sum(map(len, data.SHARED.values())) == 2   # of 2000, and held_out leaves them out

def test_shared_ngrams():
    assert shared_ngrams(['a b c d', 'x y z'], ['q, B C; d'], n=3) == [0]

@pytest.mark.usefixtures('real_cache')
def test_held_out_limits(real_tok):
    with pytest.raises(DataError, match='wikipedia_5'): held_out('wikipedia5', real_tok)
    with pytest.raises(DataError, match='smaller n'): held_out('owt_5', real_tok, n=10**5)
    with pytest.raises(DataError, match='at least'): held_out('echo', real_tok, seq_len=6)

@pytest.mark.usefixtures('real_cache')
def test_long_documents_where_npm_is_at_hand():
    import shutil
    if not shutil.which('npm'): pytest.skip('npm is not installed')
    try: docs = [d for d, _ in open_source('stdlib-long').read()]
    except DataError as e: pytest.skip(f'npm has no registry here: {e}')
    assert len(docs) == 233 and np.median([len(d.split()) for d in docs]) > 4000
