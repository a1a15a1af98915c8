__version__ = "0.1.0"

from importlib import import_module as _import_module

from .models.hybrid import HybridConfig, HybridForCausalLM, build_hybrid, build_student, load_hybrid  # registers the Auto classes

# Public names and where they live; imported on first use, so that `import hybrid_tutorial` stays quick
_LAZY = dict(
    load_teacher='models.teachers', load_corpus='data', held_out='data', align='training.align', calibrate='training.align',
    distill='training.logits', TeacherStates='training.logits', cache_teacher='training.cached', CachedTeacher='training.cached', finetune='training.finetune', score_layers='selection.scores',
    Scores='selection.scores', choose_layers='selection.choose', uniform_layers='selection.baselines', random_layers='selection.baselines',
    kl_curve='selection.sets', cache_cost='selection.choose', time_cost='selection.choose', knee='selection.choose', agreement='selection.agreement',
    published_sets='selection.agreement', build_elastic='models.elastic', kept_layers='models.elastic', distill_elastic='training.elastic', study='selection.study',
    evaluate='evaluation.suite', Recipe='recipe', run='recipe', make_plan='plan', write_report='report',
)
__all__ = ['HybridConfig', 'HybridForCausalLM', 'build_hybrid', 'build_student', 'load_hybrid', *_LAZY]


def __getattr__(name):
    if name in _LAZY: return getattr(_import_module(f'.{_LAZY[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__(): return sorted([*globals(), *_LAZY])
