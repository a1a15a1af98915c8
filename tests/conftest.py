"Settings that all tests share"
import os
import sys
from pathlib import Path

os.environ.setdefault('IN_TEST', '1')
os.environ.setdefault('HF_HUB_DISABLE_PROGRESS_BARS', '1')
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
sys.path.insert(0, str(Path(__file__).parent))
