"""The control port as a slave of AXI4-Lite, and its registers against the table."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from amaranth.sim import Simulator

from mellivora.rtl.axi import OKAY
from mellivora.rtl.control_port import SLAVE_ERROR, ControlPort
from mellivora.rtl.counters import COUNTERS
from mellivora.rtl.interfaces import ADDRESS_BITS
from mellivora.rtl.registers import (
    ADDRESS,
    CORE_STRIDE_BYTES,
    DOORBELL,
    IDENTITY_VALUE,
    REGISTERS,
    WINDOW_WORDS,
    markdown,
    setup_writes,
)
from mellivora.spec import load_chip

NANO = load_chip("nano")
ENDS = ("valid", "ready")


class Host:
    """A master that is never in a hurry: every handshake waits for a random while."""

    def __init__(self, port, rng, *, haste=0.5):
        self.port, self.axi, self.rng, self.haste = port, port.axi, rng, haste

    async def pause(self, ctx):
        while self.rng.random() > self.haste:
            await ctx.tick()

    async def send(self, ctx, channel, **fields):
        """Valid until ready."""
        for name, value in fields.items():
            ctx.set(getattr(self.axi, f"{channel}{name}"), value)
        ctx.set(getattr(self.axi, f"{channel}valid"), 1)
        taken = 0
        while not taken:
            taken = ctx.get(getattr(self.axi, f"{channel}ready"))
            await ctx.tick()
        ctx.set(getattr(self.axi, f"{channel}valid"), 0)
        for name in fields:
            ctx.set(getattr(self.axi, f"{channel}{name}"), 0)

    async def receive(self, ctx, channel, *fields):
        await self.pause(ctx)
        ctx.set(getattr(self.axi, f"{channel}ready"), 1)
        there = 0
        while not there:
            there = ctx.get(getattr(self.axi, f"{channel}valid"))
            answer = [ctx.get(getattr(self.axi, f"{channel}{name}")) for name in fields]
            await ctx.tick()
        ctx.set(getattr(self.axi, f"{channel}ready"), 0)
        return answer

    async def write(self, ctx, address, value, strobes=15):
        """The response; one channel after the other, in any order."""
        parts = [("aw", {"addr": address}), ("w", {"data": value, "strb": strobes})]
        for i in self.rng.permutation(2):
            await self.pause(ctx)
            await self.send(ctx, parts[i][0], **parts[i][1])
        return (await self.receive(ctx, "b", "resp"))[0]

    async def read(self, ctx, address):
        """(value, response)."""
        await self.pause(ctx)
        await self.send(ctx, "ar", addr=address)
        return tuple(await self.receive(ctx, "r", "data", "resp"))


async def monitor(ctx, port, log):
    """What any master may rely on: answers stay until they are taken, and each has its question."""
    names = [f"{channel}{end}" for channel in ("aw", "w", "b", "ar", "r") for end in ENDS]
    names += ["bresp", "rdata", "rresp"]
    asked = {"aw": 0, "w": 0, "ar": 0}
    held = {"b": None, "r": None}
    async for _, reset, *values in ctx.tick().sample(*(getattr(port.axi, n) for n in names)):
        assert not reset
        now = dict(zip(names, values, strict=True))
        answers = {"b": [now["bresp"]], "r": [now["rdata"], now["rresp"]]}
        for channel, questions in (("b", ("aw", "w")), ("r", ("ar",))):
            valid, ready = (now[f"{channel}{end}"] for end in ENDS)
            if held[channel] is not None:
                assert valid
                assert answers[channel] == held[channel], "an answer changed before it was taken"
            held[channel] = answers[channel] if valid and not ready else None
            assert not valid or min(asked[q] for q in questions) > 0, "an answer to no question"
            if valid and ready:
                log[channel] += 1
                for question in questions:
                    asked[question] -= 1
        for channel in asked:
            asked[channel] += all(now[f"{channel}{end}"] for end in ENDS)


def simulate(port, *benches, watch=()):
    sim = Simulator(port)
    sim.add_clock(1e-9)
    for bench in benches:
        sim.add_testbench(bench)
    for bench in watch:
        sim.add_testbench(bench, background=True)
    sim.run()


def written_to(port):
    return port.parameter_write, port.parameter_address, port.parameter_data


def table_of_writes(rng, count):
    """Random writes: (address, value, strobes), legal ones mostly."""
    legal = [one.address + i * one.stride for one in REGISTERS if one.writable
             for i in range(min(one.count, NANO.windows if "window" in one.name else one.count))
             if one.address != DOORBELL]  # fmt: skip
    few = [a for a in legal if a < ADDRESS["parameters"]]
    out = []
    for _ in range(count):
        kind = rng.random()
        pool = few if kind < 0.6 else legal
        address = int(rng.choice(pool))
        if kind > 0.85:
            address = int(rng.integers(CORE_STRIDE_BYTES))
            address -= 4 if address in (DOORBELL, DOORBELL + 1) else 0
        strobes = 15 if rng.random() < 0.9 else int(rng.integers(16))
        out.append((address, int(rng.integers(1 << 32)), strobes))
    return legal, out


def test_registers_and_protocol(rng):
    """Writes and reads at once, in any rhythm: answers, registers and the protocol's promises."""
    port = ControlPort(NANO)
    legal, writes = table_of_writes(rng, 250)
    model, parameters, log = {}, {}, {"b": 0, "r": 0}
    seen, reads = [], []
    readable = {one.address for one in REGISTERS if one.readable}
    writable = set(legal)

    async def writer(ctx):
        host = Host(port, rng)
        for address, value, strobes in writes:
            response = await host.write(ctx, address, value, strobes)
            seen.append(response)
            if strobes == 15 and address in writable:
                model[address] = value

    async def reader(ctx):
        host = Host(port, np.random.default_rng(3))
        addresses = [*readable, *range(0x30), ADDRESS["parameters"], CORE_STRIDE_BYTES - 4]
        for address in host.rng.permutation(addresses):
            reads.append((int(address), *await host.read(ctx, int(address))))

    async def parameter_memory(ctx):
        async for _, _, write, address, value in ctx.tick().sample(*written_to(port)):
            if write:
                parameters[address] = value

    async def watch(ctx):
        await monitor(ctx, port, log)

    final = {}

    async def outputs(ctx):
        while log["b"] < len(writes):
            await ctx.tick()
        await ctx.tick()
        for name in ("program_words", "parameter_count", "run"):
            final[name] = ctx.get(getattr(port, name))
        for i in range(NANO.windows):
            for part in ("base", "limit"):
                final[part, i] = ctx.get(getattr(port.windows[i], part))

    simulate(port, writer, reader, outputs, watch=(watch, parameter_memory))
    assert log == {"b": len(writes), "r": len(reads)}
    for (address, _, strobes), response in zip(writes, seen, strict=True):
        good = strobes == 0 or (strobes == 15 and address in writable)
        assert response == (OKAY if good else SLAVE_ERROR), hex(address)
    for address, value, response in reads:
        assert response == (OKAY if address in readable else SLAVE_ERROR), hex(address)
        if address == ADDRESS["identity"]:
            assert value == IDENTITY_VALUE

    assert final["run"] == 0
    for name, bits in (("program_words", 24), ("parameter_count", 12)):
        assert final[name] == model.get(ADDRESS[name], 0) & (1 << bits) - 1
    for i in range(NANO.windows):
        for j, part in enumerate(("base", "limit")):
            words = [model.get(ADDRESS[f"window_{WINDOW_WORDS[2 * j + k]}"] + 16 * i, 0)
                     for k in range(2)]  # fmt: skip
            assert final[part, i] == (words[0] | words[1] << 32) & (1 << ADDRESS_BITS) - 1
    first = ADDRESS["parameters"]
    assert parameters == {(a - first) // 4: v for a, v in model.items() if a >= first}
    assert {SLAVE_ERROR, OKAY} == set(seen)
    assert len(parameters) > 10


def test_doorbell(rng):
    """The host's way through a run: what is locked meanwhile, what it reads, the next run."""
    port = ControlPort(NANO)
    setup = list(setup_writes(77, [5, -6, 7], [(1 << 33, 640), (64, 3 << 34)]))
    written = []

    async def host(ctx):
        axi = Host(port, rng, haste=0.8)
        for address, value in setup:
            assert await axi.write(ctx, address, value) == OKAY
        assert ctx.get(port.program_words) == 77
        assert ctx.get(port.parameter_count) == 3
        assert ctx.get(port.windows[0].base) == 1 << 33
        assert ctx.get(port.windows[1].limit) == 3 << 34
        assert await axi.read(ctx, ADDRESS["status"]) == (0, OKAY)
        assert await axi.write(ctx, DOORBELL, 1) == OKAY
        assert ctx.get(port.run) == 1
        ctx.set(port.events.running, 1)
        for address, value in setup:
            assert await axi.write(ctx, address, value + 1) == SLAVE_ERROR
        assert ctx.get(port.program_words) == 77
        assert ctx.get(port.windows[1].limit) == 3 << 34
        assert await axi.read(ctx, ADDRESS["status"]) == (1, OKAY)
        assert await axi.read(ctx, ADDRESS["fault_cause"]) == (0, OKAY)

        for name, value in (("valid", 1), ("cause", 5), ("engine", 3), ("pc", (1 << 32) + 9)):
            ctx.set(getattr(port.record, name), value)
        ctx.set(port.done, 1)
        ctx.set(port.events.running, 0)
        names = ("status", "fault_cause", "fault_engine", "fault_pc", "fault_pc_high")
        for name, value in zip(names, (7, 5, 3, 9, 1), strict=True):
            assert await axi.read(ctx, ADDRESS[name]) == (value, OKAY)
        cycles, _ = await axi.read(ctx, ADDRESS["cycles"])
        assert cycles > len(setup)
        assert await axi.write(ctx, DOORBELL, 0) == OKAY
        assert ctx.get(port.run) == 0
        assert (await axi.read(ctx, ADDRESS["cycles"]))[0] == cycles
        assert await axi.write(ctx, ADDRESS["program_words"], 5) == OKAY
        assert await axi.write(ctx, DOORBELL, 1) == OKAY
        assert (await axi.read(ctx, ADDRESS["cycles"]))[0] == 0, "a new run counts anew"

    async def parameters(ctx):
        async for _, _, write, address, value in ctx.tick().sample(*written_to(port)):
            if write:
                written.append((address, value))

    simulate(port, host, watch=(parameters,))
    assert written == [(0, 5), (1, (1 << 32) - 6), (2, 7)]


def test_high_words_belong_to_the_low_ones(rng):
    """A counter passes 2^32 between the two reads."""
    port = ControlPort(NANO)

    async def host(ctx):
        axi = Host(port, rng, haste=0.8)
        for step, (name, value) in enumerate(zip(COUNTERS, (0xFFFF_FFFE, 0x3_0000_0007))):
            counter = port.counters.registers[name]
            ctx.set(counter, value)
            low = await axi.read(ctx, ADDRESS[name])
            ctx.set(counter, value + 99)
            high = await axi.read(ctx, ADDRESS[f"{name}_high"])
            assert (low[0] | high[0] << 32, low[1] | high[1]) == (value, OKAY), step

    simulate(port, host)


def test_the_page_has_the_table():
    page = Path(__file__).parents[2] / "docs/rtl/control_port.md"
    assert page.read_text("utf-8").endswith("\n\n" + markdown())


@pytest.mark.parametrize("name", ["cycles", "ecc_uncorrectable"])
def test_addresses_are_apart(name):
    places = list(chain(*(range(one.address, one.address + one.stride * one.count, one.stride)
                          for one in REGISTERS)))  # fmt: skip
    assert len(set(places)) == len(places)
    assert max(places) < CORE_STRIDE_BYTES
    assert ADDRESS[f"{name}_high"] == ADDRESS[name] + 4
