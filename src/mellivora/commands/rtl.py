"""`mellivora rtl`: the chip as hardware: Verilog, co-simulation, waves, synthesis."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from mellivora.commands._arguments import add_dram, number, timing_of, whole
from mellivora.commands._models import check_output
from mellivora.commands._progress import Progress
from mellivora.commands._rtl_program import program_of
from mellivora.errors import HostError, UsageError

ACTIONS = {
    "emit": "write Verilog of a chip, and a manifest beside it",
    "cosim": "run a program on functional simulator, timing simulator and RTL, and compare",
    "wave": "write a VCD of a program on the RTL",
    "synth": "cell counts, area and longest path of the chip's blocks",
    "fpga": "place and route on an open FPGA flow (Lattice ECP5)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `rtl`, each with its options."""
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    parts = {
        name: actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        for name, text in ACTIONS.items()
    }
    for name, part in parts.items():
        part.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        own = ", or that of a compiled program" if name in ("cosim", "wave") else ""
        part.add_argument(
            "--chip", metavar="CHIP", help=f"a preset or a TOML file (default: nano{own})"
        )
        if name in ("cosim", "wave"):
            part.add_argument(
                "program",
                nargs="?",
                metavar="PROGRAM",
                help="a text of instructions (.mva) or a compiled program (.mvp)",
            )
            part.add_argument("--entry", metavar="NAME", help="of a compiled program")
            part.add_argument(
                "--parameters", default="", metavar="N,N,...", help="parameter memory, for LDP"
            )
            part.add_argument(
                "--seed",
                type=whole(0),
                default=0,
                metavar="S",
                help="of the first random program, and of what is in DRAM (default: 0)",
            )
    emit = parts["emit"]
    emit.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="Verilog to write, or a folder for it"
    )
    cosim = parts["cosim"]
    cosim.add_argument("--random", type=whole(1), metavar="N", help="N random programs instead")
    cosim.add_argument("--keep", metavar="FOLDER", help="write programs that differ there")
    cosim.add_argument("--wave", metavar="FILE", help="VCD of the window around a difference")
    cosim.add_argument("--ecc", action="store_true", help="scratchpad with SECDED")
    cosim.add_argument(
        "--flips",
        type=whole(0, 10_000),
        default=0,
        metavar="N",
        help="bits of the scratchpad that flip in each program (with --ecc)",
    )
    add_dram(cosim)
    wave = parts["wave"]
    wave.add_argument("-o", "--output", required=True, metavar="FILE", help="VCD to write")
    wave.add_argument("--first", type=whole(0), default=0, metavar="CYCLE", help="(default: 0)")
    wave.add_argument("--cycles", type=whole(1), default=2000, metavar="N", help="(default: 2000)")
    parts["synth"].add_argument("--block", metavar="NAME", help="one block (default: all)")
    parts["fpga"].add_argument(
        "--block", metavar="NAME", help="one block (default: the whole chip)"
    )
    parts["fpga"].add_argument(
        "--target-mhz", type=number(1, 1000), default=100, metavar="MHZ", help="(default: 100)"
    )
    parts["fpga"].add_argument(
        "--seed", type=whole(1), default=1, metavar="S", help="of the placement (default: 1)"
    )
    parts["fpga"].add_argument(
        "--modules", action="store_true", help="every module by itself (a whole chip: an hour)"
    )
    parts["synth"].add_argument("--liberty", metavar="FILE", help="cells (default: generic gates)")
    parts["synth"].add_argument(
        "--clock-ps", type=whole(1), default=1000, metavar="PS", help="period to map for (1000)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the action; return its facts."""
    try:
        import amaranth  # noqa: F401
    except ImportError:
        raise HostError(
            "MV0923",
            "the hardware tools are not installed",
            given="amaranth",
            allowed="the extra `rtl`",
            hint="pip install 'mellivora[rtl]'",
        ) from None
    return globals()[f"_{args.action}"](args)


def _chip(args: argparse.Namespace) -> Any:
    from mellivora.spec import load_chip

    return load_chip(args.chip or "nano")


def _emit(args: argparse.Namespace) -> dict[str, Any]:
    from mellivora.rtl.chip_text import chip_rtlil, top_name
    from mellivora.rtl.emit import verilog_of

    chip, progress = _chip(args), Progress()
    given = Path(args.output)
    output = check_output(str(given / f"{chip.name}.v") if given.is_dir() else args.output)
    assert output is not None
    progress.say(f"elaborating {chip.name}")
    text = verilog_of(chip_rtlil(chip), top := top_name(chip))
    manifest = {
        "chip": chip.name,
        "fingerprint": chip.fingerprint(),
        "top": top,
        "file": output.name,
        "bytes": len(text.encode()),
        "modules": sorted(
            line.split("(")[0].split()[1].lstrip("\\")
            for line in text.splitlines()
            if line.startswith("module ")
        ),
        "chip_toml": chip.text(),
    }
    progress.say(f"writing {output}")
    _write(output, text)
    _write(output.with_suffix(".json"), json.dumps(manifest, indent=1) + "\n")
    progress.clear()
    print(f"{output}: {manifest['bytes']:,} bytes, top {top}, {len(manifest['modules'])} modules")
    print(f"{output.with_suffix('.json')}: manifest")
    return manifest


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, "utf-8")
    part.replace(path)


def _cosim(args: argparse.Namespace) -> dict[str, Any]:
    from mellivora.rtl.random_runs import run_random

    if args.random and args.program:
        raise UsageError(
            "MV0891",
            "both a program and random ones are asked for",
            given=args.program,
            hint="give PROGRAM or --random, not both",
        )
    if args.flips and not args.ecc:
        raise UsageError(
            "MV0897",
            "bits are to flip in a scratchpad that cannot correct them",
            given=f"--flips {args.flips}",
            hint="add --ecc",
        )
    chip, progress = _chip(args), Progress()
    started = time.perf_counter()
    if args.random:
        progress.say(f"building the RTL of {chip.name}")
        keep = Path(args.keep) if args.keep else None

        def say(done: int, seed: int) -> None:
            progress.say(f"random programs: {done} of {args.random}, seed {seed}")

        facts = run_random(
            chip,
            count=args.random,
            seed=args.seed,
            keep=keep,
            say=say,
            ecc=args.ecc,
            flips=args.flips,
            banks=args.dram == "banks",
        )
        progress.clear()
        for text in facts["reports"]:
            print(text)
        print(
            f"{facts['programs']} programs, seeds {args.seed} to {args.seed + args.random - 1}: "
            f"{facts['operations']:,} operations, {facts['cycles']:,} cycles; "
            f"{facts['differing_bits']} bits and {facts['differing_cycles']} cycles differ, "
            f"{facts['faults']} faulted as they should; {facts['seconds']:.0f} s"
        )
        if args.flips:
            print(
                f"{facts['flips']:,} bits flipped, {facts['flips_read']:,} of them were read, "
                f"{facts['corrected']:,} times; the counters say the same"
            )
        return {**facts, "ok": not facts["failed_seeds"]}
    from mellivora.rtl.cosim import cosim

    code, parameters, dram, windows, chip = program_of(args, chip)
    progress.say(f"building the RTL of {chip.name}")
    wave = check_output(args.wave) if args.wave else None
    result = cosim(
        code,
        parameters,
        chip=chip,
        dram=dram,
        windows=windows,
        wave=wave,
        ecc=args.ecc,
        flips=args.flips,
        flip_seed=args.seed,
        timing=timing_of(args.dram, chip),
    )
    progress.clear()
    print(result.report())
    return {
        "programs": 1,
        "differing_bits": result.differing_bits,
        "differing_cycles": result.differing_cycles,
        "cycles": result.cycles,
        "rtl_cycles": result.rtl_cycles,
        "operations": result.operations,
        "flips": result.flips,
        "flips_read": result.flips_read,
        "corrected": result.corrected,
        "fault": result.fault.cause if result.fault else None,
        "seconds": time.perf_counter() - started,
        "ok": result.equal,
    }


def _wave(args: argparse.Namespace) -> dict[str, Any]:
    from mellivora.rtl.chip_simulation import chip_simulation

    output = check_output(args.output)
    assert output is not None
    code, parameters, dram, windows, chip = program_of(args, _chip(args))
    progress = Progress()
    progress.say(f"building the RTL of {chip.name} with what waves need")
    machine = chip_simulation(chip, wave=True)
    past = args.first + args.cycles
    run = machine.run(
        code,
        np.atleast_1d(np.asarray(parameters, np.int32)),
        dram=dram,
        windows=windows,
        limit_cycles=past,
        wave=(output, args.first, past),
    )
    progress.clear()
    last = min(run.cycles, past)
    print(f"{output}: cycles {args.first} to {last}, {output.stat().st_size:,} bytes")
    return {"file": str(output), "first_cycle": args.first, "past_cycle": last}


def _check_block(name: str | None) -> None:
    from mellivora.rtl.blocks import BLOCKS

    if name and name not in BLOCKS:
        raise UsageError("MV0895", "no block has this name", given=name, allowed=", ".join(BLOCKS))


def _fpga(args: argparse.Namespace) -> dict[str, Any]:
    from mellivora.rtl.blocks import BLOCKS, shared_modules
    from mellivora.rtl.chip import Chip
    from mellivora.rtl.chip_text import chip_rtlil, top_name
    from mellivora.rtl.fpga import AVAILABLE, DEVICE, place_and_route

    _check_block(args.block)
    chip, progress = _chip(args), Progress()
    about = {"chip": chip.name, "block": args.block}
    aim: dict[str, Any] = {"target_mhz": args.target_mhz, "seed": args.seed}
    if args.modules:
        part = BLOCKS[args.block][0](chip) if args.block else Chip(chip)
        return _fpga_modules(part, about, aim, progress)
    name = args.block or f"chip {chip.name}"
    progress.say(f"placing {name}")
    if args.block:
        part = BLOCKS[args.block][0](chip)
        result = place_and_route(part, keep=shared_modules(part), **aim)
    else:
        result = place_and_route(chip_rtlil(chip), top=top_name(chip), **aim)
    progress.clear()
    print(f"{name} on an {DEVICE}: {result.fmax_mhz:.1f} MHz")
    for kind, count in result.used.items():
        share = 100 * count / AVAILABLE[kind]
        print(f"  {kind:5s} {count:7,} of {AVAILABLE[kind]:7,}  {share:5.1f} %")
    facts = result.facts()
    print(f"  longest path: {_path_words(facts['longest_path'])}")
    return {**about, **facts}


def _path_words(path: dict[str, Any]) -> str:
    return (
        f"{path['from']} to {path['to']}, {path['levels']} levels, "
        f"{path['logic_ns']:.1f} ns of logic and {path['routing_ns']:.1f} ns of wires"
    )


def _fpga_modules(
    component: Any, about: dict[str, Any], aim: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    from mellivora.rtl.fpga import AVAILABLE, DEVICE
    from mellivora.rtl.fpga_modules import place_modules

    found = place_modules(component, **aim, say=progress.say)
    progress.clear()
    name = about["block"] or f"chip {about['chip']}"
    print(f"{name}, module by module, on an {DEVICE}")
    print(f"{'module':32s} {'places':>6s} {'LUT':>7s} {'FF':>6s} {'DSP':>4s} {'BRAM':>4s}     MHz")
    for module, row in found.rows.items():
        clock = "-" if row.fmax_mhz is None else f"{row.fmax_mhz:.1f}"
        use = row.used
        print(
            f"{module:32s} {found.places[module]:6,} {use['LUT']:7,} {use['FF']:6,} "
            f"{use['DSP']:4,} {use['BRAM']:4,} {clock:>7s}"
        )
    print("all places")
    for kind, count in found.used().items():
        print(f"  {kind:5s} {count:9,}, {count / AVAILABLE[kind]:.2f} times what a device has")
    facts = found.facts()
    if slowest := facts["slowest"]:
        path = facts["modules"][slowest]["longest_path"]
        print(f"  {facts['fmax_mhz']:.1f} MHz: {slowest}, {_path_words(path)}")
    for module, why in facts["not_placed"].items():
        print(f"  not placed: {module}, {why}")
    for reason in facts["banks"]:
        print(f"  left out: {reason}")
    return {**about, **facts}


def _synth(args: argparse.Namespace) -> dict[str, Any]:
    from mellivora.rtl.blocks import BLOCKS, count, shared_modules
    from mellivora.rtl.synth import find_liberty, synthesise

    _check_block(args.block)
    chip, progress = _chip(args), Progress()
    liberty = Path(args.liberty) if args.liberty else find_liberty()
    names = [args.block] if args.block else list(BLOCKS)
    facts: dict[str, Any] = {}
    rows = [f"{'block':15s} {'cells':>7s} {'um2':>9s} {'longest ps':>10s}  a core has"]
    for name in names:
        progress.say(f"synthesising {name}")
        block = BLOCKS[name][0](chip)
        result = synthesise(
            block, liberty=liberty, keep=shared_modules(block), clock_ps=args.clock_ps
        )
        facts[name] = {**result.facts(), "count": count(name, chip)}
        area = f"{result.area_um2:9.1f}" if result.area_um2 is not None else f"{'-':>9s}"
        path = result.longest_path_ps
        longest = f"{path:10.0f}" if path is not None else f"{'-':>10s}"
        rows.append(f"{name:15s} {result.cell_count:7d} {area} {longest}  {count(name, chip)}")
    progress.clear()
    library = liberty.name if liberty else "generic gates (no cell library: --liberty FILE)"
    print("\n".join(rows))
    print(f"{library}; without wires; memories are not mapped")
    return {"chip": chip.name, "library": library, "blocks": facts}
