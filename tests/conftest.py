"Settings that all tests share"
import os
import sys
from pathlib import Path

os.environ.setdefault('IN_TEST', '1')
os.environ.setdefault('HYBRID_TUTORIAL_DTYPE', 'float32')  # tolerances are float32's on every CPU; bfloat16 is asked for where it is tested
os.environ.setdefault('HF_HUB_DISABLE_PROGRESS_BARS', '1')
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_for_small_tensors(request):
    "The tests of operators and selectors use tiny tensors: one thread is quicker, and the others keep theirs"
    before = torch.get_num_threads()
    if request.module.__name__.startswith(('test_ops', 'test_selection_methods', 'test_study')): torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
