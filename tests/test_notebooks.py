"Each notebook is one test, run by nbdev's own executor"
from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_nb

CFG = get_config(path=Path(__file__).parent.parent)
NBS = sorted(p for p in CFG.nbs_path.rglob('*.ipynb') if p.name[0] not in '_.' and not {'exercises', '.ipynb_checkpoints'} & set(p.parts))


@pytest.mark.parametrize('nb', NBS, ids=lambda p: p.stem)
def test_notebook(nb):
    ok, _ = run_nb(nb, skip_flags=CFG.tst_flags.split(), basepath=CFG.config_path)
    assert ok
