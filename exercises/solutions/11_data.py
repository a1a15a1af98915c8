# %% setup
import functools, numpy as np, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.data import Echo, echo_row

# %% 1a compute (1 s)
# Return the smallest and the largest distance in tokens. An echo document fills its row: lead, passage, gap, copy and one end-of-text token.

# %% solution
def ex11a():
    "Smallest and largest distance between a recall target and its source"
    ### BEGIN SOLUTION
    return 64+64, max(p+min(192, 511-2*p) for p in range(64, 161))
    ### END SOLUTION

# %% check
def check_ex11a(f):
    text, seen = np.arange(10_000), set()
    for p in range(64, 161):                       # every passage, with its smallest and its largest gap
        for g in (64, min(192, 512-1-2*p)):
            row, mask = echo_row(text, 512-1-2*p-g, p, g, 16, eos=-1)
            target = int(mask.argmax())
            seen.add(target-int((row == row[target]).argmax()))
    low, high = f() or (None, None)
    check_answer(low, min(seen), [(64, 'the passage lies between too: from its token to the copy it is passage and gap'), (144, 'the skip moves the first target and its source alike'), (129, 'the first token of the copy stands right after the gap')], name='smallest')
    return check_answer(high, max(seen), [(352, 'passage 160, gap 192 and the copy are 512 tokens, and one is left for the end of text: count again'), (192, 'passage and gap'), (320, 'a passage of 160 leaves room for a gap of 191'), (512-64, 'the longest passage is 5/16 of the row')], name='largest')

# %% wrong
wrong_ex11a = [(lambda: (64, 351), 'lies between too'), (lambda: (144, 351), 'skip moves'), (lambda: (129, 351), 'right after the gap'), (lambda: (128, 352), 'count again'), (lambda: (128, 192), 'largest: passage and gap'), (lambda: (128, 320), 'a gap of 191'), (lambda: (128, 448), '5/16 of the row')]

# %% why
# The distance is passage plus gap: 128 at least. At most 351, not 352, since `lengths` shortens the gap where the row would overflow. A layer whose window is under 128 tokens meets no source of any target in it: what it recalls, its state has kept.

# %% 2b implement (1 s)
# Return `(input_ids, recall_mask)`, two arrays `(T,)`. A line is two tokens, a name and its number; `names` and `values` are lists of token ids, `rng` is a numpy generator, `T` is even. The row is `T/2-1` lines, then the name that is asked for, then its number.

# %% solution
def ex11b(rng, names, values, T):
    "Lines of a name and a number, then a name again and its number"
    ### BEGIN SOLUTION
    who = rng.choice(names, T//2-1, replace=False)
    what = rng.choice(values, T//2-1)
    asked = rng.integers(T//2-1)
    row = np.concatenate([np.stack([who, what], 1).flatten(), [who[asked], what[asked]]])
    return row, np.arange(T) == T-1
    ### END SOLUTION

# %% check
def check_ex11b(f):
    names, values, asked, told = list(range(10, 30)), list(range(50, 60)), set(), {}
    for seed in range(40):
        got = f(np.random.default_rng(seed), names, values, 16)
        if got is None: raise AssertionError('answer: nothing was returned')
        row, mask = (np.asarray(x) for x in got)
        if row.shape != (16,) or mask.shape != (16,): raise AssertionError(f'shapes {row.shape} and {mask.shape}, wanted (16,) and (16,)')
        if not set(row[::2]) <= set(names) or not set(row[1::2]) <= set(values): raise AssertionError('names and numbers alternate, a name first')
        lines = list(zip(row[:-2:2].tolist(), row[1:-2:2].tolist()))
        if len(dict(lines)) < len(lines): raise AssertionError('a name stands in two lines: which number is meant?')
        if row[-2] not in dict(lines): raise AssertionError('the last name stands in no line: nobody can answer')
        if row[-1] != dict(lines)[row[-2]]: raise AssertionError('the last number is not that of the line')
        if mask.tolist() != [False]*15+[True]:
            if mask[-2]: raise AssertionError('the name that is asked for cannot be predicted; only the number can')
            raise AssertionError('one target: the last number. recall_mask marks the target itself, not its source')
        asked.add([n for n, _ in lines].index(row[-2]))
        for n, v in lines: told.setdefault(n, set()).add(v)
    if len(asked) < 4: raise AssertionError(f'it always asks for line {sorted(asked)}: a fixed distance would do, no name need be compared')
    if all(len(v) == 1 for v in told.values()): raise AssertionError('a name has the same number in every row: weights can learn that, no memory is needed')
    return 'ex11b: right'

# %% wrong
def row_ex11b(rng, names, values, T, replace=False, ask=None, fixed=False, last=None):
    who = rng.choice(names, T//2-1, replace=replace)
    what = np.array(values)[who % len(values)] if fixed else rng.choice(values, T//2-1)
    i = rng.integers(T//2-1) if ask is None else ask
    return np.concatenate([np.stack([who, what], 1).flatten(), [who[i], what[i] if last is None else last]]), np.arange(T) == T-1
def lines_ex11b(*args):
    row, mask = row_ex11b(*args)
    return row, (row == row[-1])
wrong_ex11b = [(lambda *a: row_ex11b(*a, replace=True), 'stands in two lines'), (lambda *a: row_ex11b(*a, ask=-1), 'always asks'), (lambda *a: row_ex11b(*a, fixed=True), 'weights can learn'), (lambda *a: row_ex11b(*a, last=a[2][0]), 'not that of the line'),
    (lambda *a: (row_ex11b(*a)[0], np.arange(a[3]) >= a[3]-2), 'name that is asked for cannot'), (lines_ex11b, 'not its source'), (lambda r, n, v, T: (np.concatenate([row_ex11b(r, n, v, T)[0], [0]]), np.zeros(T+1, bool)), 'shapes (17,)')]

# %% why
# One token of the row is predictable, the last number; names and the other numbers are drawn. So `recall_mask` marks it alone, and a loss over all tokens would hide it behind 15 others that nobody can know. Random place and random pairs leave only one way to be right: find the name, read what follows it.

# %% 3c explore (1 s)
# In small, with a reader that can be understood. At each position it looks for the last place, at most `far` tokens back, where the same two tokens stood, and predicts what followed there. `recall(far)` is the share of the recall targets of 60 echo rows (`T = 512`, default lengths, random text) that it gets right. Return the share at 128, the share at 256, and the smallest multiple of 16 at which it is above 0.99.

# %% solution
def ex11c(recall):
    "Recall within 128 and 256 tokens; smallest multiple of 16 with more than 99 %"
    ### BEGIN SOLUTION
    return recall(128), recall(256), next(far for far in range(16, 513, 16) if recall(far) > 0.99)
    ### END SOLUTION

# %% check
@functools.cache
def recall_ex11c(far):
    rng, right, total = np.random.default_rng(0), 0, 0
    for _ in range(60):
        lead, p, g = Echo().lengths(512, rng)
        row, mask = echo_row(rng.integers(1000, size=512), lead, p, g, 16, eos=1000)
        last = {}
        for t in range(2, 512):
            if mask[t]:
                at = last.get((row[t-2], row[t-1]), -512)
                right += t-at <= far and row[at] == row[t]; total += 1
            last[row[t-2], row[t-1]] = t
    return right/total

def check_ex11c(f):
    share = {far: recall_ex11c(far) for far in (64, 128, 256, 304, 320, 336, 352, 512)}
    near, mid, enough = f(recall_ex11c) or (None, None, None)
    check_answer(near, share[128], [(share[256], 'this is the share at 256'), (1-share[128], 'the share that is right, not wrong')], tol=1e-3, name='128')
    check_answer(mid, share[256], [(share[128], 'this is the share at 128'), (1-share[256], 'this is the share that is missed')], tol=1e-3, name='256')
    want = min(far for far, s in share.items() if s > 0.99)
    return check_answer(enough, want, [(512, 'a whole row does, but less is enough'), (304, 'not above 0.99 there'), (351, 'a multiple of 16'), (352, 'no distance is larger, but the longest ones are rare: less reaches 0.99')], name='above 0.99')

# %% wrong
wrong_ex11c = [(lambda r: (r(256), r(256), 336), 'share at 256'), (lambda r: (1-r(128), r(256), 336), 'not wrong'), (lambda r: (r(128), r(128), 336), 'share at 128'), (lambda r: (r(128), 1-r(256), 336), 'is missed'),
    (lambda r: (r(128), r(256), 512), 'a whole row'), (lambda r: (r(128), r(256), 304), 'not above'), (lambda r: (r(128), r(256), 351), 'multiple of 16'), (lambda r: (r(128), r(256), 352), 'longest ones are rare')]

# %% why
# None within 128 tokens, 51 % within 256, and all from 336 on. Comparing two tokens and reading what follows is all that an echo document asks; a softmax head that does it sees the whole row, a window of 256 loses half the targets, and a state has to have kept them. The teacher's loss at larger gaps says how far its own heads reach.

# %% 4d implement (1 s)
# Find the bug. A loader that has only token ids draws the borders itself:
#
#     def documents(ids, eos): return (ids == eos).cumsum(1)
#
# Shapes and counts are right. Write what it should be: `ids` is `(B, T)`, the result numbers the documents of each row from 0.

# %% solution
def ex11d(ids, eos):
    "Number of each token's document in its row"
    ### BEGIN SOLUTION
    ends = (ids == eos).long()
    return ends.cumsum(1)-ends
    ### END SOLUTION

# %% check
def check_ex11d(f):
    ids = torch.tensor([[5, 6, 0, 7, 0, 8, 9], [0, 5, 0, 0, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7]])
    want, n = torch.zeros_like(ids), [0]*3
    for b, row in enumerate(ids.tolist()):
        for t, x in enumerate(row):
            want[b, t] = n[b]
            n[b] += x == 0
    end = (ids == 0).long()
    late = torch.cat([torch.zeros_like(end[:, :1]), end.cumsum(1)[:, :-1]], 1)
    flat = end.flatten().cumsum(0).view_as(ids)-end
    return check_answer(f(ids, 0), want, [(end.cumsum(1), 'the closing token is counted at once, so it opens the next document: each document loses its end, and the next begins with a foreign token'), (flat, 'each row starts at 0 again'), (end.cumsum(1)-1, 'the closing token still opens the next document, and rows start at -1'),
        (end, 'these are borders; number the documents'), (late+1, 'documents are numbered from 0')])

# %% wrong
wrong_ex11d = [(lambda ids, eos: (ids == eos).cumsum(1), 'counted at once'), (lambda ids, eos: (ids == eos).flatten().cumsum(0).view_as(ids)-(ids == eos).long(), 'starts at 0 again'), (lambda ids, eos: (ids == eos).cumsum(1)-1, 'rows start at -1'),
    (lambda ids, eos: (ids == eos).long(), 'these are borders'), (lambda ids, eos: ex11d(ids, eos)+1, 'numbered from 0')]

# %% why
# An end-of-text token is the last target of *its* document. Counted at once, it can no longer be predicted from its own text, and every document but the first starts behind a token that its state should not have seen. Nothing fails: all shapes fit, and the number of documents is right too.
