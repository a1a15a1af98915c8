"These tests run kernels in the interpreter: run this folder as a process of its own"
import os
os.environ['TRITON_INTERPRET'] = '1'
