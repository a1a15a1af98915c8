# %% setup
import functools, tempfile, torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.data import echo_row
from hybrid_tutorial.evaluation.language import estimate
from hybrid_tutorial.evaluation.suite import evaluate
from hybrid_tutorial.models.hybrid import build_hybrid, build_student

# %% 1a compute (1 s)
# An echo row is one document: a passage of 160 tokens, 192 others, the 160 again; the first 16 of the copy do not count as recall. Return documents, recall tokens.

# %% solution
def ex43a():
    "Documents and recall tokens of `echo` in 8,192 tokens"
    ### BEGIN SOLUTION
    rows = 8192//512
    return rows, rows*(160-16)
    ### END SOLUTION

# %% check
def check_ex43a(f):
    import numpy as np
    ids, mask = echo_row(np.arange(352), 0, 160, 192, 16)
    rows = 8192//len(ids)
    docs, tokens = f() or (None, None)
    check_answer(docs, rows, [(8192, 'these are tokens; those of one document are no independent witnesses'), (8192//160, 'one document a row, not one a passage'), (2*rows, 'passage and copy are one document')], name='documents')
    return check_answer(tokens, rows*int(mask.sum()), [(rows*160, 'the first 16 tokens of a copy cannot be known to be one'), (rows*320, 'the first copy is plain text'), (int(mask.sum()), 'of all rows'), (8192, 'most tokens are plain')], name='tokens')

# %% wrong
wrong_ex43a = [(lambda: (8192, 0), 'independent'), (lambda: (51, 0), 'one a passage'), (lambda: (32, 0), 'are one document'), (lambda: (16, 2560), 'first 16'), (lambda: (16, 5120), 'is plain text'), (lambda: (16, 144), 'of all rows'), (lambda: (16, 8192), 'most tokens')]

# %% why
# 16 documents and 2,304 recall tokens. The interval rests on the 16: four times the budget halves it, whatever the number of tokens suggests.

# %% 2b implement (1 s)
# `path` is the folder of a saved model, hybrid or not, and `batches` a list of batches. Return the loss on plain tokens and on recall tokens, by `evaluate` on your own text (`sets=dict(mine=batches)`, no needles, so it needs no tokenizer).

# %% solution
def ex43b(path, batches):
    "Plain and recall loss of a saved model"
    ### BEGIN SOLUTION
    model = AutoModelForCausalLM.from_pretrained(path)
    got = evaluate(model, None, sets=dict(mine=batches), needles=0, dtype='float32')['sets']['mine']
    return got['plain']['loss']['value'], got['recall']['loss']['value']
    ### END SOLUTION

# %% check
@functools.cache
def models_ex43b():
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, attention_dropout=0.5)).eval()
    return teacher, build_hybrid(build_student(teacher, settings=dict(window=4), verbose=False), teacher, [1])

@functools.cache
def folder_ex43b(i):
    folder = tempfile.TemporaryDirectory()
    models_ex43b()[i].save_pretrained(folder.name)
    return folder

def losses_ex43b(logits, batches, valid=True):
    "Plain and recall loss by hand"
    out = {False: [], True: []}
    for b, l in zip(batches, logits):
        each = -l[:, :-1].log_softmax(-1).gather(-1, b['input_ids'][:, 1:, None])[..., 0]
        same, recall = b['doc_ids'][:, 1:] == b['doc_ids'][:, :-1], b['recall_mask'][:, 1:]
        for k in out: out[k].append(each[(recall == k) & (same | (not valid))])
    return tuple(float(torch.cat(out[k]).mean()) for k in (False, True))

def batches_ex43b():
    gen = torch.Generator().manual_seed(1)
    ids = torch.randint(97, (4, 40), generator=gen); ids[:, 30:] = ids[:, 5:15]
    recall = torch.zeros(4, 40, dtype=torch.bool); recall[:, 32:] = True
    return [dict(input_ids=ids[i:i+2], doc_ids=(torch.arange(40) >= 5).long().expand(2, 40), recall_mask=recall[i:i+2]) for i in (0, 2)]

def check_ex43b(f):
    batches = batches_ex43b()
    for i, model in enumerate(models_ex43b()):
        with torch.no_grad(): logits = [model(b['input_ids']).logits for b in batches]
        torch.manual_seed(7)
        fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder_ex43b(i).name)).eval()
        with torch.no_grad(): other = [fresh(b['input_ids']).logits for b in batches]
        torch.manual_seed(7)
        plain, recall = want = losses_ex43b(logits, batches)
        every = float(torch.cat([-l[:, :-1].log_softmax(-1).gather(-1, b['input_ids'][:, 1:, None]).flatten() for l, b in zip(logits, batches)]).mean())
        check_answer(f(folder_ex43b(i).name, batches), want, [((recall, plain), 'exchanged'), ((every, every), 'this averages over both kinds of token; evaluate keeps them apart'), (losses_ex43b(other, batches), 'a config has no weights: this model is new and random'),
            ((plain, plain), 'twice the plain loss'), (tuple(torch.tensor(want).exp().tolist()), 'these are perplexities'), (losses_ex43b(logits, batches, False), 'the first word of a document is nobody\'s target')], tol=1e-4, name=('teacher', 'hybrid')[i])
    return 'ex43b: right'

# %% wrong
def logits_ex43b(path, batches, make=AutoModelForCausalLM.from_pretrained):
    model = make(path).eval()
    with torch.no_grad(): return [model(b['input_ids']).logits for b in batches]
wrong_ex43b = [(lambda p, b: ex43b(p, b)[::-1], 'exchanged'), (lambda p, b: (float(torch.cat([-l[:, :-1].log_softmax(-1).gather(-1, x['input_ids'][:, 1:, None]).flatten() for l, x in zip(logits_ex43b(p, b), b)]).mean()),)*2, 'keeps them apart'),
    (lambda p, b: losses_ex43b(logits_ex43b(p, b, lambda p: AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(p))), b), 'new and random'), (lambda p, b: (ex43b(p, b)[0],)*2, 'twice the plain'),
    (lambda p, b: tuple(torch.tensor(ex43b(p, b)).exp().tolist()), 'perplexities'), (lambda p, b: losses_ex43b(logits_ex43b(p, b), b, False), 'nobody\'s target')]

# %% why
# `AutoModelForCausalLM` reads the class from the folder, so the same two lines evaluate a teacher and a hybrid; `import hybrid_tutorial` is what tells transformers of the second. `model(ids, labels=ids).loss` would average over everything, document borders included.

# %% 3c explore (1 s)
# In small: 256 made-up documents, on which the loss of a good model is near 0 on most and large on some. `interval(n)` is `estimate` on the first n of them. Start at 256 and halve until the interval is at least as wide as the value. Return the documents that are left, and by which factor the width has grown since 256.

# %% solution
def ex43c(interval):
    "Documents left; width there over width at 256"
    ### BEGIN SOLUTION
    n, width = 256, lambda e: e['high']-e['low']
    while width(interval(n)) < interval(n)['value']: n //= 2
    return n, width(interval(n))/width(interval(256))
    ### END SOLUTION

# %% check
@functools.cache
def interval_ex43c(n):
    tokens = torch.full((256,), 144)
    spread = torch.quasirandom.SobolEngine(1).draw(256)[:, 0]+1/512               # every power of two of them looks alike
    loss = 0.1*torch.exp(1.2*torch.special.ndtri(spread))
    return estimate((loss*tokens)[:n], tokens[:n])

def check_ex43c(f):
    width = lambda n: interval_ex43c(n)['high']-interval_ex43c(n)['low']
    left = lambda share: next((n for n in (256, 128, 64, 32, 16, 8, 4, 2) if share*width(n) >= interval_ex43c(n)['value']), -1)
    n, grown = f(interval_ex43c) or (None, None)
    want = left(1)
    check_answer(n, want, [(2*want, 'there it is still narrower than the value'), (want//2, 'halved once too often'), (left(0.5), 'the whole width, not what lies on one side'), (1, 'one document has no interval')], name='documents')
    return check_answer(grown, width(want)/width(256), [(width(256)/width(want), 'the other way round'), ((256/want)**0.5, 'that is what the root of the number promises; this sample says a little else'), (256/want, 'the width falls with the root of the number of documents')], tol=1e-4, name='factor')

# %% wrong
wrong_ex43c = [(lambda i: (2*ex43c(i)[0], 0), 'still narrower'), (lambda i: (ex43c(i)[0]//2, 0), 'too often'), (lambda i: (1, 0), 'has no interval'), (lambda i: (ex43c(i)[0], 1/ex43c(i)[1]), 'other way'), (lambda i: (ex43c(i)[0], (256/ex43c(i)[0])**0.5), 'promises'), (lambda i: (ex43c(i)[0], 256/ex43c(i)[0]), 'with the root')]

# %% why
# 16 documents. The width has grown 2.1-fold where the root of 16 promises 4: the rare documents with a large loss are no longer in the sample (its average is 0.15 instead of 0.20), and a bootstrap cannot draw what it has not seen. An interval from few documents is too narrow.
