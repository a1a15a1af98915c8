# %% setup
import itertools
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.selection.choose import choose_layers
from hybrid_tutorial.selection.search import drop_blocks, exchange, greedy

COST = [0.5, 0.4, 0.05, 0.3, 0.2, 0.05, 0.1, 0.1]

def asking(kl, count=None):
    "`ask` for `greedy`, `exchange` and `drop_blocks` from a KL of sets; `count[0]` counts candidates"
    def ask(keep, layers):
        if count: count[0] += len(layers)
        return kl(keep), {l: kl(set(keep) ^ {l}) for l in layers}
    return ask

# %% 1a compute (1 s)
# Return both numbers: what is asked for as `layers` of `ask`, over all steps. A check of a whole block is no candidate.

# %% solution
def ex30ca():
    "Candidates of `greedy` and of `drop_blocks`, 30 layers down to 8"
    ### BEGIN SOLUTION
    return sum(range(9, 31)), 30+19+13+11+9
    ### END SOLUTION

# %% check
def check_ex30ca(f):
    kl, counts = (lambda keep: sum(1+l for l in range(30) if l not in keep)), []
    for run in (lambda ask: greedy(ask, 30, 8), lambda ask: drop_blocks(ask, kl, 30, 8)):
        count = [0]; run(asking(kl, count)); counts.append(count[0])
    slow, fast = f() or (None, None)
    check_answer(slow, counts[0], [(660, 'layers that are gone are not scored again: 30, 29, 28, ...'), (437, 'with 8 layers left it stops, and does not score them'), (399, 'the first round scores all 30'), (465, 'down to 8, not to none')], name='greedy')
    return check_answer(fast, counts[1], [(90, 'the last round, from 9 to 8, scores 9; then it stops'), (30+19+14+11+10+9, 'half of 11 is 5.5, which rounds to the even 6'), (30+15+8, '`share` is of the layers still to be dropped, 22, 11, 5, ..., not of all'), (52, 'the first round scores all 30'), (81, 'half of 5 is 2.5, which rounds to the even 2'), (150, 'dropped layers are not scored again')], name='blocks')

# %% wrong
wrong_ex30ca = [(lambda: (660, 82), 'that are gone'), (lambda: (437, 82), 'with 8 layers left'), (lambda: (399, 82), 'greedy: the first'), (lambda: (465, 82), 'not to none'), (lambda: (429, 90), 'the last round'), (lambda: (429, 93), 'the even 6'), (lambda: (429, 53), '`share`'), (lambda: (429, 52), 'blocks: the first'), (lambda: (429, 81), 'the even 2'), (lambda: (429, 150), 'not scored again')]

# %% why
# $30+29+\dots+9 = 429$ against $30+19+13+11+9 = 82$: blocks ask a fifth. Four blocks are checked on top, one set each. And a candidate that starts at its own layer costs half of a pass on average.

# %% 2b implement (1 s)
# `circuit` is a set of three layers, `count` how many are kept of the eight, `COST` from the setup. Write the KL, then let five selectors choose: return a dict of sorted lists: `kl` (one-shot, each layer alone), `kl_removal` (one-shot, each layer missing), `add`, `drop` (`greedy`) and `blocks` (`drop_blocks`). And a sixth entry `half`: the fewest layers of the circuit with which *every* start of `exchange` ends with all of it.

# %% solution
def ex30cb(circuit, count):
    "What each selector keeps, and how much of the circuit a start of `exchange` must hold"
    ### BEGIN SOLUTION
    kl = lambda keep: 2.*(not circuit <= set(keep))+sum(c for l, c in enumerate(COST) if l not in keep)
    ask, every = asking(kl), set(range(8))
    out = dict(kl=choose_layers([kl(())-kl({l}) for l in every], count=count), kl_removal=choose_layers([kl(every-{l})-kl(every) for l in every], count=count))
    out |= {end: sorted(greedy(ask, 8, count, end).keep) for end in ('add', 'drop')} | dict(blocks=sorted(drop_blocks(ask, kl, 8, count).keep))
    lost = [len(circuit & set(s)) for s in itertools.combinations(range(8), count) if not circuit <= exchange(ask, kl, s, 8)[0]]
    return out | dict(half=max(lost)+1)
    ### END SOLUTION

# %% check
def kl_ex30cb(circuit, alive=None, cost=COST):
    alive = alive or (lambda keep: circuit <= set(keep))
    return lambda keep: 2.*(not alive(keep))+sum(c for l, c in enumerate(cost) if l not in keep)

def choices_ex30cb(kl, count):
    ask, every = asking(kl), frozenset(range(8))
    one = lambda score: choose_layers([score(l) for l in range(8)], count=count)
    return dict(kl=one(lambda l: kl(())-kl({l})), kl_removal=one(lambda l: kl(every-{l})-kl(every)), add=sorted(greedy(ask, 8, count, 'add').keep), drop=sorted(greedy(ask, 8, count).keep), blocks=sorted(drop_blocks(ask, kl, 8, count).keep))

def check_ex30cb(f):
    for circuit in ({2, 5, 6}, {2, 5, 7}):
        got = f(set(circuit), 4)
        if not isinstance(got, dict) or set(got) != {'kl', 'kl_removal', 'add', 'drop', 'blocks', 'half'}: raise AssertionError('answer: a dict with kl, kl_removal, add, drop, blocks and half')
        half, got = got['half'], {k: v for k, v in got.items() if k != 'half'}
        want, values = choices_ex30cb(kl_ex30cb(circuit), 4), lambda d: [d[k] for k in sorted(want)]
        any_of, bare = kl_ex30cb(circuit, lambda keep: bool(circuit & set(keep))), kl_ex30cb(circuit, cost=[0.]*8)
        swap = lambda a, b: want | {a: want[b], b: want[a]}
        check_answer(values(got), values(want), [(values(choices_ex30cb(any_of, 4)), 'the circuit lives with *all* its layers, not with any'), (values(choices_ex30cb(bare, 4)), 'the costs of the single layers are missing'), (values(swap('kl', 'kl_removal')), '`kl` and `kl_removal` are exchanged'), (values(swap('add', 'drop')), '`add` and `drop` are exchanged'),
            (values(want | dict(kl_removal=want['kl'])), '`kl_removal` begins with all eight and leaves one out')], name=f'circuit {sorted(circuit)}')
        check_answer(half, 2, [(1, 'with one layer of the three, no single exchange shows anything'), (3, 'two of three are enough: one exchange completes it'), (0, 'from a set that holds nothing of it, no exchange helps')], name='half')
    return 'ex30cb: right'

# %% wrong
def wrong_by_ex30cb(change): return lambda circuit, count: change(dict(ex30cb(circuit, count)), circuit)
wrong_ex30cb = [(lambda c, n: choices_ex30cb(kl_ex30cb(c), n), 'and half'), (lambda c, n: choices_ex30cb(kl_ex30cb(c, lambda keep: bool(c & set(keep))), n) | dict(half=2), 'not with any'), (lambda c, n: choices_ex30cb(kl_ex30cb(c, cost=[0.]*8), n) | dict(half=2), 'are missing'),
    (wrong_by_ex30cb(lambda d, c: d | dict(kl=d['kl_removal'], kl_removal=d['kl'])), '`kl` and'), (wrong_by_ex30cb(lambda d, c: d | dict(add=d['drop'], drop=d['add'])), '`add` and'), (wrong_by_ex30cb(lambda d, c: d | dict(kl_removal=d['kl'])), 'leaves one out'),
    (wrong_by_ex30cb(lambda d, c: d | dict(half=1)), 'shows anything'), (wrong_by_ex30cb(lambda d, c: d | dict(half=3)), 'are enough'), (wrong_by_ex30cb(lambda d, c: d | dict(half=0)), 'holds nothing')]

# %% why
# All that begin with the circuit alive keep it: `kl_removal`, `drop` and `blocks` choose $\{0, 2, 5, 6\}$ with KL 1.0, while `kl` and `add` choose $\{0, 1, 3, 4\}$ with 2.3. `exchange` completes a circuit of which one layer is missing, never of two: the longer the circuit, the more the start matters.

# %% 3c explore (1 s)
# `walk(slack, extra)` runs `drop_blocks` on the toy with `count=3` and returns what it keeps, its KL and the candidates it asked for; in it layers 6 and 7 stand in for each other, losing both costs `extra` more. Return four numbers: how many more candidates `slack=0` asks for than `slack=0.5` with `extra=0`; with `extra=0.5` the largest of the slacks 0, 0.5, 1, 2, 4 and 8 that finds the best set; and what the next larger slack saves in candidates and loses in KL.

# %% solution
def ex30cc(walk):
    "More candidates at slack 0; the largest good slack; what the next one saves and loses"
    ### BEGIN SOLUTION
    slacks = [0, 0.5, 1, 2, 4, 8]
    more = walk(0, 0.)[2]-walk(0.5, 0.)[2]
    got = [walk(s, 0.5) for s in slacks]
    last = max(i for i, g in enumerate(got) if g[1] == got[0][1])
    return more, slacks[last], got[last][2]-got[last+1][2], got[last+1][1]-got[last][1]
    ### END SOLUTION

# %% check
def kl_ex30cc(extra): return lambda keep: 2.*(not {2, 5} <= set(keep))+sum(c for l, c in enumerate(COST) if l not in keep)+extra*(not {6, 7} & set(keep))

def walk_ex30cc(slack, extra):
    kl, count = kl_ex30cc(extra), [0]
    w = drop_blocks(asking(kl, count), kl, 8, 3, slack=slack)
    return sorted(w.keep), kl(w.keep), count[0]

def check_ex30cc(f):
    got = f(walk_ex30cc) or (None,)*4
    best = min(map(kl_ex30cc(0.5), itertools.combinations(range(8), 3)))
    good = [s for s in (0, 0.5, 1, 2, 4, 8) if walk_ex30cc(s, 0.5)[1] < best+1e-9]
    a, b = walk_ex30cc(good[-1], 0.5), walk_ex30cc(good[-1]*2, 0.5)
    check_answer(got[0], walk_ex30cc(0, 0.)[2]-walk_ex30cc(0.5, 0.)[2], [(walk_ex30cc(0, 0.5)[2]-walk_ex30cc(0.5, 0.)[2], 'with `extra=0` on both sides: nothing stands in for anything'), (walk_ex30cc(0, 0.)[2], 'this is how many it asks for, not how many more')], name='more')
    check_answer(got[1], good[-1], [(8, 'with `extra=0` every slack is good; take `extra=0.5`'), (good[-1]*2, 'there both have left in one block, and the set is a worse one'), (0, 'a larger one finds it too'), (0.5, 'a larger one than the default finds it too')], name='slack')
    check_answer(got[2], a[2]-b[2], [(b[2]-a[2], 'what it saves: a positive number'), (b[2], 'what it asks for, not what it saves')], name='saves')
    return check_answer(got[3], b[1]-a[1], [(a[1]-b[1], 'what it loses: a positive number'), (b[1], 'the KL it ends at, not what it loses')], tol=1e-6, name='loses')

# %% wrong
wrong_ex30cc = [(lambda w: (6, 2, 6, 0.1), 'on both sides'), (lambda w: (18, 2, 6, 0.1), 'not how many more'), (lambda w: (0, 8, 6, 0.1), 'every slack is good'), (lambda w: (0, 4, 6, 0.1), 'in one block'), (lambda w: (0, 0, 6, 0.1), 'slack: a larger one finds'), (lambda w: (0, 0.5, 6, 0.1), 'than the default'),
    (lambda w: (0, 2, -6, 0.1), 'saves: what it saves'), (lambda w: (0, 2, 18, 0.1), 'not what it saves'), (lambda w: (0, 2, 6, ex30cc(w)[3]*-1), 'loses: what it loses'), (lambda w: (0, 2, 6, w(4, 0.5)[1]), 'the KL it ends at')]

# %% why
# On the notebook's toy costs add up, so no block is in doubt: both ask for 18 candidates. With a pair that stands in for each other a block holds both: its KL rises by 0.7 where the two single costs say 0.2. Up to slack 2 that is noticed (24 candidates, KL 1.5), at 4 it passes (18 candidates, KL 1.6). The default of 0.5 errs on the careful side.
