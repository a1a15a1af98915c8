"How good is a model: language, recall, speed and memory"
from hybrid_tutorial.evaluation.suite import evaluate
