"These tests run kernels in the interpreter: run this folder as a process of its own"
import os
import sys

if 'triton' in sys.modules and os.environ.get('TRITON_INTERPRET') != '1':
    raise RuntimeError("triton was imported before the interpreter was switched on; run `pytest tests/kernels` alone")
os.environ['TRITON_INTERPRET'] = '1'
os.environ.setdefault('OMP_NUM_THREADS', '1')
