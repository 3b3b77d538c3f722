"""Programs as text: how often their parts run, and what they cost. No compiler is needed."""

import pytest

from frozen_jax import hlo, program_costs
from frozen_jax.flops import program_flops

# As the compiler for TPUs writes it: no known_trip_count, a product as a convolution inside a fusion, cycles beside it.
PROGRAM = """HloModule jit_f, entry_computation_layout={(bf16[8,4]{1,0})->bf16[8,4]{1,0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%fused (param_0: bf16[8,4], param_1: bf16[4,4]) -> bf16[8,4] {
  %param_0 = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %param_1 = bf16[4,4]{1,0} parameter(1)
  ROOT %convolution.1 = bf16[8,4]{1,0} convolution(%param_0, %param_1), dim_labels=bf_io->bf
}

%body (wide: (s32[], bf16[8,4], bf16[4,4])) -> (s32[], bf16[8,4], bf16[4,4]) {
  %wide = (s32[]{:T(128)}, bf16[8,4]{1,0}, /*index=2*/bf16[4,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%wide), index=0
  %step = s32[]{:T(128)} constant(STEP)
  %next = s32[]{:T(128)} add(%i, %step)
  %x.1 = bf16[8,4]{1,0} get-tuple-element(%wide), index=1
  %w = bf16[4,4]{1,0} get-tuple-element(%wide), index=2
  %fusion.1 = bf16[8,4]{1,0} fusion(%x.1, %w), kind=kOutput, calls=%fused, backend_config={"estimated_cycles":"100"}
  %reduced = bf16[8,4]{1,0} all-reduce(%fusion.1), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %tuple = (s32[], bf16[8,4], bf16[4,4]) tuple(%next, %reduced, /*index=2*/%w)
}

%condition (wide.1: (s32[], bf16[8,4], bf16[4,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %wide.1 = (s32[], bf16[8,4], bf16[4,4]) parameter(0)
  %i.1 = s32[] get-tuple-element(%wide.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (p0: bf16[8,4], p1: bf16[4,4]) -> bf16[8,4] {
  %zero = s32[] constant(START)
  %copied = s32[]{:T(128)} copy(%zero)
  %p0 = bf16[8,4]{1,0} parameter(0)
  %p1 = bf16[4,4]{1,0} parameter(1)
  %begin = (s32[], bf16[8,4], bf16[4,4]) tuple(%copied, %p0, %p1)
  %loop = (s32[], bf16[8,4], bf16[4,4]) while(%begin), condition=%condition, body=%bodyKNOWN
  %last = bf16[8,4]{1,0} get-tuple-element(%loop), index=1
  %spread = (bf16[8,4]{1,0}, bf16[16,4]{1,0}) all-gather-start(%last), replica_groups={{0,1},{2,3}}, dimensions={0}
  %whole = bf16[16,4]{1,0} all-gather-done(%spread)
  ROOT %done = bf16[8,4]{1,0} fusion(%last), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"7"}
}
"""


def program(start=0, step=1, known=""):
    text = PROGRAM.replace("START", str(start)).replace("STEP", str(step)).replace("KNOWN", known)
    return hlo.read(text)


KNOWN = ', backend_config={"known_trip_count":{"n":"5"}}'


@pytest.mark.parametrize(("told", "times"), [({}, 12), ({"start": 4}, 8), ({"step": 5}, 3), ({"known": KNOWN}, 5)])
def test_a_loop_runs_as_often_as_its_condition_says(told, times):
    found = program(**told)
    assert found.runs["body"] == found.runs["fused"] == times
    assert program_flops(found) == times * 2 * 8 * 4 * 4
    assert program_costs.cycles(found) == (times * 100 + 7, 0)


def test_a_loop_that_nobody_knows_counts_once():
    text = PROGRAM.replace("START", "0").replace("STEP", "1").replace("KNOWN", "")
    unknown = hlo.read(text.replace("direction=LT", "direction=NE"))
    assert unknown.runs["body"] == 1


def test_cycles_that_the_compiler_cannot_tell_are_counted_apart():
    text = PROGRAM.replace("START", "0").replace("STEP", "1").replace("KNOWN", "")
    assert program_costs.cycles(hlo.read(text.replace('"100"', f'"{2**63 - 1}"'))) == (7, 12)


def test_what_is_fused_is_part_of_another_instruction():
    assert program().fused == {"fused", "add"}
    names = {one.name for _, _, one in program().instructions(fused=False)}
    assert "fusion.1" in names
    assert "convolution.1" not in names


def test_collectives_by_kind_and_bytes():
    found = program_costs.collectives(program())
    held = 8 * 4 * 2
    assert found["all-reduce"] == (12, 12 * held, 12 * (2 * held * 3 // 4))  # rings of 4: [2,4]<=[8]
    assert found["all-gather"] == (1, 2 * held, held)  # once, though it starts and ends


def test_a_batch_of_products_is_a_convolution_with_holes():
    """64 products [2, 8] x [8, 16], batched as the TPU compiler does: an axis of 64 of which each place meets one."""
    line = (
        "  ROOT %c = f32[64,2,16]{2,1,0} convolution(%a, %b), "
        "window={size=64 stride=63 pad=0_0 lhs_dilate=64}, dim_labels=0bf_0io->0bf"
    )
    a, b = "  %a = f32[64,2,8]{2,1,0} parameter(0)", "  %b = f32[64,8,16]{2,1,0} parameter(1)"
    text = f"ENTRY %main (a: f32[64,2,8], b: f32[64,8,16]) -> f32[64,2,16] {{\n{a}\n{b}\n{line}\n}}\n"
    assert program_flops(hlo.read(text)) == 64 * 2 * 2 * 8 * 16
