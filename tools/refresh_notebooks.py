"Run notebooks in place and store their outputs: `python tools/refresh_notebooks.py nbs/04_delta.ipynb ...` (all if none is named)"
import os, re, sys, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient

os.environ.setdefault('HF_HUB_DISABLE_PROGRESS_BARS', '1')
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
os.environ.setdefault('PYTHONWARNINGS', 'ignore:IProgress not found')
ROOT = Path(__file__).resolve().parent.parent
SKIP = re.compile(r'^#\|\s*(eval:\s*false|cuda)\b', re.M)   # `slow` cells do run here


def refresh(path:Path):
    "Execute every cell that can run on this machine; keep the stored outputs of the others"
    nb = nbformat.read(path, as_version=4)
    run = nbformat.from_dict({**nb, 'cells': [c for c in nb.cells if not (c.cell_type == 'code' and SKIP.search(c.source))]})
    start = time.time()
    NotebookClient(run, timeout=1200, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    done = {c.id: c for c in run.cells}
    for c in nb.cells:
        if c.cell_type == 'code' and c.id in done: c.outputs, c.execution_count = done[c.id].outputs, None
    nbformat.write(nb, path)
    print(f'{path.relative_to(ROOT)}: {time.time()-start:.1f} s', flush=True)


if __name__ == '__main__':
    paths = [Path(p).resolve() for p in sys.argv[1:]] or sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if p.name[0] not in '_.')
    for p in paths: refresh(p)
