"Each notebook is one test, run by nbdev's own executor"
import os
from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_nb

CFG = get_config(path=Path(__file__).parent.parent)
NBS = sorted(p for p in CFG.nbs_path.rglob('*.ipynb') if p.name[0] not in '_.' and not {'exercises', '.ipynb_checkpoints'} & set(p.parts))
INTERPRETED = [p for p in NBS if "os.environ['TRITON_INTERPRET'] = '1'" in p.read_text() or "os.environ.setdefault('TRITON_INTERPRET'" in p.read_text()]


@pytest.mark.parametrize('nb', [p for p in NBS if p not in INTERPRETED], ids=lambda p: p.stem)
def test_notebook(nb):
    "Those that run Triton in the interpreter are in tests/kernels, a process of its own"
    before = os.environ.get('TRITON_INTERPRET')
    ok, _ = run_nb(nb, skip_flags=CFG.tst_flags.split(), basepath=CFG.config_path)
    assert ok and os.environ.get('TRITON_INTERPRET') == before
