# %% setup
import contextlib, fnmatch, functools, hashlib, io, os, random, tarfile, tempfile, zipfile
from pathlib import Path
from hybrid_tutorial import fetch
from hybrid_tutorial.core import DataError, check_answer

# %% 1a compute (1 s)
# The package manager ends without an error and leaves 60 of 93 MB under the right name. Return what sees it (`"exit status"`, `"file name"`, `"size"` or `"checksum"`), the number of archives in the cache folder afterwards, and the same number if a *damaged* archive lay there before.

# %% solution
def ex09a():
    "What sees the cut; archives in the cache afterwards; with a damaged one before"
    ### BEGIN SOLUTION
    return 'checksum', 0, 1
    ### END SOLUTION

# %% check
def after_ex09a(before):
    "The error's text, and what lies in the cache after a download of 60 of 93 bytes"
    package = fetch.Package('some', '1.0', 'some-1.0.whl', hashlib.sha256(b'x'*93).hexdigest(), 93.)
    def cut(package, folder, error):
        path = Path(folder)/package.file
        path.write_bytes(b'x'*60)
        return path
    old, was = fetch._download, os.environ.get('HYBRID_TUTORIAL_CACHE')
    with tempfile.TemporaryDirectory() as home:
        os.environ['HYBRID_TUTORIAL_CACHE'], fetch._download = home, cut
        try:
            if before: (fetch.cache_dir('packages')/package.file).write_bytes(before)
            with contextlib.redirect_stdout(io.StringIO()): fetch.fetch_package(package)
        except DataError as e: return str(e), sum(p.is_file() and not p.name.startswith('.') for p in (Path(home)/'packages').iterdir())
        finally:
            fetch._download = old
            os.environ.pop('HYBRID_TUTORIAL_CACHE') if was is None else os.environ.update(HYBRID_TUTORIAL_CACHE=was)

def check_ex09a(f):
    said, fresh = after_ex09a(None)
    seen, new, again = f() or (None,)*3
    check_answer(seen, 'checksum' if 'sha256' in said else said, [('size', 'no size is compared: `mb` is for the message'), ('exit status', 'the package manager ended without an error'), ('file name', 'the name is right')], name='seen by')
    check_answer(new, fresh, [(1, 'the download lands in a folder of its own, and is moved only when its checksum is right')], name='archives')
    return check_answer(again, after_ex09a(b'y'*93)[1], [(0, 'the old file stays until a good one takes its place; every use compares it again, so it can do no harm'), (2, 'one name, one file')], name='with a damaged one')

# %% wrong
wrong_ex09a = [(lambda: ('size', 0, 1), 'for the message'), (lambda: ('exit status', 0, 1), 'without an error'), (lambda: ('file name', 0, 1), 'name is right'), (lambda: ('checksum', 1, 1), 'folder of its own'), (lambda: ('checksum', 0, 0), 'can do no harm'), (lambda: ('checksum', 0, 2), 'one file')]

# %% why
# The checksum, nothing, and the damaged file. One number sees every cut and every change, so no other check is needed; and since it is compared on *every* use, a bad file in the cache is never more than a reason to fetch again.

# %% 2b implement (1 s)
# Return a dict from name to size in bytes when unpacked, in name order, of the members that are files and match `pattern`; `archive` is a path, a zip (wheel) or a tar file. No member may be opened.

# %% solution
def ex09b(archive, pattern):
    "Names and sizes of an archive's members"
    ### BEGIN SOLUTION
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as z: found = {i.filename: i.file_size for i in z.infolist() if not i.is_dir()}
    else:
        with tarfile.open(archive) as t: found = {m.name: m.size for m in t.getmembers() if m.isfile()}
    return {n: found[n] for n in sorted(fnmatch.filter(found, pattern))}
    ### END SOLUTION

# %% check
FILES_EX09B = {'pack/b.txt': b'b'*5000, 'pack/a.txt': b'a'*300, 'pack/data/c.txt': b'c'*70, 'pack/readme.md': b'no'}

@contextlib.contextmanager
def archives_ex09b():
    with tempfile.TemporaryDirectory() as folder:
        zipped, tarred = Path(folder)/'a.whl', Path(folder)/'a.tgz'
        with zipfile.ZipFile(zipped, 'w', zipfile.ZIP_DEFLATED) as z, tarfile.open(tarred, 'w:gz') as t:
            z.writestr('pack/old.txt/', b'')
            entry = tarfile.TarInfo('pack/old.txt'); entry.type = tarfile.DIRTYPE; t.addfile(entry)
            for name, data in FILES_EX09B.items():
                z.writestr(name, data)
                entry = tarfile.TarInfo(name); entry.size = len(data); t.addfile(entry, io.BytesIO(data))
        yield zipped, tarred

def check_ex09b(f):
    def opened(*args, **kwargs): raise AssertionError('a member was opened; the directory of the archive knows the sizes')
    old = zipfile.ZipFile.open, tarfile.TarFile.extractfile
    with archives_ex09b() as paths:
        packed = {i.filename: i.compress_size for i in zipfile.ZipFile(paths[0]).infolist()}
        zipfile.ZipFile.open = tarfile.TarFile.extractfile = opened
        try:
            for path in paths:
                for pattern in ('*.txt', '*/data/*', 'pack/readme.md'):
                    got, want = f(path, pattern), {n: len(FILES_EX09B[n]) for n in sorted(FILES_EX09B) if fnmatch.fnmatch(n, pattern)}
                    if got is None: raise AssertionError('answer: nothing was returned')
                    if not isinstance(got, dict): raise AssertionError('answer: a dict from name to size')
                    if {'pack/old.txt', 'pack/old.txt/'} & set(got): raise AssertionError('pack/old.txt is a folder')
                    if set(got)-set(want): raise AssertionError(f'{pattern}: {sorted(set(got)-set(want))} do not match')
                    if set(want)-set(got): raise AssertionError(f'{path.name}: {sorted(set(want)-set(got))} match {pattern} too; a pattern goes through folders, as in read_members')
                    if got != want and all(got[n] == packed[n] for n in got): raise AssertionError('these are the packed sizes')
                    if got != want: raise AssertionError(f'sizes {got}, wanted {want}')
                    if list(got) != list(want): raise AssertionError('in name order')
        except (zipfile.BadZipFile, tarfile.TarError) as e: raise AssertionError(f'{path.name} is the other kind of archive: {e}')
        finally: zipfile.ZipFile.open, tarfile.TarFile.extractfile = old
    return 'ex09b: right'

# %% wrong
def zip_ex09b(archive, size=lambda i: i.file_size, keep=lambda i: not i.is_dir(), order=sorted, match=fnmatch.fnmatch, pattern='*.txt'):
    with zipfile.ZipFile(archive) as z: found = {i.filename: size(i) for i in z.infolist() if keep(i)}
    return {n: found[n] for n in order(found) if match(n, pattern)}
wrong_ex09b = [(lambda a, p: {n: len(b) for n, b in fetch.read_members(a, p).items()}, 'was opened'), (lambda a, p: zip_ex09b(a, pattern=p), 'other kind'), (lambda a, p: zip_ex09b(a, size=lambda i: i.compress_size, pattern=p), 'packed sizes'), (lambda a, p: zip_ex09b(a, match=lambda n, p: True, pattern=p), 'do not match'),
    (lambda a, p: zip_ex09b(a, keep=lambda i: True, match=lambda n, p: fnmatch.fnmatch(n.rstrip('/'), p), pattern=p), 'is a folder'), (lambda a, p: zip_ex09b(a, order=list, pattern=p), 'name order'), (lambda a, p: zip_ex09b(a, match=lambda n, p: fnmatch.fnmatch(n, p) and n.count('/') < 2, pattern=p), 'through folders'), (lambda a, p: list(ex09b(a, p)), 'a dict')]

# %% why
# A zip has its directory at the end, so listing reads a few kilobytes of any archive. A tar has none: its headers stand between the files, and a compressed one has to be unpacked to the end to find them. That is one reason why a wheel is a zip.

# %% 3c explore (1 s)
# What must a check see? `whole` is an archive, `damaged(kind, seed)` a spoilt copy: `"cut"` short, one `"bit"` flipped, or `"swapped"` for another sound archive of the same length. `unzips(data)` says whether a zip opens and all its members pass their own checksums. Take seeds 0 to 99 of each kind and return three counts of damaged copies that are *noticed*: by their length, by `unzips`, and by sha256.

# %% solution
def ex09c(whole, damaged, unzips):
    "How many of 300 damaged copies length, zip and sha256 notice"
    ### BEGIN SOLUTION
    copies = [damaged(kind, seed) for kind in ('cut', 'bit', 'swapped') for seed in range(100)]
    told = hashlib.sha256(whole).digest()
    return sum(len(c) != len(whole) for c in copies), sum(not unzips(c) for c in copies), sum(hashlib.sha256(c).digest() != told for c in copies)
    ### END SOLUTION

# %% check
@functools.cache
def archive_ex09c(seed=0):
    out, rng = io.BytesIO(), random.Random(seed)
    with zipfile.ZipFile(out, 'w') as z:
        for i in range(12): z.writestr(zipfile.ZipInfo(f'data/{i}.txt'), bytes(rng.randrange(97, 123) for _ in range(100)))
    return out.getvalue()

def damaged_ex09c(kind, seed):
    data, rng = bytearray(archive_ex09c()), random.Random(seed)
    if kind == 'swapped': return archive_ex09c(seed+1)
    if kind == 'cut': return bytes(data[:rng.randrange(len(data))])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)

def unzips_ex09c(data):
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z: return z.testzip() is None
    except Exception: return False

def check_ex09c(f):
    seen = {k: [not unzips_ex09c(damaged_ex09c(k, s)) for s in range(100)] for k in ('cut', 'bit', 'swapped')}
    n = {k: sum(v) for k, v in seen.items()}
    a, b, c = f(archive_ex09c(), damaged_ex09c, unzips_ex09c) or (None,)*3
    check_answer(a, 100, [(0, 'the cut ones are shorter'), (200, 'these are not noticed'), (300, 'a flipped bit and a swapped archive have the old length')], name='length')
    check_answer(b, sum(n.values()), [(300-sum(n.values()), 'these are not noticed by the zip'), (200, 'try it: some bits belong to no checksum'), (300, 'a sound archive of other content opens too')], name='unzips')
    return check_answer(c, 300, [(0, 'sha256 of each copy, compared with that of the whole'), (200, 'every cut changes the sum too'), (sum(n.values()), 'more than the zip notices')], name='sha256')

# %% wrong
wrong_ex09c = [(lambda *a: (0, 0, 0), 'are shorter'), (lambda *a: (200, 0, 0), 'length: these are not'), (lambda *a: (300, 0, 0), 'the old length'), (lambda *a: (100, 300-ex09c(*a)[1], 0), 'by the zip'), (lambda *a: (100, 200, 0), 'no checksum'), (lambda *a: (100, 300, 0), 'opens too'), (lambda *a: (*ex09c(*a)[:2], 0), 'of each copy'), (lambda *a: (*ex09c(*a)[:2], 200), 'every cut'), (lambda *a: (*ex09c(*a)[:2], ex09c(*a)[1]), 'more than')]

# %% why
# 100, 179 and 300. The length sees what is cut. The zip's own checksums cover the members' bytes: 21 of 100 flipped bits hit dates, attributes or other fields that none covers, and a swapped archive is whole in itself. Only a checksum that was written down *elsewhere* says that these are the bytes we meant.
