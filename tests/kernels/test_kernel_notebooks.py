"The notebooks that run their kernels in Triton's interpreter"
import pytest
from test_notebooks import CFG, INTERPRETED, run_nb


@pytest.mark.parametrize('nb', INTERPRETED, ids=lambda p: p.stem)
def test_notebook(nb):
    ok, _ = run_nb(nb, skip_flags=CFG.tst_flags.split(), basepath=CFG.config_path)
    assert ok
