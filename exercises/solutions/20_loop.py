# %% setup
import functools, math, torch, torch.nn.functional as F
from torch import nn
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.training.loop import SCHEDULES, learning_rate, pieces, random_state, set_random_state

# %% 1a compute (1 s)
# Return the share of the peak at step 155 and at step 0.

# %% solution
def ex20a():
    "Share of the peak rate at step 155, and at step 0"
    ### BEGIN SOLUTION
    return 0.5*(1+math.cos(math.pi*(155-10)/(300-10))), 1/11
    ### END SOLUTION

# %% check
def check_ex20a(f):
    mid, first = f() or (None, None)
    half = lambda x: 0.5*(1+math.cos(math.pi*x))
    check_answer(mid, learning_rate(155, 300, 1., 'cosine', 10), [(half(155/300), 'the cosine begins after the warm-up, at step 10'), (half(145/300), 'the cosine has 290 steps, not 300'), (1-145/290*0.9, 'the cosine falls to 0')], name='step 155')
    return check_answer(first, learning_rate(0, 300, 1., 'cosine', 10), [(0, 'a first step of rate 0 would change nothing'), (1/10, 'the tenth step of warm-up is not at the peak yet, so it rises by elevenths'), (1, 'the warm-up comes first')], name='step 0')

# %% wrong
wrong_ex20a = [(lambda: (0.5*(1+math.cos(math.pi*155/300)), 0), 'begins after'), (lambda: (0.5*(1+math.cos(math.pi*145/300)), 0), 'not 300'), (lambda: (0.55, 0), 'falls to 0'), (lambda: (0.5, 0), 'change nothing'), (lambda: (0.5, 0.1), 'elevenths'), (lambda: (0.5, 1), 'comes first')]

# %% why
# Step 155 is the middle of the 290 steps after the warm-up, so the cosine stands at one half. Step 0 gets 1/11, and step 10 is the first at the peak: no step is without a rate, and none has it twice.

# %% 2b implement (1 s)
# A schedule is a function from the share of the run that is done to a factor. It falls to 10 % at 1, and stays there if a run goes on.

# %% solution
def ex20b(x):
    "Linearly from 1 to 0.1"
    ### BEGIN SOLUTION
    return 1-0.9*min(x, 1.)
    ### END SOLUTION

# %% check
def check_ex20b(f):
    if f(0.5) is None: raise AssertionError('answer: nothing was returned')
    SCHEDULES['ex20b'] = f
    try: rates = [learning_rate(s, 200, 2e-3, 'ex20b', 20) for s in range(200)]
    finally: del SCHEDULES['ex20b']
    straight = lambda s, end=0.1: 2e-3*(1-(1-end)*(s-20)/180)
    end, mid = rates[-1]/2e-3, rates[110]/2e-3
    check_answer(rates[20], 2e-3, [(2e-4, 'at the start of the fall the factor is 1, not 0.1'), (4e-6, 'a factor, not the rate')], name='right after the warm-up')
    check_answer(mid, 0.55, [(0.5, 'it ends at 0.1, not at 0'), (0.1+0.9*0.5*(1+math.cos(math.pi*0.5))+1e-9, 'the middle is right')], name='half way')
    check_answer(rates[65]/2e-3, straight(65)/2e-3, [(0.1+0.9*0.5*(1+math.cos(math.pi*0.25)), 'this is a cosine to 0.1; a straight line is wanted'), (0.1**0.25, 'this is a constant factor per step, straight on a log axis')], name='a quarter')
    if abs(end-0.1) > 0.01: raise AssertionError(f'the last step has {end:.3f} of the peak, wanted close to 0.1')
    return check_answer(f(1.2), 0.1, [(1-0.9*1.2, 'past the end it goes on falling, and below 0 the loss would be climbed'), (0, 'past the end it stays at 0.1')], name='past the end')

# %% wrong
wrong_ex20b = [(lambda x: 0.1+0.9*x, 'not 0.1'), (lambda x: 2e-3*(1-0.9*x), 'not the rate'), (lambda x: 1-x, 'not at 0'), (lambda x: 0.1+0.9*0.5*(1+math.cos(math.pi*min(x, 1))), 'a straight line'), (lambda x: 1-0.9*x, 'goes on falling'), (lambda x: 1-0.9*x if x <= 1 else 0., 'stays at 0.1')]

# %% why
# `learning_rate` hands the share of the run after the warm-up to the schedule, so one line is enough. The last step has 10.5 % of the peak: a run of 180 steps ends at share 179/180. The lower end matters where `total_steps` was underestimated: a negative rate climbs.

# %% 3c explore (1 s)
# In small: a net with dropout, 40 steps, and `run(stop, restore)` gives the losses. With `stop=20` the run is ended there, something else uses the random generator, and the run goes on, with `restore` the generator's state first or not; `stop=None` is the run that nobody stopped. Return three numbers: the largest difference of the losses to the unstopped run with `restore=True`; the same with `restore=False`; and, for the latter, by how much the *means* of the last 20 losses differ, in units of the standard deviation of the unstopped run's last 20.

# %% solution
def ex20c(run):
    "Largest difference restored; not restored; difference of means in standard deviations"
    ### BEGIN SOLUTION
    whole, good, bad = (torch.tensor(run(*how)) for how in ((None, True), (20, True), (20, False)))
    return (good-whole).abs().max(), (bad-whole).abs().max(), (bad[20:].mean()-whole[20:].mean()).abs()/whole[20:].std()
    ### END SOLUTION

# %% check
@functools.cache
def run_ex20c(stop, restore):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 1))
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(40, 32, 8, generator=gen); y = x[..., :1]*x[..., 1:2]
    opt, out = torch.optim.AdamW(net.parameters(), lr=1e-3), []
    for step in range(40):
        if step == stop:
            saved = random_state()
            torch.rand(1000)
            if restore: set_random_state(saved)
        loss = F.mse_loss(net(x[step]), y[step])
        opt.zero_grad(); loss.backward(); opt.step()
        out.append(loss.item())
    return tuple(out)

def check_ex20c(f):
    whole, good, bad = (torch.tensor(run_ex20c(*how), dtype=torch.float64) for how in ((None, True), (20, True), (20, False)))
    got = f(run_ex20c)
    if got is None: raise AssertionError('answer: nothing was returned')
    a, b, c = got
    if float(a) > 1e-6: raise AssertionError('restored: not a single bit may differ; is restore=True, and the unstopped run the other one?')
    gap, move = (bad-whole).abs().max(), (bad[20:].mean()-whole[20:].mean()).abs()
    check_answer(b, gap, [((good-whole).abs().max(), 'this is with restore=True'), ((bad-whole).abs().mean(), 'the largest, not the mean'), ((bad-whole).max(), 'the absolute difference')], tol=1e-4, name='not restored')
    return check_answer(c, move/whole[20:].std(), [(move, 'in units of the standard deviation'), ((bad.mean()-whole.mean()).abs()/whole[20:].std(), 'of the last 20 losses: the first 20 are the same'), ((bad-whole).abs().max()/whole[20:].std(), 'the means of the 20 losses, not the largest difference'), ((bad.mean()-whole.mean()).abs()/whole.std(), 'of the last 20 losses, both')], tol=1e-4, name='means')

# %% wrong
wrong_ex20c = [(lambda run: (ex20c(run)[1], 0, 0), 'not a single bit'), (lambda run: (0., 0., 0), 'with restore=True'), (lambda run: (0., (torch.tensor(run(20, False))-torch.tensor(run(None, True))).abs().mean(), 0), 'not the mean'),
    (lambda run: (*ex20c(run)[:2], (torch.tensor(run(20, False))[20:].mean()-torch.tensor(run(None, True))[20:].mean()).abs()), 'in units'), (lambda run: (*ex20c(run)[:2], ex20c(run)[1]/torch.tensor(run(None, True))[20:].std()), 'not the largest'),
    (lambda run: (*ex20c(run)[:2], ex20c(run)[2]/2), 'the first 20 are the same')]

# %% why
# 0, then 0.41 in single losses, but 0.06 standard deviations in the mean. Other masks are as good as the first ones, so the curve shows nothing; only a comparison with the run that nobody stopped does. That is why the test of a resume asks for equal bits, and not for curves that look alike.

# %% 4d implement (1 s)
# Find the bug. A batch is cut into pieces to save memory:
#
#     loss = sum(mean_loss(piece) for piece in pieces)/len(pieces)
#
# `masks` is a list of masks `(rows, T)`, one per piece: `mean_loss` of a piece is the mean over the tokens where it is True, 0 if there is none. Return the list of factors with which the pieces' losses must be added, so that the sum is the mean over all tokens that count.

# %% solution
def ex20d(masks):
    "Factor of each piece's mean loss"
    ### BEGIN SOLUTION
    counts = [int(m.sum()) for m in masks]
    return [c/max(sum(counts), 1) for c in counts]
    ### END SOLUTION

# %% check
def check_ex20d(f):
    gen = torch.Generator().manual_seed(0)
    for sizes in ((4, 4), (3, 2), (4, 4, 4)):
        mask = torch.rand(sum(sizes), 6, generator=gen) < 0.5
        if len(sizes) == 3: mask[4:8] = False
        masks = mask.split(list(sizes))
        batch = dict(input_ids=torch.zeros(mask.shape), mask=mask)
        count = lambda b: int(b['mask'].sum())
        n = [int(m.sum()) for m in masks]
        want = [c/sum(n) for c in n]
        if len(set(sizes)) == 1:                   # the loop's own cut, where it is into equal parts
            own = iter(p['share'] for p in pieces(batch, accumulate=len(sizes), count=count))
            want = [next(own) if c else 0. for c in n]
        rows, T = [len(m)/len(mask) for m in masks], 6
        got = f(list(masks))
        if got is None: raise AssertionError('answer: nothing was returned')
        if any(x != x for x in map(float, got)): raise AssertionError('a piece in which nothing counts gives NaN')
        check_answer([float(x) for x in got], want, [([1/len(sizes)]*len(sizes), 'this is the bug: a token in a piece with few of them would weigh more than others'), (rows, 'rows are not tokens: what the mask hides does not count'), ([float(c) for c in n], 'the factors are shares, they add up to 1'),
            ([c/m.numel() for c, m in zip(n, masks)], 'a share of all tokens that count, not of the piece\'s own tokens'), ([float(c > 0)/sum(c > 0 for c in n) for c in n], 'leaving out empty pieces is not enough')], name=f'{len(sizes)} pieces')
    return 'ex20d: right'

# %% wrong
wrong_ex20d = [(lambda masks: [1/len(masks)]*len(masks), 'this is the bug'), (lambda masks: [len(m)/sum(map(len, masks)) for m in masks] if len({len(m) for m in masks}) > 1 else ex20d(masks), 'rows are not tokens'), (lambda masks: [float(m.sum()) for m in masks], 'add up to 1'),
    (lambda masks: [float(m.float().mean()) for m in masks], 'own tokens'), (lambda masks: ex20d(masks) if all(m.any() for m in masks) else [float(m.any())/sum(bool(x.any()) for x in masks) for m in masks], 'is not enough'), (lambda masks: [float('nan')]*len(masks), 'gives NaN')]

# %% why
# A mean of means is the mean only if all pieces count as many tokens. In conversations they do not: with 2 and 20 answered tokens the two would weigh as much as the twenty. The loop's `pieces` carries the factor as `share`, so a gradient does not depend on how a batch was cut; with the bug the loss curve still looks as it should.
