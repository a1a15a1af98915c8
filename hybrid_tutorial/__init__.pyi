# What type checkers and editors see: the names that `__init__.py` imports on first use. A test compares the two.
__version__: str
__all__: list[str]
from .models.hybrid import HybridConfig as HybridConfig, HybridForCausalLM as HybridForCausalLM, build_hybrid as build_hybrid, build_student as build_student, load_hybrid as load_hybrid
from .models.teachers import load_teacher as load_teacher
from .data import load_corpus as load_corpus, held_out as held_out
from .training.align import align as align, calibrate as calibrate
from .training.logits import distill as distill, TeacherStates as TeacherStates
from .training.finetune import finetune as finetune
from .selection.scores import score_layers as score_layers, Scores as Scores
from .selection.choose import choose_layers as choose_layers, cache_cost as cache_cost, time_cost as time_cost, knee as knee
from .selection.baselines import uniform_layers as uniform_layers, random_layers as random_layers
from .selection.sets import kl_curve as kl_curve
from .selection.agreement import agreement as agreement, published_sets as published_sets
from .models.elastic import build_elastic as build_elastic, kept_layers as kept_layers
from .training.elastic import distill_elastic as distill_elastic
from .selection.study import study as study
from .evaluation.suite import evaluate as evaluate
from .recipe import Recipe as Recipe, run as run
from .report import write_report as write_report
from .plan import make_plan as make_plan
from .training.cached import cache_teacher as cache_teacher
from .training.cached import CachedTeacher as CachedTeacher
