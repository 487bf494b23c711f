"""The TCG plugin against programs whose instructions are known."""

import json
import subprocess
from pathlib import Path

import pytest

from sharp_mobile.bench.arm64.emulation import Emulator

START, STOP, EXIT = "hint #0x68", "hint #0x69", "mov x0, #0\n mov x8, #93\n svc #0"

# x1 and x2 point at 256 bytes of their own; x3 is 8.
LOADS = """
ldr x4, [x1]; ldr w4, [x1, #4]; ldrb w4, [x1], #1; ldrsw x4, [x2, #16]!; ldrh w4, [x1, x3]; ldur x4, [x1, #-1]
ldr x4, buffer; ldrsw x4, buffer; ldp x4, x5, [x2]; ldnp x4, x5, [x2]; ldpsw x4, x5, [x2]; ldtr x4, [x2]
ldxr x4, [x2]; ldaxr w4, [x2]; ldar x4, [x2]; ldapr x4, [x2]; ldapur x4, [x2, #8]; ldxp x4, x5, [x2]
ldr q4, [x1]; ldr b4, [x1, x3]; ldur d4, [x1]; ldp q4, q5, [x1]; ldr s4, buffer
ld1 {v4.16b}, [x1]; ld1 {v4.16b, v5.16b}, [x1], #32; ld4 {v4.8b, v5.8b, v6.8b, v7.8b}, [x1]
ld1 {v4.s}[1], [x1]; ld1r {v4.4s}, [x1]; ld1r {v4.4s}, [x1], #4; ld2r {v4.4s, v5.4s}, [x1]
"""
STORES = """
str x4, [x1]; str w4, [x1, #4]; strb w4, [x1], #1; strh w4, [x2, #8]!; str w4, [x1, x3]; stur x4, [x1, #-1]
stp x4, x5, [x2]; stnp x4, x5, [x2]; sttr x4, [x2]; stxr w6, x4, [x2]; stlxr w6, w4, [x2]; stlr x4, [x2]
stlur x4, [x2, #8]; str q4, [x1]; str b4, [x1, x3]; stur d4, [x1]; stp d4, d5, [x1]
st1 {v4.16b}, [x1]; st1 {v4.16b, v5.16b}, [x1], #32; st1 {v4.s}[1], [x1]; st4 {v4.8b, v5.8b, v6.8b, v7.8b}, [x1]
"""
BOTH = """
ldadd x4, x5, [x2]; ldaddal w4, w5, [x2]; swp x4, x5, [x2]; stadd x4, [x2]; ldsmax x4, x5, [x2]; cas x4, x5, [x2]
casal w4, w5, [x2]; casp x4, x5, x6, x7, [x2]; ldclrb w4, w5, [x2]; swpalh w4, w5, [x2]
"""
NEITHER = """
prfm pldl1keep, [x1]; prfm pldl1keep, [x1, x3]; prfum pldl1keep, [x1, #1]; prfm pldl1keep, buffer; dmb ish; nop; clrex
mul v4.4s, v5.4s, v6.4s; fmla v4.4s, v5.4s, v6.s[1]; mla v4.8h, v5.8h, v6.h[3]; bfmlalb v4.4s, v5.8h, v6.8h
sqrdmlah v4.4s, v5.4s, v6.4s; fcmla v4.4s, v5.4s, v6.4s, #90; smlal v4.4s, v5.4h, v6.4h; add x4, x5, x3; b .+4
tbl v4.16b, {v5.16b}, v6.16b; movi v4.4s, #0; fmlal v4.4s, v5.4h, v6.h[1]; mrs x4, fpcr; eor v4.16b, v5.16b, v6.16b
"""
DOT = """
sdot v4.4s, v5.16b, v6.16b; sdot v4.2s, v5.8b, v6.8b; sdot v4.4s, v5.16b, v31.4b[3]; udot v4.4s, v5.16b, v6.16b
udot v4.2s, v5.8b, v6.4b[1]; usdot v4.4s, v5.16b, v6.16b; usdot v4.4s, v5.16b, v6.4b[2]; sudot v4.4s, v5.16b, v6.4b[0]
bfdot v4.4s, v5.8h, v6.8h; bfdot v4.2s, v5.4h, v6.2h[3]
"""
MATMUL = "smmla v4.4s, v5.16b, v6.16b; ummla v4.4s, v5.16b, v6.16b; usmmla v4.4s, v5.16b, v31.16b; " + (
    "bfmmla v4.4s, v5.8h, v6.8h"
)
NOTHING = {"loads": 0, "stores": 0, "dot": 0, "matmul": 0}


def lines(code: str) -> list[str]:
    """The instructions of a text."""
    return [line.strip() for line in code.replace("\n", ";").split(";") if line.strip()]


def compiled(code: str, directory: Path, emulator: Emulator) -> Path:
    source, program = directory / "program.s", directory / "program"
    source.write_text(
        ".arch armv8.6-a+bf16+i8mm+lse+rcpc+fp16fml\n.global _start\n_start: adr x1, buffer\n add x1, x1, #64\n"
        f"adr x2, buffer\n mov x3, #8\n{code}\n{EXIT}\n.balign 64\nbuffer: .space 512\n"
    )
    # One writable segment (-N), since the code addresses its buffer relative to itself.
    subprocess.run([emulator.cross_compiler, "-nostdlib", "-static", "-Wl,-N", source, "-o", program], check=True)
    return program


def counted(program: Path, emulator: Emulator) -> dict[str, int]:
    counts = program.with_name("counts.json")
    qemu = [emulator.qemu, "-cpu", "max", "-plugin", f"{emulator.counter()},out={counts}", str(program)]
    subprocess.run(qemu, check=True)
    return json.loads(counts.read_text())


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        (LOADS, ["loads"]),
        (STORES, ["stores"]),
        (BOTH, ["loads", "stores"]),
        (NEITHER, []),
        (DOT, ["dot"]),
        (MATMUL, ["matmul"]),
    ],
    ids=["loads", "stores", "loads and stores", "neither", "dot", "matmul"],
)
def test_every_instruction_is_of_its_kind(code: str, kinds: list[str], tmp_path: Path, emulator: Emulator) -> None:
    code_lines = lines(code)
    program = compiled("\n".join([START, *code_lines, STOP]), tmp_path, emulator)
    expected = {**NOTHING, **{kind: len(code_lines) for kind in kinds}}
    assert counted(program, emulator) == {"regions": 1, "instructions": len(code_lines), **expected}


def test_only_what_is_between_the_markers_counts(tmp_path: Path, emulator: Emulator) -> None:
    body = f"""
        ldr x4, [x1]
        {START}
        mov x5, #10
     1: ldr x4, [x1]
        subs x5, x5, #1
        b.ne 1b
        {STOP}
        ldr x4, [x1]
        sdot v4.4s, v5.16b, v6.16b
        {START}
        str x4, [x1]
        {STOP}
        {STOP}
        str x4, [x1]"""
    assert counted(compiled(body, tmp_path, emulator), emulator) == {
        **NOTHING,
        "regions": 2,
        "instructions": 1 + 10 * 3 + 1,
        "loads": 10,
        "stores": 1,
    }


def test_other_threads_do_not_count(tmp_path: Path, emulator: Emulator) -> None:
    source, program = tmp_path / "program.cpp", tmp_path / "program"
    source.write_text(f"""
        #include <atomic>
        #include <thread>
        std::atomic<bool> started, done;
        int main() {{
            std::thread other([] {{ while (!done) started = true; }});
            while (!started) {{}}
            asm volatile("{START}\\n mov x9, #1000\\n 1: subs x9, x9, #1\\n b.ne 1b\\n {STOP}" ::: "x9", "cc");
            done = true;
            other.join();
        }}""")
    subprocess.run([emulator.cross_compiler, "-O1", "-static", "-pthread", source, "-o", program], check=True)
    assert counted(program, emulator) == {**NOTHING, "regions": 1, "instructions": 1 + 1000 * 2}


def test_an_unknown_argument_is_refused(tmp_path: Path, emulator: Emulator) -> None:
    program = compiled("nop", tmp_path, emulator)
    qemu = [emulator.qemu, "-plugin", f"{emulator.counter()},to=x", str(program)]
    done = subprocess.run(qemu, capture_output=True, text=True)
    assert done.returncode != 0
    assert "to=x: the only argument is out=FILE" in done.stderr
