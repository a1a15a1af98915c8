# %% setup
import copy, functools, torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.models.elastic import build_elastic
from hybrid_tutorial.models.hybrid import HybridForCausalLM, build_student

def toy(layers=4, keep=(), **settings):
    "A random elastic hybrid"
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=layers, intermediate_size=48)).eval().requires_grad_(False)
    for p in teacher.parameters(): p.normal_(0, 0.25).add_(1. if p.dim() == 1 else 0.)
    return build_elastic(build_student(teacher, settings=settings, verbose=False), teacher, keep)

# %% 1a compute (1 s)
# The second form is the mixer, with all 9 heads in each projection. Return the parameters that it adds to one layer, and by what share a layer (attention and the three matrices of its MLP) grows. Norms, decays and other small things are left out.

# %% solution
def ex14ba():
    "Parameters of the second form of a layer; as a share of the layer"
    ### BEGIN SOLUTION
    D, G = 576, 192
    return 5*D*D, 5*D*D/(2*D*D+2*D*G+3*D*1536)
    ### END SOLUTION

# %% check
def check_ex14ba(f):
    with torch.device('meta'):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=576, num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=1, intermediate_size=1536))
        gate = nn.Linear(576, 576, bias=False)
    layer, size = model.model.layers[0], lambda m: sum(p.numel() for p in m.parameters() if p.dim() == 2)
    mixer, attn, mlp = 5*size(gate), size(layer.self_attn), size(layer.mlp)
    more, share = f() or (None, None)
    check_answer(more, mixer, [(4*576**2, 'the gate is a fifth projection'), (attn, 'this is the softmax form; the mixer has all 9 heads of keys and values, and a gate'), (attn+576**2, 'keys and values of the mixer have 9 heads, not 3'), (30*mixer, 'this is all 30 layers')], name='parameters')
    return check_answer(share, mixer/(attn+mlp), [(mixer/(attn+mlp+mixer), 'of the layer as it was, not as it is with both'), (mixer/attn, 'the MLP belongs to the layer'), (mixer/mlp, 'attention belongs to the layer, and a Llama\'s MLP has three matrices'), (mixer/(4*576**2+mlp), 'the teacher has 3 heads of keys and values')], tol=1e-3, name='share')

# %% wrong
wrong_ex14ba = [(lambda: (4*576**2, 0), 'a fifth projection'), (lambda: (884736, 0), 'this is the softmax form'), (lambda: (1216512, 0), '9 heads, not 3'), (lambda: (150*576**2, 0), 'all 30 layers'), (lambda: (1658880, 1658880/5197824), 'as it was'), (lambda: (1658880, 1.875), 'MLP belongs'),
    (lambda: (1658880, 0.625), 'attention belongs'), (lambda: (1658880, 1658880/(4*576**2+2654208)), 'the teacher has 3')]

# %% why
# 1,658,880 numbers, 47 % of a layer's 3,538,944. The text's rule of thumb, $4D^2$ of $16D^2$, is a quarter; here it is twice that, because grouped heads make the teacher's attention small, the gate is a fifth matrix, and the MLP is narrow. It is a matter of storage: the idle form costs no time.

# %% 2b implement (1 s)
# `hybrid` is elastic. Return a plain model of its present setting, which a loader can build from its `config` and fill from its `state_dict()`. The elastic one must stay as it is.

# %% solution
def ex14bb(hybrid):
    "The present setting as a plain hybrid"
    ### BEGIN SOLUTION
    plain = copy.deepcopy(hybrid)
    del plain.idle
    plain.config.elastic = False
    return plain
    ### END SOLUTION

# %% check
@torch.no_grad()
def check_ex14bb(f):
    for keep in ([1], [0, 2, 3]):
        hybrid, ids = toy(4, keep, window=4), torch.arange(24)[None]
        want, before = hybrid(ids, use_cache=False).logits, set(hybrid.state_dict())
        plain = f(hybrid)
        if plain is None: raise AssertionError('answer: nothing was returned')
        if plain is hybrid or set(hybrid.state_dict()) != before or not hybrid.config.elastic: raise AssertionError('the elastic model was changed; work on a copy (its config too)')
        idle = [n for n in plain.state_dict() if n.startswith('idle.')]
        if idle: raise AssertionError(f'{len(idle)} idle tensors are still there')
        if plain.config.elastic: raise AssertionError('config.elastic still says that both forms are there: a loader would look for the idle ones')
        if plain.config.keep != keep: raise AssertionError(f'layers {plain.config.keep} are softmax, wanted the present setting {keep}')
        if not torch.equal(plain(ids, use_cache=False).logits, want): raise AssertionError('its logits differ from those of the elastic model')
        fresh = HybridForCausalLM(copy.deepcopy(plain.config)).eval()
        try: fresh.load_state_dict(plain.state_dict())
        except RuntimeError as e: raise AssertionError(f'a fresh model of this config does not take these weights: {str(e).splitlines()[1].strip()[:90]}')
        if not torch.equal(fresh(ids, use_cache=False).logits, want): raise AssertionError('loaded again, it gives other logits')
    return 'ex14bb: right'

# %% wrong
def in_place_ex14bb(hybrid):
    del hybrid.idle
    hybrid.config.elastic = False
    return hybrid
def copied_ex14bb(hybrid, drop=True, flag=True, keep=None):
    plain = copy.deepcopy(hybrid)
    if keep is not None: plain.set_kept_layers(keep)
    if drop: del plain.idle
    if flag: plain.config.elastic = False
    return plain
def swapped_ex14bb(hybrid):
    plain = copy.deepcopy(hybrid)
    for i, layer in enumerate(plain.model.layers): layer.self_attn = plain.idle[str(i)]      # the wrong form of every layer
    return in_place_ex14bb(plain)
wrong_ex14bb = [(in_place_ex14bb, 'work on a copy'), (lambda h: copied_ex14bb(h, drop=False), 'idle tensors'), (lambda h: copied_ex14bb(h, flag=False), 'still says'), (lambda h: copied_ex14bb(h, keep=[]), 'present setting'), (swapped_ex14bb, 'its logits differ')]

# %% why
# The present setting is already plugged in; what goes is the other half and the promise of it in the config. A plain checkpoint is smaller by all idle forms, and can no longer be switched.

# %% 3c explore (1 s)
# In small: a toy of 8 layers that has read a prompt with `[1, 3, 4, 6]` as softmax layers. Now it answers with *one* of the four. `inputs(keep)` gives what the attention of each layer reads of the prompt, a list of tensors. What a layer has in its cache is still good if it reads the same and has the same form. Return the one to keep so that fewest layers have to read the prompt again, and how many these are.

# %% solution
def ex14bc(inputs):
    "Layer to keep; layers that must read the prompt again"
    ### BEGIN SOLUTION
    was, many = [1, 3, 4, 6], inputs([1, 3, 4, 6])
    def again(keep):
        return sum(not torch.equal(a, b) or (i in was) != (i == keep) for i, (a, b) in enumerate(zip(inputs([keep]), many)))
    best = min(was, key=again)
    return best, again(best)
    ### END SOLUTION

# %% check
@functools.cache
def model_ex14bc(): return toy(8, window=0)

@torch.no_grad()
def inputs_ex14bc(keep):
    model, seen = model_ex14bc().set_kept_layers(list(keep)), {}
    hooks = [l.input_layernorm.register_forward_hook(lambda m, x, y, i=i: seen.update({i: y})) for i, l in enumerate(model.model.layers)]
    model(torch.arange(40)[None] % 50, use_cache=False)
    for h in hooks: h.remove()
    return [seen[i] for i in range(8)]

def check_ex14bc(f):
    was = {1, 3, 4, 6}
    first = {k: min(was-{k}) for k in was}         # from the first layer of another form on, everything differs
    best = max(first, key=first.get)
    layer, n = f(inputs_ex14bc) or (None, None)
    check_answer(layer, best, [(6, 'the last one keeps its form, but layer 1 before it has changed, and all that follows'), (3, 'layer 1 changes its form then, and all layers from there on read something else'), (4, 'layer 1 is the first that would change')], name='layer')
    return check_answer(n, 8-first[best], [(8-first[best]-1, 'layer 3 reads the same as before, but needs a state where it has keys'), (3, 'the three that change their form, and all behind the first of them'), (8, 'the layers before the first change keep what they have'), (7, 'layers 0, 1 and 2 read the same and have the same form')], name='again')

# %% wrong
wrong_ex14bc = [(lambda inputs: (6, 7), 'the last one'), (lambda inputs: (3, 7), 'changes its form then'), (lambda inputs: (4, 7), 'is the first that'), (lambda inputs: (1, sum(not torch.equal(a, b) for a, b in zip(inputs([1]), inputs([1, 3, 4, 6])))), 'reads the same as before'),
    (lambda inputs: (1, 3), 'three that change'), (lambda inputs: (1, 8), 'keep what they have'), (lambda inputs: (1, 7), '0, 1 and 2')]

# %% why
# Keep layer 1: layers 0 to 2 have what they need, 3 to 7 must read the prompt again, 5 of 8. With any other choice it is 7. Layer 3 is the trap: its input is the same to the last bit, but keys are no state. So a plan to switch in the middle of a text is cheap only if it drops *late* layers, whatever a ranking says.
