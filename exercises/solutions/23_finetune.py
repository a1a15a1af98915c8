# %% setup
import functools, torch
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.selection.study import toy_text
from hybrid_tutorial.training.finetune import counted, next_token_loss

# %% 1a compute (1 s)
# Return the bytes of all logits, and of one chunk.

# %% solution
def ex23a():
    "Bytes of the logits of 16,384 tokens; of 512"
    ### BEGIN SOLUTION
    return 16384*49152*4, 512*49152*4
    ### END SOLUTION

# %% check
def check_ex23a(f):
    one = torch.empty(1, 49152, device='meta').nbytes
    every, chunk = f() or (None, None)
    check_answer(every, 16384*one, [(16384*one/4, 'float32 has 4 bytes'), (16384*one/2, 'this is half precision; the loss is computed in float32'), (16384*576*4, 'these are the hidden states'), (16384*one/1e9, 'bytes, not GB')], name='all')
    return check_answer(chunk, 512*one, [(16384*one, 'one chunk at a time'), (512*one/4, 'a float32 number of a chunk too has 4 bytes'), (16384*one/512, 'a chunk *has* 512 tokens, there are 32 chunks')], name='chunk')

# %% wrong
wrong_ex23a = [(lambda: (16384*49152, 0), 'float32 has'), (lambda: (16384*49152*2, 0), 'half precision'), (lambda: (16384*576*4, 0), 'hidden states'), (lambda: (3.221225472, 0), 'not GB'), (lambda: (16384*49152*4,)*2, 'one chunk at a time'), (lambda: (16384*49152*4, 512*49152), 'of a chunk too'), (lambda: (16384*49152*4, 32*49152*4), 'there are 32')]

# %% why
# 3.2 GB and 101 MB, and the gradient of the logits is as large again. The chunks cost one more product with the head in the backward pass; the hidden states that they start from are 38 MB.

# %% 2b implement (1 s)
# `batches` are the corpus's batches, dicts with `input_ids` `(B, T)` and `loss_mask`; some have no `loss_mask`, then every token counts. Return the share of all targets that `next_token_loss` averages over. A row's first token is never a target.

# %% solution
def ex23b(batches):
    "Share of the targets that count"
    ### BEGIN SOLUTION
    right = total = 0
    for b in batches:
        mask = b.get('loss_mask', torch.ones_like(b['input_ids'], dtype=torch.bool))[:, 1:]
        right, total = right+int(mask.sum()), total+mask.numel()
    return right/total
    ### END SOLUTION

# %% check
def batches_ex23b():
    gen = torch.Generator().manual_seed(0)
    masks = [torch.rand(rows, 12, generator=gen) < p for rows, p in ((4, 0.2), (4, 0.9), (1, 0.3))]
    masks[0][:, 0] = True
    return [dict(input_ids=torch.zeros(m.shape, dtype=torch.long), loss_mask=m) for m in masks]+[dict(input_ids=torch.zeros(2, 12, dtype=torch.long))]

def check_ex23b(f):
    data = batches_ex23b()
    n, size = [counted(b) for b in data], [b['input_ids'].shape[0]*11 for b in data]
    masks = [b.get('loss_mask', torch.ones(2, 12, dtype=torch.bool)) for b in data]
    every = sum(int(m.sum()) for m in masks)
    return check_answer(f(iter(data)), sum(n)/sum(size), [(sum(a/b for a, b in zip(n, size))/4, 'a mean of shares: the last batch of the conversations has one row and counts as much as four'), (every/sum(b['input_ids'].numel() for b in data), 'the first token of a row is no target: nothing stands before it'),
        (every/sum(size), 'the first token is no target in the numerator either'), (sum(n[:3])/sum(size[:3]), 'a batch without loss_mask counts whole'), (sum(n[:3])/sum(size), 'where loss_mask is missing every target counts, not none'), (sum(n), 'a share, not a number of tokens'), (1-sum(n)/sum(size), 'this is the share that is context only')], tol=1e-6)

# %% wrong
def shares_ex23b(batches, first=1):
    masks = [b.get('loss_mask', torch.ones_like(b['input_ids'])).float()[:, first:] for b in batches]
    return masks
wrong_ex23b = [(lambda bs: sum(float(m.mean()) for m in shares_ex23b(bs))/4, 'a mean of shares'), (lambda bs: float(torch.cat([m.flatten() for m in shares_ex23b(bs, 0)]).mean()), 'nothing stands before it'), (lambda bs: (lambda ms: sum(float(m.sum()) for m in ms)/sum(m[:, 1:].numel() for m in ms))(shares_ex23b(bs, 0)), 'numerator either'),
    (lambda bs: ex23b([b for b in bs if 'loss_mask' in b]), 'counts whole'), (lambda bs: ex23b([{'loss_mask': torch.zeros_like(b['input_ids'], dtype=torch.bool), **b} for b in bs]), 'not none'), (lambda bs: sum(counted(b) for b in bs), 'not a number'), (lambda bs: 1-ex23b(bs), 'context only')]

# %% why
# Counts are added up, and divided once. In short conversations a fifth of the tokens may count, so a "million tokens of chat" are 200,000 targets; the loop of notebook 20 weighs its pieces by the same count.

# %% 3c explore (2 s)
# In small: a Llama of two layers that has learned one kind of text is tuned to another, with the same 4 rows again and again. `curve(lr)` gives its perplexity on *other* rows of the new kind, before the first step and after every 4 steps, up to step 40. Return the step at which the curve of `1e-2` is lowest, the step at which that of `1e-3` is, and how many times its best the first has at the end.

# %% solution
def ex23c(curve):
    "Best step of the fast run, of the slow one; end over best of the fast one"
    ### BEGIN SOLUTION
    fast, slow = curve(1e-2), curve(1e-3)
    best = lambda c: 4*min(range(len(c)), key=c.__getitem__)
    return best(fast), best(slow), fast[-1]/min(fast)
    ### END SOLUTION

# %% check
@functools.cache
def pretrained_ex23c():
    with torch.enable_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=24, hidden_size=32, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=64))
        opt = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for n in range(50):
            loss = next_token_loss(model, (toy_text(n, rows=16)['input_ids'][::2]+7) % 24)
            opt.zero_grad(); loss.backward(); opt.step()
        return {n: p.clone() for n, p in model.state_dict().items()}, model

@functools.cache
def curve_ex23c(lr):
    state, model = pretrained_ex23c()
    model.load_state_dict(state)
    few, other, out = toy_text(500, rows=8)['input_ids'][::2], toy_text(9000, rows=64)['input_ids'][::2], []
    opt = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(41):
        if step % 4 == 0:
            with torch.no_grad(): out.append(float(next_token_loss(model, other).exp()))
        with torch.enable_grad():
            loss = next_token_loss(model, few)
            opt.zero_grad(); loss.backward(); opt.step()
    return tuple(out)

def check_ex23c(f):
    fast, slow = torch.tensor(curve_ex23c(1e-2)), torch.tensor(curve_ex23c(1e-3))
    a, b, c = f(curve_ex23c) or (None,)*3
    check_answer(a, 4*int(fast.argmin()), [(40, 'the end is not the best: the curve turns'), (4*int(fast.argmax()), 'this is its worst')], name='fast')
    check_answer(b, 4*int(slow.argmin()), [(int(slow.argmin()), 'the slow one in steps too, 4 to a value'), (4*int(fast.argmin()), 'this is the fast run')], name='slow')
    return check_answer(c, fast[-1]/fast.min(), [(fast[-1]/fast[0], 'over its best, not over its beginning'), (fast.min()/fast[-1], 'the end over the best'), (fast[-1]/slow.min(), 'over its own best, not over that of the slow run'), (fast[-1]-fast.min(), 'how many times, not how much')], tol=1e-3, name='end')

# %% wrong
wrong_ex23c = [(lambda c: (40, 0, 0), 'curve turns'), (lambda c: (0, 0, 0), 'its worst'), (lambda c: (ex23c(c)[0], ex23c(c)[0], 0), 'the fast run'), (lambda c: (ex23c(c)[0], ex23c(c)[1]//4, 0), '4 to a value'), (lambda c: (*ex23c(c)[:2], c(1e-2)[-1]/c(1e-2)[0]), 'over its beginning'),
    (lambda c: (*ex23c(c)[:2], 1/ex23c(c)[2]), 'the end over the best'), (lambda c: (*ex23c(c)[:2], c(1e-2)[-1]/min(c(1e-3))), 'of the slow run'), (lambda c: (*ex23c(c)[:2], c(1e-2)[-1]-min(c(1e-2))), 'not how much')]

# %% why
# At `1e-2` the curve turns at step 12 and ends at 3.7 times its best, while the loss on the four rows goes on falling; at `1e-3` it still falls at step 40. The turn is a matter of rate times steps, and the fast run's best, 6.3, is not worse than what the slow one has at the end, 8.3: stop by held-out text, not by the loss.
