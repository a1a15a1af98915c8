"Package metadata comes from settings.ini; edit it there"
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
c = cfg['DEFAULT']
gpu, tasks, dev, docs = (c[k].split() for k in ('gpu_requirements', 'eval_requirements', 'dev_requirements', 'docs_requirements'))
readme = Path('README.md')
setup(
    name=c['lib_name'], version=c['version'], description=c['description'], author=c['author'],
    license='Apache-2.0', url=c['git_url'], keywords=c['keywords'].split(),
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    packages=find_packages(include=[c['lib_path'], c['lib_path'] + '.*']),
    package_data={c['lib_path']: ['py.typed', '*.pyi', '**/*.json']},
    python_requires='>=' + c['min_python'], install_requires=c['requirements'].split(),
    extras_require={'gpu': gpu, 'eval': tasks, 'dev': gpu + tasks + dev, 'docs': docs + tasks + dev},
    entry_points={'console_scripts': c['console_scripts'].split(),
                  'nbdev': [f"{c['lib_path']}={c['lib_path']}._modidx:d"]},
)
