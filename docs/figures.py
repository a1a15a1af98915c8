"Draw the start page's figure, the site's icon and the README's figure, from bench/run.json: `python docs/figures.py` -> docs/hybrid.svg, docs/favicon.svg, docs/recall.png"
import json
from pathlib import Path

SOFT, LINEAR, INK, PAPER = '#d95f02', '#1b6ca8', '#1a1a1a', '#ffffff'
LAYERS, KEPT = 8, (1, 6)


def text(x, y, words, size=19, anchor='middle', weight='normal', fill=INK):
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">{words}</text>'

def layer(x, y, soft, w=130, h=26):
    "One layer: a growing row of keys, or one square of state"
    colour = SOFT if soft else LINEAR
    inside = ''.join(f'<rect x="{x+10+13*i}" y="{y+8}" width="9" height="10" fill="{PAPER}"/>' for i in range(9)) if soft else f'<rect x="{x+w/2-7}" y="{y+6}" width="14" height="14" fill="{PAPER}"/>'
    return f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="5" fill="{colour}"/>{inside}'

def stack(x, soft):
    return ''.join(layer(x, 80+34*(LAYERS-1-i), i in soft) for i in range(LAYERS))

def arrow(x0, x1, y, above, below):
    line = f'<path d="M{x0} {y} H{x1-9}" stroke="{INK}" stroke-width="2.5" fill="none"/><path d="M{x1} {y} l-12 -6 v12 z" fill="{INK}"/>'
    return line+text((x0+x1)/2, y-14, above, weight='bold')+''.join(text((x0+x1)/2, y+26+21*i, w, 17) for i, w in enumerate(below))

def figure()->str:
    "The whole picture"
    parts = [stack(20, range(LAYERS)), stack(325, ()), stack(630, KEPT)]
    parts += [text(85, 40, 'teacher', 22, weight='bold'), text(390, 40, 'linear student', 22, weight='bold'), text(695, 40, 'hybrid', 22, weight='bold')]
    parts += [arrow(162, 313, 190, 'align', ('each layer learns', 'its teacher’s', 'answer')), arrow(467, 618, 190, 'score, distil', ('softmax stays where', 'losing it costs', 'the most KL'))]
    parts += [layer(90, 385, True), text(235, 404, 'softmax: a key and a value for every token', anchor='start')]
    parts += [layer(90, 423, False), text(235, 442, 'linear: one state, however long the text', anchor='start')]
    title = 'From a softmax teacher through an aligned linear student to a hybrid that keeps two softmax layers'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 470" role="img" aria-label="{title}" font-family="Helvetica, Arial, sans-serif">'
            f'<title>{title}</title><rect width="780" height="470" rx="10" fill="{PAPER}"/>'+'\n'.join(parts)+'</svg>\n')

def icon()->str:
    "Three layers, one of them softmax"
    bars = ''.join(f'<rect x="3" y="{4+9*i}" width="26" height="6" rx="2" fill="{SOFT if i == 1 else LINEAR}"/>' for i in range(3))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><title>hybrid_tutorial</title>{bars}</svg>\n'


def recall(file:Path):
    "Recall loss of the demo's four models"
    import matplotlib.pyplot as plt
    run = json.loads((Path(__file__).parent.parent/'bench'/'run.json').read_text())
    kept = len(run['scores']['keep']['kl'])
    names = {'teacher': 'teacher', 'all-linear': 'all linear', 'uniform': f'{kept} softmax layers, uniform', 'kl': f'{kept} softmax layers, by KL'}
    loss = [run['models'][n]['sets']['echo']['recall']['loss'] for n in names]
    fig, ax = plt.subplots(figsize=(7, 2.6), dpi=100, layout='constrained')
    ax.barh(list(names.values()), [v['value'] for v in loss], color=['tab:gray', 'tab:orange', 'tab:purple', 'tab:blue'])
    for i, v in enumerate(loss):
        ax.errorbar(v['value'], i, xerr=[[v['value']-v['low']], [v['high']-v['value']]], color='black', capsize=4)
        ax.text(v['high']+0.07, i, f"{v['value']:.2f}", va='center')
    ax.invert_yaxis(); ax.set(xlim=(0, 4.6), xlabel='loss on what can only be recalled (nats/token, 95 % interval)', title='Which layers stay softmax decides what is recalled')
    fig.savefig(file)

if __name__ == '__main__':
    for name, drawing in (('hybrid', figure()), ('favicon', icon())): (Path(__file__).parent/f'{name}.svg').write_text(drawing, encoding='utf-8')
    recall(Path(__file__).parent/'recall.png')
