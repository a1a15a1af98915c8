# %% setup
import re, torch
from hybrid_tutorial.core import check_answer
from hybrid_tutorial.ops.kernels.aot import CHIPS, programs_per_sm

# %% 1a compute (1 s)
# 72 kB are 73,728 bytes. Return the number for an A100, the budget that decides there (`'registers'`, `'shared'` or `'threads'`), the number for an H100, and how many would fit on an A100 by registers alone.

# %% solution
def ex06ga():
    "Programs on an A100, what decides, programs on an H100, programs by registers alone"
    ### BEGIN SOLUTION
    by_registers = 65536//(32*4*168)
    shared = [kB*1024//(73728+1024) for kB in (164, 228)]
    return min(by_registers, shared[0]), 'shared', min(by_registers, shared[1]), by_registers
    ### END SOLUTION

# %% check
def check_ex06ga(f):
    a, why, h, registers = f() or [None]*4
    check_answer(a, programs_per_sm(168, 73728, 4, 80), [(3, 'shared memory of an A100: 164 kB, and each program takes 1 kB more than its own'), (16, 'only threads were counted'), (1, '164 kB are more than two times 73')], name='A100')
    check_answer(why, 'shared', [('registers', 'registers would let in one more'), ('threads', '2 programs have 256 threads of 2,048')], name='budget')
    check_answer(h, programs_per_sm(168, 73728, 4, 90), [(2, 'an H100 has 228 kB: that is three times 73'), (4, 'registers stop at 3'), (16, 'only threads were counted')], name='H100')
    return check_answer(registers, programs_per_sm(168, 0, 4, 80), [(12, 'a warp has 32 threads; 4 warps make a program'), (390, 'registers are per thread, of 128 threads'), (97, 'registers are per thread, and there are 4 warps'), (2, 'by registers alone one more fits')], name='by registers')

# %% wrong
wrong_ex06ga = [(lambda: (3, 'registers', 3, 3), '1 kB more'), (lambda: (16, 'threads', 16, 3), 'A100: only threads'), (lambda: (1, 'shared', 3, 3), 'two times 73'), (lambda: (2, 'registers', 3, 3), 'let in one more'), (lambda: (2, 'threads', 3, 3), '256 threads'), (lambda: (2, 'shared', 2, 3), 'three times 73'), (lambda: (2, 'shared', 4, 3), 'stop at 3'), (lambda: (2, 'shared', 16, 3), 'H100: only'),
    (lambda: (2, 'shared', 3, 12), 'make a program'), (lambda: (2, 'shared', 3, 390), 'of 128 threads'), (lambda: (2, 'shared', 3, 97), 'there are 4 warps'), (lambda: (2, 'shared', 3, 2), 'one more fits')]

# %% why
# Registers: $65536/(128\cdot168) = 3.05$. Shared memory: $167936/74752 = 2.2$ on an A100, 3.1 on an H100. The same kernel is bound by shared memory on one chip and by registers (and by shared memory too) on the other; a table of launches per chip is no luxury.

# %% 2b implement (1 s)
# One instruction a line; a predicate (`@P0`) may stand before it, a suffix (`.64`) after it. Comments between `/*` and `*/` hold addresses, but the text may also hold labels.

# %% solution
def ex06gb(sass):
    "Number of spill instructions in a text of SASS"
    ### BEGIN SOLUTION
    return len(re.findall(r'(?<![\w.])(?:STL|LDL)\b', sass))
    ### END SOLUTION

# %% check
def check_ex06gb(f):
    lines = ['/*0010*/ STL [R1], R2 ;', '/*0020*/ LDL.64 R4, [R1+0x8] ;', '/*0030*/ LDG.E R6, desc[UR4][R8.64] ;', '/*0040*/ @P0 STL.128 [R1+0x10], R4 ;', '/*0050*/ STS [R3], R2 ;', '/*0060*/ LDS.64 R4, [R3] ;', '.L_STL_7:', '/*0070*/ BRA `(.L_STL_7) ;',
        '/*0080*/ @!P1 LDL R9, [R1+0x4] ;', '/*0090*/ STG.E desc[UR4][R8.64], R9 ;', '/*00a0*/ LDSM.16.M88.4 R4, [R2] ;', '/*00b0*/ LDL.128 R12, [R1+0x10] ;', '/*00c0*/ LDL R3, [R1+0x20] ;', '/*00d0*/ LDG.E R7, desc[UR4][R8.64+0x4] ;',
        '/*00e0*/ LDG.E R8, desc[UR4][R8.64+0x8] ;', '/*00f0*/ @P2 BRA `(.L_STL_7) ;']
    count = lambda pattern: len(re.findall(pattern, '\n'.join(lines)))
    return check_answer(f('\n'.join(lines)), 6, [(count('STL|LDL'), 'a label can hold the letters too'), (count(r'\b(?:STL|LDL) '), 'an instruction can carry a suffix: STL.128'), (count(r'\*/ (?:STL|LDL)'), 'a predicate may stand before the instruction'), (count(r'\bSTL\b'), 'loads count too: LDL'),
        (count(r'\b(?:STL|LDL|STG|LDG)\b'), 'LDG and STG are what the kernel asked for; only STL and LDL are spills'), (count(r'\b(?:STL|LDL|STS|LDS)\b'), 'LDS and STS are shared memory; only STL and LDL are spills'), (count(r'\b(?:ST|LD)\w*\b'), 'only the local ones: STL and LDL')])

# %% wrong
def like_ex06gb(pattern): return lambda sass: len(re.findall(pattern, sass))
wrong_ex06gb = [(like_ex06gb('STL|LDL'), 'a label'), (like_ex06gb(r'\b(?:STL|LDL) '), 'a suffix'), (like_ex06gb(r'\*/ (?:STL|LDL)'), 'a predicate'), (like_ex06gb(r'\bSTL\b'), 'loads count too'), (like_ex06gb(r'\b(?:STL|LDL|STG|LDG)\b'), 'asked for'), (like_ex06gb(r'\b(?:STL|LDL|STS|LDS)\b'), 'shared memory'), (like_ex06gb(r'\b(?:ST|LD)\w*\b'), 'the local ones')]

# %% why
# `STL` and `LDL` go to local memory, which is device memory under another name; `STS`, `LDS` stay on the chip, `STG`, `LDG` were asked for. Local memory is not always a spill (an array that is indexed at run time lies there too), so the count agrees with `spill_bytes` in saying whether there is any: of the four launches, only the one with one warp.

# %% 3c explore (1 s)
# `fits(registers, shared, warps, arch)` is `programs_per_sm`. Return four numbers: the most registers per thread at which two programs of 8 warps fit, and three of 4 warps; then the most bytes of shared memory at which two programs of 4 warps and few registers fit on an A100, and on an H100.

# %% solution
def ex06gc(fits):
    "Registers for two programs of 8 warps and three of 4; shared bytes for two on an A100 and on an H100"
    ### BEGIN SOLUTION
    registers = lambda programs, warps: max(r for r in range(1, 256) if fits(r, 0, warps, 90) >= programs)
    shared = lambda arch: max(s for s in range(0, 120000, 256) if fits(32, s, 4, arch) >= 2)
    return registers(2, 8), registers(3, 4), shared(80), shared(90)
    ### END SOLUTION

# %% check
def check_ex06gc(f):
    two, three, a, h = f(programs_per_sm) or [None]*4
    check_answer(two, 65536//(2*8*32), [(256, 'for one program; a thread has at most 255'), (255, 'at 255 there is one program'), (64, 'this is four programs'), (127, 'at 128 they still fit')], name='two of 8 warps')
    check_answer(three, 65536//(3*4*256)*8, [(170, '170 would be 65536/(3*128), but registers come in blocks of 256 per warp'), (128, 'this is four programs'), (255, 'at 255 there are two'), (160, 'a block of registers more still fits')], name='three of 4 warps')
    limit = lambda arch: CHIPS[arch]['shared']//2-1024
    check_answer(a, limit(80), [(limit(80)+1024, 'each program takes 1 kB more than its own'), (limit(90), 'this is an H100'), (CHIPS[80]['shared_max'], 'for one program')], name='A100')
    return check_answer(h, limit(90), [(limit(90)+1024, 'each program takes 1 kB more than its own'), (limit(80), 'this is an A100'), (CHIPS[90]['shared_max'], 'for one program')], name='H100')

# %% wrong
wrong_ex06gc = [(lambda g: (256, 0, 0, 0), 'at most 255'), (lambda g: (255, 0, 0, 0), 'there is one program'), (lambda g: (64, 0, 0, 0), 'warps: this is four'), (lambda g: (127, 0, 0, 0), 'still fit'), (lambda g: (128, 170, 0, 0), 'blocks of 256'), (lambda g: (128, 128, 0, 0), 'of 4 warps: this is four'), (lambda g: (128, 255, 0, 0), 'there are two'), (lambda g: (128, 160, 0, 0), 'a block of registers more'),
    (lambda g: (128, 168, 83968, 0), 'A100: each program'), (lambda g: (128, 168, 115712, 0), 'this is an H100'), (lambda g: (128, 168, 166912, 0), 'A100: for one'), (lambda g: (128, 168, 82944, 116736), 'H100: each program'), (lambda g: (128, 168, 82944, 82944), 'this is an A100'), (lambda g: (128, 168, 82944, 232448), 'H100: for one')]

# %% why
# 128 and 168 registers, 81 and 113 kB. The limits are steps: a kernel with 129 registers in 8 warps has the multiprocessor to itself, with 128 it has a neighbour that works while it waits. That is why options were chosen by compiling, and why `want` stands in the table.
