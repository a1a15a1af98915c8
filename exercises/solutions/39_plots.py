# %% setup
import math
import matplotlib.pyplot as plt
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.plots import LOOKS, new_axes, plot_layers

# %% 1a compute (1 s)
# A printer makes of a colour the grey $0.299 R + 0.587 G + 0.114 B$, 0 to 255. Return three things: the pair of models with the same line in `LOOKS`, what tells these two apart (`"linestyle"` or `"marker"`), and the pair whose greys are closest. Pairs are tuples of keys of `LOOKS`, in alphabetical order.

# %% solution
def ex39a():
    "Pair with the same line; what tells it apart; pair with the closest greys"
    ### BEGIN SOLUTION
    return ('kl', 'teacher'), 'marker', ('all-linear', 'uniform')
    ### END SOLUTION

# %% check
def check_ex39a(f):
    got = f() or (None,)*3
    pairs = [(a, b) for a in sorted(LOOKS) for b in sorted(LOOKS) if a < b]
    grey = lambda n: sum(w*int(LOOKS[n]['color'][i:i+2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5)))
    plain = lambda n: sum(int(LOOKS[n]['color'][i:i+2], 16) for i in (1, 3, 5))/3
    same = next(p for p in pairs if LOOKS[p[0]]['linestyle'] == LOOKS[p[1]]['linestyle'])
    near = min(pairs, key=lambda p: abs(grey(p[0])-grey(p[1])))
    check_answer(got[0], same, [(same[::-1], 'in alphabetical order'), (('all-linear', 'uniform'), 'dashes and dots are two lines')], name='same line')
    check_answer(got[1], 'marker', [('linestyle', 'both have the same line'), ('color', 'there is no colour')], name='told apart by')
    return check_answer(got[2], near, [(near[::-1], 'in alphabetical order'), (same, 'black is 0, and this blue is 87'), (('kl', 'uniform'), 'the eye takes green for brighter than blue: weigh the three') if min(pairs, key=lambda p: abs(plain(p[0])-plain(p[1]))) != near else (('kl', 'uniform'), '87 and 122; there is a closer pair')], name='closest greys')

# %% wrong
wrong_ex39a = [(lambda: (('teacher', 'kl'), '', 0), 'same line: in alphabetical'), (lambda: (('all-linear', 'uniform'), '', 0), 'two lines'), (lambda: (('kl', 'teacher'), 'linestyle', 0), 'the same line'), (lambda: (('kl', 'teacher'), 'color', 0), 'no colour'), (lambda: (('kl', 'teacher'), 'marker', ('uniform', 'all-linear')), 'greys: in alphabetical'), (lambda: (('kl', 'teacher'), 'marker', ('kl', 'teacher')), 'this blue'), (lambda: (('kl', 'teacher'), 'marker', ('kl', 'uniform')), 'closest greys: ')]

# %% why
# The greys are 0, 87, 122 and 139: orange and grey, far apart on a screen, come out of the printer alike, and dashes and squares must tell them from dots and triangles. Teacher and hybrid share the full line; black against 87 and the marker do it. So each pair differs in at least two of three ways.

# %% 2b implement (1 s)
# `a` and `b` are dicts with `"tokens"` and `"loss"`, as `plot_curves` takes them; they may have been measured at different tokens, and only those that both have are drawn. Return the figure (from `new_axes`): one line of a/b over tokens, and a horizontal line at 1 in a grey of `"#999999"`, on one axis.

# %% solution
def ex39b(a, b):
    "Ratio of two curves, with a grey line at 1"
    ### BEGIN SOLUTION
    fig, ax = new_axes()
    other = dict(zip(b['tokens'], b['loss']))
    both = [(t, l/other[t]) for t, l in zip(a['tokens'], a['loss']) if t in other]
    ax.axhline(1, color='#999999', lw=1)
    ax.plot([t for t, _ in both], [r for _, r in both])
    ax.set(xlabel='training tokens', ylabel='ratio of losses')
    return fig
    ### END SOLUTION

# %% check
def check_ex39b(f):
    a, b = dict(tokens=[100, 200, 300, 400], loss=[4., 3., 2.4, 2.]), dict(tokens=[100, 300, 400, 500], loss=[5., 3., 2.5, 2.])
    fig = f(dict(a), dict(b))
    if fig is None or not hasattr(fig, 'axes'): raise AssertionError('answer: a figure is to be returned')
    try:
        if len(fig.axes) != 1: raise AssertionError(f'answer: one shared axis, not {len(fig.axes)}')
        lines = [([float(x) for x in l.get_xdata()], [float(y) for y in l.get_ydata()], l.get_color()) for l in fig.axes[0].lines]
        flat = [l for l in lines if set(l[1]) == {1.}]
        if not flat: raise AssertionError('answer: a horizontal line at 1 is missing; without it nobody sees where the two are equal')
        if flat[0][2] != '#999999': raise AssertionError('answer: the line at 1 is a help, in grey "#999999"')
        rest = [l for l in lines if l not in flat]
        if len(rest) != 1: raise AssertionError(f'answer: one curve, the ratio; there are {len(rest)}')
        x, y = rest[0][:2]
        check_answer(x, [100., 300., 400.], [([0., 1., 2.], 'over tokens, not over the number of the point'), ([100., 200., 300., 400.], 'b has no value at 200: only tokens that both have')], name='tokens')
        check_answer(y, [0.8, 0.8, 0.8], [([1.25]*3, 'a over b, not b over a'), ([0.8, 1., 0.96], 'matched point by point; match them by tokens'), ([-1., -0.6, -0.5], 'a ratio, not a difference')], name='ratio')
        if not (fig.axes[0].get_xlabel() and fig.axes[0].get_ylabel()): raise AssertionError('answer: both axes are named')
    finally: plt.close(fig)
    return 'ex39b: right'

# %% wrong
def draw_ex39b(ratio=lambda x, y: x/y, one=True, color='#999999', index=False, twin=False, every=False, name='x'):
    def f(a, b):
        fig, ax = new_axes(); other = dict(zip(b['tokens'], b['loss']))
        both = [(t, ratio(l, other.get(t, 1.))) for t, l in zip(a['tokens'], a['loss']) if t in other or every]
        if one: ax.axhline(1, color=color)
        ax.plot(range(len(both)) if index else [t for t, _ in both], [r for _, r in both]); ax.set(xlabel=name, ylabel=name)
        if twin: ax.twinx()
        return fig
    return f
wrong_ex39b = [(draw_ex39b(lambda x, y: y/x), 'not b over a'), (draw_ex39b(lambda x, y: x-y), 'not a difference'), (draw_ex39b(one=False), 'is missing'), (draw_ex39b(color='red'), 'is a help'), (draw_ex39b(index=True), 'number of the point'), (draw_ex39b(twin=True), 'one shared axis'), (draw_ex39b(every=True), 'no value at 200'), (draw_ex39b(name=''), 'are named')]

# %% why
# Two curves that fall together hide their ratio: 4.0 to 2.0 beside 5.0 to 2.5 look as if they came closer, and the ratio is 0.8 all the way. Matched point by point, where the two were logged at different tokens, the same data say 0.8, 1.0, 0.96 and 1.0.

# %% 3c explore (2 s)
# `heights(low)` draws thirty scores from 0.0001 to 1, evenly spaced on a logarithmic scale, with `plot_layers` and returns the heights of the bars as a share of the axis: linear from 0 with `low=None`, logarithmic from `low` otherwise. Return three numbers: how many bars are lower than 5 % of the axis on the linear one, and how many times as high the highest bar is as bar 14 (counted from 0) with `low=1e-5` and with `low=1e-8`.

# %% solution
def ex39c(heights):
    "Bars that vanish; the ratio of two bars on two logarithmic axes"
    ### BEGIN SOLUTION
    times = lambda low: max(heights(low))/heights(low)[14]
    return sum(h < 0.05 for h in heights(None)), times(1e-5), times(1e-8)
    ### END SOLUTION

# %% check
def scores_ex39c(): return [10**(-4+4*i/29) for i in range(30)]

def heights_ex39c(low=None, kept={}):
    if low in kept: return list(kept[low])
    fig = plot_layers(scores_ex39c(), ylabel='made-up score')
    ax = fig.axes[0]
    ax.set_ylim(0, 1)
    if low: ax.set_yscale('log'); ax.set_ylim(low, 1)
    at = lambda v: float(ax.transAxes.inverted().transform(ax.transData.transform((0, v)))[1])
    kept[low] = [at(p.get_height())-at(low or 0) for p in ax.patches]
    plt.close(fig)
    return list(kept[low])

def check_ex39c(f):
    few, five, eight = f(heights_ex39c) or (None,)*3
    x, want = scores_ex39c(), lambda low: math.log(1/low)/math.log(scores_ex39c()[14]/low)
    small = sum(v < 0.05 for v in x)
    check_answer(few, small, [(30-small, 'these are the ones that can be seen'), (0, 'on the linear axis: `low=None`')], name='vanish')
    check_answer(five, want(1e-5), [(1/x[14], 'this is the ratio of the scores; measure the bars'), (1/want(1e-5), 'the highest over bar 14'), (want(1e-8), 'this is low=1e-8')], tol=1e-4, name='from 1e-5')
    return check_answer(eight, want(1e-8), [(want(1e-5), 'the same bars on an axis that begins elsewhere'), (1/want(1e-8), 'the highest over bar 14'), (1/x[14], 'measure the bars')], tol=1e-4, name='from 1e-8')

# %% wrong
wrong_ex39c = [(lambda h: (30-ex39c(h)[0], 0, 0), 'can be seen'), (lambda h: (0, 0, 0), '`low=None`'), (lambda h: (ex39c(h)[0], 1/10**(-4+4*14/29), 0), 'ratio of the scores'), (lambda h: (ex39c(h)[0], 1/ex39c(h)[1], 0), '1e-5: the highest'), (lambda h: (ex39c(h)[0], ex39c(h)[2], 0), 'this is low=1e-8'), (lambda h: (*ex39c(h)[:2], ex39c(h)[1]), 'begins elsewhere'), (lambda h: (*ex39c(h)[:2], 1/ex39c(h)[2]), '1e-8: the highest'),
    (lambda h: (*ex39c(h)[:2], 1/10**(-4+4*14/29)), '1e-8: measure')]

# %% why
# On the linear axis 20 of 30 bars are less than a twentieth high. On the logarithmic one the highest score, 117 times bar 14, looks 1.7 times as high, or 1.3 times if the axis begins at $10^{-8}$: a bar is read by its length from zero, and such an axis has no zero, so its length is whatever we choose. Draw points there, or bars of logarithms of ratios, which do have a zero.
